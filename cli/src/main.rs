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
mod connect;
mod fault;
mod preflight;
mod report;
mod run;
mod verdicts;
mod verify;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let arguments = args::Arguments::parse();
    gavel_telemetry::log::start();
    match commands::dispatch(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            eprint!("{}", fault::render(&error));
            ExitCode::FAILURE
        }
    }
}
