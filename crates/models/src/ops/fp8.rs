//! Matrices in 8 bits: numbers in the format E4M3, and one scale for each row.
//!
//! # Source
//! OCP 8-bit Floating Point Specification 1.0, E4M3, as `torch.float8_e4m3fn` of PyTorch 2.15 has it: no infinities, and what
//! is larger than 448, the largest number, becomes 448.

use rayon::prelude::*;

/// The largest E4M3 number: the largest value of each row becomes this one.
const LARGEST: f32 = 448.0;
/// The smallest number with a leading 1, 2^-6.
const NORMAL: u32 = 0.015_625_f32.to_bits();
/// Its neighbours in float32 are as far apart as E4M3's numbers below 2^-6: 2^-9.
const SUBNORMAL_STEPS: f32 = 16_384.0;
/// 2^120: the difference of both formats' exponents.
const REBASE: f32 = f32::from_bits((127 + 120) << 23);
const SIGN: u8 = 0x80;
const NAN: u8 = 0x7f;
/// 448.
const MOST: u8 = 0x7e;

/// The E4M3 number nearest to `value`, the even one of two; NaN for NaN.
pub(crate) fn narrow(value: f32) -> u8 {
    let bits = value.to_bits();
    let (sign, magnitude) = ((bits >> 24) as u8 & SIGN, bits & 0x7fff_ffff);
    let rounded = if value.is_nan() {
        NAN
    } else if magnitude >= LARGEST.to_bits() {
        MOST
    } else if magnitude < NORMAL {
        // The sum is rounded as the number has to be.
        ((value.abs() + SUBNORMAL_STEPS).to_bits() - SUBNORMAL_STEPS.to_bits()) as u8
    } else {
        let odd = (magnitude >> 20) & 1;
        ((magnitude - (120 << 23) + 0x7_ffff + odd) >> 20) as u8
    };
    sign | rounded
}

/// The value of an E4M3 number, by arithmetic that becomes vector code.
#[inline(always)]
pub(crate) fn widen(byte: u8) -> f32 {
    let (sign, magnitude) = (u32::from(byte & SIGN) << 24, u32::from(byte & !SIGN));
    // Exact, subnormals included.
    let value = f32::from_bits(magnitude << 20) * REBASE;
    let special = if magnitude == u32::from(NAN) { 0x7fc0_0000 } else { 0 };
    f32::from_bits(value.to_bits() | special | sign)
}

/// A matrix whose element is the E4M3 number in `bytes` times the scale of its row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fp8Matrix {
    columns: usize,
    /// Row-major.
    bytes: Vec<u8>,
    /// One for each row.
    scales: Vec<f32>,
}

impl Fp8Matrix {
    /// Rounds a matrix, each of whose rows is read by `read` to a place for it. A row's scale is its largest magnitude / 448, so that it uses the
    /// whole range; a row with an infinity or NaN has nothing but NaN.
    pub(crate) fn of_rows(rows: usize, columns: usize, read: impl Fn(usize, &mut [f32]) + Sync) -> Self {
        let (mut bytes, mut scales) = (vec![0; rows * columns], vec![0.0; rows]);
        let to = bytes.par_chunks_mut(columns.max(1)).zip(scales.par_iter_mut());
        to.enumerate().for_each_init(
            || vec![0.0_f32; columns],
            |row, (at, (to, scale))| {
                read(at, row);
                let largest = row.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
                // Of a row of zeros, or of nearly nothing, the quotient would be 0.
                *scale = (largest / LARGEST).max(f32::MIN_POSITIVE);
                for (to, value) in to.iter_mut().zip(row) {
                    *to = narrow(*value / *scale);
                }
            },
        );
        Self { columns, bytes, scales }
    }

    /// Rounds a row-major matrix as [`Self::of_rows`] does.
    #[cfg(test)]
    pub(crate) fn of(values: &[f32], columns: usize) -> Self {
        let rows = values.len() / columns.max(1);
        Self::of_rows(rows, columns, |row, to| {
            to.copy_from_slice(&values[row * columns..][..columns]);
        })
    }

    /// The rows of all parts, which have the same columns, one part after another.
    pub(crate) fn join(parts: Vec<Self>) -> Self {
        let mut parts = parts.into_iter();
        let Some(mut whole) = parts.next() else {
            return Self::of_rows(0, 0, |_, _| ());
        };
        for part in parts {
            whole.bytes.extend(part.bytes);
            whole.scales.extend(part.scales);
        }
        whole
    }

