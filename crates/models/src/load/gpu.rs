//! An NVIDIA GPU, as one process uses it.

use candle_core::{Device, Result};
use gavel_core::work::Memory;

/// Bytes of freed memory that a process keeps for its next tensors. The driver takes back what is beyond this whenever the process waits
/// for the GPU. A pass of FLUX.1-dev's size that computes activations again has less than that beside the weights (docs/gpu-results.md).
#[cfg(feature = "cuda")]
const KEPT_BYTES: u64 = 4 << 30;

/// Opens a GPU for the models of this thread.
///
/// # Errors
/// A GPU that does not exist, or a build without GPU support.
#[cfg(feature = "cuda")]
pub(super) fn open(ordinal: usize) -> Result<Device> {
    use candle_core::cuda_backend::WrapErr as _;
    use candle_core::cuda_backend::cudarc::driver::{result, sys};

    let device = Device::new_cuda(ordinal)?;
    let cuda = device.as_cuda_device()?;
    // SAFETY: a model's tensors stay on the stream of the thread that opened it (`Placement::is_host`), which does everything in order.
    unsafe { cuda.disable_event_tracking() };
    let mut kept = KEPT_BYTES;
    let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the device is open; the attribute is read as a u64.
    unsafe {
        let pool = result::device::get_default_mem_pool(cuda.cuda_stream().context().cu_device()).w()?;
        result::mem_pool::set_attribute(pool, threshold, (&raw mut kept).cast()).w()?;
    }
    Ok(device)
}

/// Opens a GPU for the models of this thread.
///
/// # Errors
/// This build has no GPU support.
#[cfg(not(feature = "cuda"))]
pub(super) fn open(ordinal: usize) -> Result<Device> {
    Device::new_cuda(ordinal)
}

/// The memory of a GPU, whoever uses it; `None` without it, and in a build without GPU support.
#[cfg(feature = "cuda")]
pub fn gpu_memory(ordinal: usize) -> Option<Memory> {
    // The device's primary context, which its models use too.
    let context = candle_core::cuda_backend::cudarc::driver::CudaContext::new(ordinal).ok()?;
    let (free, total) = context.mem_get_info().ok()?;
    Some(Memory {
        used_bytes: total.saturating_sub(free) as u64,
        total_bytes: total as u64,
    })
}

/// The memory of a GPU, whoever uses it; `None` without it, and in a build without GPU support.
#[cfg(not(feature = "cuda"))]
pub fn gpu_memory(_ordinal: usize) -> Option<Memory> {
    None
}
