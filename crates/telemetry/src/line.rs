//! Lines of a log that end.

use std::io::{self, Write};

/// The longest line. Names and reasons are bounded where they come in; what a library says is not.
const LINE_BYTES: usize = 8 << 10;

/// Writes each line up to a bound, and says how much is missing.
#[derive(Debug)]
pub(crate) struct CutLines<W>(pub(crate) W);

impl<W: Write> Write for CutLines<W> {
    /// `line` is a whole line with its end: that is how the subscriber writes.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if line.len() <= LINE_BYTES {
            self.0.write_all(line)?;
        } else {
            let note = format!(" ... (cut, {} bytes in all)\n", line.len());
            let mut cut = line[..LINE_BYTES - note.len()].to_vec();
            cut.extend_from_slice(note.as_bytes());
            self.0.write_all(&cut)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_has_an_end() {
        let written = |line: &str| {
            let mut lines = CutLines(Vec::new());
            lines.write_all(line.as_bytes()).unwrap();
            String::from_utf8(lines.0).unwrap()
        };
        assert_eq!(written("short\n"), "short\n");
        let long = written(&format!("{}\n", "x".repeat(50_000_000)));
        assert_eq!(long.len(), LINE_BYTES);
        assert!(long.ends_with("xxx ... (cut, 50000001 bytes in all)\n"));
    }
}
