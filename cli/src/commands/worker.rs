//! `gavel sampler`, `gavel judge --connect` and `gavel trainer`.

use clap::Args;
use gavel_core::work::Role;
use gavel_judge_worker::JudgeWork;
use gavel_sampler_worker::SamplerWork;
use gavel_trainer_worker::TrainerWork;
use gavel_worker::WorkerOptions;

use super::connect::{self, Connect};
use crate::diagnostic::Result;
use crate::runtime::{ParentArguments, block_on, shutdown_token};

#[derive(Debug, Args)]
#[command(mut_arg("addresses", connect::without_default))]
pub(crate) struct WorkerArguments {
    #[command(flatten)]
    pub(crate) connect: Connect,
    #[command(flatten)]
    pub(crate) parent: ParentArguments,
}

/// The device that people see; which one is used is the run's matter.
const DEVICE: &str = "as the run says";

pub(super) fn worker(role: Role, address: &str, parent: ParentArguments) -> Result<()> {
    block_on(async {
        let shutdown = shutdown_token(parent);
        let options = WorkerOptions::new(address, role, DEVICE);
        match role {
            Role::Sampler => gavel_worker::run(options, SamplerWork::default(), shutdown).await,
            Role::Judge => gavel_worker::run(options, JudgeWork::default(), shutdown).await,
            Role::Trainer => gavel_worker::run(options, TrainerWork::default(), shutdown).await,
        }?;
        Ok(())
    })
}
