//! A right operand that is packed once and used many times.

use std::ops::Range;

use half::{bf16, f16};
use rayon::prelude::*;

use super::Order;
use super::panels::{MULTIPLE, Panels, STRIP, held, transpose, width};
use crate::ops::fp8::{self, Fp8Matrix};
use crate::ops::nf4::{self, BLOCK, Nf4Matrix};

/// Numbers above which packing is shared among threads.
const SHARED_NUMBERS: usize = 1 << 20;

/// A number that a packed matrix can hold as it is. Each widens to float32 exactly.
pub(crate) trait Element: Copy + Send + Sync + 'static {
    const ZERO: Self;
    fn elements(values: Vec<Self>) -> Elements;
    /// Rounds to the nearest.
    fn narrow(value: f32) -> Self;
}

/// The numbers of a packed matrix.
#[derive(Debug, Clone)]
pub(crate) enum Elements {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    F16(Vec<f16>),
    /// E4M3 numbers, and by what those of each column are multiplied.
    Fp8 {
        bytes: Vec<u8>,
        scales: Vec<f32>,
    },
    /// NF4 numbers, those of two rows of a strip in each byte, the upper row's in the upper half; and the scales, each for a column and [`BLOCK`] rows.
    Nf4 {
        bytes: Vec<u8>,
        scales: Vec<f32>,
    },
}

impl Element for f32 {
    const ZERO: Self = 0.0;

    fn elements(values: Vec<Self>) -> Elements {
        Elements::F32(values)
    }

    fn narrow(value: f32) -> Self {
        value
    }
}

impl Element for bf16 {
    const ZERO: Self = bf16::ZERO;

    fn elements(values: Vec<Self>) -> Elements {
        Elements::Bf16(values)
    }

    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }
}

impl Element for f16 {
    const ZERO: Self = f16::ZERO;

    fn elements(values: Vec<Self>) -> Elements {
        Elements::F16(values)
    }

    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }
}

/// The value of a float16, by arithmetic that becomes vector code.
#[inline(always)]
fn widen_half(bits: u16) -> f32 {
    /// 2^112: the difference of the two formats' exponents. The product is exact, subnormals included.
    const REBASE: f32 = f32::from_bits((127 + 112) << 23);
    let (sign, magnitude) = (u32::from(bits & 0x8000) << 16, u32::from(bits & 0x7fff));
    let value = f32::from_bits(magnitude << 13) * REBASE;
    // Infinities and NaN keep the greatest exponent.
    let special = if magnitude >= 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(value.to_bits() | special | sign)
}

/// The (inner, columns) matrix at the start of `data`, strip after strip.
fn packed<T: Copy + Send + Sync>(
    zero: T,
    (inner, columns): (usize, usize),
    data: &[T],
    stride: usize,
    order: Order,
) -> Vec<T> {
    strips(
        zero,
        (inner, columns),
        || (),
        |(), strip, to| {
            let (width, held) = (width(columns, strip), held(columns, strip));
            match order {
                Order::RowMajor => {
                    for (k, row) in to.chunks_exact_mut(width).enumerate() {
                        row[..held.len()].copy_from_slice(&data[k * stride..][held.clone()]);
                    }
                }
                Order::Transposed => {
                    transpose(&data[held.start * stride..], stride, (held.len(), inner), to, width);
                }
            }
        },
    )
}

/// The strips of an (inner, columns) matrix, each filled by its number, of `zero` before; threads that share them have a value of `scratch` each.
fn strips<T: Copy + Send + Sync, S>(
    zero: T,
    (inner, columns): (usize, usize),
    scratch: impl Fn() -> S + Sync + Send,
    fill: impl Fn(&mut S, usize, &mut [T]) + Sync + Send,
) -> Vec<T> {
    let mut values = vec![zero; inner * columns.next_multiple_of(MULTIPLE)];
    let strip = (inner * STRIP).max(1);
    if values.len() < SHARED_NUMBERS {
        let mut scratch = scratch();
        let strips = values.chunks_mut(strip).enumerate();
        strips.for_each(|(strip, to)| fill(&mut scratch, strip, to));
    } else {
        let strips = values.par_chunks_mut(strip).enumerate();
        strips.for_each_init(scratch, |scratch, (strip, to)| fill(scratch, strip, to));
    }
    values
}

/// A matrix (inner, columns), strip after strip of [`STRIP`] columns; a strip holds its rows one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Packed {
    inner: usize,
    columns: usize,
    elements: Elements,
}

impl Packed {
    /// Packs the (inner, columns) matrix at the start of `data`.
    pub(crate) fn new<T: Element>(shape: (usize, usize), data: &[T], stride: usize, order: Order) -> Self {
        let (inner, columns) = shape;
        Self {
            inner,
            columns,
            elements: T::elements(packed(T::ZERO, shape, data, stride, order)),
        }
    }

    /// Packs the transpose of a matrix (columns, inner) of which `read` gives some rows at a time, so that it need not be in memory beside this.
    pub(crate) fn of_rows<T: Element>(
        (columns, inner): (usize, usize),
        read: impl Fn(Range<usize>, &mut [f32]) + Sync + Send,
    ) -> Self {
        let scratch = || (vec![0.0_f32; STRIP * inner], vec![T::ZERO; STRIP * inner]);
        let values = strips(T::ZERO, (inner, columns), scratch, |(wide, narrow), strip, to| {
            let held = held(columns, strip);
            let size = held.len() * inner;
            read(held.clone(), &mut wide[..size]);
            let pairs = narrow.iter_mut().zip(&wide[..size]);
            pairs.for_each(|(narrow, wide)| *narrow = T::narrow(*wide));
            transpose(narrow, inner, (held.len(), inner), to, width(columns, strip));
        });
        Self {
            inner,
            columns,
            elements: T::elements(values),
        }
    }

