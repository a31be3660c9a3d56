//! `gavel`: reads arguments and configuration, starts the parts, prints results and errors.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is the program that talks to people"
)]

mod args;
mod assets;
mod audit;
mod checks;
mod client;
mod commands;
mod config;
mod fault;
mod preflight;
mod report;
mod run;
mod verdicts;
mod verify;

use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let arguments = args::Arguments::parse();
    start_log();
    match commands::dispatch(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            eprint!("{}", fault::render(&error));
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
