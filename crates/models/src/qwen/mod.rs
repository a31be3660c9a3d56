//! Qwen-Image and Qwen-Image-Edit: the transformer (with its backward), the pipeline around it, and a look at a folder without
//! loading it.

mod folder;
pub mod guidance;
pub mod inspect;
pub mod pipeline;
mod prompt;
mod sources;
pub mod transformer;

pub use inspect::QwenImageInspection;
pub use pipeline::QwenImagePipeline;
pub use transformer::{QwenImageTransformer, QwenImageTransformerConfig};

/// Name of the conditioning by the text encoder's states (tokens, joint width).
pub const PROMPT_EMBEDS: &str = "prompt_embeds";

/// Name of the packed latents of source picture `index`, (rows, columns, latent channels): its shape says how its tokens lie.
pub fn source_latents(index: usize) -> String {
    format!("source_latents.{index}")
}
