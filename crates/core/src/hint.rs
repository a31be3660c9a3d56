//! What to do about an error, and an error as people read it.

use std::error::Error;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::text;

/// An error that can tell its reader what to do next.
///
/// An error that wraps another hands the other's hint on: nobody looks for hints among the causes.
pub trait Hint {
    /// The remedy in one sentence, or `None` when the message already says it all.
    fn hint(&self) -> Option<String> {
        None
    }
}

/// An error as people read it: what failed, why, and what to do about it.
///
/// Every error with a [`Hint`] converts into one, so a program that returns diagnostics needs to know none of the types.
/// It is also what one process tells another about its end, as a line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// What failed.
    pub error: String,
    /// Why, the nearest cause first.
    pub causes: Vec<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// What failed, without a cause.
    pub fn new(error: impl Into<String>) -> Self {
        Self {
            error: error.into(),
            causes: Vec::new(),
            hint: None,
        }
    }

    /// Says what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// An error from outside of Gavel, which knows no remedy, with its causes.
    pub fn foreign(error: &dyn Error) -> Self {
        let mut all = Self::new(error.to_string());
        let mut cause = error.source();
        while let Some(error) = cause {
            all.add_cause(error.to_string());
            cause = error.source();
        }
        all
    }

    /// An error of Gavel's own, with its causes and its remedy.
    pub fn of<E: Error + Hint>(error: &E) -> Self {
        Self {
            hint: error.hint(),
            ..Self::foreign(error)
        }
    }

    /// This error as the cause of `outer`, whose remedy comes before this one's.
    #[must_use]
    pub fn caused(self, mut outer: Self) -> Self {
        outer.add_cause(self.error);
        for cause in self.causes {
            outer.add_cause(cause);
        }
        outer.hint = outer.hint.or(self.hint);
        outer
    }

    /// Error, causes and remedy on one line, where there is room for one text only.
    pub fn in_full(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{self} ({hint})"),
            None => self.to_string(),
        }
    }

    /// Error, causes and remedy, each on a line of its own as a terminal shows them.
    pub fn render(&self) -> String {
        let indented = |text: &str| text.trim_end().replace('\n', "\n  ");
        let mut text = format!("error: {}\n", indented(&self.error));
        for cause in &self.causes {
            text += &format!("caused by: {}\n", indented(cause));
        }
        if let Some(hint) = &self.hint {
            text += &format!("hint: {hint}\n");
        }
        text
    }

    /// Adds a cause, unless what it caused repeats it at its end and so has told it.
    fn add_cause(&mut self, cause: String) {
        let before = self.causes.last().unwrap_or(&self.error);
        if !before.ends_with(&cause) {
            self.causes.push(cause);
        }
    }
}

/// Error and causes, divided by colons.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error)?;
        self.causes.iter().try_for_each(|cause| write!(f, ": {cause}"))
    }
}

impl<E: Error + Hint> From<E> for Diagnostic {
    fn from(error: E) -> Self {
        Self::of(&error)
    }
}

impl From<std::io::Error> for Diagnostic {
    fn from(error: std::io::Error) -> Self {
        Self {
            hint: text::remedy(&error),
            ..Self::foreign(&error)
        }
    }
}

impl From<serde_json::Error> for Diagnostic {
    fn from(error: serde_json::Error) -> Self {
        Self::foreign(&error)
    }
}

impl From<toml::de::Error> for Diagnostic {
    fn from(error: toml::de::Error) -> Self {
        Self::foreign(&error)
    }
}

impl From<String> for Diagnostic {
    fn from(error: String) -> Self {
        Self::new(error)
    }
}

impl From<&str> for Diagnostic {
    fn from(error: &str) -> Self {
        Self::new(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Failure {
        #[error("cannot write `x`")]
        Write(#[source] std::io::Error),
        #[error("no room: {0}")]
        Repeats(#[source] std::io::Error),
    }

    impl Hint for Failure {
        fn hint(&self) -> Option<String> {
            matches!(self, Self::Write(_)).then(|| "call the fire brigade".to_owned())
        }
    }

    fn fire() -> std::io::Error {
        std::io::Error::other("disk on fire")
    }

    #[test]
    fn causes_and_remedy_follow_the_error() {
        assert_eq!(
            Diagnostic::from(Failure::Write(fire())).render(),
            "error: cannot write `x`\ncaused by: disk on fire\nhint: call the fire brigade\n"
        );
    }

    #[test]
    fn a_cause_that_was_told_already_is_not_told_again() {
        let told = Diagnostic::from(Failure::Repeats(fire()));
        assert_eq!(told.render(), "error: no room: disk on fire\n");
        assert_eq!(
            told.caused("disk on fire".into()).render(),
            "error: disk on fire\ncaused by: no room: disk on fire\n"
        );
    }

    #[test]
    fn the_outermost_remedy_is_the_one_that_is_told() {
        let inner = || Diagnostic::from(Failure::Write(fire()));
        let plain = inner().caused("the run ended".into());
        assert_eq!(
            plain.in_full(),
            "the run ended: cannot write `x`: disk on fire (call the fire brigade)"
        );
        let better = inner().caused(Diagnostic::new("the run ended").with_hint("start again"));
        assert_eq!(better.hint.as_deref(), Some("start again"));
    }

    #[test]
    fn a_diagnostic_crosses_from_process_to_process_unchanged() {
        let told = Diagnostic::from(Failure::Write(fire()));
        let line = serde_json::to_string(&told).unwrap();
        assert_eq!(
            line,
            r#"{"error":"cannot write `x`","causes":["disk on fire"],"hint":"call the fire brigade"}"#
        );
        assert_eq!(serde_json::from_str::<Diagnostic>(&line).unwrap(), told);
    }
}
