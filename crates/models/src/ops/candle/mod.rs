//! The operations in plain candle calls: any device, any float dtype.
//!
//! This is what the fused kernels are held against, and what runs on devices that have none. Matrix products of frozen
//! layers run in the dtype of the weights; norms, softmax, adapters and their gradients in float32.

mod attention;

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{D, DType, Device, Tensor};

use super::{Attention, Backend, Factors, GradientSums, Layout, Modulation, Segment, Stream};
use crate::ModelError;
pub(crate) use attention::{HeadNorm, Rotary};

/// Epsilon of the modulated LayerNorms.
const LAYER_NORM_EPSILON: f64 = 1e-6;

/// 2 sqrt(2 / pi) and the cubic coefficient of the tanh form of GELU.
const GELU_SLOPE: f64 = 1.595_769_121_605_730_7;
const GELU_CUBIC: f64 = 0.044_715;

/// The candle backend.
#[derive(Debug, Clone)]
pub(crate) struct CandleOps {
    pub(crate) device: Device,
    /// Of frozen weights and activations.
    pub(crate) dtype: DType,
}

/// A frozen linear layer.
#[derive(Debug)]
pub(crate) struct Projection {
    /// (outputs, inputs).
    weight: Tensor,
    bias: Tensor,
}

/// The LoRA factors of one projection.
#[derive(Debug)]
pub(crate) struct Adapted {
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    columns: Range<usize>,
    scale: f64,
    /// (rank, inputs), float32.
    a: Tensor,
    /// (outputs, rank), float32.
    b: Tensor,
    a_offset: usize,
    b_offset: usize,
}

impl Part {
    fn grad_columns(&self, grad: &Tensor) -> candle_core::Result<Tensor> {
        grad.narrow(1, self.columns.start, self.columns.len())?
            .to_dtype(DType::F32)?
            .contiguous()
    }
}

impl Adapted {
    /// scale * (x A^T) B^T of all parts, at their columns of a (rows, outputs) matrix.
    fn forward(&self, x: &Tensor, outputs: usize) -> candle_core::Result<Tensor> {
        let x = x.to_dtype(DType::F32)?;
        let mut pieces = Vec::new();
        let mut column = 0;
        for part in &self.parts {
            if part.columns.start > column {
                pieces.push(Tensor::zeros(
                    (x.dim(0)?, part.columns.start - column),
                    DType::F32,
                    x.device(),
                )?);
            }
            pieces.push((x.matmul(&part.a.t()?)?.matmul(&part.b.t()?)? * part.scale)?);
            column = part.columns.end;
        }
        if column < outputs {
            pieces.push(Tensor::zeros((x.dim(0)?, outputs - column), DType::F32, x.device())?);
        }
        Tensor::cat(&pieces, 1)
    }
}

/// Adds the gradient of the factor at `offset`, on the device.
fn accumulate(gradients: &mut BTreeMap<usize, Tensor>, offset: usize, gradient: Tensor) -> candle_core::Result<()> {
    let sum = match gradients.remove(&offset) {
        Some(sum) => (sum + gradient)?,
        None => gradient,
    };
    gradients.insert(offset, sum);
    Ok(())
}

/// The rows of one stream as (batch, tokens, columns).
fn stream(x: &Tensor, layout: Layout, stream: Stream) -> candle_core::Result<Tensor> {
    let (rows, tokens) = match stream {
        Stream::Text => (layout.text_rows(), layout.text),
        Stream::Image => (layout.image_rows(), layout.image),
    };
    x.narrow(0, rows.start, rows.len())?
        .reshape((layout.batch, tokens, x.dim(1)?))
}

/// Applies `map` to each stream as (batch, tokens, columns) and joins the rows again.
fn map_streams(
    layout: Layout,
    mut map: impl FnMut(Stream) -> candle_core::Result<Tensor>,
) -> candle_core::Result<Tensor> {
    let mut rows = Vec::new();
    for (which, tokens) in [(Stream::Text, layout.text), (Stream::Image, layout.image)] {
        if tokens > 0 {
            rows.push(map(which)?.flatten(0, 1)?);
        }
    }
    Tensor::cat(&rows, 0)
}

