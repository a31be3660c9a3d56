//! Answers in JSON: each takes room until it is sent, and carries a tag by which a caller that has it already is told so.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::Problem;
use crate::transport::Rooms;

/// Keys whose values change although nothing happens: moments, in milliseconds.
const MOMENTS: [&str; 3] = ["now_unix_ms", "since_unix_ms", "deadline_unix_ms"];
/// What all of these end with, as JSON has it.
const END_OF_MOMENT: &str = "_unix_ms\":";

/// The answer takes room until it is sent: many who ask and do not read cost no more than a few.
pub(super) async fn answer<T, E>(
    rooms: &Rooms,
    make: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<Response, Problem>
where
    T: Serialize + Send + 'static,
    E: Into<Problem> + Send + 'static,
{
    let (made, room) = rooms.answer().await?.fill(make).await?;
    let made = made.map_err(Into::into)?;
    let unwritten = |error: serde_json::Error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    let text = serde_json::to_string(&made).map_err(unwritten)?;
    drop(made);
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::ETAG, tag(&text)),
        (header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache")),
    ];
    let mut response = (headers, text).into_response();
    response.extensions_mut().insert(room);
    Ok(response)
}

/// A weak tag of an answer: two that differ in moments alone have the same.
fn tag(json: &str) -> HeaderValue {
    let mut hash = Sha256::new();
    let mut rest = json;
    // Within a text the quotation mark would be escaped: what is found is the end of a key.
    while let Some((before, after)) = rest.split_once(END_OF_MOMENT) {
        hash.update(before);
        hash.update(END_OF_MOMENT);
        let is_moment = MOMENTS.iter().any(|key| {
            let stem = key.trim_end_matches("_unix_ms");
            before.strip_suffix(stem).is_some_and(|before| before.ends_with('"'))
        });
        rest = if is_moment {
            after.trim_start_matches(|letter: char| letter.is_ascii_digit())
        } else {
            after
        };
    }
    hash.update(rest);
    let digits: String = hash
        .finalize()
        .iter()
        .take(12)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    // Digits and quotation marks are what a header may hold.
    HeaderValue::from_str(&format!("W/\"{digits}\"")).unwrap_or(HeaderValue::from_static("W/\"\""))
}

/// Whether two states are the same but for moments.
pub(super) fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let is_told = |(key, _): &(&String, &Value)| !MOMENTS.contains(&key.as_str());
            let (mut one, mut other) = (one.iter().filter(is_told), other.iter().filter(is_told));
            loop {
                match (one.next(), other.next()) {
                    (None, None) => break true,
                    (Some((key, value)), Some((other_key, other_value)))
                        if key == other_key && is_same(value, other_value) => {}
                    _ => break false,
                }
            }
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same(one, other))
        }
        _ => one == other,
    }
}

/// Answers 304 to a caller that names the tag of the answer it would get (`If-None-Match`).
pub(super) async fn not_modified(request: Request, next: Next) -> Response {
    let known: Vec<HeaderValue> = request
        .headers()
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .cloned()
        .collect();
    let response = next.run(request).await;
    let Some(tag) = response
        .headers()
        .get(header::ETAG)
        .filter(|_| response.status() == StatusCode::OK)
    else {
        return response;
    };
    let names = |header: &HeaderValue| {
        let tags = header.to_str().unwrap_or_default().split(',').map(str::trim);
        let tag = tag.to_str().unwrap_or_default();
        tags.into_iter()
            .any(|known| known == "*" || without_weakness(known) == without_weakness(tag))
    };
    if !known.iter().any(names) {
        return response;
    }
    let (mut parts, _) = response.into_parts();
    parts.status = StatusCode::NOT_MODIFIED;
    parts.headers.remove(header::CONTENT_TYPE);
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.remove(header::CONTENT_ENCODING);
    // Nothing is left that takes room.
    parts.extensions.clear();
    Response::from_parts(parts, Body::empty())
}

fn without_weakness(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_tag_changes_with_what_is_told_and_not_with_the_moment() {
        let state = |now: u64, step: u64| json!({ "now_unix_ms": now, "step": step, "seen_unix_ms": 7, "leases": [{ "unit": 1, "deadline_unix_ms": now }] });
        let tagged = |value: &Value| tag(&value.to_string());
        assert_eq!(tagged(&state(1, 5)), tagged(&state(22, 5)));
        assert_ne!(tagged(&state(1, 5)), tagged(&state(1, 6)));
        assert!(is_same(&state(1, 5), &state(22, 5)) && !is_same(&state(1, 5), &state(1, 6)));
        assert!(!is_same(&json!({ "a": 1 }), &json!({ "a": 1, "b": 2 })));
        for (one, other) in [
            (json!({ "seen_unix_ms": 1 }), json!({ "seen_unix_ms": 2 })),
            (json!({ "is_now_unix_ms": 1 }), json!({ "is_now_unix_ms": 2 })),
            (
                json!({ "reason": "\"now_unix_ms\":1" }),
                json!({ "reason": "\"now_unix_ms\":2" }),
            ),
        ] {
            assert_ne!(tagged(&one), tagged(&other), "{one}");
            assert!(!is_same(&one, &other), "{one}");
        }
    }
}
