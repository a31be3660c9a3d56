//! Right operands cut into panels: a few rows of the inner dimension by one strip of columns, dense.

use std::ops::Range;

use super::{Order, Packed};

/// Columns of a strip: three vectors of the widest kind.
pub(crate) const STRIP: usize = 48;
/// The last strip of a matrix is as wide as its columns need, in multiples of this.
pub(super) const MULTIPLE: usize = 16;
/// Rows of a panel at most; a panel fills most of the first-level cache.
pub(super) const DEPTH: usize = 4 * STRIP;

/// A right operand (inner, columns) that gives its panels.
pub(crate) trait Panels: Sync {
    /// (inner, columns).
    fn shape(&self) -> (usize, usize);

    /// The panel of the rows `inner` and of strip `strip`, as (rows, [`width`]); columns beyond the last hold anything finite.
    ///
    /// `inner` begins at a multiple of [`DEPTH`] and is no longer; `buffer` has room for a panel.
    fn panel<'a>(&'a self, inner: Range<usize>, strip: usize, buffer: &'a mut [f32]) -> &'a [f32];
}

/// Columns that a strip has room for.
#[inline(always)]
pub(crate) fn width(columns: usize, strip: usize) -> usize {
    (columns - strip * STRIP).min(STRIP).next_multiple_of(MULTIPLE)
}

/// Columns that a strip holds.
#[inline(always)]
pub(crate) fn held(columns: usize, strip: usize) -> Range<usize> {
    strip * STRIP..columns.min((strip + 1) * STRIP)
}

/// A matrix that lies in a slice, packed whenever it is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gathered<'a> {
    /// (inner, columns).
    pub(crate) shape: (usize, usize),
    pub(crate) data: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) order: Order,
}

impl Panels for Gathered<'_> {
    fn shape(&self) -> (usize, usize) {
        self.shape
    }

    #[inline(always)]
    fn panel<'a>(&'a self, inner: Range<usize>, strip: usize, buffer: &'a mut [f32]) -> &'a [f32] {
        let (width, columns) = (width(self.shape.1, strip), held(self.shape.1, strip));
        match self.order {
            Order::RowMajor => {
                for (row, k) in buffer.chunks_exact_mut(width).zip(inner.clone()) {
                    row[..columns.len()].copy_from_slice(&self.data[k * self.stride..][columns.clone()]);
                    row[columns.len()..].fill(0.0);
                }
            }
            Order::Transposed => {
                if columns.len() < width {
                    buffer[..inner.len() * width].fill(0.0);
                }
                let data = &self.data[columns.start * self.stride + inner.start..];
                transpose(data, self.stride, (columns.len(), inner.len()), buffer, width);
            }
        }
        &buffer[..inner.len() * width]
    }
}

/// A packed matrix (columns, inner), used transposed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flipped<'a>(pub(crate) &'a Packed);

impl Panels for Flipped<'_> {
    fn shape(&self) -> (usize, usize) {
        let (inner, columns) = self.0.shape();
        (columns, inner)
    }

    #[inline(always)]
    fn panel<'a>(&'a self, inner: Range<usize>, strip: usize, buffer: &'a mut [f32]) -> &'a [f32] {
        let (columns, rows) = self.shape();
        let (packed_rows, packed_columns) = self.0.shape();
        debug_assert_eq!((columns, rows), (packed_columns, packed_rows));
        let (width, held) = (width(packed_rows, strip), held(packed_rows, strip));
        if held.len() < width {
            buffer[..inner.len() * width].fill(0.0);
        }
        let mut square = [0.0; STRIP * STRIP];
        for first in inner.clone().step_by(STRIP) {
            let from = first / STRIP;
            let from_width = self::width(packed_columns, from);
            let taken = STRIP.min(inner.end - first);
            let source = self.0.rows(held.clone(), from, &mut square);
            let to = &mut buffer[(first - inner.start) * width..];
            transpose(source, from_width, (held.len(), taken), to, width);
        }
        &buffer[..inner.len() * width]
    }
}

/// Writes the transpose of the (rows, columns) matrix at the start of `from` to that of `to`.
#[inline(always)]
pub(super) fn transpose<T: Copy>(
    from: &[T],
    from_stride: usize,
    (rows, columns): (usize, usize),
    to: &mut [T],
    to_stride: usize,
) {
    /// Squares of this side keep both matrices in the cache.
    const SIDE: usize = 16;
    for first_row in (0..rows).step_by(SIDE) {
        for first_column in (0..columns).step_by(SIDE) {
            let (high, wide) = (SIDE.min(rows - first_row), SIDE.min(columns - first_column));
            let from = &from[first_row * from_stride + first_column..];
            let to = &mut to[first_column * to_stride + first_row..];
            if high == SIDE && wide == SIDE {
                // Whole squares of known size become vector code.
                for column in 0..SIDE {
                    let to = &mut to[column * to_stride..][..SIDE];
                    for row in 0..SIDE {
                        to[row] = from[row * from_stride + column];
                    }
                }
            } else {
                for column in 0..wide {
                    for row in 0..high {
                        to[column * to_stride + row] = from[row * from_stride + column];
                    }
                }
            }
        }
    }
}
