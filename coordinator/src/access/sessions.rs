//! Who is logged in to the dashboard.
//!
//! A browser shows a cookie to every server of its host, whatever the port. So the cookie is no token: it is drawn by chance, ends
//! with this process or after some hours, and lets its holder do over HTTP what the token allows, nothing over gRPC.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gavel_core::ids::Digest;
use gavel_core::token::Token;
use http::{HeaderMap, HeaderValue, header};
use subtle::ConstantTimeEq as _;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Access, Granted, KnownToken, Permission, Refused, allow};

const COOKIE: &str = "gavel_session";
/// How long somebody stays logged in.
const LASTS: Duration = Duration::from_secs(12 * 3600);
/// Open sessions at a time; the oldest gives way.
const MOST: usize = 1_024;

/// The sessions of one coordinator, beside its tokens. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Sessions {
    access: Access,
    /// Whether the cookie must not leave the browser in the clear.
    is_encrypted: bool,
    /// By age.
    open: Arc<Mutex<VecDeque<Session>>>,
}

#[derive(Debug)]
struct Session {
    /// Of the cookie's value.
    sha256: Digest,
    token: KnownToken,
    until: Instant,
}

impl Sessions {
    pub(crate) fn new(access: Access, is_encrypted: bool) -> Self {
        Self {
            access,
            is_encrypted,
            open: Arc::default(),
        }
    }

    /// What a request with these headers may do, by its token or by its cookie.
    pub(crate) fn check(&self, headers: &HeaderMap, needed: Permission) -> Result<Granted, Refused> {
        match self.access.check(headers, needed) {
            Err(Refused::NoToken) => {
                let token = self.find(headers, Instant::now()).ok_or(Refused::NoToken)?;
                allow(&token, needed)
            }
            checked => checked,
        }
    }

    /// Whose token or cookie a request with these headers shows; `None` where it shows none that is known.
    pub(crate) fn holder(&self, headers: &HeaderMap) -> Option<KnownToken> {
        let shown = self.access.holder(headers);
        shown.or_else(|| self.find(headers, Instant::now()))
    }

    fn find(&self, headers: &HeaderMap, now: Instant) -> Option<KnownToken> {
        let sha256 = Digest::of(cookie(headers)?);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|session| session.until > now && self.access.knows(&session.token));
        let mut sessions = open.iter();
        let found = sessions.find(|session| session.sha256.0.ct_eq(&sha256.0).into());
        found.map(|session| session.token.clone())
    }

    /// Logs the holder of a token in; the answer's `Set-Cookie`. `None` where the token is unknown or is not one for looking.
    pub(crate) fn begin(&self, token: &Token) -> Option<HeaderValue> {
        let known = self.access.known(token)?;
        allow(&known, Permission::View).ok()?;
        let value = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= MOST {
            open.pop_front();
        }
        open.push_back(Session {
            sha256: Digest::of(value.as_bytes()),
            token: known,
            until: Instant::now() + LASTS,
        });
        self.set_cookie(&value, LASTS)
    }

    /// Logs out; the answer's `Set-Cookie`.
    pub(crate) fn end(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        if let Some(value) = cookie(headers) {
            let sha256 = Digest::of(value);
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.retain(|session| session.sha256 != sha256);
        }
        self.set_cookie("", Duration::ZERO)
    }

    fn set_cookie(&self, value: &str, lasts: Duration) -> Option<HeaderValue> {
        let secure = if self.is_encrypted { "; Secure" } else { "" };
        let lasts = lasts.as_secs();
        let cookie = format!("{COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={lasts}{secure}");
        let mut value = HeaderValue::from_str(&cookie).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

fn cookie(headers: &HeaderMap) -> Option<&[u8]> {
    let cookies = headers.get_all(header::COOKIE).iter();
    let mut pairs = cookies.flat_map(|value| value.as_bytes().split(|letter| *letter == b';'));
    pairs.find_map(|pair| pair.trim_ascii().strip_prefix(COOKIE.as_bytes())?.strip_prefix(b"="))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{TokenRole, Tokens};

    fn sessions() -> (Sessions, Token) {
        let token = Token::new([7; 32]);
        let known = KnownToken {
            name: "ann".to_owned(),
            role: TokenRole::Viewer,
            sha256: token.digest(),
        };
        let access = Access::new(Some(Tokens::new([known])));
        (Sessions::new(access, true), token)
    }

    fn shows(set_cookie: &HeaderValue) -> HeaderMap {
        let (pair, _) = set_cookie.to_str().unwrap().split_once(';').unwrap();
        let value = HeaderValue::from_str(&format!("other=1; {pair}")).unwrap();
        HeaderMap::from_iter([(header::COOKIE, value)])
    }

    #[test]
    fn a_session_is_its_tokens_until_it_ends_and_is_no_token() {
        let (sessions, token) = sessions();
        assert_eq!(sessions.begin(&Token::new([8; 32])), None);
        let cookie = sessions.begin(&token).unwrap();
        let text = cookie.to_str().unwrap();
        assert!(
            text.ends_with("; Path=/; HttpOnly; SameSite=Strict; Max-Age=43200; Secure"),
            "{text}"
        );
        assert!(!text.contains(token.reveal()) && cookie.is_sensitive());
        let shown = shows(&cookie);
        assert!(sessions.check(&shown, Permission::View).is_ok());
        assert!(sessions.check(&shown, Permission::Submit).is_err());
        assert_eq!(sessions.holder(&shown).map(|token| token.name), Some("ann".to_owned()));
        let now = Instant::now();
        assert!(sessions.find(&shown, now).is_some());
        assert_eq!(sessions.find(&shown, now + LASTS), None);

        let shown = shows(&sessions.begin(&token).unwrap());
        sessions.end(&shown);
        assert_eq!(sessions.check(&shown, Permission::View), Err(Refused::NoToken));
        assert_eq!(sessions.holder(&shown), None);
    }

    #[test]
    fn a_session_ends_with_its_token() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens.toml");
        let (token, known) = KnownToken::new(TokenRole::Viewer, Some("ann".to_owned()));
        let write = |role| {
            let known = KnownToken { role, ..known.clone() };
            std::fs::write(&file, known.line()).unwrap();
        };
        write(TokenRole::Viewer);
        let access = Access::new(Some(Tokens::read(&file).unwrap()));
        let sessions = Sessions::new(access.clone(), false);
        let shown = shows(&sessions.begin(&token).unwrap());
        assert!(matches!(access.renew(), Some(Ok(false))));
        assert!(sessions.check(&shown, Permission::View).is_ok());
        // It may do something else from now on: who holds it logs in again.
        write(TokenRole::Submitter);
        assert!(matches!(access.renew(), Some(Ok(true))));
        assert_eq!(sessions.check(&shown, Permission::View), Err(Refused::NoToken));
    }

    #[test]
    fn sessions_take_a_bounded_part_of_memory() {
        let (sessions, token) = sessions();
        let first = shows(&sessions.begin(&token).unwrap());
        for _ in 0..MOST {
            sessions.begin(&token).unwrap();
        }
        assert_eq!(sessions.open.lock().unwrap().len(), MOST);
        assert!(
            sessions.check(&first, Permission::View).is_err(),
            "the oldest gives way"
        );
    }
}
