//! The weight of a frozen linear layer on its way from a file to those who multiply by it.

use candle_core::Tensor;

use super::fp8::Fp8Matrix;
use super::nf4::Nf4Matrix;

/// A row-major weight (outputs, inputs).
#[derive(Debug, Clone)]
pub(crate) enum FrozenWeight {
    /// In a number format of candle's, on the device where it is used.
    Whole(Tensor),
    /// In 8 bits, in this process's memory.
    Fp8(Fp8Matrix),
    /// In 4 bits, in this process's memory.
    Nf4(Nf4Matrix),
}

impl FrozenWeight {
    /// Layers that read the same input, as one: the rows of all, one after another. All are kept alike.
    pub(crate) fn join(parts: Vec<Self>) -> candle_core::Result<Self> {
        let (mut whole, mut fp8, mut nf4) = (Vec::new(), Vec::new(), Vec::new());
        for part in parts {
            match part {
                Self::Whole(weight) => whole.push(weight),
                Self::Fp8(weight) => fp8.push(weight),
                Self::Nf4(weight) => nf4.push(weight),
            }
        }
        match (whole.is_empty(), fp8.is_empty(), nf4.is_empty()) {
            (false, true, true) => Tensor::cat(&whole, 0).map(Self::Whole),
            (true, false, true) => Ok(Self::Fp8(Fp8Matrix::join(fp8))),
            (true, true, false) => Ok(Self::Nf4(Nf4Matrix::join(nf4))),
            _ => candle_core::bail!("the weights of one layer are kept in different ways"),
        }
    }
}
