//! The policy: sampling from it, training it, and the file in which one hands its trajectories to the other.
//!
//! Everything here runs in the calling process and knows no fleet: no async, no gRPC, no leases. Workers wrap [`Sampler`]
//! and [`Trainer`] with leases and blobs; `gavel sample`, `replay`, `bench` and `doctor` call them directly, and [`in_process`]
//! does a whole step or a whole evaluation. Which diffusion family a model is of is known to `gavel-models` alone: here it
//! is a [`Pipeline`](gavel_models::denoiser::Pipeline) that samples and a [`Denoiser`](gavel_models::denoiser::Denoiser) that is trained.

#![forbid(unsafe_code)]

pub mod conditioning_file;
pub mod in_process;
pub mod sample;
pub mod tensor_file;
pub mod train;
pub mod trajectory;
mod values;

pub use conditioning_file::ConditioningFile;
pub use sample::{Levels, Method, Negative, Policy, Prompt, Request, Sample, Sampler, encode_png, encoding};
pub use tensor_file::{HostTensor, TensorFile, TensorFileError};
pub use train::{
    EncodedPolicy, GradientSettings, Group, OptimizerState, PolicyState, RewardedTrajectory, ShardGradient, Trainer,
};
pub use trajectory::{HostConditioning, Trajectory};
