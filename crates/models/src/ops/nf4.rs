//! Matrices in 4 bits: numbers of the format NF4, and one scale for each 64 of a row.
//!
//! # Source
//! QLoRA (arXiv 2305.14314), as `quantize_4bit` of bitsandbytes 0.50 has it without double quantization: sixteen quantiles of a normal
//! distribution, of which a value takes the nearest one, and blocks whose largest magnitude is their scale.

use rayon::prelude::*;

use super::cpu::math::vectorized;

/// Numbers that share a scale; the last block of a row may be shorter.
pub(crate) const BLOCK: usize = 64;

/// The value of each number.
const VALUES: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];
/// The number whose value is 0.
const ZERO: u8 = 7;

/// What is above so many of these has that number: the middles between neighbouring values.
const MIDDLES: [f32; 15] = {
    let mut middles = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        middles[i] = (VALUES[i] + VALUES[i + 1]) / 2.0;
        i += 1;
    }
    middles
};

/// The number nearest to a value in [-1, 1]: the lower one of two, and that of 0 for NaN.
fn narrow(value: f32) -> u8 {
    if value.is_nan() {
        return ZERO;
    }
    MIDDLES.iter().filter(|middle| value > **middle).count() as u8
}

vectorized! {
    /// As [`narrow`], of the quotients of finite values by a finite number above 0.
    fn narrow_all<'a>(values: &'a [f32], largest: f32, to: &'a mut [u8]) {
        for (to, value) in to.iter_mut().zip(values) {
            let quotient = value / largest;
            let mut number = 0;
            for middle in MIDDLES {
                number += u8::from(quotient > middle);
            }
            *to = number;
        }
    }
}

/// The value of a number.
#[inline(always)]
pub(crate) fn widen(number: u8) -> f32 {
    VALUES[usize::from(number & 15)]
}

/// A matrix whose element is an NF4 number times the scale of its block.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Nf4Matrix {
    columns: usize,
    /// Rows of `columns / 2` bytes, the first of two numbers in a byte's upper half.
    bytes: Vec<u8>,
    /// (rows, blocks of a row).
    scales: Vec<f32>,
}

impl Nf4Matrix {
    /// Rounds a matrix with an even number of columns, each of whose rows is read by `read` to a place for it. A block with an infinity or NaN has
    /// nothing but NaN.
    ///
    /// # Panics
    /// When the number of columns is odd, which is a bug of the caller.
    pub(crate) fn of_rows(rows: usize, columns: usize, read: impl Fn(usize, &mut [f32]) + Sync) -> Self {
        assert!(columns.is_multiple_of(2), "two numbers share a byte");
        let blocks = columns.div_ceil(BLOCK);
        let (mut bytes, mut scales) = (vec![0; rows * columns / 2], vec![0.0; rows * blocks]);
        let to = bytes.par_chunks_mut((columns / 2).max(1));
        to.zip(scales.par_chunks_mut(blocks.max(1))).enumerate().for_each_init(
            || vec![0.0; columns],
            |row, (at, (bytes, scales))| {
                read(at, row);
                let blocks = row.chunks(BLOCK).zip(bytes.chunks_mut(BLOCK / 2));
                scales
                    .iter_mut()
                    .zip(blocks)
                    .for_each(|(scale, block)| *scale = quantize(block));
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
        (2 * self.bytes.len() / self.columns.max(1), self.columns)
    }

    /// The numbers, row-major, two in a byte.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The scale of each block, (rows, blocks of a row).
    pub(crate) fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// The number of an element.
    #[cfg(test)]
    pub(crate) fn number(&self, row: usize, column: usize) -> u8 {
        let byte = self.bytes[(row * self.columns + column) / 2];
        if column.is_multiple_of(2) { byte >> 4 } else { byte & 15 }
    }
}

/// Rounds a block, and returns its scale.
fn quantize((values, to): (&[f32], &mut [u8])) -> f32 {
    let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let is_finite = values.iter().all(|value| value.is_finite());
    let mut numbers = [ZERO; BLOCK];
    if is_finite && largest > 0.0 {
        narrow_all(values, largest, &mut numbers[..values.len()]);
    } else {
        let quotients = values.iter().map(|value| narrow(value / largest));
        numbers
            .iter_mut()
            .zip(quotients)
            .for_each(|(number, found)| *number = found);
    }
    for (to, pair) in to.iter_mut().zip(numbers.chunks_exact(2)) {
        *to = pair[0] << 4 | pair[1];
    }
    match is_finite {
        true => largest,
        false => f32::NAN,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::Path;

    use candle_core::{Device, Tensor};

    use super::*;

    /// Written by `tests/golden/nf4.py` with bitsandbytes.
    fn golden() -> HashMap<String, Tensor> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/nf4/golden.safetensors");
        candle_core::safetensors::load(file, &Device::Cpu).unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn numbers_have_the_values_that_bitsandbytes_gives_them_and_are_rounded_to_as_there() {
        let golden = golden();
        assert_eq!(VALUES.to_vec(), values(&golden["code"]));
        let (given, rounded) = (values(&golden["given"]), golden["rounded"].to_vec1::<u8>().unwrap());
        assert!(given.len() > 60);
        for (given, rounded) in given.iter().zip(rounded) {
            assert_eq!(narrow(*given), rounded, "{given:e}");
        }
    }

    #[test]
    fn matrices_are_quantized_as_by_bitsandbytes() {
        let golden = golden();
        let matrix = &golden["matrix"];
        let (rows, columns) = matrix.dims2().unwrap();
        let found = Nf4Matrix::of(&values(matrix), columns);
        assert_eq!(found.shape(), (rows, columns));
        let bytes: Vec<u8> = golden["matrix_bytes"].flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(found.bytes(), bytes);
        assert_eq!(found.scales(), values(&golden["matrix_scales"]));
        let expected = values(&golden["matrix_values"]);
        let element = |at: usize| {
            let (row, column) = (at / columns, at % columns);
            widen(found.number(row, column)) * found.scales()[row * columns.div_ceil(BLOCK) + column / BLOCK]
        };
        let found: Vec<f32> = (0..rows * columns).map(element).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_row_ends_in_a_shorter_block_and_what_is_not_finite_spoils_its_block_alone() {
        let mut row = vec![0.5; 2 * BLOCK + 2];
        row[3] = f32::NAN;
        row[2 * BLOCK] = -0.25;
        row[2 * BLOCK + 1] = 0.0;
        let found = Nf4Matrix::of(&[row.clone(), vec![0.0; row.len()]].concat(), row.len());
        assert!(found.scales()[0].is_nan());
        assert_eq!(found.scales()[1..], [0.5, 0.25, 0.0, 0.0, 0.0]);
        assert_eq!((found.number(0, 2 * BLOCK), found.number(0, 2 * BLOCK + 1)), (0, ZERO));
        assert_eq!(found.number(1, 5), ZERO);
        let parts = vec![
            Nf4Matrix::of(&row, row.len()),
            Nf4Matrix::of(&vec![0.0; row.len()], row.len()),
        ];
        let joined = Nf4Matrix::join(parts);
        assert_eq!((joined.shape(), joined.bytes()), (found.shape(), found.bytes()));
    }
}
