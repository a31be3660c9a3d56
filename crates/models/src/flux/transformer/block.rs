//! The two kinds of blocks: forward, and the vector-Jacobian product from what the forward kept.

use crate::LoadError;
use crate::ModelError;
use crate::denoiser::loader::{AdaptableLinear, BoundAdapter, LayerSource, Loader};
use crate::ops::{Attention, Backend, Layout, Modulation, Queries, Segment};

/// What all blocks of one pass share.
pub(super) struct Pass<'a, B: Backend> {
    pub(super) backend: &'a B,
    pub(super) layout: Layout,
    pub(super) rotary: &'a B::Rotary,
    pub(super) adapter: Option<&'a BoundAdapter<B>>,
    /// SiLU of the timestep, guidance and pooled embedding, (batch, dim).
    pub(super) embedding: &'a B::Array,
    pub(super) dim: usize,
}

/// Widths of a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockSizes {
    /// Of the residual stream.
    pub(super) dim: usize,
    pub(super) head_dim: usize,
}

/// Whether the gradient of a block's input is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InputGradient {
    Needed,
    /// No adapter lies before the block.
    Unused,
}

impl<B: Backend> Pass<'_, B> {
    fn adapted(&self, linear: &AdaptableLinear<B>) -> Option<&B::Adapted> {
        self.adapter.and_then(|adapter| adapter.get(linear))
    }

    /// One layer for the rows of each stream.
    fn per_stream<'s>(&'s self, text: &'s AdaptableLinear<B>, image: &'s AdaptableLinear<B>) -> [Segment<'s, B>; 2] {
        [(text, self.layout.text_rows()), (image, self.layout.image_rows())].map(|(linear, rows)| Segment {
            rows,
            projection: &linear.projection,
            adapted: self.adapted(linear),
        })
    }

    /// One layer for `rows` rows.
    pub(super) fn joint<'s>(&'s self, linear: &'s AdaptableLinear<B>, rows: usize) -> [Segment<'s, B>; 1] {
        [Segment {
            rows: 0..rows,
            projection: &linear.projection,
            adapted: self.adapted(linear),
        }]
    }

    /// Shifts, scales and gates from the embedding.
    pub(super) fn modulation(&self, linear: &B::Projection) -> Result<B::Array, ModelError> {
        self.backend.linear(
            self.embedding,
            &[Segment {
                rows: 0..self.layout.batch,
                projection: linear,
                adapted: None,
            }],
        )
    }

    /// A matrix of image rows with zero text rows before it.
    pub(super) fn with_silent_text(&self, image: &B::Array) -> Result<B::Array, ModelError> {
        let rows = self.layout.text_rows().len();
        let text = self.backend.zeros(rows, self.dim)?;
        self.backend.concat_rows(&text, image)
    }
}

fn has_adapter<B: Backend>(segments: &[Segment<B>]) -> bool {
    segments.iter().any(|segment| segment.adapted.is_some())
}

/// A block in which text and image tokens have their own weights and meet in the attention.
pub(super) struct DoubleBlock<S: LayerSource> {
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
pub(super) struct DoubleTape<A> {
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
    pub(super) fn load(mut block: Loader<'_, S>, sizes: BlockSizes) -> Result<Self, LoadError> {
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
    pub(super) fn linears(&self) -> Vec<&AdaptableLinear<S>> {
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
    pub(super) fn forward(&self, pass: &Pass<B>, x: B::Array) -> Result<(B::Array, DoubleTape<B::Array>), ModelError> {
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
    pub(super) fn vjp(
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

    fn output_layout(&self, layout: Layout) -> Layout {
        match self.queries {
            Queries::All => layout,
            Queries::Image => layout.image_only(),
        }
    }

    /// The rows of `x` that the block goes on with.
    fn output_rows(&self, pass: &Pass<B>, x: &B::Array) -> Result<B::Array, ModelError> {
        match self.queries {
            Queries::All => Ok(x.clone()),
            Queries::Image => pass.backend.rows(x, pass.layout.image_rows()),
        }
    }

    /// The inverse of [`Self::output_rows`] for a gradient.
    fn all_rows(&self, pass: &Pass<B>, grad: B::Array) -> Result<B::Array, ModelError> {
        match self.queries {
            Queries::All => Ok(grad),
            Queries::Image => pass.with_silent_text(&grad),
        }
    }

    /// Returns (output, tape); `x` is (rows, dim).
    pub(super) fn forward(&self, pass: &Pass<B>, x: B::Array) -> Result<(B::Array, SingleTape<B::Array>), ModelError> {
        use single_chunk::{GATE, SCALE, SHIFT};
        let (backend, layout) = (pass.backend, pass.layout);
        let output_layout = self.output_layout(layout);
        let shifts_and_gates = pass.modulation(&self.modulation)?;
        let modulation = Modulation {
            text: &shifts_and_gates,
            image: &shifts_and_gates,
        };

        let normed = backend.modulated_norm(&x, layout, modulation, SHIFT, SCALE)?;
        let qkv = backend.linear(&normed, &pass.joint(&self.qkv, layout.rows()))?;
        let normed = self.output_rows(pass, &normed)?;
        let (hidden, activated) = backend.linear_gelu(&normed, &pass.joint(&self.mlp, output_layout.rows()))?;
        let (attended, log_sum_exp) = backend.attention(&qkv, &self.attention(pass))?;
        let branches = backend.concat_columns(&attended, &activated)?;
        let projected = backend.linear(&branches, &pass.joint(&self.out, output_layout.rows()))?;
        let residual = self.output_rows(pass, &x)?;
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
        let (backend, layout, dim) = (pass.backend, pass.layout, pass.dim);
        let output_layout = self.output_layout(layout);
        let modulation = Modulation {
            text: &tape.modulation,
            image: &tape.modulation,
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
                backend.lora_vjp(&self.output_rows(pass, &normed)?, &mlp, &grad_hidden, gradients)?;
            }
        }
        if input == InputGradient::Unused {
            return Ok(None);
        }
        let grad_normed = backend.linear_vjp(&qkv, &grad_qkv)?;
        let from_mlp = self.all_rows(pass, backend.linear_vjp(&mlp, &grad_hidden)?)?;
        let grad_normed = backend.add(grad_normed, &from_mlp)?;
        let residual = Some(self.all_rows(pass, grad)?);
        backend
            .modulated_norm_vjp(&tape.x, layout, modulation, SCALE, &grad_normed, residual)
            .map(Some)
    }
}
