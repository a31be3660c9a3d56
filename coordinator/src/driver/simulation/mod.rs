//! The coordinator under a deterministic simulator: the driver, its state and its ledger as they are, and around them
//! simulated workers, a network and an operator in virtual time. No runtime, no clock, no threads: one seed is one schedule.
//!
//! A failure prints its seed and the last events; `GAVEL_SIMULATION_SEED=seed cargo test -p gavel-coordinator simulation`
//! lives through that schedule again, and `GAVEL_SIMULATION_SCHEDULES=count` through more of them than usual.

#![expect(
    clippy::collapsible_match,
    clippy::large_enum_variant,
    reason = "what may fail is no guard; few requests are under way at a time"
)]

mod blobs;
mod chance;
mod invariants;
mod ledger;
mod lies;
mod oracle;
mod plan;
mod process;
mod protocol;
mod worker;
mod world;

use std::collections::BTreeMap;

use world::World;

/// Schedules of the ordinary test.
const SCHEDULES: u64 = 10_000;

/// What must have happened over all schedules.
const HAPPENS: [&str; 28] = [
    "blobs deleted as garbage",
    "blobs lost",
    "calls refused",
    "cancelled",
    "commits damaged",
    "completed",
    "coordinator starts",
    "expired",
    "failed",
    "given_up",
    "granted",
    "ledger failures",
    "messages doubled",
    "messages lost",
    "pictures answered about",
    "quarantined",
    "recovered",
    "released",
    "resumed",
    "runs",
    "runs equal to the undisturbed",
    "snapshots damaged",
    "starts at a snapshot",
    "wall clocks set",
    "worker crashes",
    "workers cut off",
    "workers frozen",
    "workers told to leave",
];

/// A promise that was broken.
struct Violation {
    what: String,
    trace: Vec<String>,
}

/// What happened, summed over schedules: a simulator in which nothing goes wrong shows nothing.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    fn count(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    fn add(&mut self, what: &'static str, count: u64) {
        *self.0.entry(what).or_default() += count;
    }
}

/// Lives through one schedule; panics with its seed and its last events when a promise is broken.
fn live(seed: u64) -> Tally {
    let lived = std::panic::catch_unwind(|| World::new(seed, false).run());
    if let Ok(Ok(tally)) = lived {
        return tally;
    }
    // Once more, now with the events.
    let again = format!("GAVEL_SIMULATION_SEED={seed} cargo test -p gavel-coordinator simulation");
    eprintln!("schedule {seed} breaks a promise; to see it again: {again}");
    match World::new(seed, true).run() {
        Err(Violation { what, trace }) => panic!("schedule {seed}: {what}\n{}\n{again}", trace.join("\n")),
        Ok(_) => panic!("schedule {seed} broke a promise once and not again: the simulation is not deterministic"),
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} must be a number, not `{text}`")),
    )
}

/// Every `of`-th schedule, from `part` on; or the one that the environment names.
fn live_through(part: u64, of: u64) {
    if let Some(seed) = number("GAVEL_SIMULATION_SEED") {
        if seed % of == part {
            eprintln!("{:?}", live(seed));
        }
        return;
    }
    let schedules = number("GAVEL_SIMULATION_SCHEDULES").unwrap_or(SCHEDULES);
    let mut sum = Tally::default();
    for seed in (part..schedules).step_by(of as usize) {
        live(seed).0.into_iter().for_each(|(what, count)| sum.add(what, count));
    }
    eprintln!("{sum:#?}");
    if schedules >= SCHEDULES {
        for what in HAPPENS {
            assert!(sum.0.contains_key(what), "no schedule has any `{what}`");
        }
    }
}

#[test]
fn nothing_is_lost_or_counted_twice_0() {
    live_through(0, 2);
}

#[test]
fn nothing_is_lost_or_counted_twice_1() {
    live_through(1, 2);
}

#[test]
fn one_seed_is_one_schedule() {
    for seed in 0..20 {
        assert!(live(seed) == live(seed), "schedule {seed} went two ways");
    }
}
