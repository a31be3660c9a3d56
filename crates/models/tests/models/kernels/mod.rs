//! The ways to compute that are held against golden values, each with how far it may be off, and where the golden files are.

use std::path::{Path, PathBuf};

use gavel_core::spec::{Device, Dtype};
use gavel_models::load::Placement;

/// One way to compute. The code of GPUs runs on the device that `GAVEL_TEST_DEVICE` names, without it on the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kernels {
    /// The CPU's own kernels, float32.
    Fused,
    /// The code that a GPU runs, in float32.
    CandleF32,
    /// The code that a GPU runs, in bfloat16.
    CandleBf16,
}

impl Kernels {
    pub(crate) const ALL: [Self; 3] = [Self::Fused, Self::CandleF32, Self::CandleBf16];

    pub(crate) fn placement(self) -> Placement {
        match self {
            Self::Fused => Placement::cpu(),
            Self::CandleF32 => code_of_gpus(Dtype::F32),
            Self::CandleBf16 => code_of_gpus(Dtype::Bf16),
        }
    }

    /// Largest difference allowed, relative to the largest value of a tensor. In float32 sums have another order; in bfloat16, with
    /// its 8 bits, weights and activations are rounded at every layer.
    pub(crate) fn tolerance(self) -> f64 {
        match self {
            Self::Fused | Self::CandleF32 => 2e-4,
            Self::CandleBf16 => 3e-2,
        }
    }
}

/// The repository's folder: `GAVEL_ROOT` where the tests run on another machine than the one that built them.
pub(crate) fn root() -> PathBuf {
    std::env::var_os("GAVEL_ROOT").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."), PathBuf::from)
}

fn code_of_gpus(dtype: Dtype) -> Placement {
    let device = std::env::var("GAVEL_TEST_DEVICE").map_or(Ok(Device::CpuCandle), |name| name.parse());
    Placement::open(device.unwrap(), dtype).unwrap()
}
