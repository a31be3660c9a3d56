//! How much memory weights take, by their number.

use std::ops::Add;

use gavel_core::spec::{Dtype, Quantization};

use super::Weights;
use crate::ops::nf4::BLOCK;

/// Numbers in the weights of a part of a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WeightCounts {
    /// In what is kept as `model.dtype` says.
    pub whole: u64,
    /// In the matrices that `model.quantization` makes narrow where it is set.
    pub quantizable: u64,
    /// Rows of these matrices: each has a scale in 8 bits.
    pub quantizable_rows: u64,
    /// Blocks of these rows: each has a scale in 4 bits.
    pub quantizable_blocks: u64,
}

impl WeightCounts {
    /// Of what nothing quantizes.
    pub fn whole(numbers: u64) -> Self {
        Self {
            whole: numbers,
            ..Self::default()
        }
    }

    /// Of a matrix that may be quantized.
    pub(crate) fn matrix(rows: usize, columns: usize) -> Self {
        Self {
            whole: 0,
            quantizable: numbers(&[rows, columns]),
            quantizable_rows: rows as u64,
            quantizable_blocks: numbers(&[rows, columns.div_ceil(BLOCK)]),
        }
    }

    /// Bytes where they are kept so.
    pub fn bytes(self, dtype: Dtype, quantization: Option<Quantization>) -> u64 {
        let size = match dtype {
            Dtype::F32 => 4,
            Dtype::Bf16 | Dtype::F16 => 2,
        };
        let scale = size_of::<f32>() as u64;
        let narrow = match quantization {
            Some(Quantization::Fp8) => self.quantizable + scale * self.quantizable_rows,
            Some(Quantization::Nf4) => self.quantizable.div_ceil(2) + scale * self.quantizable_blocks,
            None => size * self.quantizable,
        };
        size * self.whole + narrow
    }
}

impl Weights {
    /// Numbers in all tensors together.
    pub fn parameters(&self) -> u64 {
        let shapes = self.entries.values().map(|entry| entry.shape.as_slice());
        shapes.map(numbers).sum()
    }

    /// The same, apart for the matrices that may be quantized.
    pub(crate) fn counts(&self, is_quantizable: impl Fn(&str) -> bool) -> WeightCounts {
        let mut counts = WeightCounts::default();
        for (name, entry) in &self.entries {
            let of_one = match *entry.shape {
                [rows, columns] if is_quantizable(name) => WeightCounts::matrix(rows, columns),
                _ => WeightCounts::whole(numbers(&entry.shape)),
            };
            counts = counts + of_one;
        }
        counts
    }
}

fn numbers(shape: &[usize]) -> u64 {
    shape.iter().map(|extent| *extent as u64).product()
}

impl Add for WeightCounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            whole: self.whole + other.whole,
            quantizable: self.quantizable + other.quantizable,
            quantizable_rows: self.quantizable_rows + other.quantizable_rows,
            quantizable_blocks: self.quantizable_blocks + other.quantizable_blocks,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantized_matrices_have_a_byte_or_half_a_number_and_a_scale_a_row_or_block() {
        let counts = WeightCounts::whole(10)
            + WeightCounts {
                whole: 1,
                quantizable: 200,
                quantizable_rows: 4,
                quantizable_blocks: 8,
            };
        assert_eq!(counts.bytes(Dtype::F32, None), 4 * 211);
        assert_eq!(counts.bytes(Dtype::Bf16, None), 2 * 211);
        assert_eq!(counts.bytes(Dtype::Bf16, Some(Quantization::Fp8)), 2 * 11 + 200 + 4 * 4);
        assert_eq!(counts.bytes(Dtype::Bf16, Some(Quantization::Nf4)), 2 * 11 + 100 + 4 * 8);
    }
}
