//! Attention in candle's tensor calls and our own kernels.

use std::ops::Range;

use super::{Attention, Mask};
use crate::{
    ModelError,
    ops::candle::{Calls, Operation},
};

/// Queries whose scores are held at a time.
const QUERIES_PER_CALL: usize = 2048;

/// Queries that are attended in one call, and the keys that they see.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    queries: Range<usize>,
    keys: Range<usize>,
    /// Segments of one size that stand side by side, each of which sees itself alone.
    segments: usize,
}

impl Block {
    /// Takes up a segment that is as large as those before it and follows them, as long as the scores are no more than those of a large block.
    fn takes(&mut self, segment: &Range<usize>) -> bool {
        let side = segment.len();
        let is_like = self.queries == self.keys
            && self.queries.len() == self.segments * side
            && self.queries.end == segment.start;
        let scores = (self.segments + 1) * side * side;
        if is_like && scores <= QUERIES_PER_CALL * QUERIES_PER_CALL {
            self.queries.end = segment.end;
            self.keys.end = segment.end;
            self.segments += 1;
            return true;
        }
        false
    }
}

/// The blocks of an attention of the last `queries` of so many keys.
fn blocks<T>(shape: Attention<T>, queries: usize, keys: usize) -> Vec<Block> {
    let block = |queries, keys| Block {
        queries,
        keys,
        segments: 1,
    };
    let segments = match shape.mask {
        Mask::Causal => {
            let rows = query_blocks(0..queries);
            return rows
                .map(|rows| block(rows.clone(), 0..keys - queries + rows.end))
                .collect();
        }
        Mask::Segments(segments) => segments,
    };
    let mut blocks: Vec<Block> = Vec::new();
    for segment in segments {
        let is_taken = shape.bias.is_none() && blocks.last_mut().is_some_and(|last| last.takes(segment));
        if !is_taken {
            blocks.extend(query_blocks(segment.clone()).map(|rows| block(rows, segment.clone())));
        }
    }
    blocks
}

/// As [`super::attention`].
pub(super) fn attention<T: Calls>(shape: Attention<T>, q: &T, k: &T, v: &T) -> Result<T, ModelError> {
    let (queries, keys, width) = (q.dims()[0], k.dims()[0], q.width());
    let head_dim = width / shape.heads;
    let split = |x: &T, heads: usize| {
        x.reshape((x.dims()[0], heads, head_dim))?
            .fused(Operation::Swapped, &[])
    };
    let (q, k, v) = (
        split(q, shape.heads)?,
        split(k, shape.kv_heads)?,
        split(v, shape.kv_heads)?,
    );
    let outputs = blocks(shape, queries, keys)
        .iter()
        .map(|block| of_block(shape, block, [&q, &k, &v]))
        .collect::<Result<Vec<_>, _>>()?;
    let output = T::cat(&outputs, 1)?.contiguous()?;
    Ok(output.fused(Operation::Swapped, &[])?.reshape((queries, width))?)
}

/// The output (heads, queries, head_dim) of a block, of queries (heads, queries, head_dim), keys and values (kv_heads, keys, head_dim).
fn of_block<T: Calls>(shape: Attention<T>, block: &Block, [q, k, v]: [&T; 3]) -> Result<T, ModelError> {
    let (heads, kv_heads, head_dim) = (shape.heads, shape.kv_heads, q.dims()[2]);
    let (segments, group) = (block.segments, heads / kv_heads);
    let (queries, keys) = (block.queries.len() / segments, block.keys.len() / segments);
    let seen = |x: &T| {
        x.narrow(1, block.keys.start, block.keys.len())?
            .contiguous()?
            .reshape((kv_heads * segments, keys, head_dim))
    };
    // The query heads of one key head lie side by side, and are rows of one product: keys and values are not repeated for them.
    let q = q
        .narrow(1, block.queries.start, block.queries.len())?
        .reshape((kv_heads, group, segments, queries, head_dim))?
        .transpose(1, 2)?
        .contiguous()?
        .reshape((kv_heads * segments, group * queries, head_dim))?;
    // Scores keep float32's digits: with large keys those of a half type are further apart than what decides.
    let scores = q.wide_product(&seen(k)?)?.reshape((segments * heads, queries, keys))?;
    let bias = match shape.bias {
        Some(bias) => {
            let rows = bias.narrow(1, block.queries.start, queries)?;
            Some(rows.narrow(2, block.keys.start, keys)?.contiguous()?)
        }
        None => None,
    };
    let softmax = Operation::MaskedSoftmax {
        dtype: v.dtype(),
        scale: shape.scale as f32,
        queries: matches!(shape.mask, Mask::Causal).then_some(queries),
        bias_rows: bias.as_ref().map_or(0, |_| heads * queries),
    };
    let weights = scores.fused(softmax, &bias.iter().collect::<Vec<_>>())?;
    let mixed = weights
        .reshape((kv_heads * segments, group * queries, keys))?
        .matmul(&seen(v)?)?;
    Ok(mixed
        .reshape((kv_heads, segments, group, queries, head_dim))?
        .transpose(1, 2)?
        .contiguous()?
        .reshape((heads, segments * queries, head_dim))?)
}

fn query_blocks(rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = rows.end;
    rows.step_by(QUERIES_PER_CALL)
        .map(move |start| start..end.min(start + QUERIES_PER_CALL))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Kernels;

    #[test]
    fn segments_of_one_size_are_attended_in_one_call() {
        // Windows of a picture of 18 x 18 merged patches, sorted by size.
        let sizes = [vec![64; 16], vec![32; 8], vec![16]].concat();
        let mut end = 0;
        let segments: Vec<Range<usize>> = sizes
            .iter()
            .map(|size| {
                end += size;
                end - size..end
            })
            .collect();
        let shape: Attention = Attention {
            heads: 16,
            kv_heads: 16,
            scale: 1.0,
            mask: Mask::Segments(&segments),
            bias: None,
            kernels: Kernels::Candle,
        };
        let expected = [(0..1024, 16), (1024..1280, 8), (1280..1296, 1)].map(|(rows, segments)| Block {
            queries: rows.clone(),
            keys: rows,
            segments,
        });
        assert_eq!(blocks(shape, end, end), expected);
    }

    #[test]
    fn a_large_segment_stays_alone_and_is_cut_into_blocks_of_queries() {
        let segments = [0..3000, 3000..6000];
        let shape: Attention = Attention {
            heads: 1,
            kv_heads: 1,
            scale: 1.0,
            mask: Mask::Segments(&segments),
            bias: None,
            kernels: Kernels::Candle,
        };
        let found: Vec<(Range<usize>, Range<usize>)> = blocks(shape, 6000, 6000)
            .into_iter()
            .map(|block| (block.queries, block.keys))
            .collect();
        let expected = [
            (0..2048, 0..3000),
            (2048..3000, 0..3000),
            (3000..5048, 3000..6000),
            (5048..6000, 3000..6000),
        ];
        assert_eq!(found, expected);
    }
}
