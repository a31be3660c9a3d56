//! What a run needs of this machine.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use gavel_coordinator::{CoordinatorOptions, Error, Stores};
use gavel_core::spec::{Device, Dtype, InProcessSpec, RunSpec};
use gavel_core::work::Role;
use gavel_models::denoiser::Inspection;
use gavel_models::load::{WeightCounts, gpu_memory};
use gavel_review::Machine;

use crate::diagnostic::{Context as _, Diagnostic, Result};
use crate::placement::placed;
use crate::preflight::HostedJudge;
use crate::runtime::block_on;

const GIB: f64 = (1u64 << 30) as f64;

/// The weights of one process of each role of the local fleet, in bytes, on the devices that the configuration names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Weights {
    sampler: Vec<(Device, u64)>,
    judge: Vec<(Device, u64)>,
    trainer: Vec<(Device, u64)>,
}

impl Weights {
    /// Counts them from the folders' headers; `embedder` is the number of those that embed prompts for the writer of rubrics. A model
    /// that a judge worker has for two things is in its memory once.
    pub(crate) fn of(spec: &RunSpec, model: &dyn Inspection, judges: &[HostedJudge<'_>], embedder: u64) -> Self {
        let bytes = |counts: WeightCounts| counts.bytes(spec.model.dtype, spec.model.quantization);
        let denoiser = bytes(model.denoiser_weights());
        let source = |judge: &HostedJudge<'_>| {
            let InProcessSpec {
                path, device, dtype, ..
            } = judge.named.spec;
            (path.clone(), *device, *dtype)
        };
        let is_first = |index: &usize| {
            judges[..*index]
                .iter()
                .all(|other| source(other) != source(&judges[*index]))
        };
        let loaded = (0..judges.len()).filter(is_first).map(|index| &judges[index]);
        let judges = loaded.map(|judge| {
            let counts = WeightCounts::whole(judge.folder.parameters);
            (judge.named.spec.device, counts.bytes(judge.named.spec.dtype, None))
        });
        let embedder = WeightCounts::whole(embedder).bytes(Dtype::F32, None);
        let embedder = (embedder > 0).then_some((Device::Cpu, embedder));
        let encoders = spec.model.text_encoder_device.unwrap_or(spec.model.device);
        // Nothing quantizes it, and the CPU's fused kernels keep it in float32.
        let autoencoder = model.autoencoder_weights().bytes(
            match spec.model.device {
                Device::Cpu => Dtype::F32,
                Device::CpuCandle | Device::Cuda(_) => spec.model.dtype,
            },
            None,
        );
        Self {
            sampler: vec![
                (spec.model.device, denoiser + autoencoder),
                (encoders, bytes(model.text_encoder_weights())),
            ],
            judge: judges.chain(embedder).collect(),
            trainer: vec![(spec.model.device, denoiser)],
        }
    }

    /// What they come to on each device, over the whole local fleet.
    fn by_device(&self, spec: &RunSpec) -> BTreeMap<Device, u64> {
        let mut sums = BTreeMap::from([(Device::Cpu, 0)]);
        for worker in placed(spec) {
            let weights = match worker.role {
                Role::Sampler => &self.sampler,
                // A sampler's weights are a trainer's and more.
                Role::Trainer if worker.with_sampler => &self.sampler,
                Role::Judge => &self.judge,
                Role::Trainer => &self.trainer,
            };
            for (device, bytes) in weights {
                let device = match worker.device(*device) {
                    Device::CpuCandle => Device::Cpu,
                    device => device,
                };
                *sums.entry(device).or_default() += bytes;
            }
        }
        sums
    }
}

/// Weights have to be in a device's memory once for each process that holds them; activations come on top.
///
/// # Errors
/// The machine, or a GPU of it, has less memory than that.
pub(crate) fn memory(spec: &RunSpec, weights: &Weights) -> Result<String> {
    let devices = weights.by_device(spec).into_iter();
    let checked = devices.map(|(device, needed)| match device {
        Device::Cpu | Device::CpuCandle => machine_memory(needed),
        Device::Cuda(ordinal) => gpu_memory_for(ordinal, needed),
    });
    Ok(checked.collect::<Result<Vec<_>>>()?.join("; "))
}

fn machine_memory(needed: u64) -> Result<String> {
    let text = format!(
        "about {:.1} GiB of weights over the local fleet, activations on top",
        needed as f64 / GIB
    );
    match Machine::this().memory_bytes {
        Some(total) if needed > total => Err(Diagnostic::new(format!(
            "{text}; this machine has {:.1} GiB of memory",
            total as f64 / GIB
        ))
        .with_hint("start fewer workers here, or workers on other machines")),
        _ => Ok(match Machine::memory_available_bytes() {
            Some(available) => format!("{text}; {:.1} GiB are free", available as f64 / GIB),
            None => text,
        }),
    }
}

fn gpu_memory_for(ordinal: usize, needed: u64) -> Result<String> {
    let text = format!("{:.1} GiB of weights on GPU {ordinal}", needed as f64 / GIB);
    let Some(memory) = gpu_memory(ordinal) else {
        return Ok(text);
    };
    if needed > memory.total_bytes {
        let total = memory.total_bytes as f64 / GIB;
        return Err(Diagnostic::new(format!("{text}, which has {total:.1} GiB")).with_hint(
            "spread the workers over more GPUs with fleet.gpus, start fewer of them here, or have a server judge",
        ));
    }
    let free = memory.total_bytes.saturating_sub(memory.used_bytes);
    Ok(format!("{text}, of which {:.1} GiB are free", free as f64 / GIB))
}

