//! What the ledger keeps besides the events must be what the events come to: the snapshot, byte for byte, and the details of steps.

use gavel_coordinator::ledger::SnapshotRecord;
use gavel_coordinator::replayed_snapshot;
use gavel_core::run::{Run, SNAPSHOT_VERSION, StepResult};
use serde::Serialize;

use super::finding::{Findings, Rule};
use crate::{Derived, History};

/// What was compared with a replay.
#[derive(Debug, Default, Serialize)]
pub(super) struct DerivedCounts {
    /// Events in the snapshot; `None` where there is none of this version.
    pub(super) snapshot: Option<u64>,
    /// Steps whose details are kept.
    pub(super) details: u32,
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
    };
    for record in &derived.details {
        // Of steps that were taken back, details may be left until the steps are taken again.
        let Some(step) = run.results().steps.get((record.step.0 as usize).wrapping_sub(1)) else {
            continue;
        };
        counts.details += 1;
        let kept = record.check().map_err(|error| error.to_string());
        let kept = kept.and_then(|()| {
            serde_json::from_str::<StepResult>(&record.result).map_err(|error| format!("cannot be read: {error}"))
        });
        let problem = match kept {
            Ok(kept) if kept == *step => continue,
            Ok(_) => "are not what the events come to".to_owned(),
            Err(problem) => problem,
        };
        let location = format!("the details of step {}", record.step);
        findings.add(Rule::Derived, location, format!("{problem}; {}", remedy(history)));
    }
    counts
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
         it again, which replays every event and writes snapshot and details anew; if it comes back, it is a defect, please report it"
    )
}