    /// (rows, columns).
    pub(crate) fn shape(&self) -> (usize, usize) {
        (self.scales.len(), self.columns)
    }

    /// The E4M3 numbers, row-major.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The scale of each row.
    pub(crate) fn scales(&self) -> &[f32] {
        &self.scales
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use candle_core::{DType, Device, Tensor};

    use super::*;

    /// Written by `tests/golden/fp8.py` with PyTorch.
    fn golden() -> std::collections::HashMap<String, Tensor> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/fp8/golden.safetensors");
        candle_core::safetensors::load(file, &Device::Cpu).unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        let wide = tensor.to_dtype(DType::F32).unwrap();
        wide.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn bytes(tensor: &Tensor) -> Vec<u8> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn every_number_has_the_value_that_pytorch_gives_it() {
        let expected = values(&golden()["value_of_byte"]);
        assert_eq!(expected.len(), 256);
        for (byte, expected) in (0..=u8::MAX).zip(expected) {
            let found = widen(byte);
            let same = found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
            assert!(same, "{byte:#x}: {found}, expected {expected}");
            assert_eq!(narrow(found), byte, "{found} is a number already");
        }
    }

    /// Each number and its neighbours in float32, the middle between two numbers and its neighbours, subnormals, and what is too large.
    #[test]
    fn float32_is_rounded_as_pytorch_rounds_it() {
        let golden = golden();
        let (given, expected) = (values(&golden["given"]), bytes(&golden["rounded"]));
        assert!(given.len() > 2_000);
        for (given, expected) in given.iter().zip(&expected) {
            assert_eq!(narrow(*given), *expected, "{given:e}, {:#x}", given.to_bits());
        }
    }

    #[test]
    fn matrices_are_quantized_as_by_pytorch() {
        let golden = golden();
        let matrix = &golden["matrix"];
        let found = Fp8Matrix::of(&values(matrix), matrix.dims()[1]);
        assert_eq!(found.shape(), (matrix.dims()[0], matrix.dims()[1]));
        assert_eq!(found.bytes(), bytes(&golden["matrix_bytes"]));
        assert_eq!(found.scales(), values(&golden["matrix_scales"]));
    }

    /// Three bits after the leading one: half a step is 1/16 of the value, and of the largest value / 448 / 2^10 below the normal numbers.
    #[test]
    fn a_number_is_off_by_a_sixteenth_at_most() {
        let row: Vec<f32> = (0..4_001_u32)
            .map(|i| (f64::from(i * 7919 % 4001) / 1000.0 - 2.0) as f32)
            .collect();
        let found = Fp8Matrix::of(&row, row.len());
        let scale = found.scales()[0];
        for (value, byte) in row.iter().zip(found.bytes()) {
            let error = (widen(*byte) * scale - value).abs();
            assert!(
                error <= (value.abs() / 16.0).max(scale / 1024.0) * 1.000_001,
                "{value}: off by {error}"
            );
        }
    }

    #[test]
    fn what_is_not_finite_stays_so_and_zeros_stay_zeros() {
        let found = Fp8Matrix::of(&[0.0, -0.0, f32::INFINITY, 1.0, f32::NAN, 1.0, 1e-44, -1e-45], 2);
        assert_eq!(found.bytes()[..2], [0, SIGN]);
        assert!(widen(found.bytes()[2]).is_nan() && (widen(found.bytes()[3]) * found.scales()[1]).is_nan());
        assert!(widen(found.bytes()[4]).is_nan());
        let (scale, tiny) = (found.scales()[3], found.bytes()[6]);
        assert!(scale > 0.0 && widen(tiny).is_finite());
    }

    #[test]
    fn joined_rows_are_those_of_the_parts() {
        let whole = Fp8Matrix::of(&[1.0, 2.0, -3.0, 4.0, 5.0, 6.0], 2);
        let parts = vec![Fp8Matrix::of(&[1.0, 2.0], 2), Fp8Matrix::of(&[-3.0, 4.0, 5.0, 6.0], 2)];
        assert_eq!(Fp8Matrix::join(parts), whole);
    }
}
