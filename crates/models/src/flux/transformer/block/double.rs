//! The double-stream block.

use super::{BlockSizes, InputGradient, Pass, has_adapter};
use crate::denoiser::loader::{AdaptableLinear, LayerSource, Loader};
use crate::ops::{Attention, Backend, Modulation, Queries};
use crate::{LoadError, ModelError};

/// A block in which text and image tokens have their own weights and meet in the attention.
pub(in super::super) struct DoubleBlock<S: LayerSource> {
    text_modulation: S::Projection,
    image_modulation: S::Projection,
    text_norm: S::HeadNorm,
    image_norm: S::HeadNorm,
    text_qkv: AdaptableLinear<S>,
    image_qkv: AdaptableLinear<S>,
    text_out: AdaptableLinear<S>,
    image_out: AdaptableLinear<S>,
    text_ff_in: AdaptableLinear<S>,
    image_ff_in: AdaptableLinear<S>,
    text_ff_out: AdaptableLinear<S>,
    image_ff_out: AdaptableLinear<S>,
}

/// Chunks of the modulation of a double block.
mod double_chunk {
    pub(super) const SHIFT_ATTENTION: usize = 0;
    pub(super) const SCALE_ATTENTION: usize = 1;
    pub(super) const GATE_ATTENTION: usize = 2;
    pub(super) const SHIFT_FF: usize = 3;
    pub(super) const SCALE_FF: usize = 4;
    pub(super) const GATE_FF: usize = 5;
}

/// What the backward of a double block reads. Norms and activations are computed again, because that costs less than memory.
pub(in super::super) struct DoubleTape<A> {
    x: A,
    text_modulation: A,
    image_modulation: A,
    qkv: A,
    attended: A,
    log_sum_exp: A,
    /// After the attention's residual.
    middle: A,
    /// Before the GELU.
    hidden: A,
}

impl<S: LayerSource> DoubleBlock<S> {
    pub(in super::super) fn load(mut block: Loader<'_, S>, sizes: BlockSizes) -> Result<Self, LoadError> {
        let BlockSizes { dim, head_dim } = sizes;
        let text_modulation = block.fixed_linear("norm1_context.linear", dim, 6 * dim)?;
        let image_modulation = block.fixed_linear("norm1.linear", dim, 6 * dim)?;
        let mut attention = block.pp("attn");
        let text_norm = attention.head_norm("norm_added_q", "norm_added_k", head_dim)?;
        let image_norm = attention.head_norm("norm_q", "norm_k", head_dim)?;
        let text_qkv = attention.fused_linear(&["add_q_proj", "add_k_proj", "add_v_proj"], dim, dim)?;
        let image_qkv = attention.fused_linear(&["to_q", "to_k", "to_v"], dim, dim)?;
        let text_out = attention.linear("to_add_out", dim, dim)?;
        let image_out = attention.linear("to_out.0", dim, dim)?;
        Ok(Self {
            text_modulation,
            image_modulation,
            text_norm,
            image_norm,
            text_qkv,
            image_qkv,
            text_out,
            image_out,
            text_ff_in: block.linear("ff_context.net.0.proj", dim, 4 * dim)?,
            image_ff_in: block.linear("ff.net.0.proj", dim, 4 * dim)?,
            text_ff_out: block.linear("ff_context.net.2", 4 * dim, dim)?,
            image_ff_out: block.linear("ff.net.2", 4 * dim, dim)?,
        })
    }

    /// The layers that an adapter can bind to.
    pub(in super::super) fn linears(&self) -> Vec<&AdaptableLinear<S>> {
        vec![
            &self.text_qkv,
            &self.image_qkv,
            &self.text_out,
            &self.image_out,
            &self.text_ff_in,
            &self.image_ff_in,
            &self.text_ff_out,
            &self.image_ff_out,
        ]
    }
}

impl<B: Backend> DoubleBlock<B> {
    fn attention<'a>(&'a self, pass: &Pass<'a, B>) -> Attention<'a, B> {
        Attention {
            layout: pass.layout,
            queries: Queries::All,
            text_norm: &self.text_norm,
            image_norm: &self.image_norm,
            rotary: pass.rotary,
        }
    }

