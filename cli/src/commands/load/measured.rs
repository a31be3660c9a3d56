//! What a load shows, as a table and as JSON.

use gavel_loadtest::Percentiles;
use gavel_review::Machine;
use serde::Serialize;

/// What `gavel load` prints.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Where it was measured; coordinator and generator share it.
    pub(super) machine: Machine,
    /// Prompts of a step.
    pub(super) prompts_per_step: u32,
    /// Leases that the fleet asked for in a second; `None`: as many as it got.
    pub(super) rate: Option<u32>,
    /// One entry for each size of the fleet.
    pub(super) fleets: Vec<Measured>,
}

/// One fleet.
#[derive(Debug, Serialize)]
pub(super) struct Measured {
    /// Simulated workers.
    pub(super) workers: u32,
    /// Connections that they shared.
    pub(super) connections: u32,
    /// Without work.
    pub(super) idle: Idle,
    /// At work.
    pub(super) loaded: Loaded,
    /// Calls that failed and results that were handed in twice.
    pub(super) troubles: u64,
    /// Steps that were committed.
    pub(super) steps_committed: u32,
    /// What the ledger's file grew by for each lease.
    pub(super) ledger_bytes_per_lease: u64,
    /// The same for all units of a step.
    pub(super) ledger_bytes_per_step: u64,
}

/// A fleet that waits for work: every worker holds a request open and sends heartbeats.
#[derive(Debug, Serialize)]
pub(super) struct Idle {
    /// How fast the workers connected and registered.
    pub(super) registrations_per_second: f64,
    /// What the coordinator's resident memory grew by for each worker.
    pub(super) bytes_per_worker: u64,
    /// Processors that the coordinator kept busy.
    pub(super) coordinator_cores: f64,
    /// Heartbeats answered in a second.
    pub(super) heartbeats_per_second: f64,
    /// How long a heartbeat took.
    pub(super) heartbeat: Option<Percentiles>,
}

/// A fleet at work.
#[derive(Debug, Serialize)]
pub(super) struct Loaded {
    /// Leases granted in a second.
    pub(super) leases_per_second: f64,
    /// Heartbeats answered in a second.
    pub(super) heartbeats_per_second: f64,
    /// From the moment when a unit was both asked for and ready to the arrival of its lease.
    pub(super) grant: Option<Percentiles>,
    /// From the sending of a result to its acceptance.
    pub(super) completion: Option<Percentiles>,
    /// How long a heartbeat took.
    pub(super) heartbeat: Option<Percentiles>,
    /// Processors that the coordinator kept busy.
    pub(super) coordinator_cores: f64,
    /// Processors that the load generator kept busy.
    pub(super) generator_cores: f64,
    /// Processor time of the coordinator for each lease: its grant, its result, and the heartbeats meanwhile.
    pub(super) coordinator_cpu_us_per_lease: f64,
    /// Processor time of the generator for each lease.
    pub(super) generator_cpu_us_per_lease: f64,
    /// Resident memory of the coordinator at the end.
    pub(super) resident_bytes: u64,
}

impl Report {
    pub(super) fn describe(&self) -> String {
        let processor = self.machine.processor.as_deref().unwrap_or("unknown processor");
        let rate = self.rate.map_or_else(
            || "as many leases as the coordinator gives".to_owned(),
            |rate| format!("{rate} leases per second asked for"),
        );
        let mut text = format!(
            "{} cores, {processor}; {} prompts per step; {rate}\n\nwithout work\n\
             workers  connections  registered/s  KiB/worker  heartbeats/s  cores  heartbeat p50/p99/max ms\n",
            self.machine.cores, self.prompts_per_step
        );
        for fleet in &self.fleets {
            let idle = &fleet.idle;
            text += &format!(
                "{:>7} {:>12} {:>13.0} {:>11.1} {:>13.0} {:>6.3}  {}\n",
                fleet.workers,
                fleet.connections,
                idle.registrations_per_second,
                idle.bytes_per_worker as f64 / 1024.0,
                idle.heartbeats_per_second,
                idle.coordinator_cores,
                in_short(idle.heartbeat),
            );
        }
        text += "\nat work\n\
                 workers  leases/s  CPU us/lease  grant p50/p99/max ms    result p50/p99/max ms   heartbeats/s  p50/p99/max ms          cores: coordinator  generator  troubles\n";
        for fleet in &self.fleets {
            let loaded = &fleet.loaded;
            text += &format!(
                "{:>7} {:>9.0} {:>13.0}  {:<22}  {:<22} {:>13.0}  {:<22} {:>19.2} {:>10.2} {:>9}\n",
                fleet.workers,
                loaded.leases_per_second,
                loaded.coordinator_cpu_us_per_lease,
                in_short(loaded.grant),
                in_short(loaded.completion),
                loaded.heartbeats_per_second,
                in_short(loaded.heartbeat),
                loaded.coordinator_cores,
                loaded.generator_cores,
                fleet.troubles,
            );
        }
        text += "\nledger and memory\n\
                 workers  steps committed  bytes/lease  MiB/step  coordinator MiB at the end\n";
        for fleet in &self.fleets {
            text += &format!(
                "{:>7} {:>16} {:>12} {:>9.1} {:>27.0}\n",
                fleet.workers,
                fleet.steps_committed,
                fleet.ledger_bytes_per_lease,
                mebibytes(fleet.ledger_bytes_per_step),
                mebibytes(fleet.loaded.resident_bytes),
            );
        }
        text
    }
}

fn in_short(latency: Option<Percentiles>) -> String {
    latency.map_or_else(
        || "-".to_owned(),
        |Percentiles { p50_ms, p99_ms, max_ms }| format!("{p50_ms:.1}/{p99_ms:.1}/{max_ms:.1}"),
    )
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
