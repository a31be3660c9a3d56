//! What is lost is made again, who cannot be trusted is set apart, and the run ends the same.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use gavel_core::RunAssets;
use gavel_core::forecast::rehearsal;
use gavel_core::ids::{Digest, RunId};
use gavel_core::run::{Phase, Run, RunStatus};
use gavel_core::spec::RunSpec;
use gavel_core::work::{Assignment, Outcome, Role, Unit, Verdict};
use gavel_worker::{Work, WorkContext, WorkError};

use crate::support::{self, RUN, Rehearsal, Served, Working, adapter, is_ended, options, undisturbed, whole_fleet};

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
        Working::start(Role::Trainer, address, Rehearsal::new()),
        Working::start(Role::Sampler, address, Rehearsal::new()),
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
            let step = run.in_flight().next().expect("a step");
            // A trajectory that a trainer will read: of a group that the judge will decide.
            let verdicts = (0..2).flat_map(|chunk| {
                let unit = Unit::Judge { step: step.step, chunk };
                let assignment = run.assignment(&unit).expect("its pictures are there");
                match rehearsal::work(run.spec(), run.assets().rubric.digest, &assignment) {
                    Outcome::Judged { verdicts, .. } => verdicts,
                    other => panic!("{other:?}"),
                }
            });
            let mut decided = verdicts.filter(|record| matches!(record.verdict, Verdict::Preferred { .. }));
            let read = decided.next_back().expect("a decided group").prompt_index.0 as usize;
            let candidates = |index: usize| &step.groups[index].candidates;
            (candidates(0)[1].image, candidates(read)[0].trajectory)
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
async fn a_lost_conditioning_is_made_again_by_the_sampler_that_was_to_read_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    let address = coordinator.handle.grpc_address();
    coordinator.submit().await;
    let start = |role| Working::start(role, address, Rehearsal::new());
    let sampled = |status: &RunStatus| status.progress.is_some_and(|step| step.samples == step.samples_total);
    // Two steps sample all prompts, and the third samples some again.
    for step in 1..=2 {
        let (sampler, trainer) = (start(Role::Sampler), start(Role::Trainer));
        coordinator.until(sampled).await;
        sampler.stop().await;
        // Nobody samples the next step.
        let judge = start(Role::Judge);
        let committed = |status: &RunStatus| status.step.0 >= step || is_ended(status);
        coordinator.until(committed).await;
        for worker in [judge, trainer] {
            worker.stop().await;
        }
    }
    let handed = |run: &Run| {
        let step = run.in_flight().next().expect("a step").step;
        let units = (0..6).filter_map(|chunk| run.assignment(&Unit::Sample { step, chunk }));
        let prompts = units.flat_map(|assignment| match assignment {
            Assignment::Sample { prompts, .. } => prompts,
            other => panic!("{other:?}"),
        });
        prompts.filter_map(|prompt| prompt.conditioning).collect::<Vec<_>>()
    };
    let (driver, run) = (coordinator.handle.driver(), RunId(RUN.into()));
    let lost = driver.inspect(&run, handed).await.expect("the run");
    assert!(!lost.is_empty(), "no prompt comes again");
    for conditioning in &lost {
        std::fs::remove_file(blob(folder.path(), conditioning)).expect("removed");
    }

    let workers = whole_fleet(address);
    let status = coordinator.until(is_ended).await;
    assert_eq!(status.phase, Phase::Finished);
    for worker in workers {
        worker.stop().await;
    }
    for conditioning in &lost {
        assert!(
            blob(folder.path(), conditioning).exists(),
            "the steps that are kept name it"
        );
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
            spent: None,
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

fn stored(data: &Path) -> BTreeSet<Digest> {
    let folders = std::fs::read_dir(data.join("blobs")).expect("the blobs");
    let folders = folders
        .map(|folder| folder.expect("an entry").path())
        .filter(|path| path.is_dir());
    let files = folders.flat_map(|folder| {
        let prefix = folder.file_name().expect("a name").to_string_lossy().into_owned();
        let files = std::fs::read_dir(folder).expect("a folder");
        files.map(move |file| format!("{prefix}{}", file.expect("a file").file_name().to_string_lossy()))
    });
    files.filter_map(|name| name.parse().ok()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_holds_what_the_run_needs_and_old_orphans_go_at_the_next_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    let mut spec = support::spec();
    spec.coordinator.keep_steps = 1;
    coordinator.submit_spec(spec).await;
    let workers = whole_fleet(coordinator.handle.grpc_address());
    assert_eq!(coordinator.until(is_ended).await.phase, Phase::Finished);
    for worker in workers {
        worker.stop().await;
    }
    let run = RunId(RUN.into());
    let retained = coordinator
        .handle
        .driver()
        .inspect(&run, |run| run.retained())
        .await
        .expect("the run");
    coordinator.stop().await;
    assert_eq!(stored(folder.path()), retained);

    let orphan = |name: &str| {
        let path = blob(folder.path(), &Digest::of(name.as_bytes()));
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(&path, name).expect("written");
        path
    };
    let (old, young) = (orphan("old"), orphan("young"));
    let foreign = folder.path().join("blobs/notes.txt");
    std::fs::write(&foreign, "mine").expect("written");
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(48 * 3600);
    for path in [&old, &foreign] {
        std::fs::File::open(path)
            .expect("there")
            .set_modified(long_ago)
            .expect("aged");
    }
    Served::start(options(folder.path())).await.stop().await;
    assert!(!old.exists());
    assert!(young.exists() && foreign.exists());
    assert!(stored(folder.path()).is_superset(&retained));
}
