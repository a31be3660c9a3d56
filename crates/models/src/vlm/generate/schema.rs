//! JSON Schemas as llguidance is given them.

use serde_json::{Map, Value, json};

/// Narrows a schema to documents that programs read easily; each of them conforms to the schema as it was.
///
/// Objects hold only the properties that they name, where they leave it open. Integers are not written as `-0`, which many
/// parsers take for a floating-point number.
pub(super) fn narrow(schema: &mut Value) {
    match schema {
        Value::Array(schemas) => schemas.iter_mut().for_each(narrow),
        Value::Object(keywords) => {
            if keywords.contains_key("properties") && !keywords.contains_key("additionalProperties") {
                keywords.insert("additionalProperties".to_owned(), Value::Bool(false));
            }
            for (keyword, value) in &mut *keywords {
                match keyword.as_str() {
                    "items" | "prefixItems" | "anyOf" | "oneOf" => narrow(value),
                    "properties" | "$defs" | "definitions" => {
                        if let Some(named) = value.as_object_mut() {
                            named.values_mut().for_each(narrow);
                        }
                    }
                    _ => {}
                }
            }
            if let Some(split) = split_at_zero(keywords) {
                *schema = split;
            }
        }
        _ => {}
    }
}

/// The negative integers of a schema and the others, if it has both.
fn split_at_zero(keywords: &Map<String, Value>) -> Option<Value> {
    let bound = |inclusive: &str, exclusive: &str, inwards: i64| {
        let exclusive = keywords.get(exclusive).and_then(Value::as_i64);
        let inclusive = keywords.get(inclusive).and_then(Value::as_i64);
        exclusive.map(|bound| bound.saturating_add(inwards)).or(inclusive)
    };
    let has_negative = bound("minimum", "exclusiveMinimum", 1).is_none_or(|bound| bound < 0);
    let has_others = bound("maximum", "exclusiveMaximum", -1).is_none_or(|bound| bound >= 0);
    let listed = keywords.contains_key("enum") || keywords.contains_key("const");
    if keywords.get("type")? != "integer" || listed || !has_negative || !has_others {
        return None;
    }
    let (mut negative, mut others) = (keywords.clone(), keywords.clone());
    negative.insert("maximum".to_owned(), json!(-1));
    negative.remove("exclusiveMaximum");
    others.insert("minimum".to_owned(), json!(0));
    others.remove("exclusiveMinimum");
    Some(json!({ "anyOf": [negative, others] }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn narrowed(mut schema: Value) -> Value {
        narrow(&mut schema);
        schema
    }

    #[test]
    fn objects_are_closed_at_every_depth_unless_they_say_otherwise() {
        let inner = json!({ "properties": { "properties": { "type": "string" } } });
        let open = json!({ "properties": {}, "additionalProperties": true });
        let found = narrowed(json!({ "properties": { "a": { "items": inner }, "b": open } }));
        assert_eq!(found["additionalProperties"], false);
        assert_eq!(found["properties"]["a"]["items"]["additionalProperties"], false);
        assert_eq!(found["properties"]["b"]["additionalProperties"], true);
        // A property may bear the name of a keyword.
        assert_eq!(
            found["properties"]["a"]["items"]["properties"]["properties"],
            json!({ "type": "string" })
        );
    }

    #[test]
    fn integers_on_both_sides_of_zero_are_split() {
        assert_eq!(
            narrowed(json!({ "type": "integer", "minimum": -3, "exclusiveMaximum": 9 })),
            json!({ "anyOf": [
                { "type": "integer", "minimum": -3, "maximum": -1 },
                { "type": "integer", "minimum": 0, "exclusiveMaximum": 9 },
            ] })
        );
        for whole in [
            json!({ "type": "integer", "minimum": 0 }),
            json!({ "type": "integer", "exclusiveMinimum": -1 }),
            json!({ "type": "integer", "maximum": -1 }),
            json!({ "type": "integer", "enum": [-1, 1] }),
            json!({ "type": "string" }),
        ] {
            assert_eq!(narrowed(whole.clone()), whole);
        }
    }
}
