//! The operations in plain candle calls: any device, any float dtype.
//!
//! This is what the fused kernels are held against, and what runs on devices that have none. Matrix products of frozen layers and of
//! attention run in the dtype of the weights; norms, softmax, adapters and gradients are float32 within.
//!
//! Nothing here can read a value back: a pass never waits for the device.

mod adapted;
mod attention;
mod calls;
#[cfg(test)]
pub(crate) mod counted;
mod kernels;
mod weight;

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{DType, Result as CandleResult, Tensor};

use super::{Attention, Backend, Factors, FrozenWeight, GradientSums, Layout, Modulation, Segment};
use crate::ModelError;
use adapted::accumulate;
pub(crate) use adapted::{Adapted, AdaptedGradient};
pub(crate) use attention::{HeadNorm, Rotary};
pub(crate) use calls::{Calls, Function};
pub(crate) use kernels::{Operation, Then, Window, add_product};
pub(crate) use weight::Weight;

/// Epsilon of the modulated LayerNorms.
const LAYER_NORM_EPSILON: f32 = 1e-6;

/// The candle backend.
#[derive(Debug, Clone)]
pub(crate) struct CandleOps<T: Calls = Tensor> {
    /// Where everything lies.
    pub(crate) place: T::Place,
    /// Of frozen weights and activations.
    pub(crate) dtype: DType,
}

/// A frozen linear layer.
#[derive(Debug)]
pub(crate) struct Projection<T> {
    weight: Weight<T>,
    /// (outputs,).
    bias: T,
}

/// Rows that the same row of a modulation matrix modulates.
struct Piece<'a, T> {
    rows: Range<usize>,
    matrix: &'a T,
    sample: usize,
}

impl<T: Calls> Piece<'_, T> {
    /// Chunk `index` of the modulation, (dim,).
    fn chunk(&self, index: usize, dim: usize) -> CandleResult<T> {
        self.matrix
            .narrow(0, self.sample, 1)?
            .narrow(1, index * dim, dim)?
            .reshape(dim)
    }
}

/// Cuts the rows of a token matrix into as few pieces as there are rows of modulation for them.
fn pieces<'a, T>(layout: Layout, modulation: Modulation<'a, T>) -> Vec<Piece<'a, T>> {
    let apart = if modulation.source.is_some() { layout.source } else { 0 };
    let text = (0..layout.batch).map(|sample| (sample, layout.text, modulation.text));
    let image = (0..layout.batch).flat_map(|sample| {
        let target = (sample, layout.image - apart, modulation.image);
        [target, (sample, apart, modulation.source.unwrap_or(modulation.image))]
    });
    let mut pieces: Vec<Piece<'_, T>> = Vec::new();
    let mut start = 0;
    for (sample, tokens, matrix) in text.chain(image).filter(|(_, tokens, _)| *tokens > 0) {
        let end = start + tokens;
        match pieces.last_mut() {
            Some(last) if last.sample == sample && std::ptr::eq(last.matrix, matrix) => last.rows.end = end,
            _ => pieces.push(Piece {
                rows: start..end,
                matrix,
                sample,
            }),
        }
        start = end;
    }
    pieces
}

/// Applies `map` to the rows of each piece and joins them again.
fn map_pieces<T: Calls, const N: usize>(
    inputs: [&T; N],
    pieces: &[Piece<T>],
    map: impl Fn([T; N], &Piece<T>) -> CandleResult<T>,
) -> CandleResult<T> {
    let mut mapped = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let mut rows = inputs.map(Clone::clone);
        for rows in &mut rows {
            *rows = rows.row_range(&piece.rows)?;
        }
        mapped.push(map(rows, piece)?);
    }
    T::cat(&mapped, 0)
}

impl<T: Calls> Backend for CandleOps<T> {
    type Array = T;
    type Projection = Projection<T>;
    type Adapted = Adapted<T>;
    type HeadNorm = HeadNorm<T>;
    type Rotary = Rotary<T>;
    /// By the offset of the first factor of each adapter.
    type Gradients = BTreeMap<usize, AdaptedGradient<T>>;

