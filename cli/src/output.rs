//! The one way to standard output and standard error.
//!
//! Two kinds of text go to standard output. What a command is for is *printed*: where nobody takes it, the command has failed, and
//! says so; where its reader has gone, as in `gavel plan ... | head -1`, it ends as if SIGPIPE had ended it. What somebody *tells* who
//! works on regardless, a run or a coordinator, may be lost, and the work goes on.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::diagnostic::{Diagnostic, Result};

/// The exit status of a program that SIGPIPE ended.
const BROKEN_PIPE: u8 = 141;

/// Whether the reader of what is printed has gone. A process has one standard output.
static IS_ABANDONED: AtomicBool = AtomicBool::new(false);

/// Prints text that the command is for.
///
/// # Errors
/// It cannot be written. Where its reader has gone, [`abandoned`] knows so, and nobody is told this error.
pub(crate) fn print(text: impl Display) -> Result<()> {
    let written = write(&mut io::stdout().lock(), &text.to_string());
    written.map_err(|error| {
        IS_ABANDONED.fetch_or(error.kind() == ErrorKind::BrokenPipe, Ordering::Relaxed);
        unprinted(&error)
    })
}

/// As [`print()`], and ends the line.
pub(crate) fn print_line(text: impl Display) -> Result<()> {
    print(format_args!("{text}\n"))
}

/// The exit status of a command that ended because the reader of its output had gone, which is no error.
pub(crate) fn abandoned() -> Option<ExitCode> {
    IS_ABANDONED
        .load(Ordering::Relaxed)
        .then(|| ExitCode::from(BROKEN_PIPE))
}

/// Tells on standard output how the work goes. The first time that it is lost, the log says so.
pub(crate) fn tell(line: impl Display) {
    static LOST: Once = Once::new();
    if let Err(error) = write(&mut io::stdout().lock(), &format!("{line}\n")) {
        LOST.call_once(|| tracing::warn!(%error, "standard output takes nothing any more; the work goes on"));
    }
}

/// Notes something on standard error, beside what is printed or told. It is lost where standard error takes nothing.
pub(crate) fn note(line: impl Display) {
    let _ = write(&mut io::stderr().lock(), &format!("{line}\n"));
}

/// Writes at once: what stays in a buffer is lost without a word when the program ends.
fn write(to: &mut impl Write, text: &str) -> io::Result<()> {
    to.write_all(text.as_bytes())?;
    to.flush()
}

fn unprinted(error: &io::Error) -> Diagnostic {
    let text = match error.kind() {
        ErrorKind::BrokenPipe => return Diagnostic::new("nobody reads standard output any more"),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "free some space where the output goes, or send it elsewhere"
        }
        _ => "send the output elsewhere",
    };
    Diagnostic::foreign(error)
        .caused("cannot write to standard output".into())
        .with_hint(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes text and loses it, as a disk does that is found full when its buffer is emptied.
    struct FullWhenFlushed;

    impl Write for FullWhenFlushed {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(ErrorKind::StorageFull.into())
        }
    }

    #[test]
    fn text_that_stays_in_a_buffer_is_not_taken_for_written() {
        let mut taken = Vec::new();
        write(&mut taken, "words\n").unwrap();
        assert_eq!(taken, b"words\n");
        let error = write(&mut FullWhenFlushed, "words\n").unwrap_err();
        let told = unprinted(&error);
        assert_eq!(told.error, "cannot write to standard output");
        assert!(told.hint.unwrap().starts_with("free some space"));
    }
}
