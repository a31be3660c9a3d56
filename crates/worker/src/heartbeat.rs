//! Keeps the leases alive, and hears which are lost.

use gavel_client::{Code, Heartbeat};
use gavel_core::work::DeviceUse;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::lease::Held;
use crate::session::Session;

/// Beats until `stop`. Cancels `drain` when the coordinator wants the fleet to leave.
pub(crate) async fn beat(
    session: Session,
    held: Held,
    used: impl Fn() -> Option<DeviceUse>,
    drain: CancellationToken,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(session.heartbeat);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        match session.heartbeat(&held.keys(), used()).await {
            Ok(Heartbeat { lost, drain: drains }) => {
                lost.iter().for_each(|key| held.lose(key));
                if drains {
                    drain.cancel();
                }
            }
            Err(error) if error.code() == Code::NotFound => {
                if let Err(error) = session.register_again().await {
                    tracing::debug!(message = error.message(), "not registered again yet");
                }
            }
            // The leases live until their deadlines; the next beat tries again.
            Err(error) => tracing::debug!(message = error.message(), "no answer to a heartbeat"),
        }
    }
}
