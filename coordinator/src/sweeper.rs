//! The task that deletes blobs, beside the driver, so that no call waits for it.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use gavel_core::ids::Digest;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::blobs::Blobs;
use crate::error::Error;

/// Objects without an owner are left alone for this long: a worker stores its blobs before it names them, and somebody may
/// want to look at a corrupt one.
const GRACE: Duration = Duration::from_secs(24 * 3600);

/// What is to be deleted.
pub(crate) enum Garbage {
    /// These blobs.
    Blobs(BTreeSet<Digest>),
    /// Everything but these, as far as it is old.
    AllBut(BTreeSet<Digest>),
}

/// The way to the sweeper.
pub(crate) type GarbageSender = UnboundedSender<Garbage>;

pub(crate) struct Sweeper {
    blobs: Blobs,
    garbage: UnboundedReceiver<Garbage>,
}

impl Sweeper {
    pub(crate) fn new(blobs: Blobs) -> (Self, GarbageSender) {
        let (sender, garbage) = unbounded_channel();
        (Self { blobs, garbage }, sender)
    }

    /// Deletes until the driver is gone. A failure costs space, nothing else: it is logged, and the sweep at the next start
    /// finds what was left.
    pub(crate) async fn run(mut self) -> Result<(), Error> {
        while let Some(garbage) = self.garbage.recv().await {
            match garbage {
                Garbage::Blobs(blobs) => {
                    for digest in &blobs {
                        if let Err(error) = self.blobs.delete(digest).await {
                            tracing::warn!(%digest, %error, "a blob that nobody needs could not be deleted");
                        }
                    }
                    tracing::debug!(blobs = blobs.len(), "blobs deleted that the latest commit released");
                }
                // Blobs of somebody else's runs have no owner in this ledger either.
                Garbage::AllBut(_) if !self.blobs.is_exclusive() => {}
                Garbage::AllBut(retained) => {
                    let before = SystemTime::now() - GRACE;
                    match self.blobs.sweep(&retained, before).await {
                        Ok(swept) if swept.objects > 0 => {
                            tracing::info!(
                                objects = swept.objects,
                                bytes = swept.bytes,
                                "old blobs without an owner deleted"
                            );
                        }
                        Ok(_) => {}
                        Err(error) => tracing::warn!(%error, "the blob store could not be swept"),
                    }
                }
            }
        }
        Ok(())
    }
}
