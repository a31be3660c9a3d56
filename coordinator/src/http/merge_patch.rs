//! JSON merge patch (RFC 7386): what changed of a state.

use serde_json::{Map, Value};

/// What makes `new` of `old`. A merge patch cannot set a value to null, which it takes for leaving the key out: to a reader of JSON both say
/// that there is nothing.
pub(super) fn diff(old: &Value, new: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return new.clone();
    };
    let mut patch = Map::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in new {
        match old.get(key) {
            Some(known) if known == value => {}
            Some(known) if known.is_object() && value.is_object() => {
                patch.insert(key.clone(), diff(known, value));
            }
            _ => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    Value::Object(patch)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The algorithm of RFC 7386, section 2, by which whoever is told of changes applies them.
    fn apply(target: Value, patch: &Value) -> Value {
        let Value::Object(patch) = patch else {
            return patch.clone();
        };
        let mut target = match target {
            Value::Object(target) => target,
            _ => Map::new(),
        };
        for (key, value) in patch {
            if value.is_null() {
                target.remove(key);
            } else {
                let known = target.remove(key).unwrap_or(Value::Null);
                target.insert(key.clone(), apply(known, value));
            }
        }
        Value::Object(target)
    }

    /// Nulls say the same as keys that are not there.
    fn without_nulls(value: Value) -> Value {
        match value {
            Value::Object(fields) => {
                let kept = fields.into_iter().filter(|(_, value)| !value.is_null());
                Value::Object(kept.map(|(key, value)| (key, without_nulls(value))).collect())
            }
            other => other,
        }
    }

    #[test]
    fn a_patch_makes_the_new_state_of_the_old_one() {
        let states = [
            json!({}),
            json!({ "step": 1, "phase": { "kind": "training" }, "workers": {} }),
            json!({ "step": 2, "phase": { "kind": "paused", "reason": "lunch" }, "workers": { "judge-1": { "done": 3 } } }),
            json!({ "step": 2, "phase": { "kind": "training" }, "workers": { "judge-1": { "done": 4 } }, "progress": null }),
            json!({ "step": 2, "phase": "other", "leases": [1, 2], "progress": { "samples": 1 } }),
            json!({ "step": 2, "leases": [2], "progress": null }),
        ];
        for old in &states {
            for new in &states {
                let patch = diff(old, new);
                assert_eq!(
                    without_nulls(apply(old.clone(), &patch)),
                    without_nulls(new.clone()),
                    "{old} to {new} by {patch}"
                );
            }
        }
        assert_eq!(
            diff(&states[2], &states[3]),
            json!({ "phase": { "reason": null, "kind": "training" }, "workers": { "judge-1": { "done": 4 } }, "progress": null })
        );
    }
}
