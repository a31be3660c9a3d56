//! The folder of a run: `adapter/`, `checkpoints/`, `logs/`, the reports, and `state/` with ledger and blobs.

use std::path::{Path, PathBuf};

use gavel_coordinator::blobs::{BlobError, Blobs};
use gavel_coordinator::ledger::{Ledger as _, SqliteLedger};
use gavel_core::RunAssets;
use gavel_core::ids::{Digest, Step};
use gavel_core::spec::RunSpec;
use gavel_core::text;
use gavel_core::work::Policy;
use gavel_models::lora::{LoraConfig, write_folder};
use gavel_policy::train::replay::OPTIMIZER_FILE;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use crate::{Error, RunSource};

/// The weights of an adapter folder, as peft names them.
pub(crate) const WEIGHTS_FILE: &str = "adapter_model.safetensors";

const SPEC_FILE: &str = "spec.json";
const COORDINATOR_FILE: &str = "coordinator.json";
/// Blobs are read here, never stored.
const BLOB_BYTES_MAX: u64 = u64::MAX;

/// The folder of a run.
pub struct RunFolder {
    path: PathBuf,
    spec: RunSpec,
    blobs: OnceCell<Blobs>,
}

/// Where a run's coordinator serves. It also prints this line when it is ready.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CoordinatorAddresses {
    /// Address for workers and clients.
    pub grpc: String,
    /// Address of the dashboard.
    pub http: String,
}

impl RunFolder {
    /// Makes the folder for a new run.
    ///
    /// # Errors
    /// It holds a run already, or cannot be written.
    pub fn create(path: &Path, spec: &RunSpec) -> Result<Self, Error> {
        Self::check_new(path)?;
        let folder = Self::at(path, spec.clone());
        folder.make_logs()?;
        folder.write_spec()?;
        Ok(folder)
    }

    /// Writes the spec whole or not at all.
    fn write_spec(&self) -> Result<(), Error> {
        let unfinished = self.path.join(format!("{SPEC_FILE}.new"));
        std::fs::write(&unfinished, serde_json::to_string_pretty(&self.spec)?)
            .and_then(|()| std::fs::rename(unfinished, self.spec_file()))
            .map_err(|source| self.unwritable(source))
    }

    /// Says whether a new run may have this folder.
    ///
    /// # Errors
    /// It holds a run already.
    pub fn check_new(path: &Path) -> Result<(), Error> {
        // Without a ledger nothing has begun: an earlier start failed, for example because a port was in use.
        if ledger_below(path).exists() {
            return Err(Error::Taken {
                folder: path.to_owned(),
            });
        }
        Ok(())
    }

    /// Opens the folder of a run that is to go on, and notes where its files are now and how many steps it is to have.
    ///
    /// # Errors
    /// There is none, or it was made by another configuration or from other files.
    pub async fn resume(path: &Path, spec: &RunSpec, assets: &RunAssets) -> Result<Self, Error> {
        let file = path.join(SPEC_FILE);
        let text = text::of(std::fs::read(&file)).map_err(|source| Error::NothingToResume {
            folder: path.to_owned(),
            source,
        })?;
        let before = parse_spec(&text, &file)?;
        if before.digest() != spec.digest() && !before.differs_in_steps_alone(spec) {
            return Err(Error::OtherSpec {
                folder: path.to_owned(),
                keys: before.differences(spec),
                file,
            });
        }
        let folder = Self::at(path, spec.clone());
        folder.check_assets(assets).await?;
        folder.make_logs()?;
        folder.write_spec()?;
        Ok(folder)
    }

    /// Compares the files' contents with those that the run was begun with.
    async fn check_assets(&self, assets: &RunAssets) -> Result<(), Error> {
        // Without a ledger nothing has begun: an earlier start failed.
        if !self.ledger().is_file() {
            return Ok(());
        }
        let ledger = SqliteLedger::open(&self.ledger()).await?;
        let record = ledger.run(&self.spec.id()).await?;
        ledger.close().await;
        let Some(record) = record else { return Ok(()) };
        let before: RunAssets = serde_json::from_str(&record.assets).map_err(|source| Error::Record {
            run: record.run,
            part: "assets",
            source,
        })?;
        let differences = before.differences(assets);
        if differences.is_empty() {
            return Ok(());
        }
        Err(Error::OtherFiles {
            folder: self.path.clone(),
            differences: self.spec.with_files(&differences),
        })
    }

