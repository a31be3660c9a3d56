//! Products of operands that are read where they lie.

use pulp::{Arch, Simd, WithSimd};

use super::{Left, Order, Right, Start, check, extent};

/// Computes `destination = start + left * right` for a destination (rows, columns) with the given row stride.
///
/// # Panics
/// When a slice is too short for its shape, which is a bug of the caller.
pub(super) fn multiply(
    (rows, columns, inner): (usize, usize, usize),
    left: Left,
    right: Right,
    start: Start,
    destination: &mut [f32],
    stride: usize,
) {
    if rows == 0 || columns == 0 {
        return;
    }
    check((rows, columns, inner), left, start, destination, stride);
    let right_extent = extent(inner, columns, right.stride);
    assert!(right.data.len() >= right_extent, "right operand too short");
    let product = Product {
        rows,
        columns,
        inner,
        left,
        right,
        start,
        destination,
        stride,
    };
    Arch::new().dispatch(product);
}

struct Product<'a> {
    rows: usize,
    columns: usize,
    inner: usize,
    left: Left<'a>,
    right: Right<'a>,
    start: Start<'a>,
    destination: &'a mut [f32],
    stride: usize,
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.left.order {
            Order::RowMajor => self.strips::<S, false>(simd),
            Order::Transposed => self.strips::<S, true>(simd),
        }
    }
}

/// Pointers of one strip of columns; all rows are still to do.
#[derive(Clone, Copy)]
struct Strip {
    inner: usize,
    left: *const f32,
    left_stride: usize,
    right: *const f32,
    right_stride: usize,
    destination: *mut f32,
    stride: usize,
    /// Null when the sums do not start from a bias.
    bias: *const f32,
    accumulate: bool,
}

impl Product<'_> {
    /// Goes through the columns in strips of up to three vectors, so that a strip of the right operand stays in the cache
    /// while all rows pass over it.
    #[inline(always)]
    fn strips<S: Simd, const TRANSPOSED: bool>(self, simd: S) {
        let lanes = S::F32_LANES;
        let mut column = 0;
        let destination = self.destination.as_mut_ptr();
        while column < self.columns {
            let vectors = (self.columns - column) / lanes;
            // SAFETY: `matmul` checked that all operands hold `columns` columns, and `column < columns`.
            let strip = unsafe {
                Strip {
                    inner: self.inner,
                    left: self.left.data.as_ptr(),
                    left_stride: self.left.stride,
                    right: self.right.data.as_ptr().add(if self.inner > 0 { column } else { 0 }),
                    right_stride: self.right.stride,
                    destination: destination.add(column),
                    stride: self.stride,
                    bias: match self.start {
                        Start::Bias(bias) => bias.as_ptr().add(column),
                        _ => std::ptr::null(),
                    },
                    accumulate: matches!(self.start, Start::Destination),
                }
            };
            // SAFETY: the strip's pointers are valid for `rows` rows and the columns that the chosen width covers.
            column += unsafe {
                match vectors {
                    0 => {
                        let tail = self.columns - column;
                        strip.partial_rows::<S, TRANSPOSED>(simd, self.rows, tail);
                        tail
                    }
                    1 => {
                        strip.rows::<S, TRANSPOSED, 1>(simd, self.rows);
                        lanes
                    }
                    2 | 4 => {
                        strip.rows::<S, TRANSPOSED, 2>(simd, self.rows);
                        2 * lanes
                    }
                    _ => {
                        strip.rows::<S, TRANSPOSED, 3>(simd, self.rows);
                        3 * lanes
                    }
                }
            };
        }
    }
}

impl Strip {
    /// # Safety
    /// All pointers must be valid for `rows` rows and `VECTORS` vectors of columns.
    #[inline(always)]
    unsafe fn rows<S: Simd, const TRANSPOSED: bool, const VECTORS: usize>(self, simd: S, rows: usize) {
        let mut row = 0;
        // SAFETY: each tile stays below `rows`.
        unsafe {
            // Eight rows of three vectors need 28 registers.
            if S::REGISTER_COUNT >= 32 {
                while row + 8 <= rows {
                    self.tile::<S, TRANSPOSED, 8, VECTORS>(simd, row);
                    row += 8;
                }
            }
            while row + 4 <= rows {
                self.tile::<S, TRANSPOSED, 4, VECTORS>(simd, row);
                row += 4;
            }
            while row + 2 <= rows {
                self.tile::<S, TRANSPOSED, 2, VECTORS>(simd, row);
                row += 2;
            }
            if row < rows {
                self.tile::<S, TRANSPOSED, 1, VECTORS>(simd, row);
            }
        }
    }

