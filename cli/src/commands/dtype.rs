//! The number formats of weights, as commands take them.

use clap::ValueEnum;
use gavel_core::spec::{Dtype, Quantization};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DtypeArgument {
    F32,
    Bf16,
    F16,
}

impl From<DtypeArgument> for Dtype {
    fn from(dtype: DtypeArgument) -> Self {
        match dtype {
            DtypeArgument::F32 => Self::F32,
            DtypeArgument::Bf16 => Self::Bf16,
            DtypeArgument::F16 => Self::F16,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum QuantizationArgument {
    Fp8,
    Nf4,
}

impl From<QuantizationArgument> for Quantization {
    fn from(quantization: QuantizationArgument) -> Self {
        match quantization {
            QuantizationArgument::Fp8 => Self::Fp8,
            QuantizationArgument::Nf4 => Self::Nf4,
        }
    }
}
