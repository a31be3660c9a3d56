//! What blobs cost a coordinator, and how long they take, through it, straight from its store, and from worker to worker.

use std::time::Duration;

use gavel_loadtest::{BlobRoad, BlobWay, StepBlobs};
use gavel_review::{Machine, Usage};
use serde::Serialize;

use super::process::CoordinatorProcess;
use super::{LoadArguments, Moment};
use crate::diagnostic::{Context as _, Foreign as _, Result};
use crate::output;
use crate::runtime::block_on;

/// How often the coordinator's memory is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Workers that read the policy in a step of [`step`].
const SAMPLERS: u32 = 4;
const TRAINERS: u32 = 2;

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    /// Where it was measured; coordinator and samplers share it.
    machine: Machine,
    /// The adapter's size in bytes.
    adapter_bytes: u64,
    /// Samplers that fetch it at once.
    samplers: u32,
    /// Each way.
    ways: [Measured; 3],
}

/// One way, on a coordinator of its own.
#[derive(Debug, Serialize)]
struct Measured {
    /// Which.
    way: &'static str,
    /// Until half of the samplers had the adapter.
    median_seconds: f64,
    /// Until all had it.
    seconds: f64,
    /// Blobs' bytes that the coordinator sent and received for that.
    adapter_through_coordinator: u64,
    /// Its processor time for that.
    coordinator_cpu_seconds: f64,
    /// That of all samplers together, most of it for the hash.
    samplers_cpu_seconds: f64,
    /// Its largest resident memory meanwhile, in bytes.
    resident_bytes_max: u64,
    /// Bytes of a step's blobs, each time that they are stored or fetched.
    step_bytes: u64,
    /// Of those what the coordinator sent and received.
    step_through_coordinator: u64,
}

/// The blobs of a step of configs/flux-dev.toml (eight pairs at 512 x 512 pixels in eight steps, a prompt for each), with an adapter of this size,
/// two shards, and as many workers as say [`SAMPLERS`] and [`TRAINERS`].
fn step(adapter: u64) -> [StepBlobs; 6] {
    let kind = |what, count, size, readers| StepBlobs {
        what,
        count,
        size,
        readers,
    };
    [
        kind("trajectories", 16, 4_456_448, 1),
        kind("conditionings", 8, 4_194_304, 1),
        kind("pictures", 16, 450_000, 1),
        kind("gradients", 2, adapter, 1),
        kind("optimizer state", 1, 2 * adapter, 1),
        kind("adapter", 1, adapter, SAMPLERS + TRAINERS),
    ]
}

pub(super) fn measure_blobs(samplers: u32, arguments: &LoadArguments) -> Result<()> {
    let adapter_bytes = u64::from(arguments.adapter) * 1_000_000;
    let report = block_on(async {
        let ways = [
            measure(Way::Coordinator, samplers, adapter_bytes, arguments).await?,
            measure(Way::Folder, samplers, adapter_bytes, arguments).await?,
            measure(Way::Workers, samplers, adapter_bytes, arguments).await?,
        ];
        Ok(Report {
            machine: Machine::this(),
            adapter_bytes,
            samplers,
            ways,
        })
    })?;
    if arguments.json {
        output::print_line(serde_json::to_string(&report)?)?;
    } else {
        output::print(report.describe())?;
    }
    Ok(())
}

/// How the blobs go.
#[derive(Debug, Clone, Copy)]
enum Way {
    Coordinator,
    Folder,
    Workers,
}

