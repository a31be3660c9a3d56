//! What every answer over HTTP has in common: who may ask, and what a browser may do with it.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::{Problem, login, pages};
use crate::access::calls::{METRICS, PROBES, needed_over_http};
use crate::access::{Permission, Refused, Security};
use crate::transport::Connection;

/// What stands before every page.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    names: HostNames,
    pub(crate) security: Security,
}

impl Guard {
    pub(crate) fn new(names: HostNames, security: Security) -> Self {
        Self { names, security }
    }

    /// The answer to a request that is sent away; `None` lets it through.
    fn refusal(&self, request: &Request) -> Option<Response> {
        let (headers, path) = (request.headers(), request.uri().path());
        if PROBES.contains(&path) {
            return None;
        }
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        if !host.is_some_and(|host| self.names.knows(host)) {
            let problem = Problem::new(
                StatusCode::MISDIRECTED_REQUEST,
                "this server does not answer under the name that the request's Host gives it",
            );
            let hint = "ask by address or as localhost, or start the coordinator with --allow-host NAME";
            return Some(problem.with_hint(hint).into_response());
        }
        if path == METRICS && self.security.open_metrics {
            return None;
        }
        let connection = request.extensions().get::<Connection>();
        if self.security.asks_for_certificates() && !connection.is_some_and(Connection::is_certified) {
            let problem = Problem::new(StatusCode::FORBIDDEN, "this server asks for a client certificate");
            return Some(problem.with_hint(login::CERTIFICATE_HINT).into_response());
        }
        let needed = needed_over_http(request.method(), path);
        if needed == Permission::Nothing || (needed == Permission::View && self.security.open_dashboard) {
            return None;
        }
        let refused = self.security.sessions.check(headers, needed).err()?;
        // Whoever just opens a page is not logged in yet.
        if !pages::is_page(path) || refused != Refused::NoToken {
            let peer = connection.map(Connection::peer);
            self.security.refusals.tell(peer, "HTTP", &refused);
        }
        Some(login::refusal(request.uri(), &refused))
    }
}

/// The names that a browser may know this server by, beside addresses and `localhost`.
///
/// A page from elsewhere whose name is made to lead here (DNS rebinding) shows itself by that name in `Host`.
#[derive(Debug, Clone)]
pub(crate) struct HostNames(Arc<[String]>);

impl HostNames {
    /// These, and the machine's own name.
    pub(crate) fn new(names: &[String]) -> Self {
        // Linux tells the machine's name in a file.
        let own = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let own = own.map(|name| name.trim().to_owned());
        let names = names.iter().cloned().chain(own);
        Self(names.map(|name| name.to_ascii_lowercase()).collect())
    }

    fn knows(&self, host: &str) -> bool {
        let name = without_port(host).to_ascii_lowercase();
        let literal = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        let is_address = literal.unwrap_or(&name).parse::<IpAddr>().is_ok();
        is_address || name == "localhost" || name.ends_with(".localhost") || self.0.contains(&name)
    }
}

/// `host:port` without the port; `[::1]:80` keeps its brackets.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Sends away who asks under a name that is not this server's, or may not ask, and adds the headers of every answer.
pub(crate) async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let mut response = match guard.refusal(&request) {
        None => next.run(request).await,
        Some(refusal) => refusal,
    };
    harden(response.headers_mut());
    response
}

fn harden(headers: &mut HeaderMap) {
    let fixed = |value: &'static str| HeaderValue::from_static(value);
    let all: [(HeaderName, HeaderValue); 6] = [
        (header::X_CONTENT_TYPE_OPTIONS, fixed("nosniff")),
        (header::X_FRAME_OPTIONS, fixed("DENY")),
        (header::REFERRER_POLICY, fixed("no-referrer")),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            fixed("same-origin"),
        ),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            fixed("same-origin"),
        ),
        (
            HeaderName::from_static("permissions-policy"),
            fixed("camera=(), geolocation=(), microphone=()"),
        ),
    ];
    headers.extend(all);
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(POLICY);
    // States change at any moment; a blob says that it never does.
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
}

/// What is no page of the dashboard does nothing in a browser, whatever words of strangers it holds. The pages say what they may do.
const POLICY: HeaderValue =
    HeaderValue::from_static("default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_own_names_are_known_and_other_names_are_not() {
        let names = HostNames::new(&["Gavel.example.org".to_owned()]);
        for host in [
            "127.0.0.1:7441",
            "10.0.0.7",
            "[::1]:7441",
            "localhost",
            "localhost:7441",
            "a.localhost:1",
            "gavel.example.org:80",
        ] {
            assert!(names.knows(host), "{host}");
        }
        for host in [
            "",
            "evil.example.org",
            "gavel.example.org.evil.com",
            "localhost.evil.com",
            "127.0.0.1.evil.com",
            "[evil]",
        ] {
            assert!(!names.knows(host), "{host}");
        }
    }
}