/// Chunk `index` of what modulates a stream, in float32: (batch, 1, dim), or (batch, tokens, dim) where it differs among tokens.
fn chunk(
    modulation: Modulation<Tensor>,
    layout: Layout,
    which: Stream,
    index: usize,
    dim: usize,
) -> candle_core::Result<Tensor> {
    let part = |matrix: &Tensor| matrix.narrow(1, index * dim, dim)?.unsqueeze(1)?.to_dtype(DType::F32);
    match (which, modulation.source) {
        (Stream::Text, _) => part(modulation.text),
        (Stream::Image, Some(source)) if layout.source > 0 => {
            let tokens = |part: Tensor, count: usize| part.broadcast_as((layout.batch, count, dim));
            let target = tokens(part(modulation.image)?, layout.target())?;
            Tensor::cat(&[target, tokens(part(source)?, layout.source)?], 1)
        }
        (Stream::Image, _) => part(modulation.image),
    }
}

/// (normalised x, 1 / standard deviation) over the last dimension.
fn normalise(x: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let inverse = (centred.sqr()?.mean_keepdim(D::Minus1)? + LAYER_NORM_EPSILON)?
        .sqrt()?
        .recip()?;
    Ok((centred.broadcast_mul(&inverse)?, inverse))
}

/// 1 / (1 + e^-x).
fn sigmoid(x: &Tensor) -> candle_core::Result<Tensor> {
    (x.neg()?.exp()? + 1.0)?.recip()
}

/// sigmoid(2 u) of the tanh form of GELU.
fn gelu_gate(x: &Tensor) -> candle_core::Result<Tensor> {
    sigmoid(&(x.mul(&x.sqr()?.affine(GELU_CUBIC, 1.0)?)? * GELU_SLOPE)?)
}

impl Backend for CandleOps {
    type Array = Tensor;
    type Projection = Projection;
    type Adapted = Adapted;
    type HeadNorm = HeadNorm;
    type Rotary = Rotary;
    type Gradients = BTreeMap<usize, Tensor>;

    /// One sample at a time: how a library rounds a product depends on its number of rows, and a sampler has other batches than a
    /// trainer.
    fn chunks(&self, batch: usize, _tokens: usize) -> Vec<Range<usize>> {
        (0..batch).map(|sample| sample..sample + 1).collect()
    }

    fn projection(&self, weight: &Tensor, bias: &Tensor) -> Result<Projection, ModelError> {
        Ok(Projection {
            weight: weight.contiguous()?,
            bias: bias.contiguous()?,
        })
    }

    fn adapt(&self, projection: &Projection, factors: &[Factors]) -> Result<Adapted, ModelError> {
        let inputs = projection.weight.dim(1)?;
        let mut parts = Vec::with_capacity(factors.len());
        for part in factors {
            let columns = part.columns.clone();
            parts.push(Part {
                scale: f64::from(part.scale),
                a: Tensor::from_slice(part.a, (part.rank, inputs), &self.device)?,
                b: Tensor::from_slice(part.b, (columns.len(), part.rank), &self.device)?,
                columns,
                a_offset: part.a_offset,
                b_offset: part.b_offset,
            });
        }
        Ok(Adapted { parts })
    }

    fn head_norm(&self, query: &Tensor, key: &Tensor) -> Result<HeadNorm, ModelError> {
        Ok(HeadNorm {
            query: query.to_dtype(DType::F32)?,
            key: key.to_dtype(DType::F32)?,
        })
    }

    fn rotary(&self, angles: &[f64], tokens: usize) -> Result<Rotary, ModelError> {
        Ok(Rotary::new(angles, tokens, &self.device)?)
    }

    fn array(&self, tensor: &Tensor) -> Result<Tensor, ModelError> {
        Ok(tensor.to_device(&self.device)?.to_dtype(self.dtype)?.contiguous()?)
    }

    fn tensor(&self, array: Tensor) -> Result<Tensor, ModelError> {
        Ok(array.to_dtype(DType::F32)?)
    }