async fn measure(way: Way, samplers: u32, adapter_bytes: u64, arguments: &LoadArguments) -> Result<Measured> {
    let coordinator = CoordinatorProcess::start(arguments.program.as_deref(), &[]).await?;
    let (name, way) = match way {
        Way::Coordinator => ("through the coordinator", BlobWay::Coordinator),
        Way::Folder => ("straight from the folder", BlobWay::Folder(coordinator.blob_folder())),
        Way::Workers => ("from each other", BlobWay::Workers),
    };
    output::note(format_args!("{samplers} samplers {name}"));
    let mut road = BlobRoad::new(coordinator.address(), way);
    let adapter = road.store(0, adapter_bytes).await?;
    let before = through(&coordinator).await?;
    let begun = Moment::now(&coordinator)?;
    let mut resident_bytes_max = coordinator.usage()?.resident_bytes;
    let took = {
        let mut fetching = std::pin::pin!(road.fetch(adapter, samplers));
        loop {
            tokio::select! {
                took = &mut fetching => break took?,
                () = tokio::time::sleep(LOOK) => {
                    resident_bytes_max = resident_bytes_max.max(coordinator.usage()?.resident_bytes);
                }
            }
        }
    };
    let ended = Moment::now(&coordinator)?;
    let cpu = |of: fn(&Moment) -> Usage| of(&ended).cpu.saturating_sub(of(&begun).cpu).as_secs_f64();
    let fetched = through(&coordinator).await?;
    let blobs = step(adapter_bytes);
    road.step(&blobs).await?;
    let stepped = through(&coordinator).await?;
    coordinator.end().await?;
    let step_bytes = blobs
        .iter()
        .map(|kind| u64::from(kind.count) * kind.size * u64::from(1 + kind.readers));
    Ok(Measured {
        way: name,
        median_seconds: took.get(took.len() / 2).map_or(0.0, Duration::as_secs_f64),
        seconds: took.last().map_or(0.0, Duration::as_secs_f64),
        adapter_through_coordinator: fetched - before,
        coordinator_cpu_seconds: cpu(|moment| moment.coordinator),
        samplers_cpu_seconds: cpu(|moment| moment.generator),
        resident_bytes_max,
        step_bytes: step_bytes.sum(),
        step_through_coordinator: stepped - fetched,
    })
}

/// Blobs' bytes that the coordinator has sent and received, by its own metrics.
async fn through(coordinator: &CoordinatorProcess) -> Result<u64> {
    let http = gavel_judge::http_client().build().foreign()?;
    let text = async { http.get(coordinator.metrics()).send().await?.text().await };
    let text = text
        .await
        .foreign()
        .context("the coordinator does not show its metrics")?;
    let lines = text
        .lines()
        .filter(|line| line.starts_with("gavel_coordinator_blob_bytes_total{"));
    let values = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
    Ok(values.sum())
}

impl Report {
    fn describe(&self) -> String {
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        let processor = self.machine.processor.as_deref().unwrap_or("unknown processor");
        let mut text = format!(
            "{} cores, {processor}; {} samplers fetch an adapter of {:.0} MB at once and check its hash\n\n\
             way                       half have it  all have it  MB through the coordinator  its CPU s  its MiB at most  samplers' CPU s\n",
            self.machine.cores,
            self.samplers,
            megabytes(self.adapter_bytes)
        );
        for way in &self.ways {
            text += &format!(
                "{:<25} {:>10.2} s {:>10.2} s {:>27.1} {:>10.2} {:>16.1} {:>16.2}\n",
                way.way,
                way.median_seconds,
                way.seconds,
                megabytes(way.adapter_through_coordinator),
                way.coordinator_cpu_seconds,
                way.resident_bytes_max as f64 / f64::from(1 << 20),
                way.samplers_cpu_seconds,
            );
        }
        text += &format!(
            "\nthe blobs of a step of FLUX.1-dev with 8 pairs, {SAMPLERS} samplers and {TRAINERS} trainers\n\
             way                       MB stored and fetched  through the coordinator    share\n"
        );
        for way in &self.ways {
            text += &format!(
                "{:<25} {:>21.1} {:>24.1} {:>6.1} %\n",
                way.way,
                megabytes(way.step_bytes),
                megabytes(way.step_through_coordinator),
                100.0 * way.step_through_coordinator as f64 / way.step_bytes.max(1) as f64,
            );
        }
        text
    }
}
