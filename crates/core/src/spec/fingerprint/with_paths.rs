//! The fingerprint that ledgers and reports of before hold: it had the paths in it, as they were spelled.

use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value, json};

use super::canonical;
use crate::ids::Digest;

/// The sections that it covered; it held the whole of each but `[judge]`.
const SECTIONS: [&str; 12] = [
    "run",
    "model",
    "prompts",
    "sampling",
    "lora",
    "objective",
    "optimizer",
    "judge",
    "trainer",
    "checkpoints",
    "evaluation",
    "limits",
];

/// The paths outside `[judge]`.
const PATHS: [(&str, &str); 4] = [
    ("model", "path"),
    ("prompts", "train"),
    ("prompts", "held_out"),
    ("evaluation", "labelled"),
];

/// The fingerprint, by the rule of before, of a spec's JSON as its writer stored it. For comparing with what was stored beside
/// it; nothing new is named by it. `None` when the text is no spec.
pub fn with_paths(spec_json: &str) -> Option<Digest> {
    let Value::Object(mut spec) = serde_json::from_str(spec_json).ok()? else {
        return None;
    };
    spec.retain(|section, _| SECTIONS.contains(&section.as_str()));
    // A run without evaluation has no such section in its JSON, and had null in what was hashed.
    spec.entry("evaluation").or_insert(Value::Null);
    for (section, key) in PATHS {
        make_plain(spec.get_mut(section)?.get_mut(key));
    }
    // Either way of exchanging gives the same bytes.
    spec.get_mut("trainer")?
        .as_object_mut()?
        .insert("exchange".into(), "blobs".into());
    let judge = judge(spec.get("judge")?.as_object()?)?;
    spec.insert("judge".into(), judge);
    let mut text = String::new();
    canonical(&Value::Object(spec), &mut text);
    Some(Digest::of(text.as_bytes()))
}

fn judge(spec: &Map<String, Value>) -> Option<Value> {
    let mut kept = Map::new();
    for key in [
        "family", "path", "template", "rubric", "margin", "batch", "device", "dtype",
    ] {
        kept.insert(key.into(), spec.get(key)?.clone());
    }
    for key in ["path", "template", "rubric"] {
        make_plain(kept.get_mut(key));
    }
    if let Some(endpoint) = spec.get("endpoint").and_then(Value::as_str) {
        kept.insert("endpoint".into(), endpoint.trim_end_matches('/').into());
    }
    if let Some(model) = spec.get("model") {
        kept.insert("model".into(), model.clone());
    }
    if let Some(reasons) = spec.get("reasons") {
        let mut reasons = reasons.clone();
        make_plain(reasons.get_mut("template"));
        kept.insert("reasons".into(), reasons);
    }
    if let Some(weight) = spec.get("weight").filter(|weight| **weight != json!(1.0)) {
        kept.insert("weight".into(), weight.clone());
    }
    if let Some(members) = spec
        .get("members")
        .and_then(Value::as_array)
        .filter(|members| !members.is_empty())
    {
        let members: Option<Vec<Value>> = members.iter().map(|member| judge(member.as_object()?)).collect();
        kept.insert("members".into(), members?.into());
    }
    Some(Value::Object(kept))
}

/// `./a//b` and `a/b` are the same path.
fn make_plain(path: Option<&mut Value>) {
    if let Some(Value::String(path)) = path {
        let plain: PathBuf = Path::new(&*path)
            .components()
            .filter(|component| *component != Component::CurDir)
            .collect();
        *path = plain.to_string_lossy().into_owned();
    }
}
