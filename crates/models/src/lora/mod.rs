//! LoRA adapters of a network: initialisation, the flat view that optimizers use, and PEFT files.
//!
//! An adapter is bound to a network's [`AdaptableLayers`] when it is made or loaded: every target names at least one linear layer and every
//! tensor of a file belongs to a target, or loading fails. [`LoraAdapter::manifest`] lets two processes check that they hold the same.

mod adapter;
mod config;
mod error;
mod export;
mod files;
mod fused;
mod gradients;
mod import;
mod layers;
mod merge;
mod names;
mod targets;

pub use adapter::{LoraAdapter, Manifest};
pub use config::LoraConfig;
pub use error::LoraError;
pub use export::{Layout, export_files};
pub use files::{folder_files, folder_files_before, write_files, write_folder};
pub use gradients::LoraGradients;
pub use layers::AdaptableLayers;
