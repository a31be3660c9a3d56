//! One file for each subcommand: its arguments, and what it does.

mod audit;
mod backup;
mod bench;
mod cancel;
mod certificates;
mod completions;
mod config;
mod connect;
mod coordinator;
mod doctor;
mod drain;
mod dtype;
mod evaluate;
mod export;
mod extend;
mod fork;
mod init;
mod judge;
mod load;
mod pause;
mod plan;
mod rejudge;
mod replay;
mod report;
mod resume;
mod rollback;
mod rubric;
mod run;
mod sample;
mod source;
mod status;
mod submit;
mod token;
mod verify;
mod watch;
pub(crate) mod worker;
mod workers;

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use gavel_core::work::Role;
use gavel_telemetry::log::Format;
use serde::Serialize;

use crate::diagnostic::{Context as _, Result};
use crate::output;
use crate::version::version;
pub(crate) use connect::SECURITY;

const EXIT_STATUS: &str = "Exit status:
  0    what was asked is done; of run and watch: the run has finished
  1    it is not, and standard error says why
       of doctor, audit, verify and rubric diff: what they looked at is not as it should be
  2    the command line cannot be understood
  129, 130, 143
       SIGHUP, Ctrl-C or SIGTERM ended `gavel run`; what is committed is kept, and --resume goes on
  141  nobody read standard output any more";

/// Trains LoRA adapters for image diffusion models with rubric-judged reinforcement learning.
#[derive(Debug, Parser)]
#[command(name = "gavel", version = version(), propagate_version = true, after_help = EXIT_STATUS)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// How the log is written to standard error: for people, or an object of JSON on each line.
    #[arg(long, global = true, value_name = "FORMAT", env = LOG_FORMAT, value_enum, default_value_t, hide_env = true)]
    pub(crate) log_format: LogFormat,
}

/// The variable that says how the log is written, for a whole fleet and for the processes of a run.
pub(crate) const LOG_FORMAT: &str = "GAVEL_LOG_FORMAT";

/// How the log is written. A value with a description of its own would make every help text twice as long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

impl From<LogFormat> for Format {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Text => Self::Text,
            LogFormat::Json => Self::Json,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a folder with all that a run needs but the models: a published recipe, prompts, a rubric, to be changed.
    Init(init::InitArguments),
    /// Run a configuration on this machine: coordinator and workers as processes, progress, report.
    Run(run::RunArguments),
    /// Start a coordinator, which hands out work and keeps the ledger and the blobs.
    Coordinator(coordinator::CoordinatorArguments),
    /// Start a sampler for a coordinator.
    Sampler(worker::WorkerArguments),
    /// Start a judge for a coordinator (--connect), or judge two pictures once (--model ... A.png B.png).
    Judge(Box<judge::JudgeArguments>),
    /// Start a trainer for a coordinator.
    Trainer(worker::TrainerArguments),
    /// Hand a configuration to a coordinator that runs already.
    Submit(submit::SubmitArguments),
    /// Show what the runs of a coordinator do and what they wait for.
    Status(status::StatusArguments),
    /// List the workers of a coordinator: what they do, where, and how full their memory is.
    Workers(workers::WorkersArguments),
    /// Follow a run until it ends.
    Watch(watch::WatchArguments),
    /// Stop a run at once; `gavel resume` lets it go on from where it stands.
    Cancel(cancel::CancelArguments),
    /// Hold a run: what is in work comes to its end, and nothing more is handed out.
    Pause(pause::PauseArguments),
    /// Let a paused, stopped or failed run go on.
    Resume(resume::ResumeArguments),
    /// Change how many steps a run has: a finished one goes on, one that goes on may end earlier.
    Extend(extend::ExtendArguments),
    /// Take the steps of a run after one of them back, and pause it there.
    Rollback(rollback::RollbackArguments),
    /// Begin a run with an adapter of another one, its files and other settings.
    Fork(fork::ForkArguments),
    /// Tell the workers of a coordinator to finish what they hold and to leave; workers that start later stay.
    Drain(drain::DrainArguments),
    /// Paint a picture from a prompt.
    Sample(sample::SampleArguments),
    /// Perform one RPO update offline from recorded trajectories and rewards.
    Replay(replay::ReplayArguments),
    /// Write a run's adapter and its report, from its folder, its coordinator or its stores.
    Report(report::ReportArguments),
    /// Write an adapter of a run for peft, diffusers or ComfyUI, or merged into its base.
    Export(export::ExportArguments),
    /// Prove from a run's ledger and blobs that each pair was sampled, judged and trained on once, under the right policy.
    Audit(audit::AuditArguments),
    /// Do a recorded step again from a run's ledger and blobs, and compare every byte.
    Verify(verify::VerifyArguments),
    /// Judge a run's pairs again, by another rubric or judge, and say what would have changed; the run stays as it is.
    Rejudge(rejudge::RejudgeArguments),
    /// Evaluate adapters, steps of runs or folders of pictures: by exact rules, by distances and against each other by the judge.
    Evaluate(evaluate::EvaluateArguments),
    /// Copy a coordinator's runs and the blobs that they need to a folder, while it works or when it does not.
    Backup(backup::BackupArguments),
    /// Write a backup's runs and blobs to a new place.
    Restore(backup::RestoreArguments),
    /// Check that a configuration will run: files, models, adapter, judge, memory, folders.
    Doctor(doctor::DoctorArguments),
    /// Time the parts of a configuration's step in one process, without a fleet.
    Bench(bench::BenchArguments),
    /// Drive a coordinator of this program with thousands of simulated workers, and say what a lease costs.
    Load(load::LoadArguments),
    /// Make the certificates by which coordinator and clients trust each other.
    Certificates {
        #[command(subcommand)]
        command: certificates::CertificatesCommand,
    },
    /// Make tokens, by which a coordinator knows its clients.
    Token {
        #[command(subcommand)]
        command: token::TokenCommand,
    },
    /// Forecast how long steps take on a fleet, from the seconds that each stage takes on one worker.
    Plan(plan::PlanArguments),
    /// Write rubric sets from labelled examples, check, show and compare them.
    Rubric {
        #[command(subcommand)]
        command: rubric::RubricCommand,
    },
    /// Print a script that completes commands and options in a shell.
    Completions(completions::CompletionsArguments),
    /// Write the manual: a page for each command.
    Man(completions::ManArguments),
    /// Look into configuration files.
    Config {
        #[command(subcommand)]
        command: config::ConfigCommand,
    },
}

