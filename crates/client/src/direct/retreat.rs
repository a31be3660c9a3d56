//! When a way past the coordinator is left alone.

use std::error::Error as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Problem;

/// Failures one after another after which a way is left alone.
const FAILURES: u32 = 3;
/// For how long.
const PAUSE: Duration = Duration::from_secs(300);

/// How a way did lately.
#[derive(Debug, Default)]
pub(super) struct Retreat(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// One after another.
    failures: u32,
    closed_until: Option<Instant>,
    /// Whether somebody was told since it last worked.
    told: bool,
}

impl Retreat {
    /// Whether the way is worth a try.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.lock().closed_until.is_none_or(|until| until <= now)
    }

    pub(super) fn worked(&self) {
        *self.lock() = State::default();
    }

    /// Notes a failure, and says so once where the way is left alone.
    pub(super) fn failed(&self, way: &'static str, problem: &Problem, now: Instant) {
        let cause = problem.source().map(ToString::to_string);
        if self.note(problem, now) {
            let pause_s = PAUSE.as_secs();
            tracing::warn!(way, %problem, cause, pause_s, "blobs go through the coordinator: a way past it does not work");
        } else {
            tracing::debug!(way, %problem, cause, "a blob goes through the coordinator");
        }
    }

    /// Whether it is time to tell somebody.
    fn note(&self, problem: &Problem, now: Instant) -> bool {
        let mut state = self.lock();
        state.failures = match problem {
            // Another try finds the same folder.
            Problem::OtherStore { .. } => FAILURES,
            _ => state.failures.saturating_add(1),
        };
        if state.failures < FAILURES {
            return false;
        }
        state.closed_until = Some(now + PAUSE);
        !std::mem::replace(&mut state.told, true)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is one whole one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_that_keeps_failing_is_left_alone_tried_again_and_told_of_once() {
        let retreat = Retreat::default();
        let problem = Problem::Location("for the test");
        let start = Instant::now();
        assert!(retreat.is_open(start));
        assert!(!retreat.note(&problem, start) && !retreat.note(&problem, start));
        assert!(retreat.is_open(start), "twice may be chance");
        assert!(retreat.note(&problem, start), "somebody is told");
        assert!(!retreat.is_open(start) && !retreat.is_open(start + PAUSE - Duration::from_millis(1)));
        let again = start + PAUSE;
        assert!(retreat.is_open(again));
        assert!(!retreat.note(&problem, again), "nobody is told twice");
        assert!(!retreat.is_open(again), "one more failure suffices");
        retreat.worked();
        assert!(retreat.is_open(again) && !retreat.note(&problem, again));
    }

    #[test]
    fn a_folder_of_another_store_is_left_alone_at_once() {
        let retreat = Retreat::default();
        let problem = Problem::OtherStore {
            folder: "blobs".into(),
            expected: "one".into(),
            found: "another".into(),
        };
        assert!(retreat.note(&problem, Instant::now()));
        assert!(!retreat.is_open(Instant::now()));
    }
}
