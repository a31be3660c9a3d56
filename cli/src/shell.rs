//! Commands that people paste into a shell.

use std::borrow::Cow;

/// A word as a shell reads it back.
pub(crate) fn word(text: &str) -> Cow<'_, str> {
    // No argument holds the one character that cannot be quoted, NUL.
    shlex::try_quote(text).unwrap_or(Cow::Borrowed(text))
}

/// A command of these words.
pub(crate) fn command<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    words.into_iter().map(word).collect::<Vec<_>>().join(" ")
}
