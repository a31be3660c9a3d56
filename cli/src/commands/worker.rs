//! `gavel sampler`, `gavel judge --connect` and `gavel trainer`.

use std::path::{Path, PathBuf};

use clap::Args;
use gavel_core::spec::RunSpec;
use gavel_core::work::Role;
use gavel_judge_worker::JudgeWork;
use gavel_sampler_worker::SamplerWork;
use gavel_trainer_worker::TrainerWork;
use gavel_worker::WorkerOptions;

use super::connect::{self, Connect};
use crate::diagnostic::{Context as _, Foreign as _, Result};
use crate::files::read_text;
use crate::runtime::{ParentArguments, block_on, shutdown_token};

#[derive(Debug, Args)]
#[command(mut_arg("addresses", connect::without_default))]
pub(crate) struct WorkerArguments {
    #[command(flatten)]
    pub(crate) connect: Connect,
    #[command(flatten)]
    pub(crate) parent: ParentArguments,
    #[command(flatten)]
    pub(crate) relocation: RelocationArguments,
}

/// Where a run's files are now.
#[derive(Debug, Clone, Args)]
pub(crate) struct RelocationArguments {
    /// A spec as JSON: if it is that of the run, its paths are taken instead of those that the run was submitted with.
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) paths_from: Option<PathBuf>,
}

/// The device that people see; which one is used is the run's matter.
const DEVICE: &str = "as the run says";

pub(super) fn worker(
    role: Role,
    address: &str,
    parent: ParentArguments,
    relocation: &RelocationArguments,
) -> Result<()> {
    let relocated = relocation.paths_from.as_deref().map(read_spec).transpose()?;
    block_on(async {
        let shutdown = shutdown_token(parent);
        let options = WorkerOptions {
            relocated,
            ..WorkerOptions::new(address, role, DEVICE)
        };
        match role {
            Role::Sampler => gavel_worker::run(options, SamplerWork::default(), shutdown).await,
            Role::Judge => gavel_worker::run(options, JudgeWork::default(), shutdown).await,
            Role::Trainer => gavel_worker::run(options, TrainerWork::default(), shutdown).await,
        }?;
        Ok(())
    })
}

fn read_spec(file: &Path) -> Result<RunSpec> {
    let text = read_text(file)?;
    serde_json::from_str(&text)
        .foreign()
        .with_context(|| format!("{}: not a run's configuration", file.display()))
}
