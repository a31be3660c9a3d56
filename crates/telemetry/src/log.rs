//! The process's log.

use std::sync::OnceLock;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::line::CutLines;

/// What is logged where `RUST_LOG` says nothing else: what Gavel does, and of the libraries only warnings.
const DEFAULT_FILTER: &str = "info,h2=warn,hyper=warn,sqlx=warn,tower=warn";

/// How lines of the log are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// An object of JSON on each line, the innermost span with its fields at `span`.
    Json,
}

static FORMAT: OnceLock<Format> = OnceLock::new();

/// How this process writes its log.
pub fn format() -> Format {
    FORMAT.get().copied().unwrap_or_default()
}

/// Starts the log: lines go to stderr, none of them without end, and `RUST_LOG` chooses which. To be called once, when the process starts.
pub fn start(format: Format) {
    let format = *FORMAT.get_or_init(|| format);
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(move || CutLines::to(std::io::stderr(), format))
        .with_ansi(false)
        // A log that nobody takes is lost; a complaint about it on the same standard error would be a panic.
        .log_internal_errors(false);
    let lines = match format {
        Format::Text => lines.boxed(),
        Format::Json => lines.json().with_span_list(false).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).init();
}
