//! The task that keeps the blob store, beside the driver, so that no call waits for it: it notes how far the ledger reaches, puts
//! into the trash what nobody needs, and empties the trash.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use gavel_core::ids::{Digest, RunId};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::MissedTickBehavior;

use crate::binding::{self, Owner};
use crate::blobs::{BlobError, Blobs, Swept};
use crate::driver::DriverHandle;
use crate::error::Error;
use crate::ledger::Position;

/// Objects without an owner are left alone for this long: a worker stores its blobs before it names them, and somebody may
/// want to look at a corrupt one.
const GRACE: Duration = Duration::from_secs(24 * 3600);
/// How often the trash is looked through: as often as a quarter of its period, within these bounds.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));

/// What is to be done to the store.
pub(crate) enum Chore {
    /// Note how far each run's rows reach.
    Mark(BTreeMap<RunId, Position>),
    /// Discard these blobs.
    Discard(BTreeSet<Digest>),
    /// Discard everything but these, as far as it is old.
    DiscardAllBut(BTreeSet<Digest>),
}

/// The way to the sweeper.
pub(crate) type ChoreSender = UnboundedSender<Chore>;

pub(crate) struct Sweeper {
    blobs: Blobs,
    owner: Owner,
    /// How long discarded blobs stay in the trash.
    trash: Duration,
    chores: UnboundedReceiver<Chore>,
}

impl Sweeper {
    pub(crate) fn new(blobs: Blobs, owner: Owner, trash: Duration) -> (Self, ChoreSender) {
        let (sender, chores) = unbounded_channel();
        let sweeper = Self {
            blobs,
            owner,
            trash,
            chores,
        };
        (sweeper, sender)
    }

    /// Works until the driver is gone. A failure costs space, nothing else: it is logged, and the next start finds what was left.
    pub(crate) async fn run(mut self, driver: DriverHandle) -> Result<(), Error> {
        let (least, most) = LOOK_EVERY;
        let every = match self.trash {
            // Nothing is added to it.
            Duration::ZERO => most,
            trash => (trash / 4).clamp(least, most),
        };
        let mut looks = tokio::time::interval(every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                chore = self.chores.recv() => match chore {
                    Some(chore) => self.take(chore).await,
                    None => return Ok(()),
                },
                _ = looks.tick() => match self.empty_trash(&driver).await {
                    Ok(swept) if swept.objects > 0 => {
                        tracing::info!(objects = swept.objects, bytes = swept.bytes, "trash emptied");
                    }
                    Ok(_) => {}
                    Err(error) => tracing::warn!(%error, "the trash could not be emptied"),
                },
            }
        }
    }

    /// Does this and whatever else has arrived. Of several marks the last says it all; it comes first, so that a ledger of before
    /// is found out by whatever is missed in it.
    async fn take(&mut self, first: Chore) {
        let mut chores = vec![first];
        while let Ok(chore) = self.chores.try_recv() {
            chores.push(chore);
        }
        let mark = chores.iter().rev().find_map(|chore| match chore {
            Chore::Mark(runs) => Some(runs),
            _ => None,
        });
        if let Some(runs) = mark
            && let Err(error) = binding::mark(&self.blobs, self.owner, runs).await
        {
            tracing::warn!(%error, "the blob store takes no mark, so nothing is discarded");
            return;
        }
        for chore in &chores {
            let done = match chore {
                Chore::Mark(_) => Ok(()),
                Chore::Discard(blobs) => self.discard(blobs).await,
                Chore::DiscardAllBut(retained) => self.discard_all_but(retained).await,
            };
            if let Err(error) = done {
                tracing::warn!(%error, "blobs that nobody needs could not be discarded");
            }
        }
    }

    async fn discard(&self, blobs: &BTreeSet<Digest>) -> Result<(), BlobError> {
        if self.trash > Duration::ZERO {
            return self.blobs.discard(blobs).await;
        }
        for digest in blobs {
            self.blobs.delete(digest).await?;
        }
        Ok(())
    }

    async fn discard_all_but(&self, retained: &BTreeSet<Digest>) -> Result<(), BlobError> {
        let before = SystemTime::now() - GRACE;
        if self.owner.sole {
            let mut known = retained.clone();
            for discarded in self.blobs.discarded(SystemTime::now()).await? {
                known.extend(discarded.blobs);
            }
            let orphans = self.blobs.orphans(&known, before).await?;
            if !orphans.is_empty() {
                tracing::info!(blobs = orphans.len(), "old blobs without an owner discarded");
                self.discard(&orphans).await?;
            }
        }
        let swept = self.blobs.sweep(before).await?;
        if swept.objects > 0 {
            tracing::info!(
                objects = swept.objects,
                bytes = swept.bytes,
                "corrupt blobs and unfinished uploads deleted"
            );
        }
        Ok(())
    }

    /// Deletes what has been in the trash for its period and is still needed by nobody.
    async fn empty_trash(&self, driver: &DriverHandle) -> Result<Swept, BlobError> {
        let mut swept = Swept::default();
        for discarded in self.blobs.discarded(SystemTime::now() - self.trash).await? {
            let blobs = discarded.blobs.clone();
            // It has ended, or does not know what every run needs: then nothing is deleted.
            let Ok(Some(needed)) = driver.needed(blobs).await else {
                break;
            };
            swept.add(self.blobs.empty(&discarded, &needed).await?);
        }
        Ok(swept)
    }
}
