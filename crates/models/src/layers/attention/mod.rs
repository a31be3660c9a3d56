//! Multi-head attention with grouped keys and values.

mod fused;
mod reference;

use std::ops::Range;

use candle_core::Tensor;

use crate::{
    ModelError,
    ops::{Kernels, candle::Calls},
};

/// Which keys a query sees.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mask<'a> {
    /// All keys of the query's segment; segments are consecutive row ranges that cover all rows.
    Segments(&'a [Range<usize>]),
    /// All keys up to the query's own row. With fewer queries than keys, the queries are the last rows.
    Causal,
}

/// The constants of an attention.
#[derive(Debug)]
pub(crate) struct Attention<'a, T = Tensor> {
    /// Query heads.
    pub(crate) heads: usize,
    /// Key and value heads; each serves `heads / kv_heads` query heads.
    pub(crate) kv_heads: usize,
    /// Factor of the scores.
    pub(crate) scale: f64,
    /// Which keys a query sees.
    pub(crate) mask: Mask<'a>,
    /// Added to the scores: (heads, queries, keys), float32.
    pub(crate) bias: Option<&'a T>,
    /// The kernels that it may take.
    pub(crate) kernels: Kernels,
}

impl<T> Clone for Attention<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Attention<'_, T> {}

/// softmax(scale q k^T + bias) v for queries (queries, heads * head_dim), keys and values (keys, kv_heads * head_dim).
///
/// Returns (queries, heads * head_dim). The queries are the last rows of the sequence that the keys span.
pub(crate) fn attention<T: Calls>(shape: Attention<T>, q: &T, k: &T, v: &T) -> Result<T, ModelError> {
    if q.fuses(shape.kernels) {
        Ok(T::of(fused::attention(shape, q.tensor()?, k.tensor()?, v.tensor()?)?)?)
    } else {
        reference::attention(shape, q, k, v)
    }
}