    /// One sample at a time: how a library rounds a product depends on its number of rows, and a sampler has other batches than a
    /// trainer.
    fn chunks(&self, batch: usize, _tokens: usize) -> Vec<Range<usize>> {
        (0..batch).map(|sample| sample..sample + 1).collect()
    }

    fn projection(&self, weight: &FrozenWeight, bias: &Tensor) -> Result<Projection<T>, ModelError> {
        Ok(Projection {
            weight: Weight::new(weight, self.dtype, &self.place)?,
            bias: T::take(bias, &self.place)?.contiguous()?,
        })
    }

    fn adapt(&self, projection: &Projection<T>, factors: &[Factors]) -> Result<Adapted<T>, ModelError> {
        let (outputs, inputs) = projection.weight.shape();
        Ok(Adapted::new(factors, outputs, inputs, &self.place)?)
    }

    fn head_norm(&self, query: &Tensor, key: &Tensor) -> Result<HeadNorm<T>, ModelError> {
        Ok(HeadNorm::new(
            &T::take(query, &self.place)?,
            &T::take(key, &self.place)?,
        )?)
    }

    fn rotary(&self, angles: &[f64], tokens: usize) -> Result<Rotary<T>, ModelError> {
        Ok(Rotary::new(angles, tokens, &self.place)?)
    }

    fn array(&self, tensor: &Tensor) -> Result<T, ModelError> {
        Ok(T::take(tensor, &self.place)?.to_dtype(self.dtype)?.contiguous()?)
    }

    fn tensor(&self, array: T) -> Result<Tensor, ModelError> {
        Ok(array.to_dtype(DType::F32)?.give()?)
    }

    fn zeros(&self, rows: usize, columns: usize) -> Result<T, ModelError> {
        Ok(T::zeros((rows, columns), self.dtype, &self.place)?)
    }

    fn gradients(&self, _parameters: usize) -> Self::Gradients {
        BTreeMap::new()
    }

    fn total(&self, chunks: Vec<Self::Gradients>) -> Result<GradientSums, ModelError> {
        let mut factors = Vec::new();
        for gradient in chunks.iter().flat_map(BTreeMap::values) {
            factors.extend(gradient.factors()?);
        }
        Ok(GradientSums::Factors(factors))
    }

    fn linear(&self, x: &T, segments: &[Segment<Self>]) -> Result<T, ModelError> {
        let mut outputs = Vec::with_capacity(segments.len());
        for segment in segments {
            let x = x.row_range(&segment.rows)?;
            let Projection { weight, bias } = segment.projection;
            let y = x.matmul(&weight.values()?.t()?)?;
            outputs.push(match segment.adapted {
                Some(adapted) => y.fused(Operation::BiasedAdded, &[bias, &adapted.forward(&x)?])?,
                None => y.fused(Operation::Biased, &[bias])?,
            });
        }
        Ok(T::cat(&outputs, 0)?)
    }

    fn linear_vjp(&self, segments: &[Segment<Self>], grad: &T) -> Result<T, ModelError> {
        let mut outputs = Vec::with_capacity(segments.len());
        for segment in segments {
            let grad = grad.row_range(&segment.rows)?;
            let dx = grad.matmul(&segment.projection.weight.values()?)?;
            outputs.push(match segment.adapted {
                Some(adapted) => dx.fused(Operation::Added, &[&adapted.vjp(&grad)?])?,
                None => dx,
            });
        }
        Ok(T::cat(&outputs, 0)?)
    }

    fn lora_vjp(
        &self,
        x: &T,
        segments: &[Segment<Self>],
        grad: &T,
        gradients: &mut Self::Gradients,
    ) -> Result<(), ModelError> {
        for segment in segments {
            let Some((adapted, offset)) = segment.adapted.and_then(|adapted| Some((adapted, adapted.offset()?))) else {
                continue;
            };
            let gradient = adapted.gradient(&x.row_range(&segment.rows)?, &grad.row_range(&segment.rows)?)?;
            accumulate(gradients, offset, gradient)?;
        }
        Ok(())
    }

