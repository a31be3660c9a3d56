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

/// Names the collector that spans are sent to; without it none are.
const COLLECTOR: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// The log of the process, for as long as this lives: when it is dropped, what is on its way to a collector is sent.
#[derive(Debug)]
pub struct Log {
    #[cfg(feature = "otlp")]
    _export: Option<crate::export::Export>,
}

/// Starts the log: lines go to stderr, none of them without end, and `RUST_LOG` chooses which; spans go to the collector that
/// `OTEL_EXPORTER_OTLP_ENDPOINT` names. To be called once, when the process starts.
pub fn start(format: Format) -> Log {
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
    let registry = tracing_subscriber::registry().with(filter).with(lines);
    let is_collected = std::env::var_os(COLLECTOR).is_some_and(|endpoint| !endpoint.is_empty());
    #[cfg(feature = "otlp")]
    {
        let (export, layer, problem) = match is_collected.then(crate::export::Export::start) {
            Some(Ok((export, layer))) => (Some(export), Some(layer), None),
            Some(Err(problem)) => (None, None, Some(problem)),
            None => (None, None, None),
        };
        registry.with(layer).init();
        if let Some(problem) = problem {
            tracing::warn!("no spans are sent: {COLLECTOR}: {problem}");
        }
        Log { _export: export }
    }
    #[cfg(not(feature = "otlp"))]
    {
        registry.init();
        if is_collected {
            tracing::warn!("no spans are sent: {COLLECTOR} is set, and this program was built without --features otlp");
        }
        Log {}
    }
}
