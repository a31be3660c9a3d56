//! The single-stream block.

use crate::denoiser::block::{BlockSizes, InputGradient, Pass, has_adapter};
use crate::denoiser::loader::{AdaptableLinear, LayerSource, Loader};
use crate::ops::{Attention, Backend, Modulation, Queries};
use crate::{LoadError, ModelError};

/// A block in which all tokens share weights, with attention and MLP side by side.
pub(super) struct SingleBlock<S: LayerSource> {
    modulation: S::Projection,
    norm: S::HeadNorm,
    qkv: AdaptableLinear<S>,
    mlp: AdaptableLinear<S>,
    out: AdaptableLinear<S>,
    /// [`Queries::Image`] in the last block, whose output has image rows only.
    queries: Queries,
}

/// Chunks of the modulation of a single block.
mod single_chunk {
    pub(super) const SHIFT: usize = 0;
    pub(super) const SCALE: usize = 1;
    pub(super) const GATE: usize = 2;
}

/// What the backward of a single block reads.
pub(super) struct SingleTape<A> {
    x: A,
    modulation: A,
    qkv: A,
    attended: A,
    log_sum_exp: A,
    /// Before the GELU.
    hidden: A,
}

impl<S: LayerSource> SingleBlock<S> {
    /// `queries` is [`Queries::Image`] for the last block, whose output has image rows only.
    pub(super) fn load(mut block: Loader<'_, S>, sizes: BlockSizes, queries: Queries) -> Result<Self, LoadError> {
        let BlockSizes { dim, head_dim } = sizes;
        let modulation = block.fixed_linear("norm.linear", dim, 3 * dim)?;
        let mut attention = block.pp("attn");
        let norm = attention.head_norm("norm_q", "norm_k", head_dim)?;
        let qkv = attention.fused_linear(&["to_q", "to_k", "to_v"], dim, dim)?;
        Ok(Self {
            modulation,
            norm,
            qkv,
            mlp: block.linear("proj_mlp", dim, 4 * dim)?,
            out: block.linear("proj_out", 5 * dim, dim)?,
            queries,
        })
    }

    /// The layers that an adapter can bind to.
    pub(super) fn linears(&self) -> Vec<&AdaptableLinear<S>> {
        vec![&self.qkv, &self.mlp, &self.out]
    }
}

impl<B: Backend> SingleBlock<B> {
    fn attention<'a>(&'a self, pass: &Pass<'a, B>) -> Attention<'a, B> {
        Attention {
            layout: pass.layout,
            queries: self.queries,
            text_norm: &self.norm,
            image_norm: &self.norm,
            rotary: pass.rotary,
        }
    }

    /// Returns (output, tape); `x` is (rows, dim).
    pub(super) fn forward(&self, pass: &Pass<B>, x: B::Array) -> Result<(B::Array, SingleTape<B::Array>), ModelError> {
        use single_chunk::{GATE, SCALE, SHIFT};
        let (backend, layout, queries) = (pass.backend, pass.layout, self.queries);
        let output_layout = queries.layout(layout);
        let shifts_and_gates = pass.modulation(&self.modulation)?;
        let modulation = Modulation {
            text: &shifts_and_gates,
            image: &shifts_and_gates,
            source: None,
        };

        let normed = backend.modulated_norm(&x, layout, modulation, SHIFT, SCALE)?;
        let qkv = backend.linear(&normed, &pass.joint(&self.qkv, layout.rows()))?;
        let normed = pass.asking_rows(queries, &normed)?;
        let (hidden, activated) = backend.linear_gelu(&normed, &pass.joint(&self.mlp, output_layout.rows()))?;
        let (attended, log_sum_exp) = backend.attention(&qkv, &self.attention(pass))?;
        let branches = backend.concat_columns(&attended, &activated)?;
        let projected = backend.linear(&branches, &pass.joint(&self.out, output_layout.rows()))?;
        let residual = pass.asking_rows(queries, &x)?;
        let output = backend.gated_residual(&residual, &projected, output_layout, modulation, GATE)?;
        Ok((
            output,
            SingleTape {
                x,
                modulation: shifts_and_gates,
                qkv,
                attended,
                log_sum_exp,
                hidden,
            },
        ))
    }

    /// Adds the adapters' gradients and returns the gradient of the block's input, if it is needed.
    pub(super) fn vjp(
        &self,
        pass: &Pass<B>,
        tape: SingleTape<B::Array>,
        grad: B::Array,
        input: InputGradient,
        gradients: &mut B::Gradients,
    ) -> Result<Option<B::Array>, ModelError> {
        use single_chunk::{GATE, SCALE, SHIFT};
        let (backend, layout, queries) = (pass.backend, pass.layout, self.queries);
        let (output_layout, dim) = (queries.layout(layout), pass.dim);
        let modulation = Modulation {
            text: &tape.modulation,
            image: &tape.modulation,
            source: None,
        };

        let grad_projected = backend.gated_residual_vjp(&grad, output_layout, modulation, GATE)?;
        let segments = pass.joint(&self.out, output_layout.rows());
        let grad_branches = backend.linear_vjp(&segments, &grad_projected)?;
        let grad_attended = backend.columns(&grad_branches, 0..dim)?;
        let (activated, grad_hidden) =
            backend.gelu_vjp(&tape.hidden, &backend.columns(&grad_branches, dim..5 * dim)?)?;
        if has_adapter(&segments) {
            let branches = backend.concat_columns(&tape.attended, &activated)?;
            backend.lora_vjp(&branches, &segments, &grad_projected, gradients)?;
        }

        let op = self.attention(pass);
        let grad_qkv = backend.attention_vjp(&tape.qkv, &op, &tape.attended, &tape.log_sum_exp, &grad_attended)?;
        let qkv = pass.joint(&self.qkv, layout.rows());
        let mlp = pass.joint(&self.mlp, output_layout.rows());
        if has_adapter(&qkv) || has_adapter(&mlp) {
            let normed = backend.modulated_norm(&tape.x, layout, modulation, SHIFT, SCALE)?;
            backend.lora_vjp(&normed, &qkv, &grad_qkv, gradients)?;
            if has_adapter(&mlp) {
                backend.lora_vjp(&pass.asking_rows(queries, &normed)?, &mlp, &grad_hidden, gradients)?;
            }
        }
        if input == InputGradient::Unused {
            return Ok(None);
        }
        let grad_normed = backend.linear_vjp(&qkv, &grad_qkv)?;
        let from_mlp = pass.all_rows(queries, backend.linear_vjp(&mlp, &grad_hidden)?)?;
        let grad_normed = backend.add(grad_normed, &from_mlp)?;
        let residual = Some(pass.all_rows(queries, grad)?);
        backend
            .modulated_norm_vjp(&tape.x, layout, modulation, SCALE, &grad_normed, residual)
            .map(Some)
    }
}
