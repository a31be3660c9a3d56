//! The double-stream block.

use super::{BlockSizes, InputGradient, Pass, has_adapter};
use crate::denoiser::loader::{AdaptableLinear, LayerSource, Loader};
use crate::ops::{Attention, Backend, Modulation, Queries};
use crate::{LoadError, ModelError};

/// A block in which text and image tokens have their own weights and meet in the attention.
pub(crate) struct DoubleBlock<S: LayerSource> {
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
    /// [`Queries::Image`] in a last block whose text output nobody reads: its output has image rows only.
    queries: Queries,
}

/// What a family calls the layers of a double block. The layers of the attention have the same names in all of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DoubleNames {
    pub(crate) text_modulation: &'static str,
    pub(crate) image_modulation: &'static str,
    pub(crate) text_ff: &'static str,
    pub(crate) image_ff: &'static str,
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
pub(crate) struct DoubleTape<A> {
    x: A,
    text_modulation: A,
    image_modulation: A,
    source_modulation: Option<A>,
    qkv: A,
    attended: A,
    log_sum_exp: A,
    /// After the attention's residual.
    middle: A,
    /// Before the GELU.
    hidden: A,
}

impl<S: LayerSource> DoubleBlock<S> {
    pub(crate) fn load(
        mut block: Loader<'_, S>,
        names: DoubleNames,
        sizes: BlockSizes,
        queries: Queries,
    ) -> Result<Self, LoadError> {
        let BlockSizes { dim, head_dim } = sizes;
        let text_modulation = block.fixed_linear(names.text_modulation, dim, 6 * dim)?;
        let image_modulation = block.fixed_linear(names.image_modulation, dim, 6 * dim)?;
        let mut attention = block.pp("attn");
        let text_norm = attention.head_norm("norm_added_q", "norm_added_k", head_dim)?;
        let image_norm = attention.head_norm("norm_q", "norm_k", head_dim)?;
        let text_qkv = attention.fused_linear(&["add_q_proj", "add_k_proj", "add_v_proj"], dim, dim)?;
        let image_qkv = attention.fused_linear(&["to_q", "to_k", "to_v"], dim, dim)?;
        let text_out = attention.linear("to_add_out", dim, dim)?;
        let image_out = attention.linear("to_out.0", dim, dim)?;
        let (mlp_in, mlp_out) = ("net.0.proj", "net.2");
        Ok(Self {
            text_modulation,
            image_modulation,
            text_norm,
            image_norm,
            text_qkv,
            image_qkv,
            text_out,
            image_out,
            text_ff_in: block.pp(names.text_ff).linear(mlp_in, dim, 4 * dim)?,
            image_ff_in: block.pp(names.image_ff).linear(mlp_in, dim, 4 * dim)?,
            text_ff_out: block.pp(names.text_ff).linear(mlp_out, 4 * dim, dim)?,
            image_ff_out: block.pp(names.image_ff).linear(mlp_out, 4 * dim, dim)?,
            queries,
        })
    }