/// Does what the command line asks.
///
/// # Errors
/// Whatever keeps it from being done.
pub(crate) fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Init(arguments) => init::init(&arguments)?,
        Command::Run(arguments) => return run::run(&arguments),
        Command::Coordinator(arguments) => coordinator::coordinator(arguments)?,
        Command::Sampler(arguments) => worker::worker(
            &[Role::Sampler],
            &arguments.connect.addresses,
            &arguments.connect.credentials,
            arguments.parent,
            &arguments.relocation,
            arguments.folders.allowed(),
        )?,
        Command::Trainer(worker::TrainerArguments {
            worker: arguments,
            with_sampler,
        }) => worker::worker(
            if with_sampler {
                &[Role::Trainer, Role::Sampler]
            } else {
                &[Role::Trainer]
            },
            &arguments.connect.addresses,
            &arguments.connect.credentials,
            arguments.parent,
            &arguments.relocation,
            arguments.folders.allowed(),
        )?,
        Command::Judge(arguments) => match arguments.coordinators()? {
            Some(addresses) => worker::worker(
                &[Role::Judge],
                &addresses,
                &arguments.credentials,
                arguments.parent,
                &arguments.relocation,
                arguments.servers.and(&arguments.folders)?,
            )?,
            None => judge::judge(&arguments)?,
        },
        Command::Submit(arguments) => submit::submit(&arguments)?,
        Command::Status(arguments) => status::status(&arguments)?,
        Command::Workers(arguments) => workers::workers(&arguments)?,
        Command::Cancel(arguments) => cancel::cancel(&arguments)?,
        Command::Pause(arguments) => pause::pause(&arguments)?,
        Command::Resume(arguments) => resume::resume(&arguments)?,
        Command::Extend(arguments) => extend::extend(&arguments)?,
        Command::Fork(arguments) => fork::fork(&arguments)?,
        Command::Rollback(arguments) => rollback::rollback(&arguments)?,
        Command::Drain(arguments) => drain::drain(&arguments)?,
        Command::Sample(arguments) => sample::sample(&arguments)?,
        Command::Replay(arguments) => replay::replay(&arguments)?,
        Command::Watch(arguments) => return watch::watch(&arguments),
        Command::Report(arguments) => report::report(&arguments)?,
        Command::Export(arguments) => export::export(&arguments)?,
        Command::Audit(arguments) => return audit::audit(&arguments),
        Command::Backup(arguments) => return backup::backup(arguments),
        Command::Restore(arguments) => return backup::restore(arguments),
        Command::Verify(arguments) => return verify::verify(&arguments),
        Command::Rejudge(arguments) => rejudge::rejudge(&arguments)?,
        Command::Evaluate(arguments) => evaluate::evaluate(&arguments)?,
        Command::Bench(arguments) => bench::bench(&arguments)?,
        Command::Load(arguments) => load::load(&arguments)?,
        Command::Certificates { command } => certificates::certificates(command)?,
        Command::Token { command } => token::token(command)?,
        Command::Plan(arguments) => plan::plan(&arguments)?,
        Command::Doctor(arguments) => return doctor::doctor(&arguments),
        Command::Rubric { command } => return rubric::rubric(&command),
        Command::Completions(arguments) => completions::completions(&arguments)?,
        Command::Man(arguments) => completions::man(&arguments)?,
        Command::Config { command } => config::config(&command)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints what `--json` asks for, so that people can read it too.
fn print_json(value: &impl Serialize) -> Result<()> {
    output::print_line(serde_json::to_string_pretty(value).context("cannot write JSON")?)
}
