//! Lines of a log that end.

use std::io::{self, Write};

use crate::log::Format;

/// The longest line. Names and reasons are bounded where they come in; what a library says is not.
const LINE_BYTES: usize = 8 << 10;

/// Writes each line up to a bound, and says how much is missing.
#[derive(Debug)]
pub(crate) struct CutLines<W> {
    to: W,
    format: Format,
}

impl<W> CutLines<W> {
    pub(crate) fn to(to: W, format: Format) -> Self {
        Self { to, format }
    }
}

/// The beginning of a line that is too long, in a line that is as long as one may be and ends.
fn cut(line: &[u8], format: Format) -> Vec<u8> {
    match format {
        Format::Text => {
            let note = format!(" ... (cut, {} bytes in all)\n", line.len());
            let mut cut = line[..LINE_BYTES - note.len()].to_vec();
            cut.extend_from_slice(note.as_bytes());
            cut
        }
        Format::Json => {
            // A quarter of the line: as a text within a text each of its quotes and backslashes takes two bytes, and some four.
            let begin = String::from_utf8_lossy(&line[..LINE_BYTES / 4]);
            let cut = serde_json::json!({ "level": "WARN", "cut": begin, "bytes": line.len() });
            format!("{cut}\n").into_bytes()
        }
    }
}

impl<W: Write> Write for CutLines<W> {
    /// `line` is a whole line with its end: that is how the subscriber writes.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if line.len() <= LINE_BYTES {
            self.to.write_all(line)?;
        } else {
            self.to.write_all(&cut(line, self.format))?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(line: &str, format: Format) -> String {
        let mut lines = CutLines::to(Vec::new(), format);
        lines.write_all(line.as_bytes()).unwrap();
        String::from_utf8(lines.to).unwrap()
    }

    #[test]
    fn a_line_of_json_that_is_cut_is_json() {
        for letter in ["x", "\"", "\u{1}", "\u{fffd}"] {
            let line = written(&letter.repeat(50_000), Format::Json);
            assert!(line.len() <= 2 * LINE_BYTES, "{} bytes", line.len());
            let read: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(read["bytes"], letter.len() * 50_000);
        }
    }

    #[test]
    fn a_line_of_the_log_has_an_end() {
        let written = |line: &str| written(line, Format::Text);
        assert_eq!(written("short\n"), "short\n");
        let long = written(&format!("{}\n", "x".repeat(50_000_000)));
        assert_eq!(long.len(), LINE_BYTES);
        assert!(long.ends_with("xxx ... (cut, 50000001 bytes in all)\n"));
    }
}
