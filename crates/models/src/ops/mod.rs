//! The operations of a diffusion transformer, each with its forward and its vector-Jacobian product.
//!
//! A block is written once, against `Backend`. Two implementations exist: `cpu::Cpu`, fused float32 kernels, and
//! `candle::CandleOps`, plain candle calls on any device and dtype. `on_backend` decides which one serves a model.
//!
//! All activations are matrices: one row per token, ordered as `Layout` says. A sample's result never depends on the other
//! samples of its batch or on the number of threads: work is split over rows and heads, never over a sum.

mod backend;
pub(crate) mod candle;
mod choice;
pub(crate) mod cpu;
pub(crate) mod fp8;
pub(crate) mod nf4;
#[cfg(test)]
mod tests;
mod weight;

pub(crate) use backend::{Attention, Backend, Factors, GradientSums, Layout, Modulation, Queries, Segment};
pub(crate) use choice::{Kernels, WithBackend, on_backend};
pub(crate) use weight::FrozenWeight;
