//! Names and texts for people.

use super::{Exceeded, NAME, REASON};

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// It is empty.
    #[error("`{at}` is empty")]
    Empty {
        /// The field.
        at: &'static str,
    },
    /// It holds a character that is not seen.
    #[error("`{at}` holds a control character")]
    Control {
        /// The field.
        at: &'static str,
    },
    /// It is too long.
    #[error(transparent)]
    Long(#[from] Exceeded),
}

/// Refuses what cannot be a name: nothing at all, more than [`NAME`], what would break a line of a log.
///
/// # Errors
/// [`InvalidName`] says which.
pub fn name(at: &'static str, text: &str) -> Result<(), InvalidName> {
    NAME.check(at, text.len())?;
    if text.is_empty() {
        return Err(InvalidName::Empty { at });
    }
    if text.chars().any(char::is_control) {
        return Err(InvalidName::Control { at });
    }
    Ok(())
}

/// Cuts a text for people to [`REASON`], and says how much is missing. What fits is left as it is.
pub fn cut(mut text: String) -> String {
    let most = REASON.most as usize;
    if text.len() <= most {
        return text;
    }
    let note = format!(" ... (cut, {} bytes in all)", text.len());
    text.truncate(text.floor_char_boundary(most - note.len()));
    text.push_str(&note);
    // What is kept may be shorter than what came by gigabytes.
    text.shrink_to_fit();
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters_and_says_so() {
        let most = REASON.most as usize;
        for text in ["short".to_owned(), "x".repeat(most)] {
            assert_eq!(cut(text.clone()), text);
        }
        let long = cut("\u{e9}".repeat(most));
        assert!(long.len() <= most && long.len() > most - 4, "{}", long.len());
        assert!(
            long.ends_with(&format!(" ... (cut, {} bytes in all)", 2 * most)),
            "{long}"
        );
        assert_eq!(cut(long.clone()), long);
    }

    #[test]
    fn a_name_is_neither_empty_nor_long_nor_two_lines() {
        assert_eq!(name("worker_id", "judge-1"), Ok(()));
        for text in ["", "a\nb", &"x".repeat(129)] {
            assert!(name("worker_id", text).is_err(), "{text:?}");
        }
    }
}
