//! One run at a time in a folder.

use std::path::Path;
use std::time::{Duration, Instant};

use gavel_coordinator::{FolderLock, LOCK_FILE, LockError};

use crate::diagnostic::{Context as _, Result};
use crate::output;

/// How long the coordinator of a run that was killed may take until it has noticed that and ended in good order.
const PREDECESSOR_ENDS_WITHIN: Duration = Duration::from_secs(20);
/// Pause before looking again whether it has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Keeps other runs out of the folder for as long as this one goes on.
///
/// # Errors
/// A run goes on there, or the folder cannot be written.
pub(crate) fn lock(folder: &Path) -> Result<FolderLock> {
    match FolderLock::take(&folder.join("run.lock")) {
        Err(error @ LockError::Held { .. }) => {
            Err(error).with_context(|| format!("{}: a run goes on here already", folder.display()))
        }
        taken => Ok(taken?),
    }
}

/// Waits for the coordinator of a run that was killed in this folder: until it has noticed, the ledger is its own.
///
/// # Errors
/// It does not end in time.
pub(super) async fn outlive_predecessor(state: &Path) -> Result<()> {
    let given_up = Instant::now() + PREDECESSOR_ENDS_WITHIN;
    let mut is_told = false;
    loop {
        match FolderLock::take(&state.join(LOCK_FILE)) {
            Err(error @ LockError::Held { .. }) if Instant::now() > given_up => {
                return Err(error).context("the coordinator of an earlier run in this folder does not end");
            }
            Err(LockError::Held { holder, .. }) if !is_told => {
                output::tell(format_args!(
                    "waits for the coordinator of an earlier run here to end ({holder})"
                ));
                is_told = true;
            }
            Err(LockError::Held { .. }) => {}
            // What else is wrong with the folder, this run's own coordinator says better.
            Ok(_) | Err(_) => return Ok(()),
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
