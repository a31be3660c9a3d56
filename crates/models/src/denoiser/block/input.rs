//! The projections of text and latents to the residual stream.

use super::Pass;
use crate::denoiser::loader::{AdaptableLinear, LayerSource, Loader};
use crate::ops::Backend;
use crate::{LoadError, ModelError};

/// A layer for the tokens of each stream.
pub(crate) struct InputLayers<S: LayerSource> {
    image: AdaptableLinear<S>,
    text: AdaptableLinear<S>,
}

/// What the input layers read, (rows of the stream, channels); their backward reads it again.
pub(crate) struct StreamInputs<A> {
    pub(crate) text: A,
    pub(crate) image: A,
}

impl<S: LayerSource> InputLayers<S> {
    /// Takes the layers of these (name, input channels).
    pub(crate) fn load(
        root: &mut Loader<'_, S>,
        image: (&str, usize),
        text: (&str, usize),
        dim: usize,
    ) -> Result<Self, LoadError> {
        Ok(Self {
            image: root.linear(image.0, image.1, dim)?,
            text: root.linear(text.0, text.1, dim)?,
        })
    }

    /// The layers that an adapter can bind to.
    pub(crate) fn linears(&self) -> Vec<&AdaptableLinear<S>> {
        vec![&self.image, &self.text]
    }
}

impl<B: Backend> InputLayers<B> {
    /// The residual stream (rows, dim).
    pub(crate) fn forward(&self, pass: &Pass<B>, inputs: &StreamInputs<B::Array>) -> Result<B::Array, ModelError> {
        let (backend, layout) = (pass.backend, pass.layout);
        let text = backend.linear(&inputs.text, &pass.joint(&self.text, layout.text_rows().len()))?;
        let image = backend.linear(&inputs.image, &pass.joint(&self.image, layout.image_rows().len()))?;
        backend.concat_rows(&[&text, &image])
    }

    /// Adds the adapters' gradients; `grad` is that of the residual stream.
    pub(crate) fn vjp(
        &self,
        pass: &Pass<B>,
        inputs: &StreamInputs<B::Array>,
        grad: &B::Array,
        gradients: &mut B::Gradients,
    ) -> Result<(), ModelError> {
        let (backend, layout) = (pass.backend, pass.layout);
        let streams = [
            (&self.text, &inputs.text, layout.text_rows()),
            (&self.image, &inputs.image, layout.image_rows()),
        ];
        for (linear, input, rows) in streams {
            let segments = pass.joint(linear, rows.len());
            backend.lora_vjp(input, &segments, &backend.rows(grad, rows)?, gradients)?;
        }
        Ok(())
    }
}
