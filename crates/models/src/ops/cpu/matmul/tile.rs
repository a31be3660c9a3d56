//! The innermost loop: a tile of the destination in registers while a panel of the right operand passes by.

use pulp::Simd;

/// What a tile's sums start from.
#[derive(Clone, Copy)]
pub(super) enum Sums {
    Zero,
    /// A value for each column.
    Columns(*const f32),
    Destination,
}

/// A block of rows over one panel: `destination = start + left * panel`.
#[derive(Clone, Copy)]
pub(super) struct Block {
    /// Row-major (rows, depth).
    pub(super) left: *const f32,
    pub(super) left_stride: usize,
    /// (depth, width), dense.
    pub(super) panel: *const f32,
    /// A multiple of 16.
    pub(super) width: usize,
    pub(super) depth: usize,
    pub(super) start: Sums,
    pub(super) destination: *mut f32,
    pub(super) stride: usize,
}

impl Block {
    /// Computes `rows` rows.
    ///
    /// # Safety
    /// All pointers must be valid for `rows` rows and `width` columns.
    #[inline(always)]
    pub(super) unsafe fn rows<S: Simd>(self, simd: S, rows: usize) {
        let mut column = 0;
        while column < self.width {
            // SAFETY: the strips stay below `width`, which is a multiple of every vector's lanes.
            column += S::F32_LANES
                * unsafe {
                    match (self.width - column) / S::F32_LANES {
                        1 => self.strip::<S, 1>(simd, rows, column),
                        2 | 4 => self.strip::<S, 2>(simd, rows, column),
                        _ => self.strip::<S, 3>(simd, rows, column),
                    }
                };
        }
    }

    /// Computes `VECTORS` vectors of columns of all rows; returns `VECTORS`.
    ///
    /// # Safety
    /// As [`Self::rows`].
    #[inline(always)]
    unsafe fn strip<S: Simd, const VECTORS: usize>(self, simd: S, rows: usize, column: usize) -> usize {
        let mut row = 0;
        // SAFETY: each tile stays below `rows`.
        unsafe {
            // Eight rows of three vectors need 28 registers.
            if S::REGISTER_COUNT >= 32 {
                while row + 8 <= rows {
                    self.tile::<S, 8, VECTORS>(simd, row, column);
                    row += 8;
                }
            }
            while row + 4 <= rows {
                self.tile::<S, 4, VECTORS>(simd, row, column);
                row += 4;
            }
            while row + 2 <= rows {
                self.tile::<S, 2, VECTORS>(simd, row, column);
                row += 2;
            }
            if row < rows {
                self.tile::<S, 1, VECTORS>(simd, row, column);
            }
        }
        VECTORS
    }

    /// # Safety
    /// As [`Self::rows`], for rows `row..row + ROWS` and `VECTORS` vectors from `column` on.
    #[inline(always)]
    unsafe fn tile<S: Simd, const ROWS: usize, const VECTORS: usize>(self, simd: S, row: usize, column: usize) {
        let lanes = S::F32_LANES;
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
        // SAFETY: the tile lies inside all operands, by the caller's promise.
        unsafe {
            let destination = self.destination.add(row * self.stride + column);
            for (i, sums) in sums.iter_mut().enumerate() {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = match self.start {
                        Sums::Zero => simd.splat_f32s(0.0),
                        Sums::Columns(bias) => load::<S>(bias.add(column + v * lanes)),
                        Sums::Destination => load::<S>(destination.add(i * self.stride + v * lanes)),
                    };
                }
            }
            let mut left = self.left.add(row * self.left_stride);
            let mut panel = self.panel.add(column);
            for _ in 0..self.depth {
                let mut vectors = [simd.splat_f32s(0.0); VECTORS];
                for (v, vector) in vectors.iter_mut().enumerate() {
                    *vector = load::<S>(panel.add(v * lanes));
                }
                for (i, sums) in sums.iter_mut().enumerate() {
                    let factor = simd.splat_f32s(*left.add(i * self.left_stride));
                    for (sum, vector) in sums.iter_mut().zip(&vectors) {
                        *sum = simd.mul_add_f32s(factor, *vector, *sum);
                    }
                }
                left = left.wrapping_add(1);
                panel = panel.wrapping_add(self.width);
            }
            for (i, sums) in sums.iter().enumerate() {
                for (v, sum) in sums.iter().enumerate() {
                    let to = destination.add(i * self.stride + v * lanes);
                    to.cast::<S::f32s>().write_unaligned(*sum);
                }
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
