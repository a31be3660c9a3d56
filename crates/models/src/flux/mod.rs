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

/// The layers that the published recipe adapts: attention and feed-forward of the double blocks, attention of the single ones.
pub(crate) const PUBLISHED_TARGETS: [&str; 12] = [
    "attn.to_q",
    "attn.to_k",
    "attn.to_v",
    "attn.to_out.0",
    "attn.add_q_proj",
    "attn.add_k_proj",
    "attn.add_v_proj",
    "attn.to_add_out",
    "ff.net.0.proj",
    "ff.net.2",
    "ff_context.net.0.proj",
    "ff_context.net.2",
];
