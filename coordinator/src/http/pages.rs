//! The dashboard's pages, and the files that they are made of ([`crate::web`]).

use std::sync::LazyLock;

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;

use super::Problem;
use crate::access::calls::FAVICON;
use crate::web;

/// Scripts, styles and pictures come from this server, and states are asked from it; nothing that stands in a page itself runs.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; \
     base-uri 'none'; frame-ancestors 'none'",
);
/// Where a page says which files it is made of.
const ASSETS: &str = "{{ assets }}";

static RUNS: LazyLock<String> = LazyLock::new(|| filled(include_str!("../../web/runs.html")));
static RUN: LazyLock<String> = LazyLock::new(|| filled(include_str!("../../web/run.html")));
static COMPARE: LazyLock<String> = LazyLock::new(|| filled(include_str!("../../web/compare.html")));

/// The pages, which people may keep the addresses of.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/", get(async || page(&RUNS)))
        .route("/runs/{run}", get(async || page(&RUN)))
        .route("/compare", get(async || page(&COMPARE)))
        .route("/assets/{version}/{*name}", get(asset))
        .route(FAVICON, get(async || file("favicon.svg")))
}

/// Whether a path is that of a page for people, who are asked to log in where a program is told that it may not.
pub(super) fn is_page(path: &str) -> bool {
    path == "/" || path == "/compare" || path.starts_with("/runs/")
}

/// The page with the folder of its files, whose name changes whenever one of them does.
fn filled(page: &str) -> String {
    page.replace(ASSETS, &format!("/assets/{}", *web::VERSION))
}

fn tag() -> HeaderValue {
    // Digits and quotation marks are what a header may hold.
    HeaderValue::from_str(&format!("W/\"{}\"", *web::VERSION)).unwrap_or(HeaderValue::from_static("W/\"\""))
}

fn page(text: &'static LazyLock<String>) -> Response {
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        ),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache")),
        (header::ETAG, tag()),
    ];
    (headers, text.as_str()).into_response()
}

async fn asset(Path((version, name)): Path<(String, String)>) -> Response {
    // The files of another version are another coordinator's: a page that is loaded anew names these.
    if version != *web::VERSION {
        return no_file();
    }
    let mut response = file(&name);
    let lasts = HeaderValue::from_static("private, max-age=31536000, immutable");
    response.headers_mut().insert(header::CACHE_CONTROL, lasts);
    response
}

fn file(name: &str) -> Response {
    let Some(asset) = web::asset(name) else {
        return no_file();
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(asset.content_type)),
        (header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache")),
        (header::ETAG, tag()),
    ];
    (headers, asset.text).into_response()
}

fn no_file() -> Response {
    Problem::new(StatusCode::NOT_FOUND, "no such file").into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_page_would_be_kept_from_running_by_its_policy() {
        for page in [&RUNS, &RUN, &COMPARE] {
            assert!(!page.contains(" onclick=") && !page.contains(" style="), "{}", **page);
            assert!(!page.contains("<script>") && !page.contains("<style"), "{}", **page);
            let named = page.split('"').filter_map(|text| text.strip_prefix("/assets/"));
            let names: Vec<&str> = named.filter_map(|text| Some(text.split_once('/')?.1)).collect();
            assert!(names.len() >= 4, "{names:?}");
            assert!(names.iter().all(|name| web::asset(name).is_some()), "{names:?}");
        }
    }

    #[test]
    fn pages_are_told_from_what_programs_ask_for() {
        assert!(["/", "/runs/quickstart", "/compare"].into_iter().all(is_page));
        assert!(
            !["/api/v1/runs", "/metrics", "/assets/x/y", "/runs"]
                .into_iter()
                .any(is_page)
        );
    }
}
