//! Pointwise activations.

use candle_core::Tensor;
use candle_nn::ops;
use serde::Deserialize;

use super::{is_fused, values};
use crate::{
    ModelError,
    ops::cpu::math::{self, vectorized},
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
    /// Applies the activation to each element.
    pub(crate) fn forward(self, x: &Tensor) -> Result<Tensor, ModelError> {
        Ok(match self {
            Self::Silu => x.silu()?,
            Self::Gelu => x.gelu_erf()?,
            Self::GeluTanh => x.gelu()?,
            Self::QuickGelu => (x * ops::sigmoid(&(x * 1.702)?)?)?,
            Self::Relu => x.relu()?,
        })
    }
}

/// activation(gate) * up, for tensors of one shape.
pub(crate) fn gated(activation: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor, ModelError> {
    if activation != Activation::Silu || !is_fused(gate) {
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
