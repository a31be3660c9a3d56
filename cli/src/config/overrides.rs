//! What the environment and `--set` put in place of a file's values.
//!
//! Both give texts, and a text such as `007` may be meant as one or as a number. It is read as TOML first. Where its key holds text
//! (nobody asks which do: the checks refuse the number and take the text) it is the text, as it was written.

use gavel_core::spec::{Problems, RunSpec};
use toml::{Table, Value};

use crate::diagnostic::{Diagnostic, Result};

/// What the names of variables begin with that override a key; the parts of the key follow, divided by the same.
const PREFIX: &str = "GAVEL__";
const SEPARATOR: &str = "__";

/// A value that is put in place of the file's.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Override {
    /// The parts of its key.
    key: Vec<String>,
    /// As it was written.
    text: String,
    value: Value,
}

impl Override {
    fn new(key: Vec<String>, text: &str) -> Self {
        Self {
            key,
            text: text.to_owned(),
            value: value(text),
        }
    }

    /// From `section.key=value`.
    ///
    /// # Errors
    /// It is not of that form.
    fn of_argument(entry: &str) -> Result<Self> {
        let fault =
            || Diagnostic::new(format!("`--set {entry}` is not KEY=VALUE")).with_hint("write it like --set run.seed=7");
        let (key, value) = entry.split_once('=').ok_or_else(fault)?;
        let parts: Vec<String> = key.trim().split('.').map(str::to_owned).collect();
        let plain =
            |part: &String| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
        if parts.len() < 2 || !parts.iter().all(plain) {
            return Err(fault());
        }
        Ok(Self::new(parts, value.trim()))
    }

    /// From a variable of the environment, if it is one that overrides a key.
    fn of_variable(name: &str, text: &str) -> Option<Self> {
        let key = name.strip_prefix(PREFIX)?;
        let parts = key.split(SEPARATOR).map(str::to_ascii_lowercase);
        Some(Self::new(parts.collect(), text))
    }

    /// The same as plain text, unless it is text already.
    fn as_text(&self) -> Option<Self> {
        let is_text = self.value.is_str();
        (!is_text).then(|| Self {
            value: Value::String(self.text.clone()),
            ..self.clone()
        })
    }

    fn is_refused_by(&self, problems: &Problems) -> bool {
        let key = self.key.join(".");
        problems.0.iter().any(|problem| problem.key == key)
    }
}

/// The variables that override keys, by name; a later `--set` wins over them. One that is no Unicode is no key's.
pub(crate) fn variables() -> Vec<(String, String)> {
    let mut variables: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with(PREFIX))
        .collect();
    variables.sort();
    variables
}

/// The overrides of the environment, then those of `--set`.
///
/// # Errors
/// An argument is not KEY=VALUE.
pub(super) fn all(variables: &[(String, String)], arguments: &[String]) -> Result<Vec<Override>> {
    let of_environment = variables
        .iter()
        .filter_map(|(name, text)| Override::of_variable(name, text).map(Ok));
    let of_arguments = arguments.iter().map(|entry| Override::of_argument(entry));
    of_environment.chain(of_arguments).collect()
}

/// The file's table with the overrides in it, read by `check`.
///
/// # Errors
/// The problems of the whole.
pub(super) fn apply(
    file: &Table,
    mut overrides: Vec<Override>,
    check: impl Fn(Table) -> Result<RunSpec, Problems>,
) -> Result<RunSpec, Problems> {
    let mut read = check(layered(file, &overrides));
    for index in 0..overrides.len() {
        let Err(problems) = &read else { break };
        let Some(text) = overrides[index].as_text().filter(|text| text.is_refused_by(problems)) else {
            continue;
        };
        let value = std::mem::replace(&mut overrides[index], text);
        let as_text = check(layered(file, &overrides));
        match &as_text {
            Err(problems) if value.is_refused_by(problems) => overrides[index] = value,
            _ => read = as_text,
        }
    }
    read
}

fn layered(file: &Table, overrides: &[Override]) -> Table {
    let mut table = file.clone();
    for Override { key, value, .. } in overrides {
        put(&mut table, key, value.clone());
    }
    table
}

