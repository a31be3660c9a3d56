//! Who asks and what they may do, for pages that offer only what works; and what protects the ports.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use schemars::JsonSchema;
use serde::Serialize;

use super::answer::answer;
use super::ask::{Asked, Nothing};
use super::{Parts, Problem};
use crate::access::Permission;

/// Who asks.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Session {
    /// The name of the token; null where this coordinator asks for none.
    name: Option<String>,
    /// Its role.
    role: Option<&'static str>,
    /// Whether its holder may pause runs, and do whatever else changes something.
    may_steer: bool,
}

/// `GET /api/v1/session`.
pub(super) async fn session(
    State(parts): State<Parts>,
    headers: HeaderMap,
    _: Asked<Nothing>,
) -> Result<Response, Problem> {
    let sessions = parts.security.sessions;
    let holder = sessions.holder(&headers);
    let session = Session {
        may_steer: sessions.check(&headers, Permission::Submit).is_ok(),
        role: holder.as_ref().map(|token| token.role.name()),
        name: holder.map(|token| token.name),
    };
    answer(&parts.rooms, async { Ok::<_, Problem>(session) }).await
}

/// `GET /api/v1/security`.
pub(super) async fn security(State(parts): State<Parts>, _: Asked<Nothing>) -> Result<Response, Problem> {
    let shown = parts.security.shown();
    answer(&parts.rooms, async { Ok::<_, Problem>(shown) }).await
}
