//! A run's states as they come, until it has ended or stands still.

use std::time::{Duration, Instant};

use gavel_client::Runs;
use gavel_core::ids::RunId;
use gavel_core::run::RunStatus;

use crate::diagnostic::{Diagnostic, Result};

/// A run that changes in nothing for so long is looked at again: what it waits for is told then.
const SILENCE: Duration = Duration::from_secs(10);
/// Pause before looking again for a coordinator that is away.
const RECONNECT: Duration = Duration::from_millis(500);

/// Calls `each` with every state, with the latest again where none came for a while, and returns the last: of a run that has ended, or that
/// is paused with nothing in work. `patience` is how long a coordinator may be away; without it, for ever.
///
/// # Errors
/// What `each` says, or that the coordinator stayed away.
pub(crate) async fn follow(
    runs: &Runs,
    run: &RunId,
    patience: Option<Duration>,
    mut each: impl AsyncFnMut(&RunStatus) -> Result<()>,
) -> Result<RunStatus> {
    let mut heard = Instant::now();
    loop {
        if let Ok(mut watch) = runs.watch(run).await {
            let mut latest: Option<RunStatus> = None;
            loop {
                match (tokio::time::timeout(SILENCE, watch.next()).await, &latest) {
                    (Ok(Ok(Some(status))), _) => {
                        heard = Instant::now();
                        each(&status).await?;
                        if status.stands_still() {
                            return Ok(status);
                        }
                        latest = Some(status);
                    }
                    (Ok(_), _) => break,
                    (Err(_), Some(status)) => each(status).await?,
                    (Err(_), None) => {}
                }
            }
        }
        if patience.is_some_and(|patience| heard.elapsed() > patience) {
            return Err(
                Diagnostic::new(format!("run `{run}`: nothing was heard of its coordinator any more"))
                    .with_hint("it has ended or cannot be reached; the run's folder tells how far it came"),
            );
        }
        tokio::time::sleep(RECONNECT).await;
    }
}