    /// Returns (output, tape); `x` and the output are (rows, dim).
    pub(in super::super) fn forward(
        &self,
        pass: &Pass<B>,
        x: B::Array,
    ) -> Result<(B::Array, DoubleTape<B::Array>), ModelError> {
        use double_chunk::{GATE_ATTENTION, GATE_FF, SCALE_ATTENTION, SCALE_FF, SHIFT_ATTENTION, SHIFT_FF};
        let (backend, layout) = (pass.backend, pass.layout);
        let text_modulation = pass.modulation(&self.text_modulation)?;
        let image_modulation = pass.modulation(&self.image_modulation)?;
        let modulation = Modulation {
            text: &text_modulation,
            image: &image_modulation,
        };

        let normed = backend.modulated_norm(&x, layout, modulation, SHIFT_ATTENTION, SCALE_ATTENTION)?;
        let qkv = backend.linear(&normed, &pass.per_stream(&self.text_qkv, &self.image_qkv))?;
        let (attended, log_sum_exp) = backend.attention(&qkv, &self.attention(pass))?;
        let projected = backend.linear(&attended, &pass.per_stream(&self.text_out, &self.image_out))?;
        let middle = backend.gated_residual(&x, &projected, layout, modulation, GATE_ATTENTION)?;

        let normed = backend.modulated_norm(&middle, layout, modulation, SHIFT_FF, SCALE_FF)?;
        let (hidden, activated) =
            backend.linear_gelu(&normed, &pass.per_stream(&self.text_ff_in, &self.image_ff_in))?;
        let projected = backend.linear(&activated, &pass.per_stream(&self.text_ff_out, &self.image_ff_out))?;
        let output = backend.gated_residual(&middle, &projected, layout, modulation, GATE_FF)?;
        let tape = DoubleTape {
            x,
            text_modulation,
            image_modulation,
            qkv,
            attended,
            log_sum_exp,
            middle,
            hidden,
        };
        Ok((output, tape))
    }

    /// Adds the adapters' gradients and returns the gradient of the block's input, if it is needed.
    pub(in super::super) fn vjp(
        &self,
        pass: &Pass<B>,
        tape: DoubleTape<B::Array>,
        grad: B::Array,
        input: InputGradient,
        gradients: &mut B::Gradients,
    ) -> Result<Option<B::Array>, ModelError> {
        use double_chunk::{GATE_ATTENTION, GATE_FF, SCALE_ATTENTION, SCALE_FF, SHIFT_ATTENTION, SHIFT_FF};
        let (backend, layout) = (pass.backend, pass.layout);
        let modulation = Modulation {
            text: &tape.text_modulation,
            image: &tape.image_modulation,
        };

        let grad_projected = backend.gated_residual_vjp(&grad, layout, modulation, GATE_FF)?;
        let segments = pass.per_stream(&self.text_ff_out, &self.image_ff_out);
        let grad_activated = backend.linear_vjp(&segments, &grad_projected)?;
        let (activated, grad_hidden) = backend.gelu_vjp(&tape.hidden, &grad_activated)?;
        backend.lora_vjp(&activated, &segments, &grad_projected, gradients)?;
        let segments = pass.per_stream(&self.text_ff_in, &self.image_ff_in);
        if has_adapter(&segments) {
            let normed = backend.modulated_norm(&tape.middle, layout, modulation, SHIFT_FF, SCALE_FF)?;
            backend.lora_vjp(&normed, &segments, &grad_hidden, gradients)?;
        }
        let grad_normed = backend.linear_vjp(&segments, &grad_hidden)?;
        let grad = backend.modulated_norm_vjp(&tape.middle, layout, modulation, SCALE_FF, &grad_normed, Some(grad))?;

        let grad_projected = backend.gated_residual_vjp(&grad, layout, modulation, GATE_ATTENTION)?;
        let segments = pass.per_stream(&self.text_out, &self.image_out);
        backend.lora_vjp(&tape.attended, &segments, &grad_projected, gradients)?;
        let segments_in = pass.per_stream(&self.text_qkv, &self.image_qkv);
        if input == InputGradient::Unused && !has_adapter(&segments_in) {
            return Ok(None);
        }
        let grad_attended = backend.linear_vjp(&segments, &grad_projected)?;
        let op = self.attention(pass);
        let grad_qkv = backend.attention_vjp(&tape.qkv, &op, &tape.attended, &tape.log_sum_exp, &grad_attended)?;
        if has_adapter(&segments_in) {
            let normed = backend.modulated_norm(&tape.x, layout, modulation, SHIFT_ATTENTION, SCALE_ATTENTION)?;
            backend.lora_vjp(&normed, &segments_in, &grad_qkv, gradients)?;
        }
        if input == InputGradient::Unused {
            return Ok(None);
        }
        let grad_normed = backend.linear_vjp(&segments_in, &grad_qkv)?;
        let residual = Some(grad);
        backend
            .modulated_norm_vjp(&tape.x, layout, modulation, SCALE_ATTENTION, &grad_normed, residual)
            .map(Some)
    }
}
