//! The fingerprint of a run specification.

use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::{GradientExchange, JudgeSpec, RunSpec};
use crate::ids::Digest;

pub(super) fn of(spec: &RunSpec) -> Digest {
    let mut spec = spec.clone();
    for path in [&mut spec.model.path, &mut spec.prompts.train] {
        *path = plain(path);
    }
    spec.prompts.held_out = spec.prompts.held_out.as_deref().map(plain);
    if let Some(evaluation) = &mut spec.evaluation {
        evaluation.labelled = evaluation.labelled.as_deref().map(plain);
    }
    // Either way of exchanging gives the same bytes.
    spec.trainer.exchange = GradientExchange::default();
    let mut text = String::new();
    let value = serde_json::json!({
        "run": spec.run,
        "model": spec.model,
        "prompts": spec.prompts,
        "sampling": spec.sampling,
        "lora": spec.lora,
        "objective": spec.objective,
        "optimizer": spec.optimizer,
        "judge": judge(&spec.judge),
        "trainer": spec.trainer,
        "checkpoints": spec.checkpoints,
        "evaluation": spec.evaluation,
        "limits": spec.limits,
    });
    canonical(&value, &mut text);
    Digest::of(text.as_bytes())
}

/// What a verdict depends on. Keys that came later than the first runs are left out while they say nothing, so that a run
/// keeps the fingerprint that it was submitted with.
fn judge(spec: &JudgeSpec) -> Value {
    let mut value = serde_json::json!({
        "family": spec.family,
        "path": plain(&spec.path),
        "template": plain(&spec.template),
        "rubric": plain(&spec.rubric),
        "margin": spec.margin,
        "batch": spec.batch,
        "device": spec.device,
        "dtype": spec.dtype,
    });
    if let Some(endpoint) = &spec.endpoint {
        value["endpoint"] = endpoint.trim_end_matches('/').into();
    }
    if let Some(model) = &spec.model {
        value["model"] = model.as_str().into();
    }
    if let Some(reasons) = &spec.reasons {
        value["reasons"] = serde_json::json!({
            "fraction": reasons.fraction,
            "template": plain(&reasons.template),
            "max_tokens": reasons.max_tokens,
        });
    }
    if spec.weight != 1.0 {
        value["weight"] = spec.weight.into();
    }
    if !spec.members.is_empty() {
        value["members"] = spec.members.iter().map(judge).collect();
    }
    value
}

/// `./a//b` and `a/b` are the same path.
fn plain(path: &Path) -> PathBuf {
    path.components()
        .filter(|component| *component != Component::CurDir)
        .collect()
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
