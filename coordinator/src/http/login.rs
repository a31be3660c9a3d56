//! Logging in to the dashboard with a token, and what is said to whoever may not look.

use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Form, FromRequest as _, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use gavel_core::token::Token;
use serde::Deserialize;

use super::ask::Asked;
use super::{Problem, pages};
use crate::access::calls::{LOGIN, LOGOUT};
use crate::access::{Refused, Security};
use crate::transport::Connection;

const PAGE: &str = include_str!("../../web/login.html");
/// Where the page says why it is shown, and which page was asked for.
const PROBLEM: &str = "<!-- problem -->";
const ASKED: &str = "<!-- page -->";
/// The page to which those go who asked for none.
const FIRST: &str = "/";
/// The form may be sent to this server, and nothing else happens on the page.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
);
/// What a form with a token may have.
const FORM_BYTES: usize = 4 << 10;
/// And how long it may take to arrive.
const FORM_WITHIN: Duration = Duration::from_secs(10);

pub(super) const CERTIFICATE_HINT: &str =
    "give your client a certificate of the authority that the coordinator was started with (--tls-client-ca)";
const TOKEN_HINT: &str = "show a token as `Authorization: Bearer TOKEN`, or log in at / with a browser";

/// To log in and out.
pub(super) fn routes(security: Security) -> Router {
    Router::new()
        .route(LOGIN, get(form).post(log_in).layer(DefaultBodyLimit::max(FORM_BYTES)))
        .route(LOGOUT, post(log_out))
        .with_state(security)
}

/// A form. What it holds is shown nowhere.
#[derive(Deserialize)]
struct Login {
    token: String,
    /// The page that was asked for.
    #[serde(default)]
    page: String,
}

/// What somebody asks for who may look without a token and wants to do more.
#[derive(Deserialize)]
struct Wish {
    #[serde(default)]
    page: String,
}

async fn form(Asked(Wish { page: asked }): Asked<Wish>) -> Response {
    page(StatusCode::OK, "", if is_page_here(&asked) { &asked } else { FIRST })
}

async fn log_in(State(security): State<Security>, request: Request) -> Response {
    let peer = request.extensions().get::<Connection>().map(Connection::peer);
    let form = tokio::time::timeout(FORM_WITHIN, Form::<Login>::from_request(request, &()));
    let Ok(Ok(Form(Login { token, page: asked }))) = form.await else {
        return page(StatusCode::BAD_REQUEST, "The form did not arrive as a whole.", FIRST);
    };
    let asked = if is_page_here(&asked) { &asked } else { FIRST };
    let token = token.parse::<Token>().ok();
    match token.and_then(|token| security.sessions.begin(&token)) {
        Some(cookie) => to_page(asked, cookie),
        None => {
            security.refusals.tell(peer, "HTTP login", &Refused::UnknownToken);
            page(
                StatusCode::UNAUTHORIZED,
                "This token does not let its holder look.",
                asked,
            )
        }
    }
}

async fn log_out(State(security): State<Security>, headers: HeaderMap) -> Response {
    match security.sessions.end(&headers) {
        Some(cookie) => to_page(FIRST, cookie),
        None => page(StatusCode::BAD_REQUEST, "", FIRST),
    }
}

/// Whether an address that a form gives is a page of this server: none that leads elsewhere is.
fn is_page_here(asked: &str) -> bool {
    let path = asked.split(['?', '#']).next().unwrap_or_default();
    pages::is_page(path) && asked.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
}

fn to_page(page: &str, cookie: HeaderValue) -> Response {
    let page = HeaderValue::from_str(page).unwrap_or(HeaderValue::from_static(FIRST));
    let headers = [(header::LOCATION, page), (header::SET_COOKIE, cookie)];
    (StatusCode::SEE_OTHER, headers).into_response()
}

/// What is said to whoever may not do what they ask for.
pub(super) fn refusal(asked: &Uri, refused: &Refused) -> Response {
    let status = match refused {
        Refused::NotEnough { .. } => StatusCode::FORBIDDEN,
        Refused::NoToken | Refused::UnknownToken => StatusCode::UNAUTHORIZED,
    };
    if pages::is_page(asked.path()) && *refused == Refused::NoToken {
        return page(status, "", &asked.to_string());
    }
    let mut response = Problem::new(status, refused.to_string())
        .with_hint(TOKEN_HINT)
        .into_response();
    if status == StatusCode::UNAUTHORIZED {
        let scheme = HeaderValue::from_static("Bearer realm=\"gavel\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    }
    response
}

/// The form. `problem` is one of this file's own sentences, `asked` the page to go to then.
fn page(status: StatusCode, problem: &'static str, asked: &str) -> Response {
    let policy = [(header::CONTENT_SECURITY_POLICY, POLICY)];
    let asked = asked.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;");
    (
        status,
        policy,
        Html(PAGE.replace(PROBLEM, problem).replace(ASKED, &asked)),
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_leads_to_a_page_of_this_server_and_nowhere_else() {
        for page in ["/", "/runs/quickstart", "/compare?runs=a,b", "/runs/a%20b#events"] {
            assert!(is_page_here(page), "{page}");
        }
        for page in [
            "",
            "//evil.example",
            "https://evil.example/",
            "/\\evil.example",
            "/runs/a\r\nSet-Cookie: b",
            "/api/v1/runs",
            "/runs/a b",
        ] {
            assert!(!is_page_here(page), "{page}");
        }
    }
}
