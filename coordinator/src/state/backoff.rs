//! Workers that could not do a run's work, and get none of it for a while.
//!
//! A judge whose server is away, or a machine without the run's model, is kept from that run alone: for a second first, and
//! for twice as long after each further failure in a row. Other runs get the worker meanwhile, and other workers the run's
//! units. Soft state: when a coordinator starts anew, everybody may try again.

use std::collections::BTreeMap;

use gavel_core::ids::{Millis, RunId, WorkerId};

/// How long a worker is kept from a run after its first failure.
const FIRST_MS: u64 = 1_000;
/// The longest that a worker is kept from a run: what was missing is soon found to be there again.
const LONGEST_MS: u64 = 30_000;

/// Who is kept from which run.
#[derive(Debug, Default)]
pub(super) struct Backoffs(BTreeMap<WorkerId, BTreeMap<RunId, Backoff>>);

#[derive(Debug)]
struct Backoff {
    /// Failures in a row.
    failures: u32,
    until: Millis,
}

impl Backoffs {
    /// The worker could not do a unit of the run.
    pub(super) fn failed(&mut self, worker: &WorkerId, run: &RunId, now: Millis) {
        let of_worker = self.0.entry(worker.clone()).or_default();
        let backoff = of_worker.entry(run.clone()).or_insert(Backoff {
            failures: 0,
            until: now,
        });
        let pause = FIRST_MS.saturating_mul(1 << backoff.failures.min(16));
        backoff.until = now.plus(pause.min(LONGEST_MS));
        backoff.failures = backoff.failures.saturating_add(1);
    }

    /// The worker has done a unit of the run.
    pub(super) fn succeeded(&mut self, worker: &WorkerId, run: &RunId) {
        if let Some(of_worker) = self.0.get_mut(worker) {
            of_worker.remove(run);
            if of_worker.is_empty() {
                self.0.remove(worker);
            }
        }
    }

    /// The worker has left.
    pub(super) fn forget(&mut self, worker: &WorkerId) {
        self.0.remove(worker);
    }

    /// Whether the worker gets nothing of the run yet.
    pub(super) fn keep(&self, worker: &WorkerId, run: &RunId, now: Millis) -> bool {
        let backoff = self.0.get(worker).and_then(|of_worker| of_worker.get(run));
        backoff.is_some_and(|backoff| now < backoff.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_a_bound_concern_one_run_and_end_with_a_success() {
        let (worker, other) = (WorkerId("judge-1".into()), WorkerId("judge-2".into()));
        let (run, good) = (RunId("bad".into()), RunId("good".into()));
        let mut backoffs = Backoffs::default();
        let mut now = Millis(5);
        for pause in [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
            backoffs.failed(&worker, &run, now);
            assert!(backoffs.keep(&worker, &run, now.plus(pause - 1)));
            assert!(!backoffs.keep(&worker, &good, now) && !backoffs.keep(&other, &run, now));
            now = now.plus(pause);
            assert!(!backoffs.keep(&worker, &run, now));
        }
        backoffs.succeeded(&worker, &run);
        assert!(backoffs.0.is_empty());
        backoffs.failed(&worker, &run, now);
        assert!(!backoffs.keep(&worker, &run, now.plus(1_000)));
        backoffs.forget(&worker);
        assert!(!backoffs.keep(&worker, &run, now));
    }
}
