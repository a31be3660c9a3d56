//! What a run needs of this machine.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use gavel_coordinator::{CoordinatorOptions, Error, Stores};
use gavel_core::spec::{Device, Dtype, RunSpec};
use gavel_models::denoiser::Inspection;
use gavel_review::Machine;

use crate::diagnostic::{Context as _, Diagnostic, Result};
use crate::preflight::HostedJudge;
use crate::runtime::block_on;

const GIB: f64 = (1u64 << 30) as f64;

/// Memory that the weights take in each process of the local fleet, in bytes; 0 for a process that keeps them on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Weights {
    sampler: u64,
    judge: u64,
    trainer: u64,
}

impl Weights {
    /// Counts them from the folders' headers.
    pub(crate) fn of(spec: &RunSpec, model: &dyn Inspection, judges: &[HostedJudge<'_>]) -> Self {
        let on_cpu = |device: Device, bytes: u64| match device {
            Device::Cpu => bytes,
            Device::Cuda(_) => 0,
        };
        let size = number_bytes(spec.model.dtype);
        let denoiser = model.denoiser_parameters() * size;
        let sampler = denoiser + model.other_parameters() * size;
        Self {
            sampler: on_cpu(spec.model.device, sampler),
            judge: judges
                .iter()
                .map(|judge| {
                    let bytes = judge.folder.parameters * number_bytes(judge.named.spec.dtype);
                    on_cpu(judge.named.spec.device, bytes)
                })
                .sum(),
            trainer: on_cpu(spec.model.device, denoiser),
        }
    }
}

fn number_bytes(dtype: Dtype) -> u64 {
    match dtype {
        Dtype::F32 => 4,
        Dtype::Bf16 | Dtype::F16 => 2,
    }
}

/// Weights have to be in memory once for each process that holds them; activations come on top.
///
/// # Errors
/// The machine has less memory than that.
pub(crate) fn memory(spec: &RunSpec, weights: &Weights) -> Result<String> {
    let fleet = &spec.fleet;
    let needed = weights.sampler * u64::from(fleet.samplers)
        + weights.trainer * u64::from(fleet.trainers)
        + weights.judge * u64::from(fleet.judges);
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