    /// Packs the transpose of a matrix of 8 bits (columns, inner).
    pub(crate) fn fp8(matrix: &Fp8Matrix) -> Self {
        let (columns, inner) = matrix.shape();
        let bytes = packed(0, (inner, columns), matrix.bytes(), inner, Order::Transposed);
        let mut scales = matrix.scales().to_vec();
        scales.resize(columns.next_multiple_of(MULTIPLE), 0.0);
        Self {
            inner,
            columns,
            elements: Elements::Fp8 { bytes, scales },
        }
    }

    /// Packs the transpose of a matrix of 4 bits (columns, inner).
    pub(crate) fn nf4(matrix: &Nf4Matrix) -> Self {
        let (columns, inner) = matrix.shape();
        let blocks = inner.div_ceil(BLOCK);
        // Each byte holds two neighbours of a row, which here stand below each other.
        let bytes = packed(0, (inner / 2, columns), matrix.bytes(), inner / 2, Order::Transposed);
        let scales = packed(0.0, (blocks, columns), matrix.scales(), blocks, Order::Transposed);
        Self {
            inner,
            columns,
            elements: Elements::Nf4 { bytes, scales },
        }
    }

    /// The matrix (columns, inner), packed.
    pub(crate) fn flip(&self) -> Self {
        Self::new(
            (self.columns, self.inner),
            &self.unpack(),
            self.columns,
            Order::Transposed,
        )
    }

    /// The matrix as float32, row-major.
    pub(crate) fn unpack(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.inner * self.columns];
        let mut buffer = [0.0; STRIP];
        for strip in 0..self.columns.div_ceil(STRIP) {
            let held = held(self.columns, strip);
            for (k, row) in values.chunks_exact_mut(self.columns).enumerate() {
                let from = self.rows(k..k + 1, strip, &mut buffer);
                row[held.clone()].copy_from_slice(&from[..held.len()]);
            }
        }
        values
    }

    /// Whether it holds float32.
    pub(crate) fn is_f32(&self) -> bool {
        matches!(self.elements, Elements::F32(_))
    }

    /// Whether it is quantized.
    pub(crate) fn is_quantized(&self) -> bool {
        matches!(self.elements, Elements::Fp8 { .. } | Elements::Nf4 { .. })
    }

    /// Rows of a strip, [`width`] values each: where they lie, or widened in `buffer`.
    #[inline(always)]
    pub(super) fn rows<'a>(&'a self, rows: Range<usize>, strip: usize, buffer: &'a mut [f32]) -> &'a [f32] {
        let width = width(self.columns, strip);
        let range = self.offset(strip, rows.start)..self.offset(strip, rows.end);
        let size = range.len();
        match &self.elements {
            Elements::F32(values) => return &values[range],
            Elements::Bf16(values) => {
                for (to, value) in buffer.iter_mut().zip(&values[range]) {
                    // A bfloat16 is the upper half of a float32.
                    *to = f32::from_bits(u32::from(value.to_bits()) << 16);
                }
            }
            Elements::F16(values) => {
                for (to, value) in buffer.iter_mut().zip(&values[range]) {
                    *to = widen_half(value.to_bits());
                }
            }
            Elements::Fp8 { bytes, scales } => {
                let scales = &scales[strip * STRIP..][..width];
                for (to, bytes) in buffer.chunks_exact_mut(width).zip(bytes[range].chunks_exact(width)) {
                    for ((to, byte), scale) in to.iter_mut().zip(bytes).zip(scales) {
                        *to = fp8::widen(*byte) * scale;
                    }
                }
            }
            Elements::Nf4 { bytes, scales } => {
                let bytes = &bytes[strip * STRIP * (self.inner / 2)..];
                let scales = &scales[strip * STRIP * self.inner.div_ceil(BLOCK)..];
                for (to, k) in buffer.chunks_exact_mut(width).zip(rows) {
                    // The upper half of a byte is the row with the even number.
                    let shift = if k.is_multiple_of(2) { 4 } else { 0 };
                    let (bytes, scales) = (&bytes[k / 2 * width..][..width], &scales[k / BLOCK * width..][..width]);
                    for ((to, byte), scale) in to.iter_mut().zip(bytes).zip(scales) {
                        *to = nf4::widen(byte >> shift) * scale;
                    }
                }
            }
        }
        &buffer[..size]
    }

    /// Where row `inner` of a strip starts among the elements.
    #[inline(always)]
    pub(super) fn offset(&self, strip: usize, inner: usize) -> usize {
        strip * STRIP * self.inner + inner * width(self.columns, strip)
    }
}

impl Panels for Packed {
    fn shape(&self) -> (usize, usize) {
        (self.inner, self.columns)
    }

    #[inline(always)]
    fn panel<'a>(&'a self, inner: Range<usize>, strip: usize, buffer: &'a mut [f32]) -> &'a [f32] {
        self.rows(inner, strip, buffer)
    }
}
