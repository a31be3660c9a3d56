//! The number format of weights, as several commands take it.

use clap::ValueEnum;
use gavel_core::spec::Dtype;

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
