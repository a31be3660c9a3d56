//! What simulated workers count and time.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gavel_client::Code;
use serde::Serialize;

/// Measured durations, each one kept, so that percentiles are exact.
#[derive(Debug, Clone, Default)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    fn add(&mut self, latency: Duration) {
        self.0.push(latency);
    }

    /// How many were measured.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The median, the 99th percentile and the largest; `None` when nothing was measured.
    pub fn percentiles(&self) -> Option<Percentiles> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let milliseconds = |latency: &Duration| latency.as_secs_f64() * 1000.0;
        // The nearest rank: the smallest value that at least this share of all values does not exceed.
        let rank = |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1));
        Some(Percentiles {
            p50_ms: milliseconds(rank(50)?),
            p99_ms: milliseconds(rank(99)?),
            max_ms: milliseconds(sorted.last()?),
        })
    }
}

/// Latencies in short, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half of all are at most this.
    pub p50_ms: f64,
    /// 99 of 100 are at most this.
    pub p99_ms: f64,
    /// The largest.
    pub max_ms: f64,
}

/// What a fleet counted since the last time it was asked.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Since when.
    pub since: Instant,
    /// Of each granted lease, the time from the moment when the worker had asked and the unit's inputs had been sent to the
    /// coordinator, whichever was later, to the arrival of the grant. The time in which there was no work is no part of it;
    /// the ledger's writes of the inputs and of the grant are.
    pub grants: Latencies,
    /// Of each accepted result, the time from sending to the answer.
    pub completions: Latencies,
    /// Of each heartbeat, the time from sending to the answer.
    pub heartbeats: Latencies,
    /// Requests for work that ran out because there was none.
    pub empty: u64,
    /// Results that the coordinator had accepted before.
    pub repeated: u64,
    /// Calls that failed, by call and status.
    pub failures: BTreeMap<String, Failures>,
}

/// Calls that failed alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failures {
    /// How many.
    pub count: u64,
    /// What the first of them was told.
    pub first: String,
}

impl Tally {
    fn begun(now: Instant) -> Self {
        Self {
            since: now,
            grants: Latencies::default(),
            completions: Latencies::default(),
            heartbeats: Latencies::default(),
            empty: 0,
            repeated: 0,
            failures: BTreeMap::new(),
        }
    }

    /// Calls that failed and results that were handed in twice: 0 in a healthy fleet. A lease that expired shows as a
    /// completion that was refused.
    pub fn troubles(&self) -> u64 {
        self.failures.values().map(|failures| failures.count).sum::<u64>() + self.repeated
    }

    /// Adds another tally's troubles to these.
    pub fn add_troubles(&mut self, other: &Self) {
        self.repeated += other.repeated;
        for (kind, failures) in &other.failures {
            self.failures
                .entry(kind.clone())
                .and_modify(|known| known.count += failures.count)
                .or_insert_with(|| failures.clone());
        }
    }
}

/// The tally that all workers of a fleet write into.
#[derive(Debug)]
pub(crate) struct Counts(Mutex<Tally>);

impl Counts {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Tally::begun(Instant::now())))
    }

    /// Returns what was counted so far and begins again.
    pub(crate) fn take(&self) -> Tally {
        std::mem::replace(&mut *self.lock(), Tally::begun(Instant::now()))
    }

    pub(crate) fn granted(&self, latency: Duration) {
        self.lock().grants.add(latency);
    }

    pub(crate) fn completed(&self, latency: Duration, repeated: bool) {
        let mut tally = self.lock();
        tally.completions.add(latency);
        tally.repeated += u64::from(repeated);
    }

    pub(crate) fn heartbeat(&self, latency: Duration) {
        self.lock().heartbeats.add(latency);
    }

    pub(crate) fn empty(&self) {
        self.lock().empty += 1;
    }

    pub(crate) fn failed(&self, call: &str, code: Code, message: &str) {
        let kind = format!("{call}: {code:?}");
        let first = || Failures {
            count: 0,
            first: message.to_owned(),
        };
        self.lock().failures.entry(kind).or_insert_with(first).count += 1;
    }

    fn lock(&self) -> MutexGuard<'_, Tally> {
        // Counts stay counts whoever panicked beside them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentiles(), None);
        for milliseconds in (1..=200).rev() {
            latencies.add(Duration::from_millis(milliseconds));
        }
        let expected = Percentiles {
            p50_ms: 100.0,
            p99_ms: 198.0,
            max_ms: 200.0,
        };
        assert_eq!((latencies.count(), latencies.percentiles()), (200, Some(expected)));
    }

    #[test]
    fn a_tally_that_was_taken_begins_again() {
        let counts = Counts::new();
        counts.granted(Duration::from_millis(1));
        counts.failed("lease", Code::NotFound, "nobody");
        counts.failed("lease", Code::NotFound, "nobody else");
        let first = counts.take();
        assert_eq!((first.grants.count(), first.troubles()), (1, 2));
        assert_eq!(first.failures["lease: NotFound"].first, "nobody");
        let mut second = counts.take();
        assert_eq!((second.grants.count(), second.troubles()), (0, 0));
        second.add_troubles(&first);
        assert_eq!(second.troubles(), 2);
    }
}
