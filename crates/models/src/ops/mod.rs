//! The operations of a diffusion transformer, each with its forward and its vector-Jacobian product.
//!
//! A block is written once, against [`Backend`]. Two implementations exist: [`cpu::Cpu`], fused float32 kernels, and
//! [`candle::Reference`], plain candle calls on any device and dtype. Which one serves a model is decided in one place,
//! where its weights are loaded.
//!
//! All activations are matrices: one row per token, ordered as [`Layout`] says. A sample's result never depends on the other
//! samples of its batch or on the number of threads: work is split over rows and heads, never over a sum.

mod backend;
pub(crate) mod candle;
pub(crate) mod cpu;
#[cfg(test)]
mod tests;

pub(crate) use backend::{Attention, Backend, Conditioning, Factors, Layout, Queries, Segment, Stream};
