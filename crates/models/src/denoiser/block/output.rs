//! The output norm and projection.

use super::{InputGradient, Pass};
use crate::denoiser::loader::{AdaptableLinear, LayerSource, Loader};
use crate::ops::{Backend, Modulation};
use crate::{LoadError, ModelError};

/// The modulated norm after the last block, diffusers' `AdaLayerNormContinuous`, and the projection to the velocity.
pub(crate) struct OutputLayers<S: LayerSource> {
    norm: S::Projection,
    projection: AdaptableLinear<S>,
}

/// Chunks of the modulation: `AdaLayerNormContinuous` has the scale first, unlike the blocks.
const SCALE: usize = 0;
const SHIFT: usize = 1;

impl<S: LayerSource> OutputLayers<S> {
    /// Takes `norm_out` and `proj_out`.
    pub(crate) fn load(root: &mut Loader<'_, S>, dim: usize, channels: usize) -> Result<Self, LoadError> {
        Ok(Self {
            norm: root.fixed_linear("norm_out.linear", dim, 2 * dim)?,
            projection: root.linear("proj_out", dim, channels)?,
        })
    }

    /// The layers that an adapter can bind to.
    pub(crate) fn linears(&self) -> Vec<&AdaptableLinear<S>> {
        vec![&self.projection]
    }
}

impl<B: Backend> OutputLayers<B> {
    /// The velocity (target rows, channels) of the last block's output (target rows, dim).
    pub(crate) fn forward(&self, pass: &Pass<B>, last: &B::Array) -> Result<B::Array, ModelError> {
        let normed = self.normed(pass, last)?.0;
        let rows = pass.layout.target_only().rows();
        pass.backend.linear(&normed, &pass.joint(&self.projection, rows))
    }

    /// Adds the adapter's gradient and returns the gradient of `last`, if it is needed.
    pub(crate) fn vjp(
        &self,
        pass: &Pass<B>,
        last: &B::Array,
        grad: &B::Array,
        input: InputGradient,
        gradients: &mut B::Gradients,
    ) -> Result<Option<B::Array>, ModelError> {
        let (backend, layout) = (pass.backend, pass.layout.target_only());
        let (normed, chunks) = self.normed(pass, last)?;
        let segments = pass.joint(&self.projection, layout.rows());
        backend.lora_vjp(&normed, &segments, grad, gradients)?;
        if input == InputGradient::Unused {
            return Ok(None);
        }
        let grad = backend.linear_vjp(&segments, grad)?;
        backend
            .modulated_norm_vjp(last, layout, joint(&chunks), SCALE, &grad, None)
            .map(Some)
    }

    /// The modulated norm, and its modulation.
    fn normed(&self, pass: &Pass<B>, last: &B::Array) -> Result<(B::Array, B::Array), ModelError> {
        let chunks = pass.modulation(&self.norm)?;
        let layout = pass.layout.target_only();
        let normed = pass
            .backend
            .modulated_norm(last, layout, joint(&chunks), SHIFT, SCALE)?;
        Ok((normed, chunks))
    }
}

fn joint<A>(chunks: &A) -> Modulation<'_, A> {
    Modulation {
        text: chunks,
        image: chunks,
        source: None,
    }
}