    fn modulated_norm(
        &self,
        x: &T,
        layout: Layout,
        modulation: Modulation<T>,
        shift: usize,
        scale: usize,
    ) -> Result<T, ModelError> {
        let dim = x.width();
        let norm = Operation::ModulatedNorm {
            epsilon: LAYER_NORM_EPSILON,
        };
        Ok(map_pieces([x], &pieces(layout, modulation), |[x], piece| {
            x.fused(norm, &[&piece.chunk(scale, dim)?, &piece.chunk(shift, dim)?])
        })?)
    }

    fn modulated_norm_vjp(
        &self,
        x: &T,
        layout: Layout,
        modulation: Modulation<T>,
        scale: usize,
        grad: &T,
        residual: Option<T>,
    ) -> Result<T, ModelError> {
        let dim = x.width();
        let norm = Operation::ModulatedNormVjp {
            epsilon: LAYER_NORM_EPSILON,
        };
        let gradient = map_pieces([x, grad], &pieces(layout, modulation), |[x, grad], piece| {
            x.fused(norm, &[&piece.chunk(scale, dim)?, &grad])
        })?;
        Ok(match residual {
            Some(residual) => residual.plus(&gradient)?,
            None => gradient,
        })
    }

    fn gated_residual(
        &self,
        x: &T,
        y: &T,
        layout: Layout,
        modulation: Modulation<T>,
        gate: usize,
    ) -> Result<T, ModelError> {
        let dim = x.width();
        Ok(map_pieces([x, y], &pieces(layout, modulation), |[x, y], piece| {
            x.fused(Operation::GatedResidual, &[&y, &piece.chunk(gate, dim)?])
        })?)
    }

    fn gated_residual_vjp(
        &self,
        grad: &T,
        layout: Layout,
        modulation: Modulation<T>,
        gate: usize,
    ) -> Result<T, ModelError> {
        let dim = grad.width();
        Ok(map_pieces([grad], &pieces(layout, modulation), |[grad], piece| {
            grad.fused(Operation::Gated, &[&piece.chunk(gate, dim)?])
        })?)
    }

    fn attention(&self, qkv: &T, op: &Attention<Self>) -> Result<(T, T), ModelError> {
        // The backward computes the softmax again and reads no sums.
        Ok((attention::forward(qkv, op)?, qkv.narrow(0, 0, 0)?))
    }

    fn attention_vjp(
        &self,
        qkv: &T,
        op: &Attention<Self>,
        _output: &T,
        _log_sum_exp: &T,
        grad: &T,
    ) -> Result<T, ModelError> {
        Ok(attention::backward(qkv, op, grad)?)
    }

    fn gelu(&self, x: &T) -> Result<T, ModelError> {
        Ok(x.fused(Operation::Gelu, &[])?)
    }

    fn gelu_vjp(&self, x: &T, grad: &T) -> Result<(T, T), ModelError> {
        let both = x.fused(Operation::GeluVjp, &[grad])?;
        Ok((both.part(0)?, both.part(1)?))
    }

    fn silu(&self, x: &T) -> Result<T, ModelError> {
        Ok(x.to_dtype(DType::F32)?.each(Function::Silu)?.to_dtype(self.dtype)?)
    }

    fn add(&self, x: T, y: &T) -> Result<T, ModelError> {
        Ok(x.plus(y)?)
    }

    fn concat_rows(&self, parts: &[&T]) -> Result<T, ModelError> {
        let parts: Vec<T> = parts.iter().map(|part| (*part).clone()).collect();
        Ok(T::cat(&parts, 0)?)
    }

    fn concat_columns(&self, x: &T, y: &T) -> Result<T, ModelError> {
        Ok(T::cat(&[x.clone(), y.clone()], 1)?)
    }

    fn rows(&self, x: &T, rows: Range<usize>) -> Result<T, ModelError> {
        Ok(x.row_range(&rows)?.contiguous()?)
    }

    fn columns(&self, x: &T, columns: Range<usize>) -> Result<T, ModelError> {
        Ok(x.narrow(1, columns.start, columns.len())?.contiguous()?)
    }
}
