//! From the words of a run specification to candle's device and number format.

use candle_core::DType;
use gavel_core::spec;

/// Opens a device.
///
/// # Errors
/// A GPU that does not exist, or a build without GPU support.
pub fn device(device: spec::Device) -> candle_core::Result<candle_core::Device> {
    match device {
        spec::Device::Cpu => Ok(candle_core::Device::Cpu),
        spec::Device::Cuda(ordinal) => candle_core::Device::new_cuda(ordinal),
    }
}

/// The number format of that name.
pub fn dtype(dtype: spec::Dtype) -> DType {
    match dtype {
        spec::Dtype::F32 => DType::F32,
        spec::Dtype::Bf16 => DType::BF16,
        spec::Dtype::F16 => DType::F16,
    }
}
