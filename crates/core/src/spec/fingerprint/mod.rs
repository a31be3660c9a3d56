//! The fingerprint of a run specification: what tells two runs apart.

mod with_paths;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde_json::Value;

use super::{RunSpec, paths};
use crate::ids::Digest;
pub use with_paths::with_paths;

/// Sections and keys that are no part of the fingerprint, each with the reason. Every other key is part of it, but for paths:
/// what they name is compared by its contents. Members of an ensemble, a held-out judge and a writer follow `[judge]`.
///
/// A new key is part of the fingerprint unless it is listed here. So that runs of before keep theirs, it must not be
/// serialised while it says nothing (`Option` with `skip_serializing_if`).
const NOT_PART: &[(&str, &str)] = &[
    (
        "stop",
        "a run that pauses itself and is resumed has the same result as one that did not pause",
    ),
    (
        "fleet",
        "how many workers there are and how they are watched changes no byte of the result",
    ),
    (
        "coordinator",
        "where it listens and what it keeps changes no byte of the result",
    ),
    (
        "evaluation.every",
        "probes look at policies and change no byte of them, nor of the evaluation at the end",
    ),
    (
        "evaluation.subset",
        "probes look at policies and change no byte of them, nor of the evaluation at the end",
    ),
    (
        "limits.lost_leases",
        "a run that stops and is resumed has the same result as one that did not stop",
    ),
    (
        "trainer.exchange",
        "either way of exchanging gradient sums gives the same bytes",
    ),
    (
        "judge.api_key_env",
        "which variable holds the key does not change what the server answers",
    ),
    ("judge.timeout", "a server that answers later gives the same answer"),
    (
        "judge.concurrency",
        "how many requests are under way at a time does not change their answers",
    ),
    (
        "judge.attempts",
        "a verdict comes from the first answer, however many requests that took",
    ),
    ("judge.prompt_price", "what verdicts cost does not change them"),
    ("judge.completion_price", "what verdicts cost does not change them"),
    (
        "judge.cache",
        "a verdict or a rubric that is kept is the one that was given",
    ),
];

pub(super) fn of(spec: &RunSpec) -> Digest {
    of_json(without_paths(spec))
}

/// The keys whose values tell two specs apart, as in a file: `section.key`.
pub(super) fn differences(one: &RunSpec, other: &RunSpec) -> Vec<String> {
    let (one, other) = (parts(without_paths(one)), parts(without_paths(other)));
    let mut keys = Vec::new();
    compare("", &one, &other, &mut keys);
    keys.sort();
    keys
}

/// The deepest keys of two tables that have different values, or are in one of them only.
fn compare(at: &str, one: &Value, other: &Value, keys: &mut Vec<String>) {
    let (Value::Object(first), Value::Object(second)) = (one, other) else {
        if one != other {
            keys.push(at.to_owned());
        }
        return;
    };
    let more = second.keys().filter(|key| !first.contains_key(*key));
    for key in first.keys().chain(more) {
        let at = if at.is_empty() {
            key.clone()
        } else {
            format!("{at}.{key}")
        };
        let value = |table: &serde_json::Map<String, Value>| table.get(key).cloned().unwrap_or_default();
        compare(&at, &value(first), &value(second), keys);
    }
}

fn without_paths(spec: &RunSpec) -> Value {
    let mut spec = spec.clone();
    for (_, path) in paths::of(&mut spec) {
        *path = PathBuf::new();
    }
    serde_json::json!(spec)
}

/// Of a spec's JSON without paths.
fn of_json(value: Value) -> Digest {
    let mut text = String::new();
    canonical(&parts(value), &mut text);
    Digest::of(text.as_bytes())
}

/// What is part of the fingerprint.
fn parts(mut value: Value) -> Value {
    for (key, _) in NOT_PART {
        remove(&mut value, key);
    }
    normalise_endpoints(&mut value["judge"]);
    value
}

/// Takes a section or a key out of a spec's JSON, and a key of `[judge]` out of members and the held-out judge too.
fn remove(spec: &mut Value, key: &str) {
    let (section, key) = match key.split_once('.') {
        Some((section, key)) => (section, Some(key)),
        None => (key, None),
    };
    match (spec.as_object_mut(), key) {
        (Some(spec), None) => drop(spec.remove(section)),
        (Some(spec), Some(key)) => {
            if let Some(section) = spec.get_mut(section) {
                remove_key(section, key);
            }
        }
        (None, _) => {}
    }
}

fn remove_key(section: &mut Value, key: &str) {
    if let Some(section) = section.as_object_mut() {
        section.remove(key);
    }
    inner_judges(section).for_each(|judge| remove_key(judge, key));
}

/// The tables within a judge's that have the same keys: of an ensemble's members, of the held-out judge, of the writer and of its
/// embedding.
fn inner_judges(judge: &mut Value) -> impl Iterator<Item = &mut Value> {
    let mut inner = Vec::new();
    for (key, value) in judge.as_object_mut().into_iter().flatten() {
        match (key.as_str(), value) {
            ("members", Value::Array(members)) => inner.extend(members),
            ("held_out" | "writer" | "embedding", one) => inner.push(one),
            _ => {}
        }
    }
    inner.into_iter()
}

/// An address with a slash at its end is the same server.
fn normalise_endpoints(judge: &mut Value) {
    if let Some(Value::String(endpoint)) = judge.get_mut("endpoint") {
        endpoint.truncate(endpoint.trim_end_matches('/').len());
    }
    inner_judges(judge).for_each(normalise_endpoints);
}

/// JSON without spaces and with sorted keys.
fn canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(object) => {
            let mut keys: Vec<&String> = object.keys().collect();
            keys.sort();
            text.push('{');
            for (index, key) in keys.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                canonical(&object[key], text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                canonical(item, text);
            }
            text.push(']');
        }
        plain => text.push_str(&plain.to_string()),
    }
}
