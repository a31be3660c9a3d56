//! Diffusion and vision-language models on candle: the diffusion families of the policy, Qwen2.5-VL, Qwen3-VL and CLIP for the judge.
//!
//! Whoever samples or trains goes through [`Family`], which opens a folder as a [`denoiser::Denoiser`] or a
//! [`denoiser::Pipeline`]; no other crate names a family.
//!
//! Loads unmodified Hugging Face folders, computes where and as a [`load::Placement`] says, and knows nothing of
//! the fleet: no async, no gRPC. Gradients come from explicit vector-Jacobian products, never from candle's autograd.

pub mod clip;
pub mod denoiser;
pub mod dinov2;
pub mod error;
mod family;
pub mod flux;
mod layers;
pub mod load;
pub mod lora;
pub mod ops;
pub mod qwen;
mod resize;
pub mod text;
pub mod vae;
pub mod vlm;

pub use error::ModelError;
pub use family::{Family, UnknownFamily};
pub use load::{LoadError, Weights};
