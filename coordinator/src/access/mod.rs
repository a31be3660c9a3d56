//! Who may do what: tokens with roles, and what each call needs.
//!
//! Without tokens whoever reaches a port may do all. With them each call shows one, as `authorization: Bearer`, and may do what
//! its role allows: [`TokenRole::allows`] and [`calls::needed`] are the two tables. `transport/` asks before a call is read.

pub(crate) mod calls;
mod file;
mod refusals;
pub(crate) mod renewal;
mod renewed;
mod role;
mod security;
mod sessions;

use std::path::{Path, PathBuf};

use gavel_core::hint::Hint;
use gavel_core::ids::Digest;
use gavel_core::token::Token;
use http::{HeaderMap, header};
use subtle::{Choice, ConstantTimeEq as _};

pub(crate) use refusals::Refusals;
pub(crate) use renewed::Renewed;
pub use role::{Permission, TokenRole, UnknownRole};
pub use security::Lacks;
pub(crate) use security::{Security, Shown};
pub(crate) use sessions::Sessions;

/// What a coordinator knows of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownToken {
    /// Whose it is, for people and for the log.
    pub name: String,
    /// What its holder may do.
    pub role: TokenRole,
    /// Its SHA-256.
    pub sha256: Digest,
}

/// The tokens that a coordinator knows. Clones share them, and what their file says later.
#[derive(Debug, Clone)]
pub struct Tokens {
    known: Renewed<Vec<KnownToken>>,
    /// Where they were read.
    file: Option<PathBuf>,
}

/// Why there are no tokens.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// The file cannot be read.
    #[error("{}: cannot read the file of tokens", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It is not written as it should be. The text is not repeated.
    #[error("{}: line {line}: {problem}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// Nobody could call.
    #[error("{}: the file holds no token", file.display())]
    Empty {
        /// The file.
        file: PathBuf,
    },
}

impl Hint for TokensError {
    fn hint(&self) -> Option<String> {
        Some("a line is `NAME = { role = \"ROLE\", sha256 = \"HEX\" }`, as `gavel token new` writes it".to_owned())
    }
}

/// What a call may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Granted {
    role: TokenRole,
}

/// Why a call is sent away. No part of what was shown is repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("this coordinator asks for a token, and the call carries none")]
    NoToken,
    #[error("the coordinator does not know this token")]
    UnknownToken,
    #[error("`{name}` is the token of {role}; this call needs {needed}")]
    NotEnough {
        name: String,
        role: TokenRole,
        needed: Permission,
    },
}

impl KnownToken {
    /// A new token with what a coordinator knows of it. Without a name it has that of its role and some digits.
    pub fn new(role: TokenRole, name: Option<String>) -> (Token, Self) {
        let mut bytes = [0; 32];
        for half in bytes.chunks_exact_mut(16) {
            half.copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        }
        let token = Token::new(bytes);
        let sha256 = token.digest();
        let name = name.unwrap_or_else(|| format!("{}-{}", role.name(), sha256.short()));
        (token, Self { name, role, sha256 })
    }
}

impl Tokens {
    /// These tokens.
    pub fn new(tokens: impl IntoIterator<Item = KnownToken>) -> Self {
        Self {
            known: Renewed::new(tokens.into_iter().collect()),
            file: None,
        }
    }

    /// Reads a file of tokens.
    ///
    /// # Errors
    /// [`TokensError`]: it cannot be read, a line is wrong, or it holds none.
    pub fn read(file: &Path) -> Result<Self, TokensError> {
        Ok(Self {
            known: Renewed::new(file::read(file)?),
            file: Some(file.to_owned()),
        })
    }

    /// Reads the file again; whether it says something else. Tokens that it does not name any more are unknown from now on.
    ///
    /// # Errors
    /// As [`Tokens::read`]; what was known stays known.
    fn renew(&self) -> Result<bool, TokensError> {
        let Some(file) = &self.file else { return Ok(false) };
        let known = file::read(file)?;
        let changed = *self.known.present() != known;
        if changed {
            self.known.replace(known);
        }
        Ok(changed)
    }

    /// Whether one has this name.
    pub fn has(&self, name: &str) -> bool {
        self.known.present().iter().any(|known| known.name == name)
    }

