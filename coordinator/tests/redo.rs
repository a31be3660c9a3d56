//! What is lost is made again, who cannot be trusted is set apart, and the run ends the same.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};

use gavel_core::RunAssets;
use gavel_core::ids::{Digest, RunId};
use gavel_core::run::{Phase, RunStatus};
use gavel_core::spec::RunSpec;
use gavel_core::unit::{Assignment, Outcome, Role, Unit};
use gavel_worker::{Work, WorkContext, WorkError};
use support::{Fake, RUN, Served, Working, options, whole_fleet};

fn is_ended(status: &RunStatus) -> bool {
    status.phase.is_ended()
}

fn adapter(status: &RunStatus) -> Digest {
    status.policy.as_ref().expect("a policy").adapter
}

async fn undisturbed() -> Digest {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    coordinator.submit().await;
    let workers = whole_fleet(coordinator.handle.grpc_address());
    let status = coordinator.until(is_ended).await;
    for worker in workers {
        worker.stop().await;
    }
    coordinator.stop().await;
    adapter(&status)
}

fn blob(data: &Path, digest: &Digest) -> PathBuf {
    let name = digest.to_string();
    data.join("blobs").join(&name[..2]).join(&name[2..])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_picture_and_a_missing_trajectory_are_made_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    let address = coordinator.handle.grpc_address();
    coordinator.submit().await;
    let first = [
        Working::start(Role::Trainer, address, Fake::new()),
        Working::start(Role::Sampler, address, Fake::new()),
    ];
    let sampled = |status: &RunStatus| status.progress.is_some_and(|step| step.samples == step.samples_total);
    coordinator.until(sampled).await;
    // Their caches go with them, so that the store is all there is.
    for worker in first {
        worker.stop().await;
    }
    let (picture, trajectory) = coordinator
        .handle
        .driver()
        .inspect(&RunId(RUN.into()), |run| {
            let pairs = &run.in_flight().next().expect("a step").pairs;
            let of = |place: usize| pairs[place].candidates.expect("sampled");
            (of(0)[1].image, of(5)[0].trajectory)
        })
        .await
        .expect("the run");
    let path = blob(folder.path(), &picture);
    let size = std::fs::read(&path).expect("the picture").len();
    std::fs::write(&path, vec![0; size]).expect("written");
    std::fs::remove_file(blob(folder.path(), &trajectory)).expect("removed");

    let workers = whole_fleet(address);
    let status = coordinator.until(is_ended).await;
    assert_eq!(status.phase, Phase::Finished);
    assert!(
        folder.path().join(format!("blobs/corrupt/{picture}")).exists(),
        "the evidence is kept"
    );
    for worker in workers {
        worker.stop().await;
    }
    coordinator.stop().await;
    assert_eq!(adapter(&status), undisturbed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_policy_sends_the_run_back_to_the_last_intact_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    let address = coordinator.handle.grpc_address();
    coordinator.submit().await;
    let workers = whole_fleet(address);
    let committed = coordinator.until(|status| status.step.0 >= 2 || is_ended(status)).await;
    for worker in workers {
        worker.stop().await;
    }
    let policy = committed.policy.expect("a policy");
    std::fs::remove_file(blob(folder.path(), &policy.adapter)).expect("removed");
    let workers = whole_fleet(address);
    let status = coordinator.until(is_ended).await;
    assert_eq!(status.phase, Phase::Finished);
    for worker in workers {
        worker.stop().await;
    }
    coordinator.stop().await;
    assert_eq!(adapter(&status), undisturbed().await);
}

/// Hands in the result of another unit.
struct Confused;

impl Work for Confused {
    fn prepare(&mut self, _: &RunId, _: &RunSpec, _: &RunAssets) -> Result<(), WorkError> {
        Ok(())
    }

    fn perform(&mut self, _: &Unit, _: &Assignment, _: &WorkContext) -> Result<Outcome, WorkError> {
        Ok(Outcome::Judged {
            verdicts: Vec::new(),
            model: Digest::of(b"judge"),
            seconds: 0.0,
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_result_contradicts_its_unit_leaves_with_the_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    let address = coordinator.handle.grpc_address();
    coordinator.submit().await;
    let confused = Working::start(Role::Sampler, address, Confused);
    let error = confused.ended().await.expect_err("it is set apart");
    let text = error.to_string();
    assert!(
        text.contains("quarantine") && text.contains("expected an outcome"),
        "{text}"
    );

    let workers = whole_fleet(address);
    let status = coordinator.until(is_ended).await;
    assert_eq!(status.phase, Phase::Finished);
    for worker in workers {
        worker.stop().await;
    }
    coordinator.stop().await;
    assert_eq!(adapter(&status), undisturbed().await);
}
