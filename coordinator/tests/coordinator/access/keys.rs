//! Tokens of all roles.

use gavel_client::{Code, Credentials, Introduction};
use gavel_coordinator::{KnownToken, TokenRole, Tokens};
use gavel_core::token::Token;

/// The tokens of all roles, by role.
pub(crate) struct Keys(pub(crate) Vec<(TokenRole, Token)>);

impl Keys {
    pub(crate) fn new() -> (Self, Tokens) {
        let (tokens, known): (Vec<_>, Vec<_>) = TokenRole::ALL
            .into_iter()
            .map(|role| {
                let (token, known) = KnownToken::new(role, Some(role.name().to_owned()));
                ((role, token), known)
            })
            .unzip();
        (Self(tokens), Tokens::new(known))
    }

    pub(crate) fn of(&self, role: TokenRole) -> &Token {
        let found = self.0.iter().find(|(of, _)| *of == role);
        found.map(|(_, token)| token).expect("every role has one")
    }

    pub(crate) fn credentials(&self, role: TokenRole) -> Credentials {
        Credentials::default().with_token(self.of(role).clone())
    }
}

pub(crate) fn introduction() -> Introduction {
    Introduction {
        host: "here".into(),
        device: "cpu".into(),
        shares: None,
    }
}

/// What became of a call: nothing kept it from being made, or the code with which it was sent away.
pub(crate) fn refusal<T>(answer: Result<T, gavel_client::CallError>) -> Option<Code> {
    let code = answer.err()?.code();
    matches!(code, Code::Unauthenticated | Code::PermissionDenied).then_some(code)
}
