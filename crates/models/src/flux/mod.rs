//! FLUX text-to-image: the transformer (with its backward), the pipeline around it, and a look at a folder without
//! loading it.

pub mod inspect;
pub mod pipeline;
pub mod transformer;

pub use inspect::FluxInspection;
pub use pipeline::FluxPipeline;
pub use transformer::FluxTransformer;

/// Names of FLUX's conditioning: T5's states (text tokens, joint width), and CLIP's pooled states (width,).
pub const PROMPT_EMBEDS: &str = "prompt_embeds";
/// See [`PROMPT_EMBEDS`].
pub const POOLED_PROMPT_EMBEDS: &str = "pooled_prompt_embeds";
