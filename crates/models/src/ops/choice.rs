//! Which backend serves a model.

use candle_core::{DType, Device};

use super::Backend;
use super::candle::CandleOps;
use super::cpu::Cpu;

/// Which kernels a model may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kernels {
    /// The fastest for the device.
    Fastest,
    /// Plain candle calls: what the others are checked against.
    Candle,
}

/// What is done with the chosen backend.
pub(crate) trait WithBackend {
    type Output;

    fn run<B: Backend>(self, backend: B) -> Self::Output;
}

/// Calls `with` with the backend for a device and dtype: the only place that chooses.
pub(crate) fn on_backend<W: WithBackend>(device: &Device, dtype: DType, kernels: Kernels, with: W) -> W::Output {
    match kernels {
        Kernels::Fastest if device.is_cpu() && dtype == DType::F32 => with.run(Cpu::default()),
        Kernels::Fastest | Kernels::Candle => with.run(CandleOps {
            device: device.clone(),
            dtype,
        }),
    }
}