    /// Opens the folder of a run that is there, to look into it. `run` is the folder, or its name in `runs/`.
    ///
    /// # Errors
    /// No such folder, or none of a run.
    pub fn open(run: &Path) -> Result<Self, Error> {
        let below = Path::new("runs").join(run);
        let path = if !run.is_dir() && below.is_dir() { &below } else { run };
        let file = path.join(SPEC_FILE);
        let text = text::of(std::fs::read(&file)).map_err(|source| Error::NoRun {
            run: run.to_owned(),
            source,
        })?;
        let folder = Self::at(path, parse_spec(&text, &file)?);
        if !folder.ledger().is_file() {
            return Err(Error::NoLedger { file: folder.ledger() });
        }
        Ok(folder)
    }

    fn at(path: &Path, spec: RunSpec) -> Self {
        Self {
            path: path.to_owned(),
            spec,
            blobs: OnceCell::new(),
        }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The configuration of the run.
    pub fn spec(&self) -> &RunSpec {
        &self.spec
    }

    /// The run's configuration as JSON, with the paths of its last start.
    pub fn spec_file(&self) -> PathBuf {
        self.path.join(SPEC_FILE)
    }

    /// The folder of the processes' logs.
    pub fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// The folder of ledger and blobs.
    pub fn state(&self) -> PathBuf {
        self.path.join("state")
    }

    pub(crate) fn ledger(&self) -> PathBuf {
        ledger_below(&self.path)
    }

    /// The run's blobs, opened once.
    pub(crate) async fn blobs(&self) -> Result<&Blobs, BlobError> {
        let folder = self.state().join("blobs");
        let open = || async { Blobs::open_folder(&folder, BLOB_BYTES_MAX).await };
        self.blobs.get_or_try_init(open).await
    }

    /// Notes where the run's coordinator serves, so that others find it by the folder.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn note_coordinator(&self, addresses: &CoordinatorAddresses) -> Result<(), Error> {
        write(&self.state().join(COORDINATOR_FILE), serde_json::to_string(addresses)?)
    }

    /// Where the run's coordinator serves, or did.
    pub fn coordinator(&self) -> Option<CoordinatorAddresses> {
        let text = text::of(std::fs::read(self.state().join(COORDINATOR_FILE))).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Writes a step's adapter and optimizer state to `checkpoints/step-N/`, unless they are there.
    ///
    /// # Errors
    /// A blob cannot be read or the files not be written.
    pub async fn write_checkpoint(&self, step: Step, policy: &Policy) -> Result<(), Error> {
        let dir = self.path.join("checkpoints").join(format!("step-{step}"));
        let optimizer = dir.join(OPTIMIZER_FILE);
        // Written last, so a folder that has it is complete.
        if optimizer.exists() {
            return Ok(());
        }
        write_adapter(self, policy.adapter, &dir).await?;
        if let Some(averaged) = policy.averaged {
            write_adapter(self, averaged, &dir.join("averaged")).await?;
        }
        write(&optimizer, self.blobs().await?.get(&policy.optimizer).await?)
    }

    fn make_logs(&self) -> Result<(), Error> {
        std::fs::create_dir_all(self.logs()).map_err(|source| self.unwritable(source))
    }

    fn unwritable(&self, source: std::io::Error) -> Error {
        Error::FolderUnwritable {
            folder: self.path.clone(),
            source,
        }
    }
}

/// Writes an adapter as a folder and returns the SHA-256 of its PEFT file.
pub(crate) async fn write_adapter(source: &dyn RunSource, adapter: Digest, dir: &Path) -> Result<Digest, Error> {
    let bytes = source.blob(&adapter).await?;
    write_folder(&bytes, &LoraConfig::from(&source.spec().lora), dir)?;
    Ok(Digest::of(&read(&dir.join(WEIGHTS_FILE))?))
}

fn ledger_below(folder: &Path) -> PathBuf {
    folder.join("state").join("ledger.sqlite")
}

fn parse_spec(text: &str, file: &Path) -> Result<RunSpec, Error> {
    serde_json::from_str(text).map_err(|source| Error::SpecFile {
        file: file.to_owned(),
        source,
    })
}

/// Reads a file of the run's folder.
pub(crate) fn read(file: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(file).map_err(|source| Error::Read {
        file: file.to_owned(),
        source,
    })
}

/// Writes a file of the run's folder.
pub(crate) fn write(file: &Path, bytes: impl AsRef<[u8]>) -> Result<(), Error> {
    std::fs::write(file, bytes).map_err(|source| Error::Write {
        file: file.to_owned(),
        source,
    })
}
