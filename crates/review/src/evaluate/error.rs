//! Why something cannot be evaluated.

use std::io;
use std::path::PathBuf;

use gavel_core::Hint;
use gavel_core::ids::Step;
use gavel_models::lora::LoraError;
use gavel_models::{LoadError, ModelError, UnknownFamily};
use gavel_policy::sample;
use gavel_rubric::AskError;
use gavel_rubric::data::PictureError;

/// An evaluation that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What a subject is said to be is not there.
    #[error("subject `{name}`: there is no `{what}`")]
    Absent {
        /// The subject.
        name: String,
        /// What it is said to be.
        what: String,
    },
    /// A run's folder without a step.
    #[error("subject `{name}`: `{what}` is the folder of a run, whose steps have adapters")]
    WholeRun {
        /// The subject.
        name: String,
        /// The folder.
        what: String,
    },
    /// What follows the `@` is no step.
    #[error("subject `{name}`: `{step}` is no step of a run")]
    Step {
        /// The subject.
        name: String,
        /// What was given.
        step: String,
    },
    /// No step of the run is the best.
    #[error("subject `{name}`: no probe of the run is judged to the end, so no step is the best")]
    NoBest {
        /// The subject.
        name: String,
    },
    /// The run has no such policy.
    #[error("subject `{name}`: the run has no policy of step {step}")]
    NoPolicy {
        /// The subject.
        name: String,
        /// The step.
        step: Step,
        /// The latest committed step.
        committed: Step,
    },
    /// The run of a subject cannot be read.
    #[error("subject `{name}`: its adapter cannot be read")]
    Run {
        /// The subject.
        name: String,
        /// Why not.
        #[source]
        source: Box<crate::Error>,
    },
    /// The adapter of a subject cannot be read, or does not fit the model.
    #[error("subject `{name}`: its adapter cannot be used")]
    Adapter {
        /// The subject.
        name: String,
        /// Why not.
        #[source]
        source: Box<LoraError>,
    },
    /// The run of a subject trained another base.
    #[error("subject `{name}`: {} has fingerprint {found}, the run was trained on {expected}: another model", folder.display())]
    OtherBase {
        /// The subject.
        name: String,
        /// The denoiser's folder.
        folder: PathBuf,
        /// The beginning of its fingerprint.
        found: String,
        /// The beginning of the run's.
        expected: String,
    },
    /// The questions of a record cannot be asked.
    #[error("record {index} of the prompts: its field `questions` {problem}")]
    Questions {
        /// Its number, from 0 on.
        index: usize,
        /// What is wrong with them.
        problem: String,
    },
    /// A folder of pictures lacks some.
    #[error("subject `{name}`: {} has no picture of {first}, and of {count} of the {prompts} prompts in all", folder.display())]
    NoPicture {
        /// The subject.
        name: String,
        /// Its folder.
        folder: PathBuf,
        /// What the first missing picture is of.
        first: String,
        /// Prompts without a picture.
        count: usize,
        /// Prompts.
        prompts: usize,
        /// Pictures that each should have.
        samples: u8,
    },
    /// A picture of a folder is none.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// The base model's folder cannot be read.
    #[error(transparent)]
    Base(#[from] LoadError),
    /// The configuration names a family that there is not.
    #[error(transparent)]
    Family(#[from] UnknownFamily),
    /// A picture cannot be painted.
    #[error(transparent)]
    Sample(#[from] sample::Error),
    /// A picture that was painted elsewhere is none.
    #[error("what was painted elsewhere is no picture")]
    Taken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A picture cannot be compared with its source.
    #[error("a picture cannot be compared with its source")]
    Compare(#[from] ModelError),
    /// A picture cannot be encoded.
    #[error("cannot encode a picture")]
    Encode(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The judge does not answer.
    #[error(transparent)]
    Judge(#[from] AskError),
    /// What is kept cannot be written or read.
    #[error("{}: cannot keep pictures and verdicts", file.display())]
    Kept {
        /// The file or folder.
        file: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A value has no JSON form, or the page's template does not render: a defect.
    #[error("cannot write what came of it")]
    Page(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Absent { .. } => "name `base`, an adapter's folder or file, RUN@STEP, or a folder of pictures".to_owned(),
            Self::WholeRun { what, .. } => format!("name one of its steps: {what}@latest"),
            Self::Step { .. } => "write RUN@7, RUN@latest or RUN@best".to_owned(),
            Self::NoBest { .. } => "a run has probes with `evaluation.every`; name a step by its number".to_owned(),
            Self::NoPolicy { committed, .. } => {
                format!("steps 0 (before the first update) to {committed} are committed")
            }
            Self::Run { source, .. } => return source.hint(),
            Self::Adapter { source, .. } => return source.hint(),
            Self::OtherBase { .. } => {
                "name the folder of the model that the run was trained on, with --set model.path=DIR".to_owned()
            }
            Self::NoPicture { samples: 2.., .. } => {
                "name the pictures of a prompt by its `id` or, where records have none, by its number from 0 on: 7/0000.png, 7/0001.png, or 7-0.png, 7-1.png; or evaluate fewer with --samples".to_owned()
            }
            Self::NoPicture { .. } => {
                "name each picture by its prompt's `id` or, where records have none, by its number from 0 on: 0.png, 1.png".to_owned()
            }
            Self::Questions { .. } => {
                "write it as a list of texts, \"questions\": [\"Is there a red cup?\"], or leave questions out with --no-questions".to_owned()
            }
            Self::Picture(error) => return error.hint(),
            Self::Base(error) => return error.hint(),
            Self::Family(error) => return error.hint(),
            Self::Sample(error) => return error.hint(),
            Self::Judge(error) => return error.hint(),
            Self::Kept { .. } => "choose a folder that this user may write to, with --out".to_owned(),
            Self::Taken(_) | Self::Compare(_) | Self::Encode(_) | Self::Page(_) => return None,
        })
    }
}
