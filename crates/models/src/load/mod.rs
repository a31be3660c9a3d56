//! Reading a Hugging Face component folder: weights, and the JSON files beside them.
//!
//! Weight files are memory-mapped, so that opening a folder costs little and each tensor is copied once, to where it is
//! used. Everything that can be wrong with a folder has its own error, which names the file and, where one fits, the remedy.

mod config;
mod counts;
mod error;
mod fingerprint;
mod formats;
mod gpu;
mod placement;
mod rewrite;
mod weights;

pub(crate) use config::{optional_size, optional_sizes, read_text, require_positive, size, sizes};
pub use config::{read_config, read_json};
pub use counts::WeightCounts;
pub use error::LoadError;
pub use fingerprint::fingerprint;
pub use gpu::gpu_memory;
pub use placement::Placement;
pub use weights::Weights;
