//! Which backend serves a model.

use candle_core::{DType, Tensor};

use super::Backend;
use super::candle::CandleOps;
use super::cpu::Cpu;
use crate::load::Placement;

/// Which kernels a model may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kernels {
    /// The fastest for the device.
    Fastest,
    /// Plain candle calls: what GPUs run, and what the fused kernels are held against.
    Candle,
}

impl Kernels {
    /// Whether a layer takes its fused kernel for `x`: these are for float32 on the CPU.
    pub(crate) fn fuse(self, x: &Tensor) -> bool {
        self == Self::Fastest && x.device().is_cpu() && x.dtype() == DType::F32
    }
}

/// What is done with the chosen backend.
pub(crate) trait WithBackend {
    type Output;

    fn run<B: Backend>(self, backend: B) -> Self::Output;
}

/// Calls `with` with the backend that a placement asks for: the only place that chooses.
pub(crate) fn on_backend<W: WithBackend>(placement: &Placement, with: W) -> W::Output {
    let (device, dtype) = (placement.device(), placement.dtype());
    match placement.kernels() {
        Kernels::Fastest if device.is_cpu() => with.run(Cpu::default()),
        Kernels::Fastest | Kernels::Candle => with.run(CandleOps::<Tensor> {
            place: device.clone(),
            dtype,
        }),
    }
}
