//! `gavel`: reads arguments and configuration, starts the parts, prints results and errors.

#![forbid(unsafe_code)]

mod assets;
mod checks;
mod client;
mod commands;
mod config;
mod diagnostic;
mod fetch;
mod files;
mod memory;
mod output;
mod own;
mod placement;
mod preflight;
mod run;
mod runtime;
mod sampler_and_trainer;
mod shell;
mod signals;
mod unified;
mod version;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let arguments = commands::Arguments::parse();
    let _log = gavel_telemetry::log::start(arguments.log_format.into());
    match commands::dispatch(arguments.command) {
        Ok(code) => code,
        Err(error) => output::abandoned().unwrap_or_else(|| {
            diagnostic::tell(&error);
            ExitCode::FAILURE
        }),
    }
}
