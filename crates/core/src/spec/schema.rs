//! The configuration as a JSON Schema, so that an editor completes keys, shows what they mean and marks what is out of range.
//!
//! Structure, descriptions and defaults come from the structs. Ranges stand beside the fields; a test holds them to the checks.

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value};

use super::RunSpec;

/// The JSON Schema (draft 7, which editors of TOML know) of a configuration file. It knows nothing of checks across keys: a file that it
/// takes may still be refused by [`RunSpec::from_value`].
pub fn schema() -> Schema {
    let mut schema = settings().into_generator().into_root_schema_for::<RunSpec>();
    schema.insert("title".into(), "Configuration of a Gavel run".into());
    schema.insert("description".into(), "docs/configuration.md says more.".into());
    schema
}

/// The schema of a part by itself.
pub(super) fn of<T: JsonSchema>() -> Schema {
    settings().into_generator().into_root_schema_for::<T>()
}

fn settings() -> SchemaSettings {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    settings.with_transform(RecursiveTransform(as_toml))
}

/// Takes out what TOML cannot say, and what means something in Rust alone.
fn as_toml(schema: &mut Schema) {
    let Some(schema) = schema.as_object_mut() else { return };
    without_null(schema);
    schema.remove("format");
    let says_nothing = |value: &Value| value.is_null() || value.as_str().is_some_and(str::is_empty);
    if schema.get("default").is_some_and(says_nothing) {
        schema.remove("default");
    }
}

/// A key that may be left out: TOML has no null that could stand there instead.
fn without_null(schema: &mut Map<String, Value>) {
    let is_null = |value: &Value| value == "null" || value.get("type").is_some_and(|kind| kind == "null");
    if let Some(Value::Array(kinds)) = schema.get_mut("type") {
        kinds.retain(|kind| !is_null(kind));
        if let [kind] = kinds.as_slice() {
            let kind = kind.clone();
            schema.insert("type".into(), kind);
        }
    }
    let Some(Value::Array(mut others)) = schema.remove("anyOf") else {
        return;
    };
    others.retain(|other| !is_null(other));
    match others.as_mut_slice() {
        [Value::Object(only)] => {
            for (key, value) in std::mem::take(only) {
                schema.entry(key).or_insert(value);
            }
        }
        _ => drop(schema.insert("anyOf".into(), others.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::problems;

    /// Every key of a section with what the schema says of it: `section.key`.
    fn keys() -> Vec<(String, Value)> {
        let schema = schema().to_value();
        let sections = schema["properties"].as_object().unwrap();
        let keys = sections.iter().flat_map(|(section, said)| {
            let keys = said["properties"].as_object().unwrap().iter();
            keys.map(move |(key, said)| (format!("{section}.{key}"), said.clone()))
        });
        keys.collect()
    }

    #[test]
    fn the_schema_has_the_keys_of_the_configuration_each_with_its_meaning() {
        let found: Vec<(String, Value)> = keys();
        let mut names: Vec<&str> = found.iter().map(|(key, _)| key.as_str()).collect();
        let mut expected: Vec<String> = RunSpec::keys()
            .map(|(section, key)| format!("{section}.{key}"))
            .collect();
        // Keys of members alone.
        expected.retain(|key| !["judge.weight", "judge.veto"].contains(&key.as_str()));
        names.sort_unstable();
        expected.sort_unstable();
        assert_eq!(names, expected);
        for (key, said) in &found {
            assert!(said["description"].is_string(), "{key}: {said}");
        }
        assert!(!schema().to_value().to_string().contains("null"), "TOML has no null");
    }

    /// What the schema refuses the checks refuse, and what it takes at its limits they take.
    #[test]
    fn ranges_are_those_of_the_checks() {
        let mut tried = 0;
        for (key, said) in keys() {
            let is_whole = said["type"] == "integer";
            let number = |name: &str| said[name].as_f64();
            let written = |value: f64| match is_whole {
                true => format!("{value:.0}"),
                false => format!("{value:?}"),
            };
            let step = said["multipleOf"].as_f64().unwrap_or(if is_whole { 1.0 } else { 1e-9 });
            let (taken, refused) = [
                (number("minimum"), number("minimum").map(|value| value - step)),
                (number("maximum"), number("maximum").map(|value| value + step)),
                (
                    number("exclusiveMinimum").map(|value| value + step),
                    number("exclusiveMinimum"),
                ),
                (
                    number("exclusiveMaximum").map(|value| value - step),
                    number("exclusiveMaximum"),
                ),
            ]
            .into_iter()
            .fold((vec![], vec![]), |(mut taken, mut refused), (inside, outside)| {
                taken.extend(inside);
                refused.extend(outside);
                (taken, refused)
            });
            let of_key = |value: f64| {
                let (section, name) = key.split_once('.').unwrap();
                // What some limits need of other keys.
                let held_out = "held_out = { path = 'm', template = 't', rubric = 'r' }";
                let others = [
                    ("evaluation", "every = 10"),
                    ("prompts", "per_step = 8"),
                    ("judge", held_out),
                ];
                let others = others.iter().filter(|(other, _)| *other != section);
                let mut overlay: String = others.map(|(other, line)| format!("[{other}]\n{line}\n")).collect();
                overlay += &format!("[{section}]\n{name} = {}", written(value));
                let mut found = problems(&overlay);
                found.retain(|problem| problem.starts_with(&format!("{key}: ")));
                found
            };
            // What only a server or an ensemble has cannot be tried on the quickstart's judge.
            if key.starts_with("judge.") && !["judge.margin", "judge.batch"].contains(&key.as_str()) {
                continue;
            }
            for value in refused {
                // The largest seed is the largest number that TOML has.
                if value < i64::MAX as f64 {
                    assert!(!of_key(value).is_empty(), "{key} = {value} is taken");
                    tried += 1;
                }
            }
            let needs_more = ["evaluation.subset", "run.seed", "stop.agreement_steps"];
            for value in taken.into_iter().filter(|_| !needs_more.contains(&key.as_str())) {
                assert_eq!(of_key(value), Vec::<String>::new(), "{key} = {value}");
                tried += 1;
            }
        }
        assert!(tried > 80, "only {tried} limits were tried");
    }
}
