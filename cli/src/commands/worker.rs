//! `gavel sampler`, `gavel judge --connect` and `gavel trainer`.

use std::path::Path;

use anyhow::Context as _;
use gavel_core::spec::RunSpec;
use gavel_core::work::Role;
use gavel_judge_worker::JudgeWork;
use gavel_sampler_worker::SamplerWork;
use gavel_trainer_worker::TrainerWork;
use gavel_worker::WorkerOptions;

use super::block_on;
use super::runtime::shutdown_token;
use crate::args::{ParentArguments, RelocationArguments};

/// The device that people see; which one is used is the run's matter.
const DEVICE: &str = "as the run says";

pub(super) fn worker(
    role: Role,
    address: &str,
    parent: ParentArguments,
    relocation: &RelocationArguments,
) -> anyhow::Result<()> {
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

fn read_spec(file: &Path) -> anyhow::Result<RunSpec> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{}: cannot read", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{}: not a run's configuration", file.display()))
}
