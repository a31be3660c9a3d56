//! How full what a worker computes on is: shown to people beside the worker.

use std::sync::LazyLock;

use gavel_core::spec::Device;
use gavel_core::work::Memory;
use gavel_models::load::gpu_memory;
use gavel_review::{Machine, usage};

/// All memory of this machine; it is asked for with every heartbeat.
static MACHINE_BYTES: LazyLock<Option<u64>> = LazyLock::new(|| Machine::this().memory_bytes);

/// Of a GPU, what everybody uses of it; of a CPU, what this process uses of its machine's memory.
pub(crate) fn of(device: Device) -> Option<Memory> {
    match device {
        Device::Cpu | Device::CpuCandle => Some(Memory {
            used_bytes: usage(std::process::id())?.resident_bytes,
            total_bytes: (*MACHINE_BYTES)?,
        }),
        Device::Cuda(ordinal) => gpu_memory(ordinal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_uses_some_of_its_machine() {
        let memory = of(Device::Cpu).expect("Linux tells it");
        assert!(memory.used_bytes > 1 << 20, "{memory:?}");
        assert!(memory.used_bytes < memory.total_bytes, "{memory:?}");
    }
}
