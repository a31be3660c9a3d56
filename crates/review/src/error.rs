//! Why a run cannot be looked at.

use std::io;
use std::path::PathBuf;

use gavel_client::CallError;
use gavel_coordinator::ReplayError;
use gavel_coordinator::blobs::BlobError;
use gavel_coordinator::ledger::LedgerError;
use gavel_core::Hint;
use gavel_core::ids::{Digest, RunId, Step};
use gavel_core::work::Role;
use gavel_eval::EvalError;
use gavel_models::lora::LoraError;
use gavel_models::{LoadError, UnknownFamily};
use gavel_rubric::AskError;
use gavel_worker::WorkError;

/// Why a run cannot be read, or what follows from it not be written. What is wrong *with* a run is no error but a finding.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A new run may not have this folder.
    #[error("{folder} holds a run already")]
    Taken {
        /// The folder.
        folder: PathBuf,
    },
    /// The text of a rubric that a run names is none.
    #[error("rubric {} of the run holds no criterion", rubric.short())]
    Rubric {
        /// Its fingerprint.
        rubric: Digest,
    },
    /// The run's folder takes no files.
    #[error("{folder}: cannot write to the run's folder")]
    FolderUnwritable {
        /// The folder.
        folder: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// There is nothing to go on with.
    #[error("{folder} holds no run to resume")]
    NothingToResume {
        /// The folder.
        folder: PathBuf,
        /// What happened to its `spec.json`.
        #[source]
        source: io::Error,
    },
    /// The run was begun with another configuration.
    #[error("{folder} was begun with another {}", keys.join(", "))]
    OtherSpec {
        /// The folder.
        folder: PathBuf,
        /// The keys whose values differ.
        keys: Vec<String>,
        /// The file that holds the run's own.
        file: PathBuf,
    },
    /// The run was begun with other contents of its files.
    #[error("{folder} was begun with other contents of {}", differences.join(", "))]
    OtherFiles {
        /// The folder.
        folder: PathBuf,
        /// The keys that name the files, with these.
        differences: Vec<String>,
    },
    /// A folder without `spec.json`.
    #[error("{run} is not the folder of a run")]
    NoRun {
        /// The folder or name that was given.
        run: PathBuf,
        /// What happened to its `spec.json`.
        #[source]
        source: io::Error,
    },
    /// A `spec.json` of another version.
    #[error("{file}: not a run's configuration")]
    SpecFile {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A folder with `spec.json` and no ledger.
    #[error("{file}: there is no ledger")]
    NoLedger {
        /// Where it should be.
        file: PathBuf,
    },
    /// The ledger is of another run than `spec.json`.
    #[error("{ledger}: the ledger has no run `{run}`")]
    OtherRun {
        /// The ledger.
        ledger: PathBuf,
        /// The run of `spec.json`.
        run: RunId,
    },
    /// Nobody there has such a run.
    #[error("{location} has no run `{run}`")]
    NoSuchRun {
        /// A ledger or a coordinator.
        location: String,
        /// The run that was asked for.
        run: RunId,
    },
    /// There is nothing at an address.
    #[error("{location} is not there")]
    NoStore {
        /// The address, without its password.
        location: String,
    },
    /// The coordinator does not answer as it should.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The ledger's row of the run is of another version.
    #[error("run `{run}`: the ledger's {part} cannot be read")]
    Record {
        /// The run.
        run: RunId,
        /// `spec` or `assets`.
        part: &'static str,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// An event that cannot be read, or that the state machine refuses.
    #[error("run `{run}`, event {sequence}: the ledger holds an event that does not apply")]
    Event {
        /// The run.
        run: RunId,
        /// The event's number.
        sequence: u64,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The step cannot be done again, because nothing of it was accepted.
    #[error("run `{run}` has no accepted work of step {step}")]
    NothingAccepted {
        /// The run.
        run: RunId,
        /// The step.
        step: Step,
        /// The latest committed step.
        committed: Step,
    },
    /// The run has not committed this step.
    #[error("run `{run}` has no policy of step {step}")]
    NoPolicy {
        /// The run.
        run: RunId,
        /// The step.
        step: Step,
        /// The latest committed step.
        committed: Step,
    },
    /// The step's adapter was collected.
    #[error("the adapter of step {step} is not kept any more")]
    NotKept {
        /// The step.
        step: Step,
        /// What the blob store says.
        #[source]
        source: BlobError,
    },
    /// A report needs a policy, and the run has made none.
    #[error("run `{run}` has no policy")]
    NothingTrained {
        /// The run.
        run: RunId,
    },
    /// A worker of this process cannot load its model.
    #[error("the {role}'s model cannot be loaded")]
    Model {
        /// The worker's role.
        role: Role,
        /// Why not.
        #[source]
        source: WorkError,
    },
    /// A picture of the run is none.
    #[error("{image}: cannot be read as a picture")]
    Picture {
        /// The blob.
        image: Digest,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file cannot be read.
    #[error("{file}: cannot read")]
    Read {
        /// The file.
        file: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("{file}: cannot write")]
    Write {
        /// The file.
        file: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file holds no JSON.
    #[error("{file}: not valid JSON")]
    Json {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A value has no JSON form.
    #[error("cannot write JSON")]
    NoJson(#[from] serde_json::Error),
    /// The page of a report cannot be filled: a defect.
    #[error("the report's template does not render")]
    Template(#[from] minijinja::Error),
    /// The system gives this process no threads.
    #[error("cannot start the async runtime")]
    Runtime(#[source] io::Error),
    /// The blobs cannot be read.
    #[error("cannot read the run's blobs")]
    Blobs(#[from] BlobError),
    /// The judge does not answer.
    #[error("the judge gives no verdict")]
    Judge(#[source] AskError),
    /// The ledger cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The ledger does not give the run.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// An adapter cannot be written as a folder.
    #[error(transparent)]
    Adapter(#[from] LoraError),
    /// The base model's folder cannot be read, or the merged weights not be written.
    #[error(transparent)]
    Base(#[from] LoadError),
    /// The run is of a family that this version does not know.
    #[error(transparent)]
    Family(#[from] UnknownFamily),
    /// The adapter was trained on another base than the one that it would be merged into.
    #[error("{folder} has fingerprint {found}, the run was trained on {expected}: another model")]
    OtherBase {
        /// The denoiser's folder.
        folder: PathBuf,
        /// The beginning of its fingerprint.
        found: String,
        /// The beginning of the run's.
        expected: String,
    },
    /// The evaluator does not understand a prompt or a picture.
    #[error(transparent)]
    Evaluator(#[from] EvalError),
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Taken { .. } => {
                "go on with it by --resume, choose another folder with --out, or another `run.name` with --set run.name=NAME"
            }
            Self::FolderUnwritable { .. } => "choose a folder that this user may write to, with --out",
            Self::NothingToResume { .. } => "start it without --resume, or name its folder with --out",
            Self::OtherSpec { file, .. } => {
                return Some(format!(
                    "resume with the same configuration and --set options; {} holds it",
                    file.display()
                ));
            }
            Self::OtherFiles { .. } => {
                "put back what these keys named when the run was begun, or start another run with --out and run.name"
            }
            Self::NoRun { .. } => {
                "name the folder that `gavel run` wrote, for example runs/quickstart; it has spec.json at its root"
            }
            Self::SpecFile { .. } | Self::Record { .. } => "use the Gavel version that began the run",
            Self::NoLedger { .. } => "the run has not begun, or its folder was copied without `state/`",
            Self::OtherRun { .. } => {
                "spec.json and state/ are of different runs; put the folder together again from one copy"
            }
            Self::NoSuchRun { .. } => "`gavel status` lists the runs of a coordinator",
            Self::NoStore { .. } => "name the ledger with --ledger and the blobs with --blobs, as the coordinator does",
            Self::Call(error) => return error.hint(),
            Self::Event { .. } => "`gavel audit` lists everything that is wrong with the ledger",
            Self::NothingAccepted { committed, .. } => {
                return Some(format!("steps 1 to {committed} are committed"));
            }
            Self::NoPolicy { committed, .. } => {
                return Some(format!(
                    "steps 0 (before the first update) to {committed} are committed"
                ));
            }
            Self::NotKept { .. } => {
                "the latest step and those of `checkpoints.every` are; leave --step out for the latest"
            }
            Self::NothingTrained { .. } => "resume the run, so that it makes one",
            Self::Model { .. } => "--model and --judge name other folders",
            // Whoever only looks leaves damaged bytes where they are.
            Self::Blobs(BlobError::Corrupt { .. }) => {
                "the file was changed or the disk is failing: restore it from a copy, or resume the run, which makes it again"
            }
            Self::Rubric { .. } => "name another rubric with --rubric FILE",
            Self::Blobs(error) => return error.hint(),
            Self::Judge(error) => return error.hint(),
            Self::Ledger(error) => return error.hint(),
            Self::Replay(error) => return error.hint(),
            Self::Adapter(error) => return error.hint(),
            Self::Base(error) => return error.hint(),
            Self::Family(error) => return error.hint(),
            Self::OtherBase { .. } => "name the folder of the model that the run was trained on, with --model",
            Self::Evaluator(error) => return error.hint(),
            Self::Write { .. } => "choose a folder that this user may write to, and see whether its disk is full",
            Self::Picture { .. }
            | Self::Read { .. }
            | Self::Json { .. }
            | Self::NoJson(_)
            | Self::Template(_)
            | Self::Runtime(_) => return None,
        };
        Some(text.to_owned())
    }
}
