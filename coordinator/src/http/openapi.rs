//! The API's description as OpenAPI 3.1, made of [`super::endpoints`] and of the types that answer.

use std::sync::LazyLock;

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::endpoints::{Content, Describe, Endpoint, endpoints};
use super::problem::ProblemBody;

/// The description, as docs/openapi.json has it.
static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    let mut text = serde_json::to_string_pretty(&document(&endpoints())).unwrap_or_default();
    text.push('\n');
    text
});

/// `GET /api/v1/openapi.json`.
pub(super) async fn served() -> Response {
    let digits: String = Sha256::digest(DOCUMENT.as_str())
        .iter()
        .take(12)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let headers = [
        (header::CONTENT_TYPE, Ok(HeaderValue::from_static("application/json"))),
        (header::ETAG, HeaderValue::from_str(&format!("W/\"{digits}\""))),
        (header::CACHE_CONTROL, Ok(HeaderValue::from_static("private, no-cache"))),
    ];
    // Digits and quotation marks are what a header may hold.
    let headers: Vec<_> = headers
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.ok()?)))
        .collect();
    let mut response = DOCUMENT.as_str().into_response();
    response.headers_mut().extend(headers);
    response
}

fn document(endpoints: &[Endpoint]) -> Value {
    let settings =
        || SchemaSettings::draft2020_12().with(|settings| settings.definitions_path = "/components/schemas".into());
    let mut answers = settings().for_serialize().into_generator();
    let mut questions = settings()
        .for_deserialize()
        .with(|settings| settings.inline_subschemas = true)
        .into_generator();
    let problem = json!({ "application/json": { "schema": answers.subschema_for::<ProblemBody>() } });
    let mut paths: Map<String, Value> = Map::new();
    for endpoint in endpoints {
        let operation = operation(endpoint, &mut answers, &mut questions);
        let path = paths.entry(endpoint.path).or_insert_with(|| json!({}));
        path[endpoint.method.as_str().to_lowercase()] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Gavel",
            "version": "1",
            "description": "The coordinator's HTTP API. Every answer in JSON has a weak ETag; with `If-None-Match` an answer that has not changed but for moments is 304. A key of a query or of a body that is not known is refused.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" }
        },
        "servers": [{ "url": "http://127.0.0.1:7441" }],
        "security": [{ "token": [] }, {}],
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer", "description": "`gavel token new` makes one: a viewer may look, a submitter change runs." } },
            "schemas": answers.take_definitions(true),
            "responses": { "problem": { "description": "Why there is no answer, and what to do about it; 503 means: come back.", "content": problem } }
        }
    })
}

fn operation(endpoint: &Endpoint, answers: &mut SchemaGenerator, questions: &mut SchemaGenerator) -> Value {
    let mut parameters: Vec<Value> = path_parameters(endpoint.path).collect();
    parameters.extend(
        endpoint
            .query
            .into_iter()
            .flat_map(|query| query_parameters(query, questions)),
    );
    let mut operation = json!({
        "summary": endpoint.about,
        "operationId": operation_id(endpoint),
        "responses": { "200": { "description": endpoint.about, "content": content(&endpoint.answer, answers) }, "default": { "$ref": "#/components/responses/problem" } }
    });
    if matches!(endpoint.answer, Content::Json(_)) && endpoint.body.is_none() {
        operation["responses"]["304"] = json!({ "description": "The caller has this answer already." });
    }
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some(body) = endpoint.body {
        operation["requestBody"] =
            json!({ "required": true, "content": { "application/json": { "schema": body(questions) } } });
    }
    operation
}

fn content(answer: &Content, answers: &mut SchemaGenerator) -> Value {
    match answer {
        Content::Json(schema) => json!({ "application/json": { "schema": schema(answers) } }),
        Content::Stream(state, end) => {
            let (state, end) = (state(answers), end(answers));
            let about = "Events `state` (first, a whole state) and `patch` (a JSON merge patch, RFC 7386, on the state before it) with `id`, and at the coordinator's end `end`.";
            json!({ "text/event-stream": { "schema": { "description": about, "anyOf": [state, end] } } })
        }
        Content::Bytes(kind) => json!({ (*kind): {} }),
    }
}

fn path_parameters(path: &str) -> impl Iterator<Item = Value> {
    let names = path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    names.map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
}

/// The fields of a query's type, each a parameter.
fn query_parameters(query: Describe, questions: &mut SchemaGenerator) -> Vec<Value> {
    let schema = query(questions);
    let fields = schema
        .get("properties")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    let parameters = fields.into_iter().map(|(name, mut schema)| {
        let about = schema.as_object_mut().and_then(|schema| schema.remove("description"));
        json!({ "name": name, "in": "query", "required": false, "description": about, "schema": schema })
    });
    parameters.collect()
}

/// A name for programs that are made of the description: method and path.
fn operation_id(endpoint: &Endpoint) -> String {
    let path = endpoint.path.trim_start_matches("/api/v1").replace(['{', '}'], "");
    let words = path.split(['/', '.']).filter(|word| !word.is_empty());
    let method = endpoint.method.as_str().to_lowercase();
    words.fold(method, |id, word| format!("{id}_{word}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn the_committed_description_is_what_is_served() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
        if std::env::var_os("GAVEL_REGENERATE").is_some() {
            std::fs::write(&file, DOCUMENT.as_str()).unwrap();
        }
        let committed = std::fs::read_to_string(&file).unwrap();
        assert!(
            committed == *DOCUMENT,
            "docs/openapi.json is not what the coordinator serves: GAVEL_REGENERATE=1 cargo test --workspace --lib openapi"
        );
    }

    #[test]
    fn every_endpoint_is_described_once_and_every_reference_leads_somewhere() {
        let all = endpoints();
        let document = document(&all);
        let mut ids = BTreeSet::new();
        for endpoint in &all {
            let operation = &document["paths"][endpoint.path][endpoint.method.as_str().to_lowercase()];
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned()), "{id} is there twice");
        }
        let mut references = Vec::new();
        collect_references(&document, &mut references);
        assert!(references.len() > 30, "{references:?}");
        for reference in references {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
        }
    }

    fn collect_references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|value| collect_references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|item| collect_references(item, found)),
            _ => {}
        }
    }
}
