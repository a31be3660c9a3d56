//! The machine that a run ran on, and what a process has used of it.

use std::time::Duration;

use serde::Serialize;

/// Linux counts the processor time that it reports in hundredths of a second on every architecture (`USER_HZ`, proc(5)).
const CPU_TICK: Duration = Duration::from_millis(10);

/// What determines how fast a run is.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Operating system and architecture.
    pub system: String,
    /// The processor's name, where the system tells it.
    pub processor: Option<String>,
    /// Processors that this program may use.
    pub cores: usize,
    /// Memory in bytes, where the system tells it.
    pub memory_bytes: Option<u64>,
}

impl Machine {
    /// This one.
    pub fn this() -> Self {
        Self {
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            processor: field("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: kibibytes("/proc/meminfo", "MemTotal"),
        }
    }

    /// Memory that programs can still get, in bytes, where the system tells it.
    pub fn memory_available_bytes() -> Option<u64> {
        kibibytes("/proc/meminfo", "MemAvailable")
    }
}

/// The largest resident memory that this process has had, in bytes, where the system tells it.
pub fn peak_memory_bytes() -> Option<u64> {
    kibibytes("/proc/self/status", "VmHWM")
}

/// What a process has used.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// Processor time of all its threads, in user and in kernel mode.
    pub cpu: Duration,
    /// Its resident memory at this moment, in bytes.
    pub resident_bytes: u64,
}

/// What the process with this id has used, where the system tells it.
pub fn usage(pid: u32) -> Option<Usage> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name, in brackets, may hold spaces; `utime` and `stime` are the 12th and 13th fields after it.
    let (_, fields) = text.rsplit_once(')')?;
    let mut ticks = fields.split_whitespace().skip(11).map(str::parse::<u32>);
    let ticks = ticks.next()?.ok()? + ticks.next()?.ok()?;
    Some(Usage {
        cpu: CPU_TICK * ticks,
        resident_bytes: kibibytes(&format!("/proc/{pid}/status"), "VmRSS")?,
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_memory_and_no_more_time_than_there_was() {
        let usage = usage(std::process::id()).expect("Linux tells it");
        assert!(usage.resident_bytes > 1 << 20, "{usage:?}");
        let boot = std::fs::read_to_string("/proc/uptime").expect("Linux tells it");
        let seconds: f64 = boot.split('.').next().expect("a number").parse().expect("a number");
        assert!(
            usage.cpu.as_secs_f64() <= seconds * Machine::this().cores as f64,
            "{usage:?}"
        );
    }
}
