//! A right operand that is packed once and used many times.

use std::ops::Range;

use half::{bf16, f16};
use rayon::prelude::*;

use super::Order;
use super::panels::{Panels, STRIP, held, transpose, width};

/// Numbers above which packing is shared among threads.
const SHARED_NUMBERS: usize = 1 << 20;

/// A number that a packed matrix can hold. Each widens to float32 exactly.
pub(crate) trait Element: Copy + Send + Sync + 'static {
    const ZERO: Self;
    fn elements(values: Vec<Self>) -> Elements;
}

/// The numbers of a packed matrix.
#[derive(Debug, Clone)]
pub(crate) enum Elements {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    F16(Vec<f16>),
}

impl Element for f32 {
    const ZERO: Self = 0.0;

    fn elements(values: Vec<Self>) -> Elements {
        Elements::F32(values)
    }
}

impl Element for bf16 {
    const ZERO: Self = bf16::ZERO;

    fn elements(values: Vec<Self>) -> Elements {
        Elements::Bf16(values)
    }
}

impl Element for f16 {
    const ZERO: Self = f16::ZERO;

    fn elements(values: Vec<Self>) -> Elements {
        Elements::F16(values)
    }
}

impl Elements {
    /// Writes a range of elements as float32.
    #[inline(always)]
    pub(super) fn widen(&self, range: Range<usize>, to: &mut [f32]) {
        match self {
            Self::F32(values) => to.copy_from_slice(&values[range]),
            Self::Bf16(values) => {
                for (to, value) in to.iter_mut().zip(&values[range]) {
                    // A bfloat16 is the upper half of a float32.
                    *to = f32::from_bits(u32::from(value.to_bits()) << 16);
                }
            }
            Self::F16(values) => {
                for (to, value) in to.iter_mut().zip(&values[range]) {
                    *to = widen_half(value.to_bits());
                }
            }
        }
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

/// A matrix (inner, columns), strip after strip of [`STRIP`] columns; a strip holds its rows one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Packed {
    inner: usize,
    columns: usize,
    elements: Elements,
}

impl Packed {
    /// Packs the (inner, columns) matrix at the start of `data`.
    pub(crate) fn new<T: Element>((inner, columns): (usize, usize), data: &[T], stride: usize, order: Order) -> Self {
        let padded = columns.next_multiple_of(16);
        let mut values = vec![T::ZERO; inner * padded];
        let fill = |(strip, to): (usize, &mut [T])| {
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
        };
        let strip = (inner * STRIP).max(1);
        if values.len() < SHARED_NUMBERS {
            values.chunks_mut(strip).enumerate().for_each(fill);
        } else {
            values.par_chunks_mut(strip).enumerate().for_each(fill);
        }
        Self {
            inner,
            columns,
            elements: T::elements(values),
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
        for strip in 0..self.columns.div_ceil(STRIP) {
            let held = held(self.columns, strip);
            for (k, row) in values.chunks_exact_mut(self.columns).enumerate() {
                let at = self.offset(strip, k);
                self.elements.widen(at..at + held.len(), &mut row[held.clone()]);
            }
        }
        values
    }

    /// Whether it holds float32.
    pub(crate) fn is_f32(&self) -> bool {
        matches!(self.elements, Elements::F32(_))
    }

    /// Numbers that it holds.
    pub(super) fn elements(&self) -> &Elements {
        &self.elements
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
        let range = self.offset(strip, inner.start)..self.offset(strip, inner.end);
        match &self.elements {
            Elements::F32(values) => &values[range],
            other => {
                let buffer = &mut buffer[..range.len()];
                other.widen(range, buffer);
                buffer
            }
        }
    }
}
