//! Blobs that a run's commit made superfluous, until nobody else can come to need them.
//!
//! Blobs are named by their contents, so that two runs may make the same one. A worker stores a result's blobs before it hands
//! the result in; a commit of another run between the two would have them deleted under a result that is then accepted. So
//! what a commit releases waits until the leases have ended that other runs had open at that moment.

use std::collections::BTreeSet;

use gavel_core::ids::{Digest, RunId};
use gavel_core::run::Run;
use gavel_core::work::LeaseKey;

use super::State;

/// What one commit released.
#[derive(Debug)]
pub(super) struct Release {
    blobs: BTreeSet<Digest>,
    /// Leases of other runs whose results may name these blobs.
    leases: Vec<LeaseKey>,
}

impl State {
    /// Notes the blobs that a run's latest commit made superfluous.
    pub(crate) fn release(&mut self, id: &RunId) {
        let blobs = self.run(id).map(Run::released).unwrap_or_default();
        let others = self.runs().filter(|(run, _)| run.id() != id);
        let leases = others.flat_map(|(run, _)| {
            run.leases().map(|(unit, lease)| LeaseKey {
                run: run.id().clone(),
                unit: *unit,
                fence: lease.fence,
            })
        });
        let leases = leases.collect();
        self.releases.push(Release { blobs, leases });
    }

    /// The released blobs that nobody can come to need any more.
    pub(crate) fn garbage(&mut self) -> BTreeSet<Digest> {
        let mut releases = std::mem::take(&mut self.releases);
        for release in &mut releases {
            release.leases.retain(|lease| self.is_open(lease));
        }
        let (waiting, over): (Vec<_>, Vec<_>) = releases.into_iter().partition(|release| !release.leases.is_empty());
        self.releases = waiting;
        let mut garbage: BTreeSet<Digest> = over.into_iter().flat_map(|release| release.blobs).collect();
        if !garbage.is_empty() {
            for (run, _) in self.runs() {
                let needed = run.retained();
                garbage.retain(|blob| !needed.contains(blob));
            }
        }
        garbage
    }

    fn is_open(&self, key: &LeaseKey) -> bool {
        let lease = self.run(&key.run).ok().and_then(|run| run.lease(&key.unit));
        lease.is_some_and(|lease| lease.fence == key.fence)
    }
}
