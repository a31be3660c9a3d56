//! `gavel workers`.

use clap::Args;
use gavel_core::work::{Memory, WorkerStatus};

use super::connect::Connect;
use super::print_json;
use crate::diagnostic::Result;
use crate::output;
use crate::runtime::block_on;

#[derive(Debug, Args)]
pub(crate) struct WorkersArguments {
    #[command(flatten)]
    pub(crate) connect: Connect,
    /// Print everything that is known of them as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

pub(super) fn workers(arguments: &WorkersArguments) -> Result<()> {
    let workers = block_on(async {
        let runs = arguments.connect.open().await?.runs();
        Ok(runs.workers().await?)
    })?;
    if arguments.json {
        print_json(&workers)?;
    } else if workers.is_empty() {
        output::print_line("no workers")?;
    } else {
        for worker in &workers {
            output::print_line(describe(worker))?;
        }
    }
    Ok(())
}

/// A worker in a line.
fn describe(worker: &WorkerStatus) -> String {
    let WorkerStatus {
        id,
        host,
        pid,
        device,
        memory,
        busy_percent,
        completed,
        failed,
        leaves,
        leases,
        ..
    } = worker;
    let memory = memory.map_or_else(String::new, |memory| format!(" {}", in_gib(memory)));
    let busy = busy_percent.map_or_else(String::new, |percent| format!(" {percent}% busy"));
    let held: Vec<String> = leases
        .iter()
        .map(|lease| format!("{} of {}", lease.unit, lease.run))
        .collect();
    let holds = match held.as_slice() {
        [] => "idle".to_owned(),
        held => held.join(", "),
    };
    let leaves = if *leaves { ", leaves" } else { "" };
    format!("{id}  {host}:{pid}  {device}{memory}{busy}  {completed} done, {failed} failed{leaves}  {holds}")
}

fn in_gib(memory: Memory) -> String {
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    format!("{:.1} of {:.1} GiB", gib(memory.used_bytes), gib(memory.total_bytes))
}

#[cfg(test)]
mod tests {
    use gavel_core::ids::{RunId, WorkerId};
    use gavel_core::work::{HeldLease, Role};

    use super::*;

    #[test]
    fn a_worker_is_told_in_a_line() {
        let mut worker = WorkerStatus {
            id: WorkerId("judge-0a1b2c3d".into()),
            role: Role::Judge,
            host: "node-7".into(),
            pid: 12,
            device: "as the run says".into(),
            memory: None,
            busy_percent: None,
            version: "0.1.0".into(),
            registered_unix_ms: 0,
            seen_unix_ms: 0,
            completed: 0,
            failed: 0,
            leaves: false,
            leases: Vec::new(),
        };
        assert_eq!(
            describe(&worker),
            "judge-0a1b2c3d  node-7:12  as the run says  0 done, 0 failed  idle"
        );
        worker.device = "cuda:1".into();
        worker.memory = Some(Memory {
            used_bytes: 3 << 29,
            total_bytes: 80 << 30,
        });
        worker.busy_percent = Some(93);
        (worker.completed, worker.failed, worker.leaves) = (5, 1, true);
        worker.leases = vec![HeldLease {
            run: RunId("quickstart".into()),
            unit: "judge 3.0".into(),
            granted_unix_ms: 0,
        }];
        assert_eq!(
            describe(&worker),
            "judge-0a1b2c3d  node-7:12  cuda:1 1.5 of 80.0 GiB 93% busy  5 done, 1 failed, leaves  judge 3.0 of quickstart"
        );
    }
}
