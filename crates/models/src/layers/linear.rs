//! A frozen linear layer.

use candle_core::{DType, Tensor};

use super::{matrix, values};
use crate::{
    LoadError, ModelError, Weights,
    ops::{
        Kernels,
        candle::{Calls, Operation, Weight as TensorWeight},
        cpu::{
            matmul::{Left, Order, Packed, Panels, Start, Threads, product},
            weights::pack,
        },
    },
};

/// Multiplications above which one product is shared among threads; below, threads work on different samples.
const SHARED_WORK: usize = 1 << 25;

/// Whether a layer has a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bias {
    /// y = x W^T.
    None,
    /// y = x W^T + b.
    Added,
}

/// y = x W^T + b.
#[derive(Debug)]
pub(crate) struct Linear<T = Tensor> {
    weight: Weight<T>,
    bias: Option<T>,
    kernels: Kernels,
}

#[derive(Debug)]
enum Weight<T> {
    /// For the CPU's kernels, which compute in float32 whatever the weight is kept in.
    Packed(Packed),
    /// For candle's.
    Tensor(TensorWeight<T>),
}

impl Linear {
    /// Takes `{name}.weight`, which may be quantized, and `{name}.bias`.
    pub(crate) fn load(
        weights: &Weights,
        name: &str,
        inputs: usize,
        outputs: usize,
        bias: Bias,
    ) -> Result<Self, LoadError> {
        let (placement, weight_name, shape) = (weights.placement(), format!("{name}.weight"), [outputs, inputs]);
        let weight = if placement.is_host() {
            Weight::Packed(weights.packed(&weight_name, &shape)?)
        } else {
            let weight = weights.quantizable(&weight_name, &shape)?;
            let weight = TensorWeight::new(&weight, placement.dtype(), placement.device());
            Weight::Tensor(weight.map_err(|source| weights.candle(source))?)
        };
        let bias = match bias {
            Bias::None => None,
            Bias::Added => Some(weights.get(&format!("{name}.bias"), &[outputs])?),
        };
        let kernels = weights.kernels();
        Ok(Self { weight, bias, kernels })
    }

    /// Makes a layer without a bias of a weight that is packed.
    pub(crate) fn of(weight: Packed, kernels: Kernels) -> Self {
        Self {
            weight: Weight::Packed(weight),
            bias: None,
            kernels,
        }
    }

    /// Makes a layer of a weight (outputs, inputs), which computes in its dtype.
    pub(crate) fn new(weight: &Tensor, bias: Option<Tensor>, kernels: Kernels) -> candle_core::Result<Self> {
        let weight = if kernels.fuse(weight) {
            Weight::Packed(pack(weight)?)
        } else {
            Weight::Tensor(TensorWeight::Whole(weight.clone()))
        };
        Ok(Self { weight, bias, kernels })
    }
}

impl<T: Calls> Linear<T> {
    /// Makes a layer of a weight (outputs, inputs) that is multiplied by candle.
    #[cfg(test)]
    pub(crate) fn by_candle(weight: T, bias: Option<T>) -> Self {
        Self {
            weight: Weight::Tensor(TensorWeight::Whole(weight)),
            bias,
            kernels: Kernels::Candle,
        }
    }

    /// The dtype in which the layer computes.
    pub(crate) fn dtype(&self) -> DType {
        match &self.weight {
            Weight::Packed(_) => DType::F32,
            Weight::Tensor(weight) => weight.dtype(),
        }
    }

    /// The kernels that the layer takes.
    pub(crate) fn kernels(&self) -> Kernels {
        self.kernels
    }

    /// Maps (rows, inputs) to (rows, outputs).
    pub(crate) fn forward(&self, x: &T) -> Result<T, ModelError> {
        let weight = match &self.weight {
            Weight::Packed(weight) => weight,
            Weight::Tensor(weight) => {
                let y = x.matmul(&weight.values()?.t()?)?;
                return Ok(match &self.bias {
                    Some(bias) => y.fused(Operation::Biased, &[bias])?,
                    None => y,
                });
            }
        };
        let x = x.tensor()?;
        let (rows, (inputs, outputs)) = (x.dims2()?.0, weight.shape());
        let mut y = vec![0.0; rows * outputs];
        {
            let x = matrix(x)?;
            let bias = self.bias.as_ref().map(T::tensor).transpose()?;
            let bias = bias.map(values).transpose()?;
            let start = bias.as_ref().map_or(Start::Zero, |bias| Start::Bias(bias.slice()));
            let left = Left {
                data: x.slice(),
                stride: x.stride,
                order: Order::RowMajor,
            };
            let threads = if rows * inputs * outputs > SHARED_WORK {
                Threads::All
            } else {
                Threads::One
            };
            product(rows, left, weight, start, &mut y, outputs, threads);
        }
        Ok(T::of(Tensor::from_vec(y, (rows, outputs), x.device())?)?)
    }
}
