//! Why a request brought nothing, and what that means.

use std::time::{Duration, SystemTime};

use gavel_rubric::{AskError, ServerWords};
use reqwest::{StatusCode, header};

use super::dialect::Parameter;
use super::words::Body;

/// Why one request brought nothing.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    /// What the server said, or the machine about it; for whoever asks, and for its log.
    pub(crate) said: ServerWords,
    /// How long the server wants to be left alone.
    pub(super) retry_after: Option<Duration>,
    /// The parameters that an objection is to.
    pub(super) named: Vec<Parameter>,
    /// Whether the request went by way of a proxy, which may be what failed.
    pub(super) by_proxy: bool,
}

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    NoConnection,
    NoAnswerInTime,
    BrokenOff,
    /// An answer that does not have the form of one.
    Unreadable,
    /// The question does not fit the model's context.
    TooLong,
    /// Nothing was sent, or the client is at its end.
    Unsent,
    Status(StatusCode),
}

impl Kind {
    /// What a refusal means.
    pub(super) fn of(status: StatusCode, body: &Body) -> Self {
        let text = body.text().to_ascii_lowercase();
        let is_about_context = ["context length", "context_length", "context window", "context size"];
        match status {
            StatusCode::BAD_REQUEST if is_about_context.iter().any(|words| text.contains(words)) => Self::TooLong,
            StatusCode::PAYLOAD_TOO_LARGE => Self::TooLong,
            status => Self::Status(status),
        }
    }
}

impl Failure {
    pub(super) fn new(kind: Kind, said: ServerWords) -> Self {
        Self {
            kind,
            said,
            retry_after: None,
            named: Vec::new(),
            by_proxy: false,
        }
    }

    /// Whether the same request may be answered later.
    pub(super) fn passes(&self) -> bool {
        match self.kind {
            Kind::NoConnection | Kind::NoAnswerInTime | Kind::BrokenOff | Kind::Unreadable => true,
            Kind::TooLong | Kind::Unsent => false,
            Kind::Status(status) => {
                status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
                    || [
                        StatusCode::TOO_MANY_REQUESTS,
                        StatusCode::REQUEST_TIMEOUT,
                        StatusCode::TOO_EARLY,
                    ]
                    .contains(&status)
            }
        }
    }

    /// Whether every other request is refused as this one was: for its key, its address, or what it goes through.
    fn is_refusal(&self) -> bool {
        let statuses = [
            StatusCode::UNAUTHORIZED,
            StatusCode::PAYMENT_REQUIRED,
            StatusCode::FORBIDDEN,
            StatusCode::NOT_FOUND,
            StatusCode::METHOD_NOT_ALLOWED,
            StatusCode::PROXY_AUTHENTICATION_REQUIRED,
        ];
        match self.kind {
            Kind::Unsent => true,
            Kind::Status(status) => status.is_redirection() || statuses.contains(&status),
            _ => false,
        }
    }

    /// Whether the server understood the request and does not want some part of it.
    pub(crate) fn is_objection(&self) -> bool {
        let statuses = [
            StatusCode::BAD_REQUEST,
            StatusCode::UNPROCESSABLE_ENTITY,
            StatusCode::NOT_IMPLEMENTED,
        ];
        matches!(self.kind, Kind::Status(status) if statuses.contains(&status))
    }

    /// What everybody may be told.
    pub(crate) fn told(&self) -> String {
        match self.kind {
            Kind::NoConnection => "no connection".into(),
            Kind::NoAnswerInTime => "no answer in time".into(),
            Kind::BrokenOff => "the answer broke off".into(),
            Kind::Unreadable => "the answer is none that this program knows".into(),
            Kind::TooLong => "the question is longer than the server takes".into(),
            Kind::Unsent => "nothing could be asked".into(),
            Kind::Status(status) => status.to_string(),
        }
    }

    pub(crate) fn into_error(self, base: &str) -> AskError {
        let reason = format!("the judge's server at {base}: {}", self.told());
        let hint = Some(self.hint().to_owned());
        let (passes, is_refusal, said) = (self.passes(), self.is_refusal(), Some(self.said));
        match (passes, is_refusal) {
            (true, _) => AskError::Unavailable { reason, hint, said },
            (false, true) => AskError::Refused { reason, hint, said },
            (false, false) => AskError::Unanswerable { reason, hint, said },
        }
    }

    fn hint(&self) -> &'static str {
        const PROXY: &str = "the request went by way of a proxy: `no_proxy` names the hosts that are asked directly";
        match self.kind {
            Kind::NoConnection | Kind::NoAnswerInTime if self.by_proxy => PROXY,
            Kind::TooLong => {
                "serve the model with a longer context, or shorten prompts and rubric, or send smaller pictures"
            }
            Kind::Unsent => "check `judge.endpoint`",
            _ if self.passes() => {
                "check that the server runs and is not overloaded; `judge.timeout`, `judge.attempts` and `judge.concurrency` say how much it is asked and how long it is waited for"
            }
            Kind::Status(status) if status.is_redirection() => {
                "redirects are not followed, so that a key goes nowhere else: set `judge.endpoint` to the address that answers itself"
            }
            Kind::Status(StatusCode::PROXY_AUTHENTICATION_REQUIRED) => {
                "the proxy wants a user and a password: write them into `https_proxy` or `http_proxy`"
            }
            Kind::Status(StatusCode::FORBIDDEN) if self.by_proxy => {
                "the request went by way of a proxy, which may be what refuses: name the host in `no_proxy`; or check the key: `judge.api_key_env` names the environment variable that holds it"
            }
            Kind::Status(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                "check the key: `judge.api_key_env` names the environment variable that holds it"
            }
            Kind::Status(StatusCode::NOT_FOUND) => "check `judge.endpoint` (up to and with /v1) and `judge.model`",
            _ => "the server does not take the question: it must host a vision-language model with a chat template",
        }
    }
}

/// Both forms: seconds, and a date.
pub(super) fn retry_after(headers: &header::HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = httpdate::parse_http_date(text).ok()?;
    // A date that has passed means: now.
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let read = |text: &str| {
            let mut headers = header::HeaderMap::new();
            headers.insert(header::RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers, now)
        };
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("0.5"), Some(Duration::from_millis(500)));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:47 GMT"), Some(Duration::from_secs(10)));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:00 GMT"), Some(Duration::ZERO));
        assert_eq!(read("soon"), None);
        assert_eq!(read("-3"), None);
    }
}
