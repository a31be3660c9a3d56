//! The process's log.

use tracing_subscriber::EnvFilter;

use crate::line::CutLines;

/// What is logged where `RUST_LOG` says nothing else: what Gavel does, and of the libraries only warnings.
const DEFAULT_FILTER: &str = "info,h2=warn,hyper=warn,sqlx=warn,tower=warn";

/// Starts the log: lines go to stderr, none of them without end, and `RUST_LOG` chooses which. To be called once, when the process starts.
pub fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| CutLines(std::io::stderr()))
        .with_ansi(false)
        // A log that nobody takes is lost; a complaint about it on the same standard error would be a panic.
        .log_internal_errors(false)
        .init();
}
