//! The layers in candle's tensor calls, in the number format of what they are given.

use candle_core::{D, Result, Tensor};

use super::super::{Activation, ConvShape, Mask, Then, Upsampling};

pub(super) fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    x.matmul(&weight.t()?)?.broadcast_add(bias)
}

pub(super) fn convolution(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    shape: ConvShape,
    upsampling: Upsampling,
) -> Result<Tensor> {
    let (_, _, height, width) = x.dims4()?;
    let x = match upsampling {
        Upsampling::None => x.clone(),
        Upsampling::Nearest2 => x.upsample_nearest2d(2 * height, 2 * width)?,
    };
    let x = x.pad_with_zeros(2, shape.before, shape.after)?;
    let x = x.pad_with_zeros(3, shape.before, shape.after)?;
    x.conv2d(weight, 0, shape.stride, 1, 1)?
        .broadcast_add(&bias.reshape((1, shape.outputs, 1, 1))?)
}

pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    x.broadcast_div(&scale)?.broadcast_mul(weight)
}

pub(super) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    standardised(x, eps)?.broadcast_mul(weight)?.broadcast_add(bias)
}

pub(super) fn group_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: usize,
    eps: f64,
    then: Then,
) -> Result<Tensor> {
    let (batch, channels, _, _) = x.dims4()?;
    let per_channel = |values: &Tensor| values.reshape((1, channels, 1, 1));
    let y = standardised(&x.reshape((batch, groups, ()))?, eps)?
        .reshape(x.dims())?
        .broadcast_mul(&per_channel(weight)?)?
        .broadcast_add(&per_channel(bias)?)?;
    followed(y, then)
}

pub(super) fn channel_norm(x: &Tensor, gamma: &Tensor, then: Then) -> Result<Tensor> {
    let channels = x.dims4()?.1;
    let length = x.sqr()?.sum_keepdim(1)?.sqrt()?.maximum(1e-12)?;
    let gamma = gamma.reshape((1, channels, 1, 1))?;
    let y = (x.broadcast_div(&length)? * (channels as f64).sqrt())?.broadcast_mul(&gamma)?;
    followed(y, then)
}

pub(super) fn activation(activation: Activation, x: &Tensor) -> Result<Tensor> {
    match activation {
        Activation::Silu => x.silu(),
        Activation::Gelu => x.gelu_erf(),
        Activation::GeluTanh => x.gelu(),
        Activation::QuickGelu => x * candle_nn::ops::sigmoid(&(x * 1.702)?)?,
        Activation::Relu => x.relu(),
    }
}

/// What an attention's scores are made with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scores<'a> {
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) scale: f64,
    pub(super) mask: Mask<'a>,
    /// (heads, queries, keys)
    pub(super) bias: Option<&'a Tensor>,
}

pub(super) fn attention(scores: Scores, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let ((queries, width), keys) = (q.dims2()?, k.dims2()?.0);
    let head_dim = width / scores.heads;
    let sees = |query: usize, key: usize| match scores.mask {
        Mask::Causal => key <= keys - queries + query,
        Mask::Segments(segments) => segments.iter().any(|rows| rows.contains(&query) && rows.contains(&key)),
    };
    let hidden: Vec<f64> = (0..queries)
        .flat_map(|query| (0..keys).map(move |key| (query, key)))
        .map(|(query, key)| if sees(query, key) { 0.0 } else { f64::NEG_INFINITY })
        .collect();
    let hidden = Tensor::from_vec(hidden, (queries, keys), q.device())?;
    let of_head = |head: usize| {
        let kv_head = head / (scores.heads / scores.kv_heads);
        let part = |x: &Tensor, head: usize| x.narrow(1, head * head_dim, head_dim)?.contiguous();
        let mut sums = ((part(q, head)?.matmul(&part(k, kv_head)?.t()?)? * scores.scale)? + &hidden)?;
        if let Some(bias) = scores.bias {
            sums = (sums + bias.get(head)?)?;
        }
        candle_nn::ops::softmax(&sums, D::Minus1)?.matmul(&part(v, kv_head)?)
    };
    let heads = (0..scores.heads).map(of_head).collect::<Result<Vec<_>>>()?;
    Tensor::cat(&heads, 1)
}

/// Turns the heads of x (rows, heads * head_dim) by the rows from `first` on of angles (tokens, head_dim / 2).
pub(super) fn rotated(x: &Tensor, angles: &Tensor, first: usize) -> Result<Tensor> {
    let ((rows, width), half) = (x.dims2()?, angles.dims2()?.1);
    let heads = x.reshape((rows, width / (2 * half), 2 * half))?;
    let (a, b) = (heads.narrow(2, 0, half)?, heads.narrow(2, half, half)?);
    let angles = angles.narrow(0, first, rows)?.reshape((rows, 1, half))?;
    let (cos, sin) = (angles.cos()?, angles.sin()?);
    let left = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let right = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    Tensor::cat(&[left, right], 2)?.reshape((rows, width))
}

/// Rows without their mean and with a variance of 1.
fn standardised(x: &Tensor, eps: f64) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    centred.broadcast_div(&deviation)
}

fn followed(y: Tensor, then: Then) -> Result<Tensor> {
    match then {
        Then::Nothing => Ok(y),
        Then::Silu => y.silu(),
    }
}
