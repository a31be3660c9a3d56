//! Pointwise activations.

use candle_core::Tensor;
use serde::Deserialize;

use super::{values, view::widened};
use crate::{
    ModelError,
    ops::{
        Kernels,
        candle::{Calls, Function},
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
    pub(crate) fn forward<T: Calls>(self, x: &T) -> Result<T, ModelError> {
        let wide = widened(x)?;
        let y = match self {
            Self::Silu => wide.each(Function::Silu)?,
            Self::Gelu => wide.each(Function::Gelu)?,
            Self::GeluTanh => wide.each(Function::GeluTanh)?,
            Self::QuickGelu => wide.times(&wide.affine(1.702, 0.0)?.each(Function::Sigmoid)?)?,
            Self::Relu => wide.each(Function::Relu)?,
        };
        Ok(y.to_dtype(x.dtype())?)
    }
}

/// activation(gate) * up, for tensors of one shape.
pub(crate) fn gated<T: Calls>(activation: Activation, kernels: Kernels, gate: &T, up: &T) -> Result<T, ModelError> {
    if activation != Activation::Silu || !gate.fuses(kernels) {
        return Ok(activation.forward(gate)?.times(up)?);
    }
    let (gate, up) = (gate.tensor()?, up.tensor()?);
    let mut product = values(up)?.slice().to_vec();
    silu_times(values(gate)?.slice(), &mut product);
    Ok(T::of(Tensor::from_vec(product, gate.dims(), gate.device())?)?)
}

vectorized! {
    /// product *= silu(gate).
    fn silu_times<'a>(gate: &'a [f32], product: &'a mut [f32]) {
        for (product, gate) in product.iter_mut().zip(gate) {
            *product *= gate * math::sigmoid(*gate);
        }
    }
}
