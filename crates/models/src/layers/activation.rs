//! Pointwise activations.

use candle_core::Tensor;
use serde::Deserialize;

use super::values;
use crate::{
    ModelError,
    ops::{
        Kernels,
        candle::{Calls, Function, Operation},
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
    pub(crate) fn forward<T: Calls>(self, kernels: Kernels, x: &T) -> Result<T, ModelError> {
        let operation = match self {
            Self::Silu => Some(Operation::Silu),
            Self::Gelu => Some(Operation::ExactGelu),
            Self::GeluTanh => Some(Operation::Gelu),
            Self::QuickGelu => Some(Operation::QuickGelu),
            // No format loses a digit by it.
            Self::Relu => None,
        };
        if let Some(operation) = operation.filter(|_| !x.fuses(kernels)) {
            return Ok(x.contiguous()?.fused(operation, &[])?);
        }
        Ok(match self {
            Self::Silu => x.each(Function::Silu)?,
            Self::Gelu => x.each(Function::Gelu)?,
            Self::GeluTanh => x.each(Function::GeluTanh)?,
            Self::QuickGelu => x.times(&x.affine(1.702, 0.0)?.each(Function::Sigmoid)?)?,
            Self::Relu => x.each(Function::Relu)?,
        })
    }
}

/// activation(gate) * up, for tensors of one shape.
pub(crate) fn gated<T: Calls>(activation: Activation, kernels: Kernels, gate: &T, up: &T) -> Result<T, ModelError> {
    let operation = match activation {
        Activation::Silu => Some(Operation::SiluTimes),
        Activation::GeluTanh => Some(Operation::GeluTimes),
        _ => None,
    };
    let is_fused = gate.fuses(kernels);
    if let Some(operation) = operation.filter(|_| !is_fused) {
        return Ok(gate.contiguous()?.fused(operation, &[&up.contiguous()?])?);
    }
    if activation != Activation::Silu || !is_fused {
        return Ok(activation.forward(kernels, gate)?.times(up)?);
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
