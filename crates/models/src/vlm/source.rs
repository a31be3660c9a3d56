//! Where the layers of a model come from.

use candle_core::{DType, Device, Tensor};

use super::config::VisionConfig;
use crate::layers::{Bias, Linear, RmsNorm};
use crate::ops::{Kernels, candle::Calls};
use crate::{LoadError, Weights};

/// A folder's weights; or, in the tests that count what a pass costs, none.
pub(super) trait Source {
    /// What the layers compute with.
    type Array: Calls;

    /// A matrix of which rows are taken, as [`Weights::matrix`].
    fn matrix(&self, name: &str, shape: &[usize]) -> Result<Self::Array, LoadError>;
    /// As [`Linear::load`].
    fn linear(&self, name: &str, inputs: usize, outputs: usize, bias: Bias) -> Result<Linear<Self::Array>, LoadError>;
    /// As [`RmsNorm::load`].
    fn rms_norm(&self, name: &str, width: usize, eps: f64) -> Result<RmsNorm<Self::Array>, LoadError>;
    /// The patch embedding as a linear layer over one frame: a still image repeats its frame, so the weights of the frames add.
    fn patch_embedding(&self, name: &str, config: &VisionConfig, bias: Bias) -> Result<Linear<Self::Array>, LoadError>;
    /// What layers compute in.
    fn dtype(&self) -> DType;
    /// Where tensors lie.
    fn place(&self) -> <Self::Array as Calls>::Place;
    /// The kernels that layers may take.
    fn kernels(&self) -> Kernels;
    /// As [`crate::load::Placement::is_host`].
    fn is_host(&self) -> bool;
}

impl Source for Weights {
    type Array = Tensor;

    fn matrix(&self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        Weights::matrix(self, name, shape)
    }

    fn linear(&self, name: &str, inputs: usize, outputs: usize, bias: Bias) -> Result<Linear, LoadError> {
        Linear::load(self, name, inputs, outputs, bias)
    }

    fn rms_norm(&self, name: &str, width: usize, eps: f64) -> Result<RmsNorm, LoadError> {
        RmsNorm::load(self, name, width, eps)
    }

    fn patch_embedding(&self, name: &str, config: &VisionConfig, bias: Bias) -> Result<Linear, LoadError> {
        let (width, frames, patch) = (config.hidden_size, config.temporal_patch_size, config.patch_size);
        let weight = self.get(&format!("{name}.weight"), &[width, 3, frames, patch, patch])?;
        let bias = match bias {
            Bias::None => None,
            Bias::Added => Some(self.get(&format!("{name}.bias"), &[width])?),
        };
        weight
            .sum(2)
            .and_then(|frame| frame.reshape((width, 3 * patch * patch)))
            .and_then(|frame| Linear::new(&frame, bias, self.kernels()))
            .map_err(|source| self.candle(source))
    }

    fn dtype(&self) -> DType {
        self.placement().dtype()
    }

    fn place(&self) -> Device {
        self.placement().device().clone()
    }

    fn kernels(&self) -> Kernels {
        Weights::kernels(self)
    }

    fn is_host(&self) -> bool {
        self.placement().is_host()
    }
}