    fn zeros(&self, rows: usize, columns: usize) -> Result<Tensor, ModelError> {
        Ok(Tensor::zeros((rows, columns), self.dtype, &self.device)?)
    }

    fn gradients(&self, _parameters: usize) -> BTreeMap<usize, Tensor> {
        BTreeMap::new()
    }

    fn total(&self, chunks: Vec<BTreeMap<usize, Tensor>>) -> Result<GradientSums, ModelError> {
        let mut chunks = chunks.into_iter();
        let mut total = chunks.next().unwrap_or_default();
        for (offset, gradient) in chunks.flatten() {
            accumulate(&mut total, offset, gradient)?;
        }
        Ok(GradientSums::Factors(total))
    }

    fn linear(&self, x: &Tensor, segments: &[Segment<Self>]) -> Result<Tensor, ModelError> {
        let mut outputs = Vec::with_capacity(segments.len());
        for Segment {
            rows,
            projection,
            adapted,
        } in segments
        {
            let x = x.narrow(0, rows.start, rows.len())?;
            let mut y = x.matmul(&projection.weight.t()?)?.broadcast_add(&projection.bias)?;
            if let Some(adapted) = adapted {
                y = (y.to_dtype(DType::F32)? + adapted.forward(&x, y.dim(1)?)?)?.to_dtype(self.dtype)?;
            }
            outputs.push(y);
        }
        Ok(Tensor::cat(&outputs, 0)?)
    }

    fn linear_vjp(&self, segments: &[Segment<Self>], grad: &Tensor) -> Result<Tensor, ModelError> {
        let mut outputs = Vec::with_capacity(segments.len());
        for Segment {
            rows,
            projection,
            adapted,
        } in segments
        {
            let grad = grad.narrow(0, rows.start, rows.len())?;
            let mut dx = grad.matmul(&projection.weight)?;
            for part in adapted.iter().flat_map(|adapted| &adapted.parts) {
                let hidden = (part.grad_columns(&grad)?.matmul(&part.b)? * part.scale)?;
                dx = (dx.to_dtype(DType::F32)? + hidden.matmul(&part.a)?)?.to_dtype(self.dtype)?;
            }
            outputs.push(dx);
        }
        Ok(Tensor::cat(&outputs, 0)?)
    }

    fn lora_vjp(
        &self,
        x: &Tensor,
        segments: &[Segment<Self>],
        grad: &Tensor,
        gradients: &mut BTreeMap<usize, Tensor>,
    ) -> Result<(), ModelError> {
        for segment in segments {
            let (start, count) = (segment.rows.start, segment.rows.len());
            let x = x.narrow(0, start, count)?.to_dtype(DType::F32)?.contiguous()?;
            let grad = grad.narrow(0, start, count)?;
            for part in segment.adapted.iter().flat_map(|adapted| &adapted.parts) {
                let grad = part.grad_columns(&grad)?;
                let grad_hidden = (grad.matmul(&part.b)? * part.scale)?;
                accumulate(gradients, part.a_offset, grad_hidden.t()?.contiguous()?.matmul(&x)?)?;
                let hidden = (x.matmul(&part.a.t()?)? * part.scale)?;
                accumulate(gradients, part.b_offset, grad.t()?.contiguous()?.matmul(&hidden)?)?;
            }
        }
        Ok(())
    }

    fn modulated_norm(
        &self,
        x: &Tensor,
        layout: Layout,
        modulation: Modulation<Tensor>,
        shift: usize,
        scale: usize,
    ) -> Result<Tensor, ModelError> {
        let dim = x.dim(1)?;
        let output = map_streams(layout, |which| {
            let (normalised, _) = normalise(&stream(x, layout, which)?.to_dtype(DType::F32)?)?;
            normalised
                .broadcast_mul(&(chunk(modulation, layout, which, scale, dim)? + 1.0)?)?
                .broadcast_add(&chunk(modulation, layout, which, shift, dim)?)
        })?;
        Ok(output.to_dtype(self.dtype)?)
    }

