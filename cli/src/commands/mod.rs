//! One file for each subcommand.

mod bench;
pub(crate) mod coordinator;
mod doctor;
mod export;
mod judge;
mod load;
mod plan;
mod replay;
pub(crate) mod rubric;
mod runtime;
mod sample;
pub(crate) mod status;
mod submit;
mod watch;
mod worker;

use std::process::ExitCode;

pub(crate) use runtime::block_on;

use gavel_core::work::Role;

use crate::args::{Command, ConfigCommand};
use crate::{assets, audit, config, run, verify};

/// Does what the command line asks.
///
/// # Errors
/// Whatever keeps it from being done.
pub(crate) fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(arguments) => return run::run(&arguments),
        Command::Coordinator(arguments) => coordinator::coordinator(arguments)?,
        Command::Sampler(arguments) => worker::worker(Role::Sampler, &arguments.connect.addresses, arguments.parent)?,
        Command::Trainer(arguments) => worker::worker(Role::Trainer, &arguments.connect.addresses, arguments.parent)?,
        Command::Judge(arguments) => match &arguments.connect {
            Some(connect) => worker::worker(Role::Judge, &connect.addresses, arguments.parent)?,
            None => judge::judge(&arguments)?,
        },
        Command::Submit(arguments) => submit::submit(&arguments)?,
        Command::Status(arguments) => status::status(&arguments)?,
        Command::Sample(arguments) => sample::sample(&arguments)?,
        Command::Replay(arguments) => replay::replay(&arguments)?,
        Command::Watch(arguments) => return watch::watch(&arguments),
        Command::Export(arguments) => export::export(&arguments)?,
        Command::Audit(arguments) => return audit::audit(&arguments),
        Command::Verify(arguments) => return verify::verify(&arguments),
        Command::Bench(arguments) => bench::bench(&arguments)?,
        Command::Load(arguments) => load::load(&arguments)?,
        Command::Plan(arguments) => plan::plan(&arguments)?,
        Command::Doctor(arguments) => return doctor::doctor(&arguments),
        Command::Rubric { command } => return rubric::rubric(&command),
        Command::Config {
            command: ConfigCommand::Check(arguments),
        } => {
            let spec = config::load(&arguments)?;
            config::check_build(&spec)?;
            assets::check_model_folder(&spec)?;
            assets::check_judge_folders(&spec)?;
            let files = assets::read(&spec)?;
            println!("{}: ok", arguments.file.display());
            println!("  run        {} (spec {})", spec.run.name, spec.digest().short());
            println!(
                "  prompts    {}, held out {}",
                files.assets.prompts.len(),
                files.assets.held_out.len()
            );
            println!("  rubric     {}", files.assets.rubric.digest.short());
            println!("  labelled   {} pairs", files.assets.labelled.len());
        }
    }
    Ok(ExitCode::SUCCESS)
}
