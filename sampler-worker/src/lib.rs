//! Samples candidates from the policy: stochastic trajectories for training, deterministic images for evaluation.
//!
//! [`Sampler`] is synchronous and knows nothing of the fleet; `gavel sample` calls it directly. [`SamplerWork`] wraps it for
//! a worker. What is sampled depends on model, adapter, prompts and noise keys alone: never on which worker samples, on
//! the number of threads, or on what was sampled before.

#![forbid(unsafe_code)]

mod embeds;
mod png;
pub mod sample;
mod work;

pub use png::encode_png;
pub use sample::{Error, Method, Negative, Policy, Request, Sample, Sampler};
pub use work::SamplerWork;