    fn modulated_norm_vjp(
        &self,
        x: &Tensor,
        layout: Layout,
        modulation: Modulation<Tensor>,
        scale: usize,
        grad: &Tensor,
        residual: Option<Tensor>,
    ) -> Result<Tensor, ModelError> {
        let dim = x.dim(1)?;
        let gradient = map_streams(layout, |which| {
            let (normalised, inverse) = normalise(&stream(x, layout, which)?.to_dtype(DType::F32)?)?;
            let grad = stream(grad, layout, which)?.to_dtype(DType::F32)?;
            let grad = grad.broadcast_mul(&(chunk(modulation, layout, which, scale, dim)? + 1.0)?)?;
            let mean = grad.mean_keepdim(D::Minus1)?;
            let along = normalised.broadcast_mul(&(&grad * &normalised)?.mean_keepdim(D::Minus1)?)?;
            (grad.broadcast_sub(&mean)? - along)?.broadcast_mul(&inverse)
        })?
        .to_dtype(self.dtype)?;
        Ok(match residual {
            Some(residual) => (residual + gradient)?,
            None => gradient,
        })
    }

    fn gated_residual_vjp(
        &self,
        grad: &Tensor,
        layout: Layout,
        modulation: Modulation<Tensor>,
        gate: usize,
    ) -> Result<Tensor, ModelError> {
        let dim = grad.dim(1)?;
        Ok(map_streams(layout, |which| {
            let gate = chunk(modulation, layout, which, gate, dim)?.to_dtype(self.dtype)?;
            stream(grad, layout, which)?.broadcast_mul(&gate)
        })?)
    }

    fn attention(&self, qkv: &Tensor, op: &Attention<Self>) -> Result<(Tensor, Tensor), ModelError> {
        Ok(attention::forward(qkv, op)?)
    }

    fn attention_vjp(
        &self,
        qkv: &Tensor,
        op: &Attention<Self>,
        output: &Tensor,
        log_sum_exp: &Tensor,
        grad: &Tensor,
    ) -> Result<Tensor, ModelError> {
        Ok(attention::backward(qkv, op, output, log_sum_exp, grad)?)
    }

    fn gelu(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let x = x.to_dtype(DType::F32)?;
        Ok((&x * gelu_gate(&x)?)?.to_dtype(self.dtype)?)
    }

    fn gelu_vjp(&self, x: &Tensor, grad: &Tensor) -> Result<(Tensor, Tensor), ModelError> {
        let x = x.to_dtype(DType::F32)?;
        let gate = gelu_gate(&x)?;
        let value = (&x * &gate)?;
        let slope = x.sqr()?.affine(3.0 * GELU_CUBIC * GELU_SLOPE, GELU_SLOPE)?;
        let derivative = (&gate + ((&value * gate.affine(-1.0, 1.0)?)? * slope)?)?;
        let gradient = (grad.to_dtype(DType::F32)? * derivative)?;
        Ok((value.to_dtype(self.dtype)?, gradient.to_dtype(self.dtype)?))
    }

    fn silu(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        Ok((x * sigmoid(&x.to_dtype(DType::F32)?)?.to_dtype(self.dtype)?)?)
    }

    fn add(&self, x: Tensor, y: &Tensor) -> Result<Tensor, ModelError> {
        Ok((x + y)?)
    }

    fn concat_rows(&self, parts: &[&Tensor]) -> Result<Tensor, ModelError> {
        Ok(Tensor::cat(parts, 0)?)
    }

    fn concat_columns(&self, x: &Tensor, y: &Tensor) -> Result<Tensor, ModelError> {
        Ok(Tensor::cat(&[x, y], 1)?)
    }

    fn rows(&self, x: &Tensor, rows: Range<usize>) -> Result<Tensor, ModelError> {
        Ok(x.narrow(0, rows.start, rows.len())?.contiguous()?)
    }

    fn columns(&self, x: &Tensor, columns: Range<usize>) -> Result<Tensor, ModelError> {
        Ok(x.narrow(1, columns.start, columns.len())?.contiguous()?)
    }
}
