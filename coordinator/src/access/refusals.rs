//! What the log says of callers that were sent away: at most a line a second, however many there are.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Refused;

const EVERY: Duration = Duration::from_secs(1);

/// Tells the log of refusals. Clones share the count.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refusals(Arc<Mutex<Untold>>);

#[derive(Debug, Default)]
struct Untold {
    last: Option<Instant>,
    count: u64,
}

impl Refusals {
    /// `what` is the call's name; nothing that the caller wrote.
    pub(crate) fn tell(&self, peer: Option<SocketAddr>, what: &str, refused: &Refused) {
        if let Some(untold) = self.due(Instant::now()) {
            let peer = peer.map(|peer| peer.to_string()).unwrap_or_default();
            tracing::warn!(peer, call = what, untold, "a call is refused: {refused}");
        }
    }

    /// How many were not told since the last that was; `None` where this one is not told either.
    fn due(&self, now: Instant) -> Option<u64> {
        let mut untold = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if untold.last.is_some_and(|last| now.duration_since(last) < EVERY) {
            untold.count += 1;
            return None;
        }
        untold.last = Some(now);
        Some(std::mem::take(&mut untold.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_of_refusals_is_a_line_a_second() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        assert_eq!(refusals.due(start), Some(0));
        assert!((0..1000).all(|_| refusals.due(start + EVERY / 2).is_none()));
        assert_eq!(refusals.due(start + EVERY), Some(1000));
    }
}
