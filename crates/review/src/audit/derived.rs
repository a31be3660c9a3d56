//! What the ledger keeps besides the events must be what the events come to: the snapshot, byte for byte, and the commits and details of
//! steps.

use std::collections::BTreeSet;

use gavel_coordinator::ledger::{LedgerError, SnapshotRecord};
use gavel_coordinator::replayed_snapshot;
use gavel_core::ids::Step;
use gavel_core::run::{Run, SNAPSHOT_VERSION};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::finding::{Findings, Rule};
use crate::{Derived, History};

/// What was compared with a replay.
#[derive(Debug, Default, Serialize)]
pub(super) struct DerivedCounts {
    /// Events in the snapshot; `None` where there is none of this version.
    pub(super) snapshot: Option<u64>,
    /// Steps whose details are kept.
    pub(super) details: u32,
    /// Steps whose commits are kept.
    pub(super) commits: u32,
}

/// `derived` was read before `history`.
pub(super) fn check(history: &History, run: &Run, derived: &Derived, findings: &mut Findings) -> DerivedCounts {
    for problem in &derived.unreadable {
        let remedy = remedy(history);
        findings.add(Rule::Derived, "the ledger", format!("{problem}; {remedy}"));
    }
    let snapshot = derived.snapshot.as_ref().filter(|snapshot| {
        // Another version's is not used, and nobody here knows what it should be.
        snapshot.version == SNAPSHOT_VERSION
    });
    if let Some(snapshot) = snapshot
        && let Err(problem) = check_snapshot(history, snapshot)
    {
        let location = format!("the snapshot after event {}", snapshot.position.events);
        findings.add(Rule::Derived, location, format!("{problem}; {}", remedy(history)));
    }
    let mut counts = DerivedCounts {
        snapshot: snapshot.map(|snapshot| snapshot.position.events),
        details: 0,
        commits: 0,
    };
    for record in &derived.details {
        // Of steps that were taken back, details may be left until the steps are taken again.
        let Some(step) = run.results().steps.get((record.step.0 as usize).wrapping_sub(1)) else {
            continue;
        };
        counts.details += 1;
        let location = format!("the details of step {}", record.step);
        if let Err(problem) = compare(record.check(), &record.result, step) {
            findings.add(Rule::Derived, location, format!("{problem}; {}", remedy(history)));
        }
    }
    let kept: BTreeSet<Step> = derived.commits.iter().map(|record| record.step).collect();
    let last = kept.last().map_or(0, |step| step.0);
    for step in (1..last).map(Step).filter(|step| !kept.contains(step)) {
        let location = format!("the commit of step {step}");
        findings.add(Rule::Derived, location, format!("it is missing; {}", remedy(history)));
    }
    for record in &derived.commits {
        let Some(commit) = run.commit_of(record.step) else {
            continue;
        };
        counts.commits += 1;
        let location = format!("the commit of step {}", record.step);
        if let Err(problem) = compare(record.check(), &record.commit, &commit) {
            findings.add(Rule::Derived, location, format!("{problem}; {}", remedy(history)));
        }
    }
    counts
}

/// Whether a row says what the events come to.
fn compare<T: DeserializeOwned + PartialEq>(
    unchanged: Result<(), LedgerError>,
    text: &str,
    expected: &T,
) -> Result<(), String> {
    unchanged.map_err(|error| error.to_string())?;
    let kept: T = serde_json::from_str(text).map_err(|error| format!("cannot be read: {error}"))?;
    match kept == *expected {
        true => Ok(()),
        false => Err("is not what the events come to".to_owned()),
    }
}

fn check_snapshot(history: &History, snapshot: &SnapshotRecord) -> Result<(), String> {
    snapshot.check().map_err(|error| error.to_string())?;
    let events = usize::try_from(snapshot.position.events).unwrap_or(usize::MAX);
    let events = history
        .events
        .get(..events)
        .ok_or("the ledger has fewer events than are in it")?;
    let replayed = replayed_snapshot(&history.record, events);
    let replayed = replayed.map_err(|error| format!("cannot be compared with a replay: {error}"))?;
    match replayed == *snapshot {
        true => Ok(()),
        false => Err(format!("a replay gives another: {}", difference(&replayed, snapshot))),
    }
}

/// The fields in which two snapshots differ, for people.
fn difference(replayed: &SnapshotRecord, kept: &SnapshotRecord) -> String {
    if replayed.position != kept.position || replayed.at != kept.at {
        return "it ends with another event".to_owned();
    }
    let fields = |text: &str| serde_json::from_str::<serde_json::Map<_, _>>(text).unwrap_or_default();
    let (expected, found) = (fields(&replayed.state), fields(&kept.state));
    let names = expected.iter().filter(|(name, value)| found.get(*name) != Some(value));
    let names: Vec<String> = names.map(|(name, _)| format!("`{name}`")).collect();
    format!("{} differ", names.join(", "))
}

fn remedy(history: &History) -> String {
    let run = &history.record.run;
    format!(
        "nothing is lost, the events say it all: end the coordinator, `DELETE FROM snapshots WHERE run_id = '{run}'` in the ledger, and start \
         it again, which replays every event and writes snapshot, commits and details anew; if it comes back, it is a defect, please report it"
    )
}
