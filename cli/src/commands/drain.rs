//! `gavel drain`.

use clap::{Args, ValueEnum};
use gavel_core::ids::WorkerId;
use gavel_core::work::{Role, WorkerFilter};

use super::connect::Connect;
use crate::diagnostic::Result;
use crate::output;
use crate::runtime::block_on;

#[derive(Debug, Args)]
pub(crate) struct DrainArguments {
    #[command(flatten)]
    pub(crate) connect: Connect,
    /// Only this worker, by its name in `gavel workers`; again for several.
    #[arg(long = "worker", value_name = "NAME")]
    workers: Vec<String>,
    /// Only workers of this machine; again for several.
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<String>,
    /// Only workers that do this; again for several.
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<NamedRole>,
}

/// A role, as it is written on a command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum NamedRole {
    Sampler,
    Judge,
    Trainer,
}

impl From<NamedRole> for Role {
    fn from(role: NamedRole) -> Self {
        match role {
            NamedRole::Sampler => Self::Sampler,
            NamedRole::Judge => Self::Judge,
            NamedRole::Trainer => Self::Trainer,
        }
    }
}

pub(super) fn drain(arguments: &DrainArguments) -> Result<()> {
    let meant = WorkerFilter {
        workers: arguments.workers.iter().cloned().map(WorkerId).collect(),
        hosts: arguments.hosts.clone(),
        roles: arguments.roles.iter().copied().map(Role::from).collect(),
    };
    let workers = block_on(async {
        let runs = arguments.connect.open().await?.runs();
        Ok(runs.drain(&meant).await?)
    })?;
    let workers = match workers {
        1 => "1 worker finishes what it holds and leaves".to_owned(),
        workers => format!("{workers} workers finish what they hold and leave"),
    };
    output::tell(format_args!("{workers}; those that start later stay"));
    Ok(())
}
