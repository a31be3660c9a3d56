//! Keeps the leases alive, and hears which are lost.

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::lease::Held;
use crate::session::Session;

/// Beats until `stop`. Cancels `drain` when the coordinator wants the fleet to leave.
pub(crate) async fn beat(session: Session, held: Held, drain: CancellationToken, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(session.heartbeat);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        match session.heartbeat(&held.keys()).await {
            Ok((lost, drains)) => {
                lost.iter().for_each(|key| held.lose(key));
                if drains {
                    drain.cancel();
                }
            }
            Err(status) if status.code() == Code::NotFound => {
                if let Err(status) = session.register_again().await {
                    tracing::debug!(message = status.message(), "not registered again yet");
                }
            }
            // The leases live until their deadlines; the next beat tries again.
            Err(status) => tracing::debug!(message = status.message(), "no answer to a heartbeat"),
        }
    }
}
