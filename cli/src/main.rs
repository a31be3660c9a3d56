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
mod fetch;
mod files;
mod preflight;
mod run;
mod runtime;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let arguments = commands::Arguments::parse();
    gavel_telemetry::log::start();
    match commands::dispatch(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            diagnostic::tell(&error);
            ExitCode::FAILURE
        }
    }
}
