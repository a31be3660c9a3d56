//! Text as people's editors write it: the one way from the bytes of a file to its words.
//!
//! Every file of words goes through [`of`]: prompts, rubrics, templates, configurations, JSON. What a mark or a line ending is to an editor
//! must not be part of a prompt, of a criterion or of a fingerprint.

use std::io;

/// Bytes that are no text which is read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotText {
    /// The file begins as UTF-16 or UTF-32 does.
    #[error("it is UTF-16 or UTF-32, and only UTF-8 is read")]
    Wide,
    /// A byte that UTF-8 does not have there.
    #[error("it is not UTF-8: line {line} holds bytes that are no letter")]
    NotUtf8 {
        /// The line, counted from 1.
        line: usize,
    },
}

impl NotText {
    /// What to do about it.
    const REMEDY: &str = "save the file as UTF-8; `iconv -f UTF-16 -t UTF-8 FILE > NEW` converts one (-f LATIN1, -f GB18030, ... for others)";
}

impl From<NotText> for io::Error {
    fn from(fault: NotText) -> Self {
        Self::new(io::ErrorKind::InvalidData, fault)
    }
}

/// The words in what was read of a file: without a byte-order mark, and with `\n` at the end of each line whatever stood there, as Python's
/// text mode gives them.
///
/// # Errors
/// What reading gave, or [`NotText`] as its cause.
pub fn of(bytes: io::Result<Vec<u8>>) -> io::Result<String> {
    Ok(decode(bytes?)?)
}

/// The words in the bytes of a file, as [`of`] gives them.
///
/// # Errors
/// [`NotText`].
pub fn decode(bytes: Vec<u8>) -> Result<String, NotText> {
    const UTF8_MARK: char = '\u{feff}';
    let wide_mark = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
    // UTF-16 without a mark: every second byte of plain words is zero.
    let begins_wide = matches!(bytes.get(..4), Some([0, letter, 0, _] | [letter, 0, _, 0]) if *letter != 0);
    if wide_mark || begins_wide || bytes.starts_with(&[0, 0, 0xfe, 0xff]) {
        return Err(NotText::Wide);
    }
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        NotText::NotUtf8 {
            line: 1 + before.iter().filter(|byte| **byte == b'\n').count(),
        }
    })?;
    if text.starts_with(UTF8_MARK) {
        text.remove(0);
    }
    if text.contains('\r') {
        text = text.replace("\r\n", "\n").replace('\r', "\n");
    }
    Ok(text)
}

/// The remedy for an error of [`of`] that is about the bytes; `None` where the file could not be read at all.
pub fn remedy(error: &io::Error) -> Option<String> {
    let fault = error.get_ref()?.downcast_ref::<NotText>()?;
    match fault {
        NotText::Wide | NotText::NotUtf8 { .. } => Some(NotText::REMEDY.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_and_line_endings_of_editors_are_no_part_of_the_words() {
        for bytes in ["a\nb\n", "\u{feff}a\nb\n", "a\r\nb\r\n", "\u{feff}a\rb\r"] {
            assert_eq!(decode(bytes.as_bytes().to_vec()).as_deref(), Ok("a\nb\n"), "{bytes:?}");
        }
        // Only at the beginning is it a mark.
        assert_eq!(decode("a\u{feff}".into()).as_deref(), Ok("a\u{feff}"));
        assert_eq!(decode(Vec::new()).as_deref(), Ok(""));
        assert_eq!(decode(b"\0".to_vec()).as_deref(), Ok("\0"));
    }

    #[test]
    fn text_of_another_encoding_is_named_with_a_remedy() {
        let wide = |text: &str, mark: &[u8], order: fn(u16) -> [u8; 2]| -> Vec<u8> {
            mark.iter()
                .copied()
                .chain(text.encode_utf16().flat_map(order))
                .collect()
        };
        for bytes in [
            wide("a cat", &[0xff, 0xfe], u16::to_le_bytes),
            wide("a cat", &[0xfe, 0xff], u16::to_be_bytes),
            wide("a cat", &[], u16::to_le_bytes),
            wide("a cat", &[], u16::to_be_bytes),
        ] {
            assert_eq!(decode(bytes), Err(NotText::Wide));
        }
        let latin = decode(b"a cat\na caf\xe9\n".to_vec());
        assert_eq!(latin, Err(NotText::NotUtf8 { line: 2 }));
        let error = of(Ok(b"caf\xe9".to_vec())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(remedy(&error).unwrap().contains("UTF-8"));
        assert_eq!(remedy(&io::Error::from(io::ErrorKind::NotFound)), None);
    }
}
