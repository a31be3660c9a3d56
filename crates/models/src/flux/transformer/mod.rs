//! The FLUX transformer.
