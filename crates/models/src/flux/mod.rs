//! FLUX text-to-image: the transformer (with its backward), the pipeline around it, and a look at a folder without
//! loading it.

pub mod inspect;
pub mod pipeline;
pub mod transformer;
