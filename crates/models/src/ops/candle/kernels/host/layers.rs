//! What the layers around the transformer are made of.

use candle_core::DType;

use super::{inverse_root_mean_square, rounded, softmax};

pub(super) fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

pub(super) fn quick_gelu(x: f32) -> f32 {
    x * sigmoid(1.702 * x)
}

pub(super) fn exact_gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + candle_core::cpu::erf::erf_f32(x * std::f32::consts::FRAC_1_SQRT_2))
}

pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// activation(gate), rounded, times up.
pub(super) fn times(activation: impl Fn(f32) -> f32, gate: &[f32], up: &[f32], dtype: DType) -> Vec<f32> {
    let pairs = gate.iter().zip(up);
    pairs.map(|(gate, up)| rounded(activation(*gate), dtype) * up).collect()
}

pub(super) fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, dtype: DType) -> Vec<f32> {
    let inverse = inverse_root_mean_square(x, epsilon);
    let weighted = x.iter().zip(weight);
    weighted
        .map(|(x, weight)| rounded(x * inverse, dtype) * weight)
        .collect()
}

/// Softmax of scale * scores + bias over the first `visible` keys, and 0 at the others.
pub(super) fn masked_softmax(scores: &[f32], bias: Option<&[f32]>, scale: f32, visible: usize) -> Vec<f32> {
    let mut seen: Vec<f32> = scores[..visible].iter().map(|score| scale * score).collect();
    if let Some(bias) = bias {
        seen.iter_mut().zip(bias).for_each(|(score, bias)| *score += bias);
    }
    let mut weights = softmax(&seen);
    weights.resize(scores.len(), 0.0);
    weights
}

/// A head of a token, turned by the token's angles, whose cosines and sines are given.
pub(super) fn rotated(head: &[f32], angles: &[Vec<f32>], token: usize) -> Vec<f32> {
    let half = head.len() / 2;
    let of_token = |table: &[f32], i: usize| table[token * half + i];
    let (a, b) = head.split_at(half);
    let turned = |first: &[f32], second: &[f32], direction: f32| -> Vec<f32> {
        (0..half)
            .map(|i| first[i] * of_token(&angles[0], i) + direction * second[i] * of_token(&angles[1], i))
            .collect()
    };
    [turned(a, b, -1.0), turned(b, a, 1.0)].concat()
}
