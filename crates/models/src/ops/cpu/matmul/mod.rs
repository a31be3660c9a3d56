//! Matrix products of float32 slices.
//!
//! Each element of a product is one chain of fused multiply-adds over the inner dimension, in order, whatever the shape of
//! the product around it, the blocks that it is cut into, and the instruction set. So a row's result depends neither on the
//! other rows nor on how the work is shared among threads.
//!
//! [`product`] takes its right operand in [`Panels`], blocks for the caches and keeps the sums in the destination between blocks.
//! [`matmul`] takes it as it lies, and reads it there if it is small.

mod blocked;
mod packed;
mod panels;
mod small;
mod tile;

pub(crate) use blocked::{Threads, product};
pub(crate) use packed::Packed;
pub(crate) use panels::{Flipped, Gathered, Panels, STRIP, held, width};

/// How an operand is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Element (row, column) lies at `row * stride + column`.
    RowMajor,
    /// Element (row, column) lies at `column * stride + row`: the stored matrix is used transposed.
    Transposed,
}

/// A left operand (rows, inner).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Left<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) order: Order,
}

/// A right operand (inner, columns), row-major.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Right<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) stride: usize,
}

/// What the sums start from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Start<'a> {
    Zero,
    /// The same row of values for each row of the product.
    Bias(&'a [f32]),
    /// What the destination holds.
    Destination,
}

/// Numbers of a right operand above which it is packed on its way, if enough rows pass over it.
const PACKED_NUMBERS: usize = 1 << 14;
const PACKED_ROWS: usize = 16;

/// Computes `destination = start + left * right` for a destination (rows, columns) with the given row stride, on this thread.
///
/// # Panics
/// When a slice is too short for its shape, which is a bug of the caller.
pub(crate) fn matmul(
    shape: (usize, usize, usize),
    left: Left,
    right: Right,
    start: Start,
    destination: &mut [f32],
    stride: usize,
) {
    matmul_on(Threads::One, shape, left, right, start, destination, stride);
}

/// As [`matmul`], shared among threads if that is asked for and the product is large.
pub(crate) fn matmul_on(
    threads: Threads,
    (rows, columns, inner): (usize, usize, usize),
    left: Left,
    right: Right,
    start: Start,
    destination: &mut [f32],
    stride: usize,
) {
    if rows < PACKED_ROWS || columns * inner < PACKED_NUMBERS {
        return small::multiply((rows, columns, inner), left, right, start, destination, stride);
    }
    let right = Gathered {
        shape: (inner, columns),
        data: right.data,
        stride: right.stride,
        order: Order::RowMajor,
    };
    product(rows, left, &right, start, destination, stride, threads);
}

/// Elements from the first to the last of `major` runs of `minor` elements, `stride` apart.
fn extent(major: usize, minor: usize, stride: usize) -> usize {
    if major == 0 { 0 } else { (major - 1) * stride + minor }
}

/// Checks that operands and destination hold what the shape says.
///
/// # Panics
/// When a slice is too short, which is a bug of the caller.
fn check((rows, columns, inner): (usize, usize, usize), left: Left, start: Start, destination: &[f32], stride: usize) {
    let left_extent = match left.order {
        Order::RowMajor => extent(rows, inner, left.stride),
        Order::Transposed => extent(inner, rows, left.stride),
    };
    assert!(inner == 0 || left.data.len() >= left_extent, "left operand too short");
    let long_enough = destination.len() >= extent(rows, columns, stride) && stride >= columns;
    assert!(long_enough, "destination too short");
    if let Start::Bias(bias) = start {
        assert!(bias.len() >= columns, "bias too short");
    }
}

#[cfg(test)]
mod tests;
