//! What an audit says of snapshots, commits and details that somebody has changed, with checksums that fit.

use gavel_coordinator::ledger::{CommitRecord, DetailsRecord, SnapshotRecord};
use gavel_coordinator::replayed_snapshot;

use super::super::derived;
use super::super::finding::{Findings, Rule};
use super::made_up::{events, history};
use crate::{Derived, History};

/// What a coordinator would have kept after so many events, and of each step.
fn kept(history: &History, events: usize) -> Derived {
    let run = history.replay(|_, _| {}, |_, _| {}).unwrap();
    let details = run.results().steps.iter().map(|step| {
        let result = serde_json::to_string(step).unwrap();
        DetailsRecord::new(history.record.run.clone(), step.record.step, result)
    });
    let commits = run.results().steps.iter().map(|step| {
        let step = step.record.step;
        let result = serde_json::to_string(&run.commit_of(step).unwrap()).unwrap();
        CommitRecord::new(history.record.run.clone(), step, result)
    });
    Derived {
        commits: commits.collect(),
        snapshot: Some(replayed_snapshot(&history.record, &history.events[..events]).unwrap()),
        details: details.collect(),
        unreadable: Vec::new(),
    }
}

fn findings(history: &History, derived: &Derived) -> Vec<(String, String)> {
    let run = history.replay(|_, _| {}, |_, _| {}).unwrap();
    let mut findings = Findings::default();
    derived::check(history, &run, derived, &mut findings);
    assert!(findings.0.iter().all(|finding| finding.rule == Rule::Derived));
    let text = |finding: super::super::Finding| (finding.location, finding.problem);
    findings.0.into_iter().map(text).collect()
}

#[test]
fn what_a_coordinator_keeps_has_no_findings() {
    let history = history(&events());
    for events in [0, 1, 20, history.events.len()] {
        assert_eq!(findings(&history, &kept(&history, events)), []);
    }
    assert_eq!(findings(&history, &Derived::default()), []);
}

#[test]
fn a_snapshot_that_is_not_its_replays_is_named_with_the_fields_and_the_remedy() {
    let history = history(&events());
    let change = |change: fn(SnapshotRecord) -> SnapshotRecord| {
        let mut derived = kept(&history, 20);
        derived.snapshot = derived.snapshot.map(change);
        findings(&history, &derived)
    };
    let sealed = |snapshot: &SnapshotRecord, state: String| {
        let SnapshotRecord {
            run,
            position,
            at,
            version,
            ..
        } = snapshot.clone();
        SnapshotRecord::new(run, position, at, version, state)
    };
    let found = change(|snapshot| SnapshotRecord {
        state: snapshot.state.replace("\"matches_judged\":", "\"matches_judged\":9"),
        ..snapshot
    });
    assert!(found[0].1.contains("the checksum does not fit"), "{found:?}");

    let mut derived = kept(&history, 20);
    let snapshot = derived.snapshot.take().unwrap();
    let state = snapshot.state.replace("\"matches_judged\":", "\"matches_judged\":9");
    derived.snapshot = Some(sealed(&snapshot, state));
    let found = findings(&history, &derived);
    let [(location, problem)] = &found[..] else {
        panic!("{found:?}")
    };
    assert_eq!(location, "the snapshot after event 20");
    for words in ["`matches_judged` differ", "DELETE FROM snapshots WHERE run_id = "] {
        assert!(problem.contains(words), "{problem}");
    }

    // Another version's is left alone, as a coordinator does.
    let found = change(|snapshot| SnapshotRecord {
        version: snapshot.version + 1,
        ..snapshot
    });
    assert_eq!(found, []);
}

#[test]
fn details_that_are_not_their_steps_are_named() {
    let history = history(&events());
    let mut derived = kept(&history, 0);
    let result = derived.details[1].result.replace("\"line\":", "\"line\":1");
    derived.details[1] = DetailsRecord::new(history.record.run.clone(), derived.details[1].step, result);
    let found = findings(&history, &derived);
    let [(location, problem)] = &found[..] else {
        panic!("{found:?}")
    };
    assert_eq!(location, "the details of step 2");
    assert!(problem.contains("is not what the events come to"), "{problem}");
}

#[test]
fn commits_that_are_not_their_steps_are_named() {
    let history = history(&events());
    let mut derived = kept(&history, 0);
    let CommitRecord { run, step, commit, .. } = derived.commits[1].clone();
    derived.commits[1] = CommitRecord::new(run, step, commit.replacen("[2,", "[3,", 1));
    derived.commits[0].commit.push(' ');
    let found = findings(&history, &derived);
    let [(first, changed), (second, other)] = &found[..] else {
        panic!("{found:?}")
    };
    assert_eq!(
        (first.as_str(), second.as_str()),
        ("the commit of step 1", "the commit of step 2")
    );
    assert!(changed.contains("the checksum does not fit"), "{changed}");
    assert!(other.contains("is not what the events come to"), "{other}");

    derived.commits.remove(0);
    let found = findings(&history, &derived);
    let (location, problem) = &found[0];
    assert_eq!(location, "the commit of step 1");
    assert!(problem.contains("it is missing"), "{problem}");
}
