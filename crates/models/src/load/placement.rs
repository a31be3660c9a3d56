//! Where a model computes: from the words of a run specification to candle's device and number format.

use candle_core::{DType, Device};
use gavel_core::spec;

use super::gpu;
use crate::ops::Kernels;

/// Where a model computes, in which number format, and by which kernels.
///
/// It is chosen once, where a folder is opened; denoiser, autoencoder and judge follow it, and text encoders where they are not placed apart.
#[derive(Debug, Clone)]
pub struct Placement {
    device: Device,
    dtype: DType,
    kept: Option<DType>,
    quantization: Option<spec::Quantization>,
    kernels: Kernels,
    text_encoders: Option<Box<Placement>>,
}

impl Placement {
    /// What the `device` and the `dtype` of a run say.
    ///
    /// # Errors
    /// A GPU that does not exist, or a build without GPU support.
    pub fn open(device: spec::Device, dtype: spec::Dtype) -> candle_core::Result<Self> {
        let dtype = match dtype {
            spec::Dtype::F32 => DType::F32,
            spec::Dtype::Bf16 => DType::BF16,
            spec::Dtype::F16 => DType::F16,
        };
        Ok(match device {
            spec::Device::Cpu => Self::fastest(Device::Cpu, dtype),
            spec::Device::CpuCandle => Self::candle(Device::Cpu, dtype),
            spec::Device::Cuda(ordinal) => Self::fastest(gpu::open(ordinal)?, dtype),
        })
    }

    /// What `[model]` says.
    ///
    /// # Errors
    /// As [`Placement::open`].
    pub fn of_model(model: &spec::ModelSpec) -> candle_core::Result<Self> {
        let open = |device| Ok::<_, candle_core::Error>(Self::open(device, model.dtype)?.quantized(model.quantization));
        let text_encoders = model.text_encoder_device.map(open).transpose()?;
        Ok(Self {
            text_encoders: text_encoders.map(Box::new),
            ..open(model.device)?
        })
    }

    /// Where a pipeline's text encoders compute: elsewhere where the run says so.
    pub(crate) fn of_text_encoders(&self) -> &Self {
        self.text_encoders.as_deref().unwrap_or(self)
    }

    /// The same, with the large weights of denoiser and text encoder kept so.
    #[must_use]
    pub fn quantized(self, quantization: Option<spec::Quantization>) -> Self {
        Self { quantization, ..self }
    }

    /// The CPU in float32, by its fused kernels.
    pub fn cpu() -> Self {
        Self::fastest(Device::Cpu, DType::F32)
    }

    /// candle's own kernels, whatever the device. On the CPU this is the code that a GPU runs.
    pub fn candle(device: Device, dtype: DType) -> Self {
        Self {
            device,
            dtype,
            kept: None,
            quantization: None,
            kernels: Kernels::Candle,
            text_encoders: None,
        }
    }

    fn fastest(device: Device, dtype: DType) -> Self {
        let (dtype, kept) = match device.is_cpu() {
            true => (DType::F32, Some(dtype)),
            false => (dtype, None),
        };
        Self {
            device,
            dtype,
            kept,
            quantization: None,
            kernels: Kernels::Fastest,
            text_encoders: None,
        }
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The number format in which it computes: float32 with the CPU's fused kernels, whatever the run says.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Whether values are worked on in this process's memory, by any of its threads. Otherwise they are candle's tensors, which stay
    /// with the thread that opened the model: a GPU's stream and cuBLAS handle belong to a thread.
    pub fn is_host(&self) -> bool {
        self.kernels == Kernels::Fastest && self.device.is_cpu()
    }

    pub(crate) fn kernels(&self) -> Kernels {
        self.kernels
    }

    /// What matrices are kept in at most, where the CPU's fused kernels widen them as they read: as narrow as their file, and no wider than
    /// what the run says. `None` where they are kept in [`Placement::dtype`].
    pub(crate) fn kept(&self) -> Option<DType> {
        self.kept
    }

    /// How matrices are kept that a network can do with in fewer bits.
    pub(crate) fn quantization(&self) -> Option<spec::Quantization> {
        self.quantization
    }

    /// The same for autoencoders, which the CPU's fused kernels keep in float32 whatever the run says, and which nothing quantizes.
    pub(crate) fn kept_whole(&self) -> Self {
        Self {
            kept: None,
            ..self.clone().quantized(None)
        }
    }
}
