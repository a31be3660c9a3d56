//! Products that are blocked for the caches.

use std::cell::RefCell;
use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::panels::{DEPTH, Panels, STRIP, held};
use super::tile::{Block, Sums};
use super::{Left, Order, Start, check};

/// Rows that a task takes: their left operand, [`DEPTH`] deep, fills half of a second-level cache.
const ROWS: usize = 768;
/// Multiplications below which a product is not worth sharing.
const SHARED_WORK: usize = 1 << 20;
/// Tasks for each thread, so that one that is held up does not hold up the others.
const TASKS_PER_THREAD: usize = 4;

/// Who computes a product. The result is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    /// The calling thread.
    One,
    /// All threads of the pool, if the product is large enough.
    All,
}

/// Computes `destination = start + left * right` for a destination (rows, columns) with the given row stride.
///
/// # Panics
/// When a slice is too short for its shape, which is a bug of the caller.
pub(crate) fn product<P: Panels>(
    rows: usize,
    left: Left,
    right: &P,
    start: Start,
    destination: &mut [f32],
    stride: usize,
    threads: Threads,
) {
    let (inner, columns) = right.shape();
    check((rows, columns, inner), left, start, destination, stride);
    if rows == 0 || columns == 0 {
        return;
    }
    let shared = Shared {
        left,
        right,
        start,
        destination: Destination(destination.as_mut_ptr()),
        stride,
    };
    let strips = columns.div_ceil(STRIP);
    if threads == Threads::One || rows * columns * inner.max(1) < SHARED_WORK {
        shared.compute(0..rows, 0..strips);
        return;
    }
    let row_blocks = rows.div_ceil(ROWS);
    let wanted = (TASKS_PER_THREAD * rayon::current_num_threads()).div_ceil(row_blocks);
    let group = strips.div_ceil(wanted);
    let groups = strips.div_ceil(group);
    (0..row_blocks * groups).into_par_iter().for_each(|task| {
        let (first, strip) = (task / groups * ROWS, task % groups * group);
        shared.compute(first..rows.min(first + ROWS), strip..strips.min(strip + group));
    });
}

/// Where the result goes. Tasks write to it side by side.
#[derive(Clone, Copy)]
struct Destination(*mut f32);

// SAFETY: each task writes its own rows and columns alone, and the slice is borrowed mutably until all are done.
unsafe impl Send for Destination {}
// SAFETY: as above.
unsafe impl Sync for Destination {}

/// A product that was checked.
struct Shared<'a, P> {
    left: Left<'a>,
    right: &'a P,
    start: Start<'a>,
    destination: Destination,
    stride: usize,
}

/// A thread's copies of blocks of the operands.
#[derive(Default)]
struct Scratch {
    left: Vec<f32>,
    panel: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl<P: Panels> Shared<'_, P> {
    fn compute(&self, rows: Range<usize>, strips: Range<usize>) {
        SCRATCH.with_borrow_mut(|scratch| {
            let task = Task {
                shared: self,
                rows,
                strips,
                scratch,
            };
            Arch::new().dispatch(task);
        });
    }
}

/// Some rows and strips of a product.
struct Task<'a, P> {
    shared: &'a Shared<'a, P>,
    rows: Range<usize>,
    strips: Range<usize>,
    scratch: &'a mut Scratch,
}

impl<P: Panels> WithSimd for Task<'_, P> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (inner, columns) = self.shared.right.shape();
        let Scratch { left, panel } = self.scratch;
        panel.resize(DEPTH * STRIP, 0.0);
        for first in self.rows.clone().step_by(ROWS) {
            let rows = first..self.rows.end.min(first + ROWS);
            let mut depth = 0;
            loop {
                let span = depth..inner.min(depth + DEPTH);
                let (left, left_stride) = gather(self.shared.left, rows.clone(), span.clone(), inner, left);
                for strip in self.strips.clone() {
                    let panel = self.shared.right.panel(span.clone(), strip, panel);
                    let columns = held(columns, strip);
                    self.shared
                        .strip(simd, rows.clone(), columns, span.clone(), (left, left_stride), panel);
                }
                depth = span.end;
                if depth == inner {
                    break;
                }
            }
        }
    }
}

