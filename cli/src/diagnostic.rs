//! How errors travel through the program, and how it tells them at its end.
//!
//! Whatever a command returns as an error has become a [`Diagnostic`] by then. An error of Gavel's own becomes one by `?`, and
//! takes its remedy along; an error of another library has none and becomes one by [`Foreign::foreign`]. One that forgets
//! its remedy does not compile.

use std::error::Error;

pub(crate) use gavel_core::Diagnostic;

use gavel_telemetry::log::{self, Format};

use crate::output;

/// What a command, or a part of one, comes to.
pub(crate) type Result<T, E = Diagnostic> = std::result::Result<T, E>;

/// With this set to `json`, the program's last line on standard error is its error as JSON. `gavel run` asks its processes so.
pub(crate) const ERROR_FORMAT: (&str, &str) = ("GAVEL_ERROR_FORMAT", "json");

/// Says what an error kept from being done.
pub(crate) trait Context<T> {
    /// The error, or the absence of a value, as the cause of `outer`.
    fn context(self, outer: impl Into<Diagnostic>) -> Result<T>;

    /// As [`Context::context`], where `outer` is costly.
    fn with_context<O: Into<Diagnostic>>(self, outer: impl FnOnce() -> O) -> Result<T>;
}

impl<T, E: Into<Diagnostic>> Context<T> for Result<T, E> {
    fn context(self, outer: impl Into<Diagnostic>) -> Result<T> {
        self.map_err(|error| error.into().caused(outer.into()))
    }

    fn with_context<O: Into<Diagnostic>>(self, outer: impl FnOnce() -> O) -> Result<T> {
        self.map_err(|error| error.into().caused(outer().into()))
    }
}

impl<T> Context<T> for Option<T> {
    fn context(self, outer: impl Into<Diagnostic>) -> Result<T> {
        self.ok_or_else(|| outer.into())
    }

    fn with_context<O: Into<Diagnostic>>(self, outer: impl FnOnce() -> O) -> Result<T> {
        self.ok_or_else(|| outer().into())
    }
}

/// Errors of other libraries.
pub(crate) trait Foreign<T> {
    /// The error with its causes. Gavel's own errors do not come this way: they would lose their remedy.
    fn foreign(self) -> Result<T>;
}

impl<T, E: Error> Foreign<T> for Result<T, E> {
    fn foreign(self) -> Result<T> {
        self.map_err(|error| Diagnostic::foreign(&error))
    }
}

/// Prints an error: for people and, where a parent process asked for it, once more for that. A log of JSON has it as JSON alone.
pub(crate) fn tell(diagnostic: &Diagnostic) {
    let is_json = log::format() == Format::Json;
    if !is_json {
        output::note(diagnostic.render().trim_end());
    }
    let (variable, format) = ERROR_FORMAT;
    if (is_json || std::env::var_os(variable).is_some_and(|value| value == format))
        && let Ok(line) = serde_json::to_string(diagnostic)
    {
        output::note(line);
    }
}

/// The error that a process told its parent at the end of its log.
pub(crate) fn told_in(log: &str) -> Option<Diagnostic> {
    log.lines().rev().find_map(|line| serde_json::from_str(line).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outer_error_takes_causes_and_remedy_along() {
        let inner = Err::<(), _>(Diagnostic::new("empty").with_hint("fill it"));
        let error = inner.context("cannot pour").unwrap_err();
        assert_eq!(error.render(), "error: cannot pour\ncaused by: empty\nhint: fill it\n");
        let absent = None::<()>.context("nobody is there").unwrap_err();
        assert_eq!(absent, Diagnostic::new("nobody is there"));
    }

    #[test]
    fn the_last_error_of_a_log_is_found_among_other_lines() {
        let told = |error: &str| serde_json::to_string(&Diagnostic::new(error).with_hint("dig")).unwrap();
        let log = format!(
            "error: old\n{}\nINFO fine\nerror: new\nhint: dig\n{}\nWARN late\n",
            told("old"),
            told("new")
        );
        assert_eq!(told_in(&log), Some(Diagnostic::new("new").with_hint("dig")));
        assert_eq!(told_in("INFO fine\nerror: not for us\n"), None);
    }
}
