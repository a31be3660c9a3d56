//! The machine that a run ran on.

use serde::Serialize;

/// What determines how fast a run is.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    /// Operating system and architecture.
    pub(crate) system: String,
    /// The processor's name, where the system tells it.
    pub(crate) processor: Option<String>,
    /// Processors that this program may use.
    pub(crate) cores: usize,
    /// Memory in bytes, where the system tells it.
    pub(crate) memory_bytes: Option<u64>,
}

impl Machine {
    /// This one.
    pub(crate) fn this() -> Self {
        Self {
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            processor: field("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: kibibytes("/proc/meminfo", "MemTotal"),
        }
    }

    /// Memory that programs can still get, in bytes, where the system tells it.
    pub(crate) fn memory_available_bytes() -> Option<u64> {
        kibibytes("/proc/meminfo", "MemAvailable")
    }
}

/// The largest resident memory that this process has had, in bytes, where the system tells it.
pub(crate) fn peak_memory_bytes() -> Option<u64> {
    kibibytes("/proc/self/status", "VmHWM")
}

fn kibibytes(file: &str, name: &str) -> Option<u64> {
    let text = field(file, name)?;
    let count: u64 = text.strip_suffix("kB")?.trim().parse().ok()?;
    Some(count * 1024)
}

fn field(file: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let value = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)?
        .1;
    Some(value.trim().to_owned())
}
