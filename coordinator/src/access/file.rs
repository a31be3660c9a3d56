//! The file of tokens: `NAME = { role = "ROLE", sha256 = "HEX" }`, a line for each.

use std::collections::BTreeMap;
use std::path::Path;

use gavel_core::ids::Digest;
use gavel_core::text;
use serde::{Deserialize, Serialize};

use super::{KnownToken, TokenRole, TokensError};

/// What the file says of a token beside its name.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    role: TokenRole,
    sha256: Digest,
}

/// The tokens of a file, of which there is at least one.
pub(super) fn read(file: &Path) -> Result<Vec<KnownToken>, TokensError> {
    let text = text::of(std::fs::read(file)).map_err(|source| TokensError::Unreadable {
        file: file.to_owned(),
        source,
    })?;
    let tokens = parse(&text).map_err(|(line, problem)| TokensError::Malformed {
        file: file.to_owned(),
        line,
        problem,
    })?;
    match tokens.is_empty() {
        true => Err(TokensError::Empty { file: file.to_owned() }),
        false => Ok(tokens),
    }
}

/// The tokens of a text, or the line and what is wrong with it.
fn parse(text: &str) -> Result<Vec<KnownToken>, (usize, String)> {
    // TOML's own error quotes the line, in which a token may stand by mistake.
    let line_of = |error: &toml::de::Error| {
        let start = error.span().map_or(0, |span| span.start);
        text.get(..start).map_or(1, |before| before.matches('\n').count() + 1)
    };
    let entries: BTreeMap<String, Entry> =
        toml::from_str(text).map_err(|error| (line_of(&error), problem(error.message()).to_owned()))?;
    let tokens = entries
        .into_iter()
        .map(|(name, Entry { role, sha256 })| KnownToken { name, role, sha256 });
    Ok(tokens.collect())
}

/// What TOML says, in words that repeat nothing: what stands in the file by mistake may be a secret.
fn problem(message: &str) -> &'static str {
    const PROBLEMS: [(&str, &str); 5] = [
        ("unknown variant", "the role is none"),
        ("unknown field", "a token has a role and a sha256, and nothing else"),
        ("missing field", "the role or the sha256 is missing"),
        ("duplicate key", "the name stands there twice"),
        ("is not a SHA-256", "the sha256 is none: it has 64 hexadecimal digits"),
    ];
    let known = PROBLEMS.into_iter().find(|(part, _)| message.contains(part));
    known.map_or("a token's line is not written as it should be", |(_, problem)| problem)
}

impl KnownToken {
    /// Its line in the file.
    pub fn line(&self) -> String {
        let Self { name, role, sha256 } = self;
        format!("{name} = {{ role = \"{}\", sha256 = \"{sha256}\" }}", role.name())
    }

    /// Whether this may be the name of a token: letters, digits, `-` and `_`, at most 64.
    pub fn is_name(text: &str) -> bool {
        let is_letter = |letter: u8| letter.is_ascii_alphanumeric() || matches!(letter, b'-' | b'_');
        (1..=64).contains(&text.len()) && text.bytes().all(is_letter)
    }
}

#[cfg(test)]
mod tests {
    use gavel_core::token::Token;

    use super::*;

    #[test]
    fn a_line_is_read_as_it_is_written() {
        let known = KnownToken {
            name: "farm-1".to_owned(),
            role: TokenRole::Sampler,
            sha256: Token::new([1; 32]).digest(),
        };
        let text = format!("# the farm\n{}\n", known.line());
        assert_eq!(parse(&text), Ok(vec![known]));
    }

    #[test]
    fn what_is_wrong_is_told_by_line_without_what_stands_there() {
        let secret = Token::new([0xcd; 32]).reveal().to_owned();
        let digest = Digest::of(b"");
        for (line, expected) in [
            (
                format!("a = {{ role = \"viewer\", sha256 = \"{secret}\" }}"),
                "the sha256 is none",
            ),
            (
                format!("a = {{ role = \"{secret}\", sha256 = \"{digest}\" }}"),
                "the role is none",
            ),
            (
                format!("a = {{ role = \"viewer\", sha256 = \"{digest}\", token = \"{secret}\" }}"),
                "and nothing else",
            ),
            (format!("a = \"{secret}\""), "not written as it should be"),
            (secret.clone(), "not written as it should be"),
            (
                format!(
                    "a = {{ role = \"viewer\", sha256 = \"{digest}\" }}\na = {{ role = \"viewer\", sha256 = \"{digest}\" }}"
                ),
                "twice",
            ),
        ] {
            let (number, problem) = parse(&format!("# one\n{line}\n")).unwrap_err();
            assert!(problem.contains(expected), "{line}: {problem}");
            assert!(!problem.contains("cdcd"), "{problem}");
            assert!((2..=3).contains(&number), "{line}: line {number}");
        }
    }
}
