//! What can go wrong while training.

use gavel_core::{Hint, ids::Digest};
use gavel_models::{LoadError, ModelError, lora::LoraError};

use super::replay::FileError;
use crate::TensorFileError;

/// Training failed; nothing of the policy has changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A model folder cannot be used.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// An adapter does not fit.
    #[error(transparent)]
    Lora(#[from] LoraError),
    /// The adapter that a run is to begin with is not as policies are stored.
    #[error("the initial adapter is not stored as a policy is")]
    InitialForm,
    /// The denoiser refused its input, or a tensor operation failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A trajectory, gradient or optimizer file is not what it should be.
    #[error("{what}")]
    File {
        /// Which one.
        what: String,
        /// What is wrong with it.
        #[source]
        source: TensorFileError,
    },
    /// A trajectory names its conditioning, and that file is not there.
    #[error("{trajectory} names its conditioning, file {conditioning}, which is not beside it")]
    ConditioningAway {
        /// The trajectory's file.
        trajectory: String,
        /// SHA-256 of the conditioning's file.
        conditioning: Digest,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    Io(#[from] FileError),
    /// A trajectory was sampled from another model.
    #[error("{trajectory} was sampled from a transformer with fingerprint {}, this one has {}", found.short(), expected.short())]
    OtherModel {
        /// The trajectory, in words.
        trajectory: String,
        /// This denoiser's fingerprint.
        expected: Digest,
        /// The fingerprint in the trajectory.
        found: Digest,
    },
    /// A trajectory was sampled with another adapter although it should be exactly on-policy.
    #[error("{trajectory} was sampled with the adapter {found}, the policy's is {expected}")]
    OtherAdapter {
        /// The trajectory, in words.
        trajectory: String,
        /// The policy's adapter.
        expected: Digest,
        /// The adapter in the trajectory: its digest, or `base`.
        found: String,
    },
    /// A trajectory's conditioning is none that this denoiser reads.
    #[error("{trajectory} does not fit the model")]
    Conditioning {
        /// The trajectory, in words.
        trajectory: String,
        /// Which tensor, and what it should be.
        #[source]
        source: Box<ModelError>,
    },
    /// A trajectory does not fit this denoiser or the settings.
    #[error("{trajectory}: `{tensor}` has {found}, expected {expected}")]
    Trajectory {
        /// The trajectory, in words.
        trajectory: String,
        /// Which tensor.
        tensor: &'static str,
        /// What it has, in words.
        found: String,
        /// What is needed, in words.
        expected: String,
    },
    /// A timestep is to be trained that carries no noise, and so no log-probability.
    #[error("{trajectory} carries noise in its first {noise_steps} steps only, timestep {timestep} cannot be trained")]
    NoNoise {
        /// The trajectory, in words.
        trajectory: String,
        /// Steps with noise.
        noise_steps: usize,
        /// The step asked for.
        timestep: usize,
    },
    /// The optimizer state belongs to another adapter.
    #[error("the optimizer state is of {found} parameters, the adapter has {expected}")]
    OptimizerSize {
        /// Parameters of the adapter.
        expected: usize,
        /// Parameters of the state.
        found: usize,
    },
    /// The optimizer state lacks the average that the settings ask for, or has one that they do not.
    #[error("the optimizer state {}, but `optimizer.ema_decay` is {ema_decay}", if *found { "holds an average" } else { "holds no average" })]
    Average {
        /// Whether the state holds one.
        found: bool,
        /// The setting.
        ema_decay: f64,
    },
    /// The summed gradient is not finite, although each part was.
    #[error("the step's summed gradient is not finite (norm {norm})")]
    GradientNotFinite {
        /// Its norm.
        norm: f64,
    },
    /// Trajectories of one update were sampled in different ways.
    #[error("{trajectory} has {setting} {found}, the first one has {first}: one update trains one schedule")]
    Mixed {
        /// The trajectory, in words.
        trajectory: String,
        /// The setting in which it differs.
        setting: &'static str,
        /// Its value.
        found: String,
        /// The first trajectory's.
        first: String,
    },
    /// The rewards file does not fit the trajectories.
    #[error("rewards: {problem}")]
    Rewards {
        /// What is wrong.
        problem: String,
    },
}

impl Error {
    /// Names the file in which a [`TensorFileError`] occurred.
    pub fn in_file(what: impl Into<String>) -> impl FnOnce(TensorFileError) -> Self {
        let what = what.into();
        move |source| Self::File { what, source }
    }
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Model(error.into())
    }
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::InitialForm => "submit the run with `gavel submit` or `gavel run`, which store it so",
            Self::Load(error) => return error.hint(),
            Self::Lora(error) => return error.hint(),
            Self::Model(error) => return error.hint(),
            Self::Io(_) => return None,
            Self::ConditioningAway { .. } => {
                "read it where the run's blobs are, or put the blob of that hash beside it under its hash as name; `gavel sample` writes trajectories that hold it"
            }
            Self::File { source, .. } => return source.hint(),
            Self::OtherModel { .. } => "give samplers and trainers the same `model.path`, with the same files",
            Self::OtherAdapter { .. } => "sample and train with the same adapter",
            Self::Mixed { .. } => "replay each kind by itself, one after the other with --adapter",
            Self::Trajectory { .. } | Self::Conditioning { .. } | Self::NoNoise { .. } => {
                "train with the sampling settings that the trajectories were recorded with"
            }
            Self::OptimizerSize { .. } | Self::Average { .. } => {
                "the optimizer state belongs to another adapter or other settings: start without it"
            }
            Self::GradientNotFinite { .. } => "lower `optimizer.learning_rate` or the rewards",
            Self::Rewards { .. } => {
                "write {\"rewards\": [..]} in the order of --trajectory, or {\"rewards\": {\"file name\": reward, ..}}"
            }
        };
        Some(hint.to_owned())
    }
}