/// Opens a ledger and a blob store where the run would have them, in a folder that is removed again.
///
/// # Errors
/// The folder cannot be written.
pub(crate) fn folder(out: &Path) -> Result<String> {
    let fault = || {
        Diagnostic::new(format!("{}: cannot write to the run's folder", out.display()))
            .with_hint("choose a folder that this user may write to, with --out")
    };
    let existed = out.exists();
    let probe = out.join(format!("preflight-{}", std::process::id()));
    std::fs::create_dir_all(&probe).with_context(fault)?;
    let opened = block_on(async {
        let stores = Stores::open(&CoordinatorOptions::new(&probe)).await?;
        stores.blobs.check_writable().await?;
        stores.ledger.ready().await?;
        stores.ledger.close().await;
        Ok(())
    });
    std::fs::remove_dir_all(&probe).with_context(fault)?;
    if !existed {
        // Fails only when something else appeared in it meanwhile, which then must stay.
        let _ = std::fs::remove_dir(out);
    }
    opened?;
    Ok(format!("{}: ledger and blobs can be written", out.display()))
}

/// Nobody else listens where the coordinator is to listen. Port 0 takes any that is free.
///
/// # Errors
/// An address is in use, or is none of this machine's.
pub(crate) fn ports(spec: &RunSpec) -> Result<String> {
    for (part, address) in [("gRPC", spec.coordinator.grpc), ("HTTP", spec.coordinator.http)] {
        listen(part, address)?;
    }
    let (grpc, http) = (spec.coordinator.grpc, spec.coordinator.http);
    if grpc == http && grpc.port() != 0 {
        return Err(
            Diagnostic::new(format!("`coordinator.grpc` and `coordinator.http` are both {grpc}"))
                .with_hint("give each a port of its own; port 0 takes any that is free"),
        );
    }
    Ok(format!("gRPC {grpc} and HTTP {http} are free"))
}

fn listen(part: &'static str, address: SocketAddr) -> Result<(), Error> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(Error::AddressInUse { part, address }),
        Err(source) => Err(Error::Listen { part, address, source }),
    }
}

#[cfg(test)]
mod tests {
    use gavel_core::spec::Quantization;

    use super::*;

    #[test]
    fn quantized_weights_are_counted_as_they_are_kept() {
        let mut spec = RunSpec::default();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-flux");
        let model = gavel_models::Family::ALL[0].inspect(&folder).unwrap();
        let counted = |spec: &RunSpec| Weights::of(spec, model.as_ref(), &[], 0);
        let whole = counted(&spec);
        spec.model.quantization = Some(Quantization::Fp8);
        let narrow = counted(&spec);
        let (denoiser, encoders) = (model.denoiser_weights(), model.text_encoder_weights());
        // A byte less for each number, and four more for each row.
        let saved = |counts: WeightCounts| counts.quantizable - 4 * counts.quantizable_rows;
        assert!(saved(denoiser) > 0 && saved(encoders) > 0);
        assert_eq!(narrow.trainer[0].1, whole.trainer[0].1 - saved(denoiser));
        assert_eq!(narrow.sampler[0].1, whole.sampler[0].1 - saved(denoiser));
        assert_eq!(narrow.sampler[1].1, whole.sampler[1].1 - saved(encoders));
    }

    #[test]
    fn text_encoders_are_counted_where_they_compute() {
        let mut spec = RunSpec::default();
        spec.model.device = Device::Cuda(0);
        (spec.fleet.samplers, spec.fleet.judges, spec.fleet.trainers) = (2, 0, 0);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-flux");
        let model = gavel_models::Family::ALL[0].inspect(&folder).unwrap();
        let sums = |spec: &RunSpec| Weights::of(spec, model.as_ref(), &[], 0).by_device(spec);
        let together = sums(&spec);
        spec.model.text_encoder_device = Some(Device::Cpu);
        let apart = sums(&spec);
        let encoders = 2 * model.text_encoder_weights().bytes(spec.model.dtype, None);
        assert_eq!((together[&Device::Cpu], apart[&Device::Cpu]), (0, encoders));
        assert_eq!(apart[&Device::Cuda(0)], together[&Device::Cuda(0)] - encoders);
    }

    #[test]
    fn weights_are_counted_on_the_device_that_each_worker_has() {
        let mut spec = RunSpec::default();
        spec.model.device = Device::Cuda(0);
        (spec.fleet.samplers, spec.fleet.judges, spec.fleet.trainers) = (1, 1, 2);
        spec.fleet.gpus = vec![2, 3];
        let weights = Weights {
            sampler: vec![(Device::Cuda(0), 100)],
            judge: vec![(Device::Cpu, 10)],
            trainer: vec![(Device::Cuda(0), 7)],
        };
        let sums = weights.by_device(&spec);
        assert_eq!(
            sums.into_iter().collect::<Vec<_>>(),
            [(Device::Cpu, 10), (Device::Cuda(2), 107), (Device::Cuda(3), 7)]
        );
        spec.fleet.share_weights = true;
        let sums = weights.by_device(&spec);
        assert_eq!(
            sums.into_iter().collect::<Vec<_>>(),
            [(Device::Cpu, 10), (Device::Cuda(2), 100), (Device::Cuda(3), 7)]
        );
    }
}
