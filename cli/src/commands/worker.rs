//! `gavel sampler`, `gavel judge --connect` and `gavel trainer`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use gavel_core::spec::RunSpec;
use gavel_core::work::Role;
use gavel_judge_worker::JudgeWork;
use gavel_sampler_worker::SamplerWork;
use gavel_trainer_worker::TrainerWork;
use gavel_worker::{Allowed, AllowedEndpoint, Sharing, WorkerOptions};

use super::connect::{self, Connect, CredentialArguments};
use crate::diagnostic::{Context as _, Diagnostic, Foreign as _, Result};
use crate::files::read_text;
use crate::memory;
use crate::runtime::{ParentArguments, block_on, shutdown_token};
use crate::sampler_and_trainer::SamplerAndTrainerWork;

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

#[derive(Debug, Args)]
pub(crate) struct TrainerArguments {
    #[command(flatten)]
    pub(crate) worker: WorkerArguments,
    /// Sample too, in this process and with the same weights: the model is in memory once, and the two take turns.
    #[arg(long, env = "GAVEL_WITH_SAMPLER")]
    pub(crate) with_sampler: bool,
}

/// Where the run's and the coordinator's files are on this machine.
#[derive(Debug, Clone, Args)]
pub(crate) struct RelocationArguments {
    /// Folder of the coordinator's blob store (`blobs` in its --data), where this machine has it too: large blobs are read and written
    /// there, and no longer through the coordinator.
    #[arg(long, value_name = "DIR", env = "GAVEL_BLOB_FOLDER")]
    pub(crate) blob_folder: Option<PathBuf>,
    #[command(flatten)]
    sharing: SharingArguments,
    /// Memory for blobs that were used lately and may be used again, in MiB.
    #[arg(long, value_name = "MIB", env = "GAVEL_BLOB_MEMORY", default_value_t = 512)]
    blob_memory: usize,
    /// GPU of this worker, by ordinal: what a run has on a GPU is on this one here
    #[arg(long, value_name = "N", env = "GAVEL_GPU")]
    pub(crate) gpu: Option<usize>,
    /// A spec as JSON: if it is that of the run, its paths are taken instead of those that the run was submitted with.
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) paths_from: Option<PathBuf>,
}

/// Whether this worker gives others what it has, and where.
#[derive(Debug, Clone, Args)]
struct SharingArguments {
    /// Give the large blobs that this worker has in memory to other workers, listening here; port 0 takes any that is free. Who has the way to the
    /// store needs none of it.
    #[arg(long, value_name = "ADDR", env = "GAVEL_SHARE_BLOBS")]
    share_blobs: Option<SocketAddr>,
    /// Name or address, with its port where that is another, at which other workers reach --share-blobs [default: where it listens, and for
    /// 0.0.0.0 the address from which this machine reaches its coordinator].
    #[arg(long, value_name = "HOST", env = "GAVEL_SHARE_BLOBS_AS", requires = "share_blobs")]
    share_blobs_as: Option<String>,
}

impl SharingArguments {
    fn read(&self) -> Option<Sharing> {
        Some(Sharing {
            listen: self.share_blobs?,
            advertised: self.share_blobs_as.clone(),
        })
    }
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
    let folders = allowed.model_folders.iter();
    let mut arguments: Vec<String> = folders
        .map(|folder| format!("--allow-model-folder={}", folder.display()))
        .collect();
    if role == Role::Judge {
        let endpoints = allowed.endpoints.iter();
        arguments.extend(endpoints.map(|endpoint| format!("--allow-endpoint={endpoint}")));
        let variables = allowed.key_variables.iter();
        arguments.extend(variables.map(|variable| format!("--allow-key-variable={variable}")));
    }
    arguments
}

/// The device that people see; which one is used is the run's matter.
const DEVICE: &str = "as the run says";

pub(super) fn worker(
    roles: &[Role],
    address: &str,
    credentials: &CredentialArguments,
    parent: ParentArguments,
    relocation: &RelocationArguments,
    allowed: Allowed,
) -> Result<()> {
    let relocated = relocation.paths_from.as_deref().map(read_spec).transpose()?;
    let credentials = credentials.read(address)?;
    block_on(async {
        let shutdown = shutdown_token(parent)?;
        let options = WorkerOptions {
            credentials,
            relocated,
            gpu: relocation.gpu,
            blob_folder: relocation.blob_folder.clone(),
            sharing: relocation.sharing.read(),
            cache_bytes: relocation.blob_memory.saturating_mul(1 << 20),
            allowed,
            memory: memory::of,
            ..WorkerOptions::new(address, roles.iter().copied(), DEVICE)
        };
        match roles {
            [Role::Sampler] => gavel_worker::run(options, SamplerWork::default(), shutdown).await,
            [Role::Judge] => gavel_worker::run(options, JudgeWork::default(), shutdown).await,
            [Role::Trainer] => gavel_worker::run(options, TrainerWork::default(), shutdown).await,
            _ => gavel_worker::run(options, SamplerAndTrainerWork::default(), shutdown).await,
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        folders: AllowFolders,
        #[command(flatten)]
        servers: AllowServers,
    }

    fn read(arguments: &[String]) -> Result<Allowed> {
        let flags = Flags::parse_from(std::iter::once("judge").chain(arguments.iter().map(String::as_str)));
        flags.servers.and(&flags.folders)
    }

    #[test]
    fn what_a_run_allows_its_workers_is_what_they_read() {
        let allowed = Allowed {
            endpoints: vec!["loopback".parse().unwrap(), "https://judge.example/v1".parse().unwrap()],
            key_variables: vec!["JUDGE_KEY".into(), "OTHER_*".into()],
            model_folders: vec!["/models, and more".into(), "-models".into()],
        };
        assert_eq!(read(&as_arguments(&allowed, Role::Judge)).unwrap(), allowed);
    }

    #[test]
    fn without_flags_little_is_allowed() {
        assert_eq!(read(&[]).unwrap(), Allowed::default());
    }

    #[test]
    fn an_address_that_is_refused_is_not_repeated() {
        let refused = read(&["--allow-endpoint=http://user:secret@judge.example".to_owned()]).unwrap_err();
        let told = refused.in_full();
        assert!(
            told.starts_with("--allow-endpoint must") && !told.contains("secret"),
            "{told}"
        );
    }
}
