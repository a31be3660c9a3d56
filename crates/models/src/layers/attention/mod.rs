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
#[derive(Debug)]
pub(crate) enum Mask<'a, T = Tensor> {
    /// All keys of the query's segment; segments are consecutive row ranges that cover all rows.
    Segments(&'a [Range<usize>]),
    /// All keys up to the query's own row. With fewer queries than keys, the queries are the last rows.
    Causal(&'a Causal<T>),
}

impl<T> Clone for Mask<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Mask<'_, T> {}

/// What a causal attention hides: made once for all layers of a pass.
#[derive(Debug)]
pub(crate) struct Causal<T = Tensor> {
    /// Added to scores (queries of a block, keys), float32: 0 where the last queries of all see the keys, minus infinity elsewhere. The fused
    /// kernel needs none.
    hidden: Option<T>,
}

impl<T: Calls> Causal<T> {
    /// For a pass over states `x`, which are the last ones of so many `keys`.
    pub(crate) fn new(x: &T, keys: usize, kernels: Kernels) -> Result<Self, ModelError> {
        let queries = x.dims()[0].min(reference::QUERIES_PER_CALL);
        if x.fuses(kernels) || queries < 2 {
            return Ok(Self { hidden: None });
        }
        let values: Vec<f32> = (0..queries)
            .flat_map(|query| (0..keys).map(move |key| (query, key)))
            .map(|(query, key)| match key > keys - queries + query {
                true => f32::NEG_INFINITY,
                false => 0.0,
            })
            .collect();
        let hidden = T::upload(&values, (queries, keys), &x.place())?;
        Ok(Self { hidden: Some(hidden) })
    }

    /// The scores (heads, queries, keys) of a block that ends with the last of these keys, without what its queries do not see.
    fn hide(&self, scores: T) -> Result<T, ModelError> {
        let (queries, keys) = (scores.dims()[1], scores.width());
        let Some(hidden) = &self.hidden else {
            return Ok(scores);
        };
        // A single query is the last row, which sees all.
        if queries == 1 {
            return Ok(scores);
        }
        let (rows, columns) = (hidden.dims()[0], hidden.width());
        let hidden = hidden
            .narrow(0, rows - queries, queries)?
            .narrow(1, columns - keys, keys)?;
        Ok(scores.plus(&hidden)?)
    }
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
    pub(crate) mask: Mask<'a, T>,
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