    /// The layers that an adapter can bind to.
    pub(crate) fn linears(&self) -> Vec<&AdaptableLinear<S>> {
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
            queries: self.queries,
            text_norm: &self.text_norm,
            image_norm: &self.image_norm,
            rotary: pass.rotary,
        }
    }

    /// Returns (output, tape); `x` is (rows, dim), the output (asking rows, dim).
    pub(crate) fn forward(&self, pass: &Pass<B>, x: B::Array) -> Result<(B::Array, DoubleTape<B::Array>), ModelError> {
        use double_chunk::{GATE_ATTENTION, GATE_FF, SCALE_ATTENTION, SCALE_FF, SHIFT_ATTENTION, SHIFT_FF};
        let (backend, layout, queries) = (pass.backend, pass.layout, self.queries);
        let output_layout = queries.layout(layout);
        let text_modulation = pass.modulation(&self.text_modulation)?;
        let image_modulation = pass.modulation(&self.image_modulation)?;
        let source_modulation = pass.source_modulation(&self.image_modulation)?;
        let modulation = Modulation {
            text: &text_modulation,
            image: &image_modulation,
            source: source_modulation.as_ref(),
        };

        let normed = backend.modulated_norm(&x, layout, modulation, SHIFT_ATTENTION, SCALE_ATTENTION)?;
        let qkv = backend.linear(&normed, &pass.per_stream(&self.text_qkv, &self.image_qkv))?;
        let (attended, log_sum_exp) = backend.attention(&qkv, &self.attention(pass))?;
        let segments = pass.per_asking_stream(queries, &self.text_out, &self.image_out);
        let projected = backend.linear(&attended, &segments)?;
        let residual = pass.asking_rows(queries, &x)?;
        let middle = backend.gated_residual(&residual, &projected, output_layout, modulation, GATE_ATTENTION)?;

        let normed = backend.modulated_norm(&middle, output_layout, modulation, SHIFT_FF, SCALE_FF)?;
        let segments = pass.per_asking_stream(queries, &self.text_ff_in, &self.image_ff_in);
        let (hidden, activated) = backend.linear_gelu(&normed, &segments)?;
        let segments = pass.per_asking_stream(queries, &self.text_ff_out, &self.image_ff_out);
        let projected = backend.linear(&activated, &segments)?;
        let output = backend.gated_residual(&middle, &projected, output_layout, modulation, GATE_FF)?;
        let tape = DoubleTape {
            x,
            text_modulation,
            image_modulation,
            source_modulation,
            qkv,
            attended,
            log_sum_exp,
            middle,
            hidden,
        };
        Ok((output, tape))
    }

    /// Adds the adapters' gradients and returns the gradient of the block's input, if it is needed.
    pub(crate) fn vjp(
        &self,
        pass: &Pass<B>,
        tape: DoubleTape<B::Array>,
        grad: B::Array,
        input: InputGradient,
        gradients: &mut B::Gradients,
    ) -> Result<Option<B::Array>, ModelError> {
        use double_chunk::{GATE_ATTENTION, GATE_FF, SCALE_ATTENTION, SCALE_FF, SHIFT_ATTENTION, SHIFT_FF};
        let (backend, layout, queries) = (pass.backend, pass.layout, self.queries);
        let output_layout = queries.layout(layout);
        let modulation = Modulation {
            text: &tape.text_modulation,
            image: &tape.image_modulation,
            source: tape.source_modulation.as_ref(),
        };

        let grad_projected = backend.gated_residual_vjp(&grad, output_layout, modulation, GATE_FF)?;
        let segments = pass.per_asking_stream(queries, &self.text_ff_out, &self.image_ff_out);
        let grad_activated = backend.linear_vjp(&segments, &grad_projected)?;
        let (activated, grad_hidden) = backend.gelu_vjp(&tape.hidden, &grad_activated)?;
        backend.lora_vjp(&activated, &segments, &grad_projected, gradients)?;
        let segments = pass.per_asking_stream(queries, &self.text_ff_in, &self.image_ff_in);
        if has_adapter(&segments) {
            let normed = backend.modulated_norm(&tape.middle, output_layout, modulation, SHIFT_FF, SCALE_FF)?;
            backend.lora_vjp(&normed, &segments, &grad_hidden, gradients)?;
        }
        let grad_normed = backend.linear_vjp(&segments, &grad_hidden)?;
        let residual = Some(grad);
        let grad = backend.modulated_norm_vjp(
            &tape.middle,
            output_layout,
            modulation,
            SCALE_FF,
            &grad_normed,
            residual,
        )?;

        let grad_projected = backend.gated_residual_vjp(&grad, output_layout, modulation, GATE_ATTENTION)?;
        let segments = pass.per_asking_stream(queries, &self.text_out, &self.image_out);
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
        let residual = Some(pass.all_rows(queries, grad)?);
        backend
            .modulated_norm_vjp(&tape.x, layout, modulation, SCALE_ATTENTION, &grad_normed, residual)
            .map(Some)
    }
}
