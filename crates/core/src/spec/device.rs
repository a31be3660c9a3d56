//! Where a model runs, and in which number format.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A compute device: `"cpu"`, `"cuda"` (the same as `"cuda:0"`) or `"cuda:N"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// The processor, by the code that a GPU runs: candle's own kernels in the number format that the run names.
    CpuCandle,
    /// An NVIDIA GPU by ordinal.
    Cuda(usize),
}

impl Device {
    /// Whether it is a GPU.
    pub fn is_gpu(self) -> bool {
        matches!(self, Self::Cuda(_))
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::CpuCandle => f.write_str("cpu:candle"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

/// How a device is written, for schemas.
pub(super) const DEVICE: &str = "^(cpu(:candle)?|cuda(:[0-9]+)?)$";

/// How a device is written that is no GPU.
pub(super) const PROCESSOR: &str = "^cpu(:candle)?$";

/// A text that names no device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a device; expected \"cpu\", \"cpu:candle\", \"cuda\" or \"cuda:N\"")]
pub struct InvalidDevice(pub String);

impl FromStr for Device {
    type Err = InvalidDevice;

    fn from_str(text: &str) -> Result<Self, InvalidDevice> {
        match text {
            "cpu" => Ok(Self::Cpu),
            "cpu:candle" => Ok(Self::CpuCandle),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|ordinal| ordinal.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| InvalidDevice(text.to_owned())),
        }
    }
}

impl Serialize for Device {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Device {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// The number format that a network computes in. Latents, adapters and log-probabilities stay f32 whatever this says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// 32 bits.
    F32,
    /// bfloat16.
    #[default]
    Bf16,
    /// IEEE half precision.
    F16,
}

/// A narrower number format in which the large frozen weights are kept, one scale for each row of a matrix. They are widened to the
/// format that a network computes in whenever they are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Quantization {
    /// 8 bits: the float8 format E4M3, with a scale for each row.
    Fp8,
    /// 4 bits: the format NF4 of QLoRA, with a scale for each 64 numbers of a row.
    Nf4,
}