    /// # Safety
    /// As [`Self::rows`], for rows `row..row + ROWS`.
    #[inline(always)]
    unsafe fn tile<S: Simd, const TRANSPOSED: bool, const ROWS: usize, const VECTORS: usize>(
        self,
        simd: S,
        row: usize,
    ) {
        let lanes = S::F32_LANES;
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
        // SAFETY: rows `row..row + ROWS` and `VECTORS * lanes` columns lie inside all operands, by the caller's promise.
        unsafe {
            let destination = self.destination.add(row * self.stride);
            for (i, sums) in sums.iter_mut().enumerate() {
                for (v, sum) in sums.iter_mut().enumerate() {
                    if self.accumulate {
                        *sum = load::<S>(destination.add(i * self.stride + v * lanes));
                    } else if !self.bias.is_null() {
                        *sum = load::<S>(self.bias.add(v * lanes));
                    }
                }
            }
            let mut left = self.left.add(if TRANSPOSED { row } else { row * self.left_stride });
            let mut right = self.right;
            for _ in 0..self.inner {
                let mut vectors = [simd.splat_f32s(0.0); VECTORS];
                for (v, vector) in vectors.iter_mut().enumerate() {
                    *vector = load::<S>(right.add(v * lanes));
                }
                for (i, sums) in sums.iter_mut().enumerate() {
                    let factor = simd.splat_f32s(*left.add(if TRANSPOSED { i } else { i * self.left_stride }));
                    for (v, sum) in sums.iter_mut().enumerate() {
                        *sum = simd.mul_add_f32s(factor, vectors[v], *sum);
                    }
                }
                left = left.wrapping_add(if TRANSPOSED { self.left_stride } else { 1 });
                right = right.wrapping_add(self.right_stride);
            }
            for (i, sums) in sums.iter().enumerate() {
                for (v, sum) in sums.iter().enumerate() {
                    destination
                        .add(i * self.stride + v * lanes)
                        .cast::<S::f32s>()
                        .write_unaligned(*sum);
                }
            }
        }
    }

    /// # Safety
    /// As [`Self::rows`], for `columns` columns, fewer than a vector holds.
    #[inline(always)]
    unsafe fn partial_rows<S: Simd, const TRANSPOSED: bool>(self, simd: S, rows: usize, columns: usize) {
        let mut row = 0;
        // SAFETY: each tile stays below `rows`.
        unsafe {
            while row + 4 <= rows {
                self.partial_tile::<S, TRANSPOSED, 4>(simd, row, columns);
                row += 4;
            }
            while row < rows {
                self.partial_tile::<S, TRANSPOSED, 1>(simd, row, columns);
                row += 1;
            }
        }
    }

    /// # Safety
    /// As [`Self::partial_rows`], for rows `row..row + ROWS`.
    #[inline(always)]
    unsafe fn partial_tile<S: Simd, const TRANSPOSED: bool, const ROWS: usize>(
        self,
        simd: S,
        row: usize,
        columns: usize,
    ) {
        let mut sums = [simd.splat_f32s(0.0); ROWS];
        // SAFETY: rows `row..row + ROWS` and `columns` columns lie inside all operands, by the caller's promise.
        unsafe {
            let destination = self.destination.add(row * self.stride);
            for (i, sum) in sums.iter_mut().enumerate() {
                if self.accumulate {
                    *sum =
                        simd.partial_load_f32s(std::slice::from_raw_parts(destination.add(i * self.stride), columns));
                } else if !self.bias.is_null() {
                    *sum = simd.partial_load_f32s(std::slice::from_raw_parts(self.bias, columns));
                }
            }
            let mut left = self.left.add(if TRANSPOSED { row } else { row * self.left_stride });
            let mut right = self.right;
            for _ in 0..self.inner {
                let vector = simd.partial_load_f32s(std::slice::from_raw_parts(right, columns));
                for (i, sum) in sums.iter_mut().enumerate() {
                    let factor = simd.splat_f32s(*left.add(if TRANSPOSED { i } else { i * self.left_stride }));
                    *sum = simd.mul_add_f32s(factor, vector, *sum);
                }
                left = left.wrapping_add(if TRANSPOSED { self.left_stride } else { 1 });
                right = right.wrapping_add(self.right_stride);
            }
            for (i, sum) in sums.iter().enumerate() {
                let row = std::slice::from_raw_parts_mut(destination.add(i * self.stride), columns);
                simd.partial_store_f32s(row, *sum);
            }
        }
    }
}

/// # Safety
/// A vector of floats must be readable at `pointer`.
#[inline(always)]
unsafe fn load<S: Simd>(pointer: *const f32) -> S::f32s {
    // SAFETY: promised by the caller; `S::f32s` is plain data and the read needs no alignment.
    unsafe { pointer.cast::<S::f32s>().read_unaligned() }
}
