//! The inner loop of a convolution: rows of a padded image, read in place.
//!
//! A padded image of width `w` is one long line per channel. The pixels under one element of the kernel are then the same
//! line, shifted; so the convolution is a matrix product whose right operand has its rows at given offsets, and nothing is
//! gathered. Positions in the padding are computed too and thrown away by the caller.

use pulp::{Arch, Simd, WithSimd};

/// Floats that must follow the last position of a line, in the image and in the output: the widest vector.
pub(super) const SLACK: usize = 16;

/// A convolution of lines: `output[channel][position] = bias[channel] + sum over taps of weight[channel][tap] *
/// image[offsets[tap] + position]`, with the sum in the order of the taps.
pub(super) struct Lines<'a> {
    /// The padded image.
    pub(super) image: &'a [f32],
    /// Where the line of each tap starts.
    pub(super) offsets: &'a [usize],
    /// Row-major (channels, taps).
    pub(super) weight: &'a [f32],
    /// (channels,).
    pub(super) bias: &'a [f32],
    /// Positions to compute.
    pub(super) length: usize,
    /// Row-major (channels, `stride`).
    pub(super) output: &'a mut [f32],
    /// Distance between the output lines of two channels, at least `length + SLACK`.
    pub(super) stride: usize,
}

impl Lines<'_> {
    /// Computes all positions of all channels.
    ///
    /// # Panics
    /// When a slice is too short for its shape, which is a bug of the caller.
    pub(super) fn convolve(self) {
        let (channels, taps) = (self.bias.len(), self.offsets.len());
        let furthest = self.offsets.iter().max().copied().unwrap_or(0);
        assert!(self.image.len() >= furthest + self.length + SLACK, "image too short");
        assert!(self.weight.len() >= channels * taps, "weight too short");
        assert!(
            self.stride >= self.length + SLACK && self.output.len() >= channels * self.stride,
            "output too short"
        );
        Arch::new().dispatch(self);
    }
}

impl WithSimd for Lines<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        assert!(S::F32_LANES <= SLACK, "a vector is wider than the slack");
        let mut position = 0;
        while position < self.length {
            let vectors = (self.length - position).div_ceil(S::F32_LANES);
            // SAFETY: `convolve` checked that image and output go on for a vector beyond the last position.
            position += S::F32_LANES
                * unsafe {
                    match vectors {
                        1 => self.strip::<S, 1>(simd, position),
                        2 | 4 => self.strip::<S, 2>(simd, position),
                        _ => self.strip::<S, 3>(simd, position),
                    }
                };
        }
    }
}

impl Lines<'_> {
    /// All channels of `VECTORS` vectors of positions; returns `VECTORS`.
    ///
    /// # Safety
    /// `VECTORS` vectors of positions must lie within the lines and their slack.
    #[inline(always)]
    unsafe fn strip<S: Simd, const VECTORS: usize>(&mut self, simd: S, position: usize) -> usize {
        let channels = self.bias.len();
        let mut channel = 0;
        // SAFETY: each tile stays below `channels`; the positions are promised by the caller.
        unsafe {
            // Eight channels of three vectors need 28 registers.
            if S::REGISTER_COUNT >= 32 {
                while channel + 8 <= channels {
                    self.tile::<S, 8, VECTORS>(simd, channel, position);
                    channel += 8;
                }
            }
            while channel + 4 <= channels {
                self.tile::<S, 4, VECTORS>(simd, channel, position);
                channel += 4;
            }
            while channel < channels {
                self.tile::<S, 1, VECTORS>(simd, channel, position);
                channel += 1;
            }
        }
        VECTORS
    }

    /// # Safety
    /// As [`Self::strip`], for channels `channel..channel + CHANNELS`.
    #[inline(always)]
    unsafe fn tile<S: Simd, const CHANNELS: usize, const VECTORS: usize>(
        &mut self,
        simd: S,
        channel: usize,
        position: usize,
    ) {
        let taps = self.offsets.len();
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; CHANNELS];
        for (sums, bias) in sums.iter_mut().zip(&self.bias[channel..]) {
            *sums = [simd.splat_f32s(*bias); VECTORS];
        }
        // SAFETY: `convolve` checked the lengths of all slices for all channels, taps and positions, slack included.
        unsafe {
            let image = self.image.as_ptr().add(position);
            let weight = self.weight.as_ptr().add(channel * taps);
            for (tap, offset) in self.offsets.iter().enumerate() {
                let line = image.add(*offset);
                let mut pixels = [simd.splat_f32s(0.0); VECTORS];
                for (v, pixels) in pixels.iter_mut().enumerate() {
                    *pixels = line.add(v * S::F32_LANES).cast::<S::f32s>().read_unaligned();
                }
                for (i, sums) in sums.iter_mut().enumerate() {
                    let factor = simd.splat_f32s(*weight.add(i * taps + tap));
                    for (sum, pixels) in sums.iter_mut().zip(&pixels) {
                        *sum = simd.mul_add_f32s(factor, *pixels, *sum);
                    }
                }
            }
            let output = self.output.as_mut_ptr().add(channel * self.stride + position);
            for (i, sums) in sums.iter().enumerate() {
                for (v, sum) in sums.iter().enumerate() {
                    output
                        .add(i * self.stride + v * S::F32_LANES)
                        .cast::<S::f32s>()
                        .write_unaligned(*sum);
                }
            }
        }
    }
}