impl<P> Shared<'_, P> {
    /// One panel's part of a block of rows.
    #[inline(always)]
    fn strip<S: Simd>(
        &self,
        simd: S,
        rows: Range<usize>,
        columns: Range<usize>,
        span: Range<usize>,
        (left, left_stride): (&[f32], usize),
        panel: &[f32],
    ) {
        let width = columns.len().next_multiple_of(16);
        assert!(panel.len() >= span.len() * width && width <= STRIP, "panel too short");
        let start = if span.start > 0 { Start::Destination } else { self.start };
        // SAFETY: `product` checked that destination and bias hold all rows and columns.
        let destination = unsafe { self.destination.0.add(rows.start * self.stride + columns.start) };
        let block = Block {
            left: left.as_ptr(),
            left_stride,
            panel: panel.as_ptr(),
            width,
            depth: span.len(),
            start: match start {
                Start::Zero => Sums::Zero,
                Start::Bias(bias) => Sums::Columns(bias[columns.start..].as_ptr()),
                Start::Destination => Sums::Destination,
            },
            destination,
            stride: self.stride,
        };
        if columns.len() == width {
            // SAFETY: `product` checked left operand, bias and destination, and the panel was checked above.
            unsafe { block.rows(simd, rows.len()) };
        } else {
            // The vectors reach beyond the last column, so they go through a tile of their own.
            let mut tile = [[0.0_f32; STRIP]; 8];
            for first in (0..rows.len()).step_by(tile.len()) {
                let count = tile.len().min(rows.len() - first);
                for (row, tile) in tile[..count].iter_mut().enumerate() {
                    let at = first + row;
                    for (column, value) in tile[..columns.len()].iter_mut().enumerate() {
                        *value = match start {
                            Start::Zero => 0.0,
                            Start::Bias(bias) => bias[columns.start + column],
                            // SAFETY: row and column lie in this task's part of the destination.
                            Start::Destination => unsafe { *destination.add(at * self.stride + column) },
                        };
                    }
                }
                let block = Block {
                    left: left[first * left_stride..].as_ptr(),
                    start: Sums::Destination,
                    destination: tile.as_mut_ptr().cast(),
                    stride: STRIP,
                    ..block
                };
                // SAFETY: the tile holds `count` rows of `width` columns; the rest as above.
                unsafe { block.rows(simd, count) };
                for (row, tile) in tile[..count].iter().enumerate() {
                    for (column, value) in tile[..columns.len()].iter().enumerate() {
                        // SAFETY: row and column lie in this task's part of the destination.
                        unsafe { *destination.add((first + row) * self.stride + column) = *value };
                    }
                }
            }
        }
    }
}

/// The rows and the part `span` of the left operand, row-major with a stride: a copy, unless it already lies well.
#[inline(always)]
fn gather<'a>(
    left: Left<'a>,
    rows: Range<usize>,
    span: Range<usize>,
    inner: usize,
    scratch: &'a mut Vec<f32>,
) -> (&'a [f32], usize) {
    let (count, depth) = (rows.len(), span.len());
    if depth == 0 {
        return (&[], 0);
    }
    match left.order {
        // Rows that are far apart would share few lines of the caches.
        Order::RowMajor if inner <= DEPTH => (&left.data[rows.start * left.stride..], left.stride),
        Order::RowMajor => {
            scratch.resize(ROWS * DEPTH, 0.0);
            for (to, row) in scratch.chunks_exact_mut(depth).zip(rows) {
                to.copy_from_slice(&left.data[row * left.stride..][span.clone()]);
            }
            (&scratch[..count * depth], depth)
        }
        Order::Transposed => {
            scratch.resize(ROWS * DEPTH, 0.0);
            let data = &left.data[span.start * left.stride + rows.start..];
            super::panels::transpose(data, left.stride, (depth, count), scratch, depth);
            (&scratch[..count * depth], depth)
        }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::super::Packed;
    use super::*;

    #[test]
    fn a_processor_with_shorter_vectors_computes_the_same_bits() {
        let Some(shorter) = pulp::x86::V3::try_new() else {
            return;
        };
        let (rows, columns, inner) = (21, 111, 410);
        let number = |i: usize| ((i * 7919) % 1013) as f32 / 506.5 - 1.0;
        let (a, b): (Vec<f32>, Vec<f32>) = (
            (0..rows * inner).map(number).collect(),
            (0..inner * columns).map(number).collect(),
        );
        let right = Packed::new((inner, columns), &b, columns, Order::RowMajor);
        let left = Left {
            data: &a,
            stride: inner,
            order: Order::RowMajor,
        };
        let mut best = vec![0.0; rows * columns];
        product(rows, left, &right, Start::Zero, &mut best, columns, Threads::One);
        let mut other = vec![0.0; rows * columns];
        let shared = Shared {
            left,
            right: &right,
            start: Start::Zero,
            destination: Destination(other.as_mut_ptr()),
            stride: columns,
        };
        let task = Task {
            shared: &shared,
            rows: 0..rows,
            strips: 0..columns.div_ceil(STRIP),
            scratch: &mut Scratch::default(),
        };
        Simd::vectorize(shorter, task);
        assert_eq!(best, other);
    }
}
