//! Convolutions of large images: a blocked product whose right operand is gathered from the image, panel by panel.

use std::ops::Range;

use rayon::prelude::*;

use super::ConvShape;
use crate::ops::cpu::matmul::{Left, Order, Panels, STRIP, Start, Threads, held, product, width};

/// Positions that a task computes at a time, so that its sums stay in the second-level cache.
const POSITIONS: usize = 8 * STRIP;
/// Tasks whose results are held before they are laid out by channel.
const TASKS: usize = 32;

/// An image as a matrix (taps, positions): under each element of the kernel, the pixel that it meets at each output position.
#[derive(Clone, Copy)]
pub(super) struct Patches<'a> {
    /// (channels, height, width).
    image: &'a [f32],
    shape: ConvShape,
    /// Side of the square that each pixel stands for.
    scale: usize,
    height: usize,
    width: usize,
    /// Columns of the output.
    columns: usize,
    /// The output positions that are meant, row by row.
    positions: (usize, usize),
}

impl<'a> Patches<'a> {
    /// All positions of an image (channels, height, width).
    pub(super) fn new(image: &'a [f32], shape: ConvShape, scale: usize, (height, width): (usize, usize)) -> Self {
        let (rows, columns) = (shape.output(scale * height), shape.output(scale * width));
        Self {
            image,
            shape,
            scale,
            height,
            width,
            columns,
            positions: (0, rows * columns),
        }
    }

    /// Convolves into `y` (channels, positions) with a weight (channels, taps) and a bias (channels,).
    pub(super) fn convolve(self, weight: &[f32], bias: &[f32], y: &mut [f32]) {
        let all = self.positions.1;
        for first in (0..all).step_by(TASKS * POSITIONS) {
            let wave = first..all.min(first + TASKS * POSITIONS);
            let starts: Vec<usize> = wave.clone().step_by(POSITIONS).collect();
            let parts: Vec<Vec<f32>> = starts
                .into_par_iter()
                .map(|start| self.part(start..wave.end.min(start + POSITIONS), weight, bias))
                .collect();
            y.par_chunks_mut(all).enumerate().for_each(|(channel, y)| {
                for (part, y) in parts.iter().zip(y[wave.clone()].chunks_mut(POSITIONS)) {
                    y.copy_from_slice(&part[channel * y.len()..][..y.len()]);
                }
            });
        }
    }

    /// All channels of some positions, (channels, positions).
    fn part(self, positions: Range<usize>, weight: &[f32], bias: &[f32]) -> Vec<f32> {
        let count = positions.len();
        let mut sums: Vec<f32> = bias.iter().flat_map(|bias| std::iter::repeat_n(*bias, count)).collect();
        let left = Left {
            data: weight,
            stride: self.shape.taps(),
            order: Order::RowMajor,
        };
        let patches = Self {
            positions: (positions.start, positions.end),
            ..self
        };
        product(
            bias.len(),
            left,
            &patches,
            Start::Destination,
            &mut sums,
            count,
            Threads::One,
        );
        sums
    }

    /// Writes what element (`y`, `x`) of the kernel meets in a channel from output position `first` on.
    #[inline(always)]
    fn line(&self, channel: &[f32], (y, x): (usize, usize), first: usize, to: &mut [f32]) {
        let ConvShape { stride, before, .. } = self.shape;
        let (mut position, mut to) = (first, to);
        while !to.is_empty() {
            let (row, column) = (position / self.columns, position % self.columns);
            let count = to.len().min(self.columns - column);
            let (part, rest) = to.split_at_mut(count);
            let source = row * stride + y;
            if source < before || source - before >= self.scale * self.height {
                part.fill(0.0);
            } else {
                let line = &channel[(source - before) / self.scale * self.width..][..self.width];
                self.pixels(line, column * stride + x, part);
            }
            position += count;
            to = rest;
        }
    }

    /// Writes the pixels of a line of the image from column `first` of the padded image on.
    #[inline(always)]
    fn pixels(&self, line: &[f32], first: usize, to: &mut [f32]) {
        let ConvShape { stride, before, .. } = self.shape;
        if stride == 1 && self.scale == 1 {
            let left = before.saturating_sub(first).min(to.len());
            let start = (first + left).saturating_sub(before).min(line.len());
            let inside = (to.len() - left).min(line.len() - start);
            to[..left].fill(0.0);
            to[left..left + inside].copy_from_slice(&line[start..start + inside]);
            to[left + inside..].fill(0.0);
        } else {
            for (i, to) in to.iter_mut().enumerate() {
                let at = (first + i * stride).checked_sub(before);
                *to = at.and_then(|at| line.get(at / self.scale)).copied().unwrap_or(0.0);
            }
        }
    }
}

impl Panels for Patches<'_> {
    fn shape(&self) -> (usize, usize) {
        (self.shape.taps(), self.positions.1 - self.positions.0)
    }

    #[inline(always)]
    fn panel<'a>(&'a self, inner: Range<usize>, strip: usize, buffer: &'a mut [f32]) -> &'a [f32] {
        let count = self.shape().1;
        let (width, held) = (width(count, strip), held(count, strip));
        let kernel = self.shape.kernel;
        let plane = self.height * self.width;
        for (tap, row) in inner.clone().zip(buffer.chunks_exact_mut(width)) {
            let (channel, element) = (tap / (kernel * kernel), tap % (kernel * kernel));
            let (to, beyond) = row.split_at_mut(held.len());
            let channel = &self.image[channel * plane..][..plane];
            let at = (element / kernel, element % kernel);
            self.line(channel, at, self.positions.0 + held.start, to);
            beyond.fill(0.0);
        }
        &buffer[..inner.len() * width]
    }
}
