//! Certificates and tokens change while the coordinator runs: the files are read again now and then.

use std::time::Duration;

use gavel_core::{Diagnostic, Hint};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::Security;

/// Reads the files of certificates and tokens again, every so often, until `shutdown`. Files that cannot be used leave what was
/// read before in force, so that a half-written one shuts nobody out.
pub(crate) async fn renew(security: Security, every: Duration, shutdown: CancellationToken) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut certificates, mut tokens) = (Told::default(), Told::default());
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if let Some(tls) = &security.tls {
            certificates.tell("certificates", tls.renew());
        }
        if let Some(read_again) = security.access.renew() {
            tokens.tell("tokens", read_again);
        }
    }
}

/// What was said last of files that cannot be used: once is enough.
#[derive(Default)]
struct Told(Option<String>);

impl Told {
    fn tell<E: std::error::Error + Hint>(&mut self, what: &str, renewed: Result<bool, E>) {
        match renewed {
            Ok(changed) => {
                self.0 = None;
                if changed {
                    tracing::info!(
                        "the {what} have changed: what they say now holds for every new call and connection"
                    );
                }
            }
            Err(error) => {
                let reason = Diagnostic::of(&error).in_full();
                if self.0.as_ref() != Some(&reason) {
                    tracing::warn!(%reason, "the {what} cannot be read again, those of before stay in force");
                    self.0 = Some(reason);
                }
            }
        }
    }
}
