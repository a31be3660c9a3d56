//! The patience of a worker, which outlives its coordinator.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};

use crate::error::CallError;

/// From 100 ms, doubling to 5 s, each time up to twice as long by chance, so that a fleet does not fall on a coordinator that
/// comes back all at once. Without an end: a worker waits for days.
fn patience() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(5))
        .with_jitter()
        .without_max_times()
}

/// Repeats `call` until it succeeds or fails for good. The caller bounds it by dropping the future. `what` names the call in
/// the log.
///
/// # Errors
/// What does not pass ([`CallError::passes`]).
pub async fn persist<T, F>(what: &'static str, call: impl FnMut() -> F) -> Result<T, CallError>
where
    F: Future<Output = Result<T, CallError>>,
{
    call.retry(patience())
        .when(CallError::passes)
        .notify(|error, delay| {
            let (code, message) = (error.code(), error.message());
            tracing::debug!(what, ?code, message, ?delay, "the coordinator did not answer");
        })
        .await
}

#[cfg(test)]
mod tests {
    use backon::BackoffBuilder as _;

    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_never_end_and_differ_between_workers() {
        let pauses = || patience().build().take(40).collect::<Vec<Duration>>();
        let (one, other) = (pauses(), pauses());
        assert_eq!(one.len(), 40, "a worker looks for its coordinator for ever");
        assert_ne!(one, other);
        for (index, pause) in one.iter().enumerate() {
            let plain = Duration::from_millis(100 << index.min(6)).min(Duration::from_secs(5));
            assert!(
                (plain..=2 * plain).contains(pause),
                "pause {index} is {pause:?}, not {plain:?} to twice that"
            );
        }
    }
}
