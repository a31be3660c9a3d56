//! LoRA of one projection, in plain candle calls.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{Result as CandleResult, Tensor};

use super::super::Factors;
use super::Calls;

/// The LoRA factors of all parts of one projection, float32, as one pair of factors: the ranks of the parts lie side by side.
#[derive(Debug)]
pub(crate) struct Adapted<T> {
    /// (ranks, inputs).
    a: T,
    /// (outputs, ranks), times alpha / rank. A part's columns of the output see its own ranks alone; all else is 0.
    b: T,
    /// `a` times alpha / rank.
    scaled_a: T,
    parts: Vec<Part>,
}

/// Where the factors of a part lie.
#[derive(Debug, Clone)]
struct Part {
    columns: Range<usize>,
    ranks: Range<usize>,
    a_offset: usize,
    b_offset: usize,
}

impl<T: Calls> Adapted<T> {
    pub(super) fn new(factors: &[Factors], outputs: usize, inputs: usize, place: &T::Place) -> CandleResult<Self> {
        let ranks = factors.iter().map(|part| part.rank).sum();
        let (mut a, mut b) = (Vec::with_capacity(ranks * inputs), vec![0.0; outputs * ranks]);
        let (mut scaled_a, mut parts) = (Vec::with_capacity(ranks * inputs), Vec::with_capacity(factors.len()));
        let mut first = 0;
        for part in factors {
            let own = first..first + part.rank;
            first = own.end;
            a.extend_from_slice(part.a);
            scaled_a.extend(part.a.iter().map(|value| value * part.scale));
            for (column, row) in part.columns.clone().zip(part.b.chunks_exact(part.rank)) {
                let at = column * ranks + own.start;
                for (b, value) in b[at..at + part.rank].iter_mut().zip(row) {
                    *b = value * part.scale;
                }
            }
            parts.push(Part {
                columns: part.columns.clone(),
                ranks: own,
                a_offset: part.a_offset,
                b_offset: part.b_offset,
            });
        }
        Ok(Self {
            a: T::upload(&a, (ranks, inputs), place)?,
            b: T::upload(&b, (outputs, ranks), place)?,
            scaled_a: T::upload(&scaled_a, (ranks, inputs), place)?,
            parts,
        })
    }

    /// Where the first of its factors lies in the flat order.
    pub(super) fn offset(&self) -> Option<usize> {
        self.parts.first().map(|part| part.a_offset)
    }

    /// What the adapter adds to the layer's output: (rows, outputs) float32.
    pub(super) fn forward(&self, x: &T) -> CandleResult<T> {
        x.widened()?.matmul(&self.a.t()?)?.matmul(&self.b.t()?)
    }

    /// What it adds to the gradient of the layer's input: (rows, inputs) float32.
    pub(super) fn vjp(&self, grad: &T) -> CandleResult<T> {
        grad.widened()?.matmul(&self.b)?.matmul(&self.a)
    }

    /// The gradient of its factors.
    pub(super) fn gradient(&self, x: &T, grad: &T) -> CandleResult<AdaptedGradient<T>> {
        let (x, grad) = (x.widened()?, grad.widened()?);
        let hidden = x.matmul(&self.scaled_a.t()?)?;
        Ok(AdaptedGradient {
            a: grad.matmul(&self.b)?.t()?.matmul(&x)?,
            b: grad.t()?.matmul(&hidden)?,
            parts: self.parts.clone(),
        })
    }
}

/// The gradient of an [`Adapted`], in its layout. Of `b` the blocks of the parts alone mean anything.
#[derive(Debug)]
pub(crate) struct AdaptedGradient<T> {
    a: T,
    b: T,
    parts: Vec<Part>,
}

impl<T: Calls> AdaptedGradient<T> {
    fn plus(self, other: &Self) -> CandleResult<Self> {
        Ok(Self {
            a: self.a.plus(&other.a)?,
            b: self.b.plus(&other.b)?,
            parts: self.parts,
        })
    }

    /// The gradient of each factor, by its offset.
    pub(super) fn factors(&self) -> CandleResult<Vec<(usize, Tensor)>> {
        let mut factors = Vec::with_capacity(2 * self.parts.len());
        for part in &self.parts {
            let a = self.a.row_range(&part.ranks)?;
            let b = self
                .b
                .row_range(&part.columns)?
                .narrow(1, part.ranks.start, part.ranks.len())?;
            factors.extend([(part.a_offset, a.give()?), (part.b_offset, b.give()?)]);
        }
        Ok(factors)
    }
}

/// Adds the gradient of the adapter whose first factor lies at `offset`, on the device.
pub(super) fn accumulate<T: Calls>(
    gradients: &mut BTreeMap<usize, AdaptedGradient<T>>,
    offset: usize,
    gradient: AdaptedGradient<T>,
) -> CandleResult<()> {
    let sum = match gradients.remove(&offset) {
        Some(sum) => sum.plus(&gradient)?,
        None => gradient,
    };
    gradients.insert(offset, sum);
    Ok(())
}
