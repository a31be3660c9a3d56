//! Where the driver's time comes from.
//!
//! Durations (leases, silence, pauses, the seconds of a step) are measured by a clock that nobody sets: the wall clock of a
//! machine steps forward and back, and a standby's differs from its leader's. The wall clock is asked once, when a coordinator
//! takes over, so that the times in the ledger are dates that people can read.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gavel_core::ids::Millis;
use tokio::time::Instant;

/// A machine's two clocks.
pub(crate) struct Clock {
    /// The date. It may be wrong, and may step either way.
    wall: Box<dyn Fn() -> Millis + Send>,
    /// Time since some moment; it never steps.
    monotonic: Box<dyn Fn() -> Duration + Send>,
}

impl Clock {
    /// This machine's clocks.
    pub(crate) fn system() -> Self {
        let wall = || {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            Millis(since.map_or(0, milliseconds))
        };
        let begun = Instant::now();
        Self::new(wall, move || begun.elapsed())
    }

    pub(super) fn new(
        wall: impl Fn() -> Millis + Send + 'static,
        monotonic: impl Fn() -> Duration + Send + 'static,
    ) -> Self {
        Self {
            wall: Box::new(wall),
            monotonic: Box::new(monotonic),
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// The driver's time: it begins at the wall clock's, or where the ledger ends if that is later, and goes on as the monotonic
/// clock does.
#[derive(Debug)]
pub(super) struct Time {
    clock: Clock,
    begun: Millis,
    begun_at: Duration,
    /// Milliseconds from the end of the ledger until the beginning.
    pub(super) away_ms: u64,
}

impl Time {
    /// Time after `latest`, the time of the ledger's last event.
    pub(super) fn after(latest: Millis, clock: Clock) -> Self {
        let begun = latest.max((clock.wall)());
        Self {
            begun,
            begun_at: (clock.monotonic)(),
            away_ms: begun.since(latest),
            clock,
        }
    }

    pub(super) fn now(&self) -> Millis {
        let passed = (self.clock.monotonic)().saturating_sub(self.begun_at);
        self.begun.plus(milliseconds(passed))
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Time after `latest` by clocks that are set by hand: wall and monotonic, in milliseconds.
    fn after(latest: u64, wall: u64) -> (Time, Arc<AtomicU64>, Arc<AtomicU64>) {
        let (wall, monotonic) = (Arc::new(AtomicU64::new(wall)), Arc::new(AtomicU64::new(77)));
        let told = (Arc::clone(&wall), Arc::clone(&monotonic));
        let clock = Clock::new(
            move || Millis(told.0.load(Ordering::Relaxed)),
            move || Duration::from_millis(told.1.load(Ordering::Relaxed)),
        );
        (Time::after(Millis(latest), clock), wall, monotonic)
    }

    #[test]
    fn time_passes_as_the_monotonic_clock_says_whatever_the_wall_clock_does() {
        let (time, wall, monotonic) = after(1_000, 5_000);
        assert_eq!((time.now(), time.away_ms), (Millis(5_000), 4_000));
        for stepped in [5_000 + 3_600_000, 0, 4_000] {
            wall.store(stepped, Ordering::Relaxed);
            assert_eq!(time.now(), Millis(5_000));
        }
        monotonic.fetch_add(250, Ordering::Relaxed);
        assert_eq!(time.now(), Millis(5_250));
    }

    #[test]
    fn time_goes_on_after_the_ledger_on_a_machine_whose_clock_is_behind() {
        let (time, _, monotonic) = after(600_000, 0);
        assert_eq!((time.now(), time.away_ms), (Millis(600_000), 0));
        monotonic.fetch_add(1, Ordering::Relaxed);
        assert_eq!(time.now(), Millis(600_001));
    }
}