    /// Whether one with these words and this role is known (still).
    fn has_same(&self, token: &KnownToken) -> bool {
        self.known.present().contains(token)
    }

    /// The token that this is; looks at every one, each in the same time.
    fn find(&self, shown: &[u8]) -> Option<KnownToken> {
        let digest = Digest::of(shown);
        let mut found = None;
        let present = self.known.present();
        for known in present.iter() {
            let is_it: Choice = known.sha256.0.ct_eq(&digest.0);
            if is_it.into() {
                found = Some(known);
            }
        }
        found.cloned()
    }
}

/// How a coordinator knows who calls. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Access {
    /// Whoever reaches the port may do all where there are none.
    tokens: Option<Tokens>,
}

impl Access {
    pub(crate) fn new(tokens: Option<Tokens>) -> Self {
        Self { tokens }
    }

    /// Whether a call has to show a token.
    pub(crate) fn asks(&self) -> bool {
        self.tokens.is_some()
    }

    /// What a call with these headers may do; nothing is granted where it may not do what it needs.
    pub(crate) fn check(&self, headers: &HeaderMap, needed: Permission) -> Result<Granted, Refused> {
        let Some(tokens) = &self.tokens else {
            return Ok(Granted { role: TokenRole::Admin });
        };
        let shown = bearer(headers).ok_or(Refused::NoToken)?;
        let known = tokens.find(shown).ok_or(Refused::UnknownToken)?;
        allow(&known, needed)
    }

    /// Reads the tokens again; `None` where none are asked for.
    fn renew(&self) -> Option<Result<bool, TokensError>> {
        self.tokens.as_ref().map(Tokens::renew)
    }

    /// Whether a token is known still.
    fn knows(&self, token: &KnownToken) -> bool {
        self.tokens.as_ref().is_some_and(|tokens| tokens.has_same(token))
    }

    /// The token that a call with these headers shows.
    fn holder(&self, headers: &HeaderMap) -> Option<KnownToken> {
        self.tokens.as_ref()?.find(bearer(headers)?)
    }

    /// The token that this text is.
    fn known(&self, token: &Token) -> Option<KnownToken> {
        self.tokens.as_ref()?.find(token.reveal().as_bytes())
    }
}

fn allow(known: &KnownToken, needed: Permission) -> Result<Granted, Refused> {
    match known.role.allows(needed) {
        true => Ok(Granted { role: known.role }),
        false => Err(Refused::NotEnough {
            name: known.name.clone(),
            role: known.role,
            needed,
        }),
    }
}

impl Granted {
    /// Whether a worker of this role may take part.
    pub(crate) fn works_as(&self, role: gavel_core::work::Role) -> bool {
        self.role.works_as(role)
    }
}

/// What `authorization: Bearer` carries.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn access() -> (Access, Token) {
        let token = Token::new([7; 32]);
        let known = |name: &str, role, token: &Token| KnownToken {
            name: name.to_owned(),
            role,
            sha256: token.digest(),
        };
        let other = Token::new([8; 32]);
        let tokens = Tokens::new([
            known("ann", TokenRole::Viewer, &token),
            known("root", TokenRole::Admin, &other),
        ]);
        (Access::new(Some(tokens)), token)
    }

    fn headers(value: &str) -> HeaderMap {
        let value = HeaderValue::from_str(value).unwrap();
        HeaderMap::from_iter([(header::AUTHORIZATION, value)])
    }

    #[test]
    fn a_call_is_granted_what_its_token_allows_and_no_more() {
        let (access, token) = access();
        let shown = headers(&format!("bearer {}", token.reveal()));
        assert!(access.check(&shown, Permission::View).is_ok());
        let refused = access.check(&shown, Permission::Submit).unwrap_err().to_string();
        assert_eq!(
            refused,
            "`ann` is the token of a viewer; this call needs a submitter or an admin"
        );
        assert_eq!(access.check(&HeaderMap::new(), Permission::View), Err(Refused::NoToken));
        for wrong in ["Basic eDp5", "Bearer", "Bearer ", "Bearer gavel_0", token.reveal()] {
            let refused = access.check(&headers(wrong), Permission::View).unwrap_err();
            assert!(!refused.to_string().contains("gavel_"), "{refused}");
        }
        let open = Access::default();
        assert!(open.check(&HeaderMap::new(), Permission::Submit).is_ok());
    }
}
