//! How busy the thread is that does the work.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Adds up the time in which the thread works. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Busy(Arc<Mutex<Tally>>);

#[derive(Debug)]
struct Tally {
    /// When somebody last asked, or the worker began.
    asked: Instant,
    /// Worked since then, as far as it is over.
    worked: Duration,
    /// Since when the thread works, or was asked while it does.
    working_since: Option<Instant>,
}

impl Busy {
    pub(crate) fn new(now: Instant) -> Self {
        Self(Arc::new(Mutex::new(Tally {
            asked: now,
            worked: Duration::ZERO,
            working_since: None,
        })))
    }

    /// The thread has taken a unit up.
    pub(crate) fn begin(&self, now: Instant) {
        self.tally().working_since = Some(now);
    }

    /// It is done with it.
    pub(crate) fn end(&self, now: Instant) {
        let mut tally = self.tally();
        if let Some(since) = tally.working_since.take() {
            tally.worked += now.duration_since(since);
        }
    }

    /// The share of the time since somebody last asked in which the thread worked, in percent.
    pub(crate) fn percent(&self, now: Instant) -> u8 {
        let mut tally = self.tally();
        if let Some(since) = tally.working_since.as_mut() {
            let worked = now.duration_since(std::mem::replace(since, now));
            tally.worked += worked;
        }
        let worked = std::mem::take(&mut tally.worked);
        let passed = now.duration_since(std::mem::replace(&mut tally.asked, now));
        match passed.is_zero() {
            true => 0,
            false => (100.0 * worked.div_duration_f64(passed)).round().min(100.0) as u8,
        }
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_worked_since_the_last_question_counts_also_of_a_unit_that_goes_on() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let busy = Busy::new(begun);
        assert_eq!(busy.percent(at(10)), 0);
        busy.begin(at(12));
        busy.end(at(14));
        busy.begin(at(17));
        assert_eq!(busy.percent(at(20)), 50);
        assert_eq!(busy.percent(at(30)), 100);
        busy.end(at(31));
        assert_eq!(busy.percent(at(40)), 10);
        assert_eq!(busy.percent(at(40)), 0);
    }
}
