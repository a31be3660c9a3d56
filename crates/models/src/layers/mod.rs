//! Layers of the frozen encoders and decoders: forward only, no adapters.
//!
//! Each layer has one implementation in candle's tensor calls and kernels of our own (`ops/candle`), for any device, and a fused one for float32
//! on the CPU. Its `Kernels` say which it may take.
//! The fused ones compute each output element by a fixed sequence of operations, so that a result depends neither on the
//! number of threads nor on what else is computed beside it.

mod activation;
mod attention;
mod channel_norm;
mod conv;
mod conv_kernel;
mod conv_product;
mod linear;
mod norm;
mod patches;
mod rotary;
#[cfg(test)]
mod tests;
mod view;

pub(crate) use activation::{Activation, gated};
pub(crate) use attention::{Attention, Mask, attention};
pub(crate) use channel_norm::ChannelNorm;
pub(crate) use conv::{Conv2d, ConvShape, Upsampling};
pub(crate) use linear::{Bias, Linear};
pub(crate) use norm::{GroupNorm, LayerNorm, RmsNorm};
pub(crate) use rotary::Rotary;
pub(crate) use view::{Values, matrix, values};

pub(crate) use crate::ops::candle::Then;
