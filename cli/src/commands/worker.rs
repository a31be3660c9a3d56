//! `gavel sampler`, `gavel judge --connect` and `gavel trainer`.

use std::path::{Path, PathBuf};

use clap::Args;
use gavel_core::spec::RunSpec;
use gavel_core::work::Role;
use gavel_judge_worker::JudgeWork;
use gavel_sampler_worker::SamplerWork;
use gavel_trainer_worker::TrainerWork;
use gavel_worker::{Allowed, AllowedEndpoint, WorkerOptions};

use super::connect::{self, Connect};
use crate::diagnostic::{Context as _, Diagnostic, Foreign as _, Result};
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
    #[command(flatten)]
    pub(crate) folders: AllowFolders,
}

/// Where a run's files are now.
#[derive(Debug, Clone, Args)]
pub(crate) struct RelocationArguments {
    /// A spec as JSON: if it is that of the run, its paths are taken instead of those that the run was submitted with.
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) paths_from: Option<PathBuf>,
}

/// What runs may use of this machine: given once or again, instead of what is allowed without it.
#[derive(Debug, Clone, Args)]
pub(crate) struct AllowFolders {
    /// Folder at or below which runs may load models; again for several.
    #[arg(
        long = "allow-model-folder",
        value_name = "DIR",
        env = "GAVEL_ALLOW_MODEL_FOLDER",
        default_value = "."
    )]
    model_folders: Vec<PathBuf>,
}

/// What runs may use of a judge's machine beside folders.
#[derive(Debug, Clone, Args)]
pub(crate) struct AllowServers {
    /// Server that runs may have this judge ask: a base address, with all below it, or `loopback` for those of this machine;
    /// again for several.
    #[arg(
        long = "allow-endpoint",
        value_name = "URL",
        env = "GAVEL_ALLOW_ENDPOINT",
        default_value = "loopback"
    )]
    endpoints: Vec<String>,
    /// Environment variable whose value runs may send to such a server as its key; a star at the end stands for any ending;
    /// again for several.
    #[arg(
        long = "allow-key-variable",
        value_name = "NAME",
        env = "GAVEL_ALLOW_KEY_VARIABLE",
        default_value = "GAVEL_JUDGE_*"
    )]
    key_variables: Vec<String>,
}

impl AllowFolders {
    /// What runs may use of a machine whose worker asks no server.
    pub(crate) fn allowed(&self) -> Allowed {
        Allowed {
            endpoints: Vec::new(),
            key_variables: Vec::new(),
            model_folders: self.model_folders.clone(),
        }
    }
}

impl AllowServers {
    /// The same for one that does.
    ///
    /// # Errors
    /// Not an address. It is not repeated, since it may hold a password.
    pub(crate) fn and(&self, folders: &AllowFolders) -> Result<Allowed> {
        let endpoints = self.endpoints.iter().map(|text| {
            text.parse::<AllowedEndpoint>()
                .map_err(|error| Diagnostic::new(format!("--allow-endpoint {error}")))
        });
        Ok(Allowed {
            endpoints: endpoints.collect::<Result<_>>()?,
            key_variables: self.key_variables.iter().map(|name| name.as_str().into()).collect(),
            ..folders.allowed()
        })
    }
}

/// The arguments that allow exactly this.
pub(crate) fn as_arguments(allowed: &Allowed, role: Role) -> Vec<String> {
    let folders = allowed.model_folders.iter().map(|folder| folder.display().to_string());
    let mut arguments: Vec<String> = folders
        .flat_map(|folder| ["--allow-model-folder".into(), folder])
        .collect();
    if role == Role::Judge {
        let endpoints = allowed.endpoints.iter().map(ToString::to_string);
        arguments.extend(endpoints.flat_map(|endpoint| ["--allow-endpoint".into(), endpoint]));
        let variables = allowed.key_variables.iter().map(ToString::to_string);
        arguments.extend(variables.flat_map(|variable| ["--allow-key-variable".into(), variable]));
    }
    arguments
}

/// The device that people see; which one is used is the run's matter.
const DEVICE: &str = "as the run says";

pub(super) fn worker(
    role: Role,
    address: &str,
    parent: ParentArguments,
    relocation: &RelocationArguments,
    allowed: Allowed,
) -> Result<()> {
    let relocated = relocation.paths_from.as_deref().map(read_spec).transpose()?;
    block_on(async {
        let shutdown = shutdown_token(parent)?;
        let options = WorkerOptions {
            relocated,
            allowed,
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
    let text = std::fs::read_to_string(file)
        .foreign()
        .with_context(|| format!("{}: cannot read", file.display()))?;
    serde_json::from_str(&text)
        .foreign()
        .with_context(|| format!("{}: not a run's configuration", file.display()))
}
