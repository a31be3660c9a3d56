//! One table with the keys of every kind of judge, as `family` chooses among them: its JSON Schema.

use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use super::back_end::BackEnd as _;
use super::{ClipSpec, EnsembleSpec, EvaluatorSpec, InProcessSpec, ScorerSpec, ServerSpec};
use crate::spec::schema;

/// That `family` is one of these.
fn is(families: &[&str]) -> Value {
    json!({ "required": ["family"], "properties": { "family": { "enum": families } } })
}

/// The keys that a judge needs by its family.
fn needed_keys() -> Value {
    json!([
        { "if": is(&["openai"]), "then": { "required": ["endpoint", "model"] } },
        { "if": is(&["scorer"]), "then": { "required": ["endpoint"] } },
        { "if": is(&["ensemble"]), "then": { "required": ["members"] } },
        { "if": { "not": is(&["openai", "scorer", "evaluator", "ensemble"]) }, "then": { "required": ["path"] } },
    ])
}

/// Adds the keys of every kind to those that all judges have.
pub(super) fn of_a_judge(schema: &mut Schema) {
    schema.insert("required".into(), json!(["template", "rubric"]));
    add::<EnsembleSpec>(schema);
    of_a_member(schema);
}

/// The same for a member, which is no ensemble itself.
pub(super) fn of_a_member(schema: &mut Schema) {
    add::<EvaluatorSpec>(schema);
    add::<ClipSpec>(schema);
    add::<ScorerSpec>(schema);
    add::<ServerSpec>(schema);
    add::<InProcessSpec>(schema);
    schema.insert("allOf".into(), needed_keys());
}

/// Adds the keys of the kinds that write. Without a `family` there are none of them.
pub(super) fn of_a_writer(schema: &mut Schema) {
    schema.insert("required".into(), json!(["template"]));
    add::<ServerSpec>(schema);
    add::<InProcessSpec>(schema);
    if let Some(family) = schema.ensure_object()["properties"]["family"].as_object_mut() {
        family.remove("default");
        let said = "What writes, with the keys of its kind; the judge's own model without it.";
        family.insert("description".into(), said.into());
    }
    schema.insert(
        "allOf".into(),
        json!([
            { "if": is(ServerSpec::FAMILIES), "then": { "required": ["endpoint", "model"] } },
            { "if": is(InProcessSpec::FAMILIES), "then": { "required": ["path"] } },
        ]),
    );
}

/// Adds the keys of a kind. Its families join those of the others; what was added last has the default.
fn add<Kind: JsonSchema>(schema: &mut Schema) {
    let mut of_kind = schema::of::<Kind>();
    let Some(Value::Object(keys)) = of_kind.remove("properties") else {
        return;
    };
    let all = schema.ensure_object().entry("properties").or_insert_with(|| json!({}));
    let Some(all) = all.as_object_mut() else { return };
    for (key, mut said) in keys {
        if key == "family" {
            let others = all.remove("family");
            let families = families(&said)
                .into_iter()
                .chain(others.iter().flat_map(families))
                .collect();
            if let Some(said) = said.as_object_mut() {
                said.retain(|key, _| key == "default");
                said.insert("description".into(), "What answers the judge's questions.".into());
                said.insert("oneOf".into(), Value::Array(families));
            }
        }
        all.insert(key, said);
    }
}

/// The values of a `family`, each with its meaning.
fn families(said: &Value) -> Vec<Value> {
    match said.as_object().map(|said| (said.get("oneOf"), said)) {
        Some((Some(Value::Array(families)), _)) => families.clone(),
        Some((_, said)) => {
            let kept = ["const", "enum", "type", "description"];
            let only = said.iter().filter(|(key, _)| kept.contains(&key.as_str()));
            vec![Value::Object(
                only.map(|(key, value)| (key.clone(), value.clone()))
                    .collect::<Map<_, _>>(),
            )]
        }
        None => Vec::new(),
    }
}