/// Puts a value at its place. A table adds to the one that is there; anything else takes the place of what is there.
fn put(table: &mut Table, key: &[String], value: Value) {
    let Some((first, rest)) = key.split_first() else { return };
    let mut inner = match table.remove(first) {
        Some(Value::Table(inner)) => inner,
        _ => Table::new(),
    };
    let value = match (rest, value) {
        ([], Value::Table(more)) => {
            for (key, value) in more {
                put(&mut inner, &[key], value);
            }
            inner.into()
        }
        ([], value) => value,
        (rest, value) => {
            put(&mut inner, rest, value);
            inner.into()
        }
    };
    table.insert(first.clone(), value);
}

/// A text as a TOML value. What is none is text.
fn value(text: &str) -> Value {
    let alone = (!text.contains('\n')).then(|| toml::from_str::<Table>(&format!("value = {text}")));
    match alone {
        Some(Ok(mut table)) if table.len() == 1 => table.remove("value"),
        _ => None,
    }
    .unwrap_or_else(|| Value::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_are_toml_values_or_text() {
        let of = |entry| Override::of_argument(entry).unwrap();
        assert_eq!(of("run.seed=7").value, Value::Integer(7));
        assert_eq!(of("optimizer.learning_rate = 1e-3").value, Value::Float(1e-3));
        assert_eq!(of("run.name=a-b").value, Value::from("a-b"));
        assert_eq!(of("run.name=\"a-b\"").value, Value::from("a-b"));
        assert_eq!(of("prompts.train=a=b").value, Value::from("a=b"));
        assert_eq!(
            of("lora.target_modules=[\"attn.to_q\"]").value,
            Value::from(vec!["attn.to_q"])
        );
        let variable = Override::of_variable("GAVEL__JUDGE__REASONS__FRACTION", "0.5").unwrap();
        assert_eq!(variable, of("judge.reasons.fraction=0.5"));
        assert_eq!(Override::of_variable("GAVEL_COORDINATOR", "x"), None);
        for wrong in ["seed", "seed=7", "run.=7", "run.se ed=7", ".seed=7"] {
            assert_eq!(
                Override::of_argument(wrong).unwrap_err().to_string(),
                format!("`--set {wrong}` is not KEY=VALUE")
            );
        }
    }

    #[test]
    fn later_overrides_win_over_the_file_and_tables_add_to_tables() {
        let file: Table = "[run]\nname = \"x\"\nseed = 1\n[judge.reasons]\nfraction = 1.0\n"
            .parse()
            .unwrap();
        let overrides = all(
            &[("GAVEL__RUN__SEED".to_owned(), "2".to_owned())],
            &["run.seed=3".to_owned(), "judge.reasons={max_tokens = 5}".to_owned()],
        );
        let expected: Table = "[run]\nname = \"x\"\nseed = 3\n[judge.reasons]\nfraction = 1.0\nmax_tokens = 5\n"
            .parse()
            .unwrap();
        assert_eq!(layered(&file, &overrides.unwrap()), expected);
    }

    /// The quickstart with these overrides: its name and seed.
    fn read(overrides: &[&str]) -> Result<(String, u64), Vec<String>> {
        let text = include_str!("../../../configs/quickstart.toml");
        let overrides: Vec<String> = overrides.iter().map(|entry| (*entry).to_owned()).collect();
        let overrides = all(&[], &overrides).unwrap();
        match apply(&text.parse().unwrap(), overrides, RunSpec::from_value) {
            Ok(spec) => Ok((spec.run.name, spec.run.seed)),
            Err(problems) => Err(problems.0.iter().map(ToString::to_string).collect()),
        }
    }

    #[test]
    fn text_that_looks_like_something_else_reaches_a_key_that_holds_text_as_it_was_written() {
        for name in [
            "123456",
            "20251105_1",
            "007",
            "1e5",
            "1.50",
            "true",
            "inf",
            "2025-11-05",
            "0x10",
        ] {
            let read = read(&[&format!("run.name={name}"), "run.seed=1_000"]);
            assert_eq!(read, Ok((name.to_owned(), 1000)));
        }
    }

    #[test]
    fn a_number_that_is_refused_is_told_as_a_number() {
        let told = read(&["prompts.per_step=0", "run.name=7", "run.seed=\"7\""]).unwrap_err();
        assert_eq!(told[0], "run.seed: invalid type: string \"7\", expected u64");
        assert_eq!(told[1], "prompts.per_step: must be at least 1, not 0");
        assert_eq!(told.len(), 2, "{told:?}");
    }
}
