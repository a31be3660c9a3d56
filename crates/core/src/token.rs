//! What a client shows to a coordinator that asks who calls.

use std::fmt;
use std::str::FromStr;

use crate::hint::Hint;
use crate::ids::Digest;

/// What every token begins with, so that whoever finds one knows what it is, and so do programs that look for secrets.
const PREFIX: &str = "gavel_";
/// Hexadecimal digits after the prefix: 32 bytes.
const DIGITS: usize = 64;

/// A secret by which a coordinator knows its client: `gavel_` and 64 hexadecimal digits. Coordinators keep its SHA-256 alone.
///
/// It is shown to coordinators, and printed once by the command that makes it; `Debug` never shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// A text that is no token. The text is not repeated: it may be a secret of something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not a token: one is `{PREFIX}` and {DIGITS} hexadecimal digits")]
pub struct InvalidToken;

impl Hint for InvalidToken {
    fn hint(&self) -> Option<String> {
        Some("`gavel token new` makes one; check that it was copied as a whole".to_owned())
    }
}

impl Token {
    /// A token of these bytes, which must come from a source of chance that nobody can foresee.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(format!("{PREFIX}{}", hex::encode(bytes)))
    }

    /// The text, to be shown to coordinators and to its owner.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What a coordinator knows of it.
    pub fn digest(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }
}

impl FromStr for Token {
    type Err = InvalidToken;

    /// Reads a token, with white space around it.
    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let text = text.trim();
        let digits = text.strip_prefix(PREFIX).ok_or(InvalidToken)?;
        let is_digit = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
        if digits.len() != DIGITS || !digits.bytes().all(is_digit) {
            return Err(InvalidToken);
        }
        Ok(Self(text.to_owned()))
    }
}

/// Never shows it.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_printed_and_shows_itself_to_nobody_else() {
        let token = Token::new([0xab; 32]);
        assert_eq!(format!(" {}\n", token.reveal()).parse(), Ok(token.clone()));
        assert_eq!(token.digest(), Digest::of(token.reveal().as_bytes()));
        assert_eq!(format!("{token:?}"), "Token(..)");
    }

    #[test]
    fn what_is_no_token_is_refused_and_not_repeated() {
        let whole = Token::new([0xab; 32]).reveal().to_owned();
        for text in [
            "",
            "hunter2",
            &whole[1..],
            &whole[..whole.len() - 1],
            &whole.to_uppercase(),
        ] {
            let refused = text.parse::<Token>().unwrap_err();
            assert!(text.is_empty() || !refused.to_string().contains(text), "{refused}");
        }
    }
}
