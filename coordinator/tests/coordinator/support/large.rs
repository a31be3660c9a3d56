//! A fleet whose blobs are large enough to go straight to the store, and what a coordinator counts of them.

use std::net::SocketAddr;
use std::path::Path;

use gavel_core::RunAssets;
use gavel_core::blob_store::DIRECT_BYTES_MIN;
use gavel_core::forecast::rehearsal;
use gavel_core::ids::{Digest, RunId};
use gavel_core::spec::RunSpec;
use gavel_core::work::{Assignment, Outcome, Role, Unit};
use gavel_worker::{Work, WorkContext, WorkError, WorkerOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::Working;

/// A faultless worker that fills up each of its blobs.
#[derive(Default)]
pub(crate) struct Large {
    run: Option<(RunSpec, Digest)>,
}

impl Large {
    /// Two workers of each role, which may have the store's folder.
    pub(crate) fn fleet(coordinator: SocketAddr, folder: Option<&Path>) -> Vec<Working> {
        let roles = [Role::Sampler, Role::Judge, Role::Trainer];
        let workers = roles.into_iter().flat_map(|role| [role, role]).map(|role| {
            let options = WorkerOptions {
                blob_folder: folder.map(Path::to_owned),
                // Each fetches what it reads.
                cache_bytes: 0,
                ..WorkerOptions::new(coordinator.to_string(), [role], "cpu")
            };
            Working::start_with(options, Self::default())
        });
        workers.collect()
    }
}

impl Work for Large {
    fn prepare(&mut self, _: &RunId, spec: &RunSpec, assets: &RunAssets) -> Result<(), WorkError> {
        self.run = Some((spec.clone(), assets.rubric.digest));
        Ok(())
    }

    fn perform(&mut self, _: &Unit, assignment: &Assignment, context: &WorkContext) -> Result<Outcome, WorkError> {
        let (spec, rubric) = self.run.as_ref().ok_or(WorkError::Fatal("not prepared".into()))?;
        for (blob, _) in assignment.inputs() {
            context.get(&blob)?;
        }
        Ok(rehearsal::work_into(spec, *rubric, assignment, |mut blob| {
            blob.resize(blob.len().max(DIRECT_BYTES_MIN as usize), 0);
            context.put(blob)
        }))
    }
}

/// The sum over a coordinator's counter `gavel_coordinator_COUNTER_total`, `blob_bytes` or `blob_direct_bytes`.
pub(crate) async fn counted(http: SocketAddr, counter: &str) -> u64 {
    let mut stream = TcpStream::connect(http).await.expect("it serves");
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("asked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let name = format!("gavel_coordinator_{counter}_total{{");
    let lines = answer.lines().filter(|line| line.starts_with(&name));
    let values = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
    values.sum()
}
