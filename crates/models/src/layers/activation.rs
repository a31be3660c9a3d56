//! Pointwise activations.

use candle_core::Tensor;
use candle_nn::ops;
use serde::Deserialize;

use super::{values, view::widened};
use crate::{
    ModelError,
    ops::{
        Kernels,
        cpu::math::{self, vectorized},
    },
};

/// An activation by its name in transformers' `ACT2FN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum Activation {
    /// x sigmoid(x).
    #[serde(rename = "silu", alias = "swish")]
    Silu,
    /// The exact GELU, with the error function.
    #[serde(rename = "gelu")]
    Gelu,
    /// GELU with the hyperbolic tangent.
    #[serde(rename = "gelu_new", alias = "gelu_pytorch_tanh")]
    GeluTanh,
    /// x sigmoid(1.702 x).
    #[serde(rename = "quick_gelu")]
    QuickGelu,
    /// max(x, 0).
    #[serde(rename = "relu")]
    Relu,
}

impl Activation {
    /// Applies the activation to each element; half types are computed in float32, as PyTorch does.
    pub(crate) fn forward(self, x: &Tensor) -> Result<Tensor, ModelError> {
        let wide = widened(x)?;
        let y = match self {
            Self::Silu => wide.silu()?,
            Self::Gelu => wide.gelu_erf()?,
            Self::GeluTanh => wide.gelu()?,
            Self::QuickGelu => (&wide * ops::sigmoid(&(&wide * 1.702)?)?)?,
            Self::Relu => wide.relu()?,
        };
        Ok(y.to_dtype(x.dtype())?)
    }
}

/// activation(gate) * up, for tensors of one shape.
pub(crate) fn gated(
    activation: Activation,
    kernels: Kernels,
    gate: &Tensor,
    up: &Tensor,
) -> Result<Tensor, ModelError> {
    if activation != Activation::Silu || !kernels.fuse(gate) {
        return Ok((activation.forward(gate)? * up)?);
    }
    let mut product = values(up)?.slice().to_vec();
    silu_times(values(gate)?.slice(), &mut product);
    Ok(Tensor::from_vec(product, gate.dims(), gate.device())?)
}

vectorized! {
    /// product *= silu(gate).
    fn silu_times<'a>(gate: &'a [f32], product: &'a mut [f32]) {
        for (product, gate) in product.iter_mut().zip(gate) {
            *product *= gate * math::sigmoid(*gate);
        }
    }
}
