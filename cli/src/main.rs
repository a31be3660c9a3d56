//! `gavel`: reads arguments and configuration, starts the parts, prints results and errors.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is the program that talks to people"
)]

mod assets;
mod checks;
mod client;
mod commands;
mod config;
mod diagnostic;
mod files;
mod preflight;
mod run;
mod runtime;

use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let arguments = commands::Arguments::parse();
    start_log();
    match commands::dispatch(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            diagnostic::tell(&error);
            ExitCode::FAILURE
        }
    }
}

/// Log lines go to stderr; `RUST_LOG` chooses which.
fn start_log() {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,h2=warn,hyper=warn,sqlx=warn,tower=warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
}
