//! What the owner of a worker lets runs use of its machine.
//!
//! Whoever can submit a run chooses the judge's server, the variable that holds the server's key, and the folders of models.
//! Without a bound by the owner, a run could have any variable of the machine sent to any address, or look for any folder.

mod guarded;

use std::ffi::OsStr;
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use gavel_core::hint::Hint;
use gavel_core::spec::{RunSpec, ServerAddress, ServerAddressError};
use gavel_core::work::Role;

pub(crate) use guarded::Guarded;

/// What runs may use of a worker's machine. Nothing else is opened, asked or read for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// Servers that may be asked.
    pub endpoints: Vec<AllowedEndpoint>,
    /// Environment variables whose values may be sent to such a server as its key.
    pub key_variables: Vec<AllowedVariable>,
    /// Folders at or below which models may be loaded.
    pub model_folders: Vec<PathBuf>,
}

/// The default: servers of this machine, variables that are named for the purpose, and models below the current folder.
impl Default for Allowed {
    fn default() -> Self {
        Self {
            endpoints: vec![AllowedEndpoint::Loopback],
            key_variables: vec![AllowedVariable("GAVEL_JUDGE_*".to_owned())],
            model_folders: vec![PathBuf::from(".")],
        }
    }
}

/// Servers that may be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedEndpoint {
    /// Those of this machine.
    Loopback,
    /// One server, at or below a path.
    Under(ServerAddress),
}

/// `loopback`, or a base address.
impl FromStr for AllowedEndpoint {
    type Err = ServerAddressError;

    fn from_str(text: &str) -> Result<Self, ServerAddressError> {
        match text {
            "loopback" => Ok(Self::Loopback),
            address => address.parse().map(Self::Under),
        }
    }
}

impl fmt::Display for AllowedEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback => f.write_str("loopback"),
            Self::Under(address) => address.fmt(f),
        }
    }
}

/// A variable's name; with a star at its end, all names that begin so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedVariable(String);

impl From<&str> for AllowedVariable {
    fn from(name: &str) -> Self {
        Self(name.to_owned())
    }
}

impl fmt::Display for AllowedVariable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AllowedVariable {
    fn covers(&self, name: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == self.0,
        }
    }
}

/// What a run wants of a worker's machine and does not get. Says nothing of what is there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAllowed {
    /// A server.
    #[error("`{key}` names {endpoint}, a server that this worker's owner does not let runs ask")]
    Endpoint {
        /// Where the run names it.
        key: String,
        /// The server.
        endpoint: String,
    },
    /// A variable.
    #[error("`{key}` names {variable}, a variable that this worker's owner does not let runs use")]
    KeyVariable {
        /// Where the run names it.
        key: String,
        /// The variable.
        variable: String,
    },
    /// A folder.
    #[error("`{key}` names {}, which is in none of the folders whose models this worker's owner lets runs load", folder.display())]
    ModelFolder {
        /// Where the run names it.
        key: String,
        /// The folder.
        folder: PathBuf,
    },
}

impl Hint for NotAllowed {
    fn hint(&self) -> Option<String> {
        let (flag, value) = match self {
            Self::Endpoint { endpoint, .. } => ("--allow-endpoint", endpoint.clone()),
            Self::KeyVariable { variable, .. } => ("--allow-key-variable", variable.clone()),
            Self::ModelFolder { folder, .. } => ("--allow-model-folder", folder.display().to_string()),
        };
        Some(format!(
            "start the workers with {flag} {value} if that is wanted, or submit the run with another"
        ))
    }
}

impl Allowed {
    /// Exactly what a run's configuration names, for workers that its own user starts for it.
    pub fn by(spec: &RunSpec, role: Role) -> Self {
        let needs = spec.needs(role);
        let addresses = needs.servers.iter().filter_map(|(_, server)| server.address().ok());
        let variables = needs.servers.iter().filter_map(|(_, server)| server.api_key_env);
        Self {
            endpoints: addresses.map(AllowedEndpoint::Under).collect(),
            key_variables: variables.map(AllowedVariable::from).collect(),
            model_folders: needs
                .model_folders
                .iter()
                .map(|(_, folder)| (*folder).to_owned())
                .collect(),
        }
    }

    /// Whether a worker of this role may do the run's work.
    ///
    /// # Errors
    /// The first thing that it may not use.
    pub fn check(&self, spec: &RunSpec, role: Role) -> Result<(), NotAllowed> {
        let needs = spec.needs(role);
        for (at, server) in &needs.servers {
            let is_allowed = server.address().is_ok_and(|address| self.allows_endpoint(&address));
            if !is_allowed {
                return Err(NotAllowed::Endpoint {
                    key: format!("{at}.endpoint"),
                    endpoint: server.base().to_owned(),
                });
            }
            if let Some(variable) = server.api_key_env
                && !self.key_variables.iter().any(|allowed| allowed.covers(variable))
            {
                return Err(NotAllowed::KeyVariable {
                    key: format!("{at}.api_key_env"),
                    variable: variable.to_owned(),
                });
            }
        }
        for (key, folder) in needs.model_folders {
            if !self.model_folders.iter().any(|allowed| is_within(folder, allowed)) {
                return Err(NotAllowed::ModelFolder {
                    key,
                    folder: folder.to_owned(),
                });
            }
        }
        Ok(())
    }

    fn allows_endpoint(&self, address: &ServerAddress) -> bool {
        self.endpoints.iter().any(|allowed| match allowed {
            AllowedEndpoint::Loopback => address.is_loopback(),
            AllowedEndpoint::Under(base) => base.covers(address),
        })
    }
}

/// Whether `path` is `folder` or below it, and `folder` was not the whole machine by chance, as the current folder of a service
/// may be: as it is written, where it cannot climb out by `..`; or as the links on the way lead.
/// A path that is not there is refused like one that is.
fn is_within(path: &Path, folder: &Path) -> bool {
    let absolute = |path: &Path| std::path::absolute(path).ok();
    if folder.is_relative() && absolute(folder).is_none_or(|folder| folder.parent().is_none()) {
        return false;
    }
    let climbs = path.components().any(|component| component == Component::ParentDir);
    let real = folder.canonicalize().ok();
    let folders = [absolute(folder), real.clone()];
    let as_written = !climbs
        && path.as_os_str() != OsStr::new("")
        && absolute(path).is_some_and(|path| folders.iter().flatten().any(|folder| path.starts_with(folder)));
    let as_it_leads = || real.is_some_and(|folder| path.canonicalize().is_ok_and(|path| path.starts_with(folder)));
    as_written || as_it_leads()
}

#[cfg(test)]
mod tests;
