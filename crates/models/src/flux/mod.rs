//! FLUX text-to-image: the transformer (with its backward), and the pipeline around it.

pub mod pipeline;
pub mod transformer;
