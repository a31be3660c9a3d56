//! Logging in to the dashboard with a token, and what is said to whoever may not look.

use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Form, FromRequest as _, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use gavel_core::token::Token;
use serde::Deserialize;

use super::Problem;
use crate::access::calls::{LOGIN, LOGOUT};
use crate::access::{Refused, Security};
use crate::transport::Connection;

const PAGE: &str = include_str!("login.html");
/// Where the page says why it is shown.
const PROBLEM: &str = "<!-- problem -->";
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

/// To log in and out, and what protects this server.
pub(super) fn routes(security: Security) -> Router {
    Router::new()
        .route(LOGIN, post(log_in).layer(DefaultBodyLimit::max(FORM_BYTES)))
        .route(LOGOUT, post(log_out))
        .route("/api/v1/security", get(shown))
        .with_state(security)
}

async fn shown(State(security): State<Security>) -> Response {
    Json(security.shown()).into_response()
}

/// A form. What it holds is shown nowhere.
#[derive(Deserialize)]
struct Login {
    token: String,
}

async fn log_in(State(security): State<Security>, request: Request) -> Response {
    let peer = request.extensions().get::<Connection>().map(Connection::peer);
    let form = tokio::time::timeout(FORM_WITHIN, Form::<Login>::from_request(request, &()));
    let Ok(Ok(Form(Login { token }))) = form.await else {
        return page(StatusCode::BAD_REQUEST, "The form did not arrive as a whole.");
    };
    let token = token.parse::<Token>().ok();
    match token.and_then(|token| security.sessions.begin(&token)) {
        Some(cookie) => to_dashboard(cookie),
        None => {
            security.refusals.tell(peer, "HTTP login", &Refused::UnknownToken);
            page(StatusCode::UNAUTHORIZED, "This token does not let its holder look.")
        }
    }
}

async fn log_out(State(security): State<Security>, headers: HeaderMap) -> Response {
    match security.sessions.end(&headers) {
        Some(cookie) => to_dashboard(cookie),
        None => page(StatusCode::BAD_REQUEST, ""),
    }
}

fn to_dashboard(cookie: HeaderValue) -> Response {
    let headers = [
        (header::LOCATION, HeaderValue::from_static("/")),
        (header::SET_COOKIE, cookie),
    ];
    (StatusCode::SEE_OTHER, headers).into_response()
}

/// What is said to whoever may not do what they ask for.
pub(super) fn refusal(path: &str, refused: &Refused) -> Response {
    let status = match refused {
        Refused::NotEnough { .. } => StatusCode::FORBIDDEN,
        Refused::NoToken | Refused::UnknownToken => StatusCode::UNAUTHORIZED,
    };
    if path == "/" && *refused == Refused::NoToken {
        return page(status, "");
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

/// The form. `problem` is one of this file's own sentences.
fn page(status: StatusCode, problem: &'static str) -> Response {
    let policy = [(header::CONTENT_SECURITY_POLICY, POLICY)];
    (status, policy, Html(PAGE.replace(PROBLEM, problem))).into_response()
}
