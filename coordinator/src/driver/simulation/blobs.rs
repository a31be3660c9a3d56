//! The blob store: which blobs are gone, and which are not what they should be.

use std::collections::BTreeSet;

use gavel_core::ids::Digest;
use gavel_core::work::{Assignment, Fault, Outcome, Unusable};

use super::chance::Chance;

/// Blobs that make trouble; all others are there.
#[derive(Default)]
pub(super) struct Blobs {
    lost: BTreeSet<Digest>,
    misleading: BTreeSet<Digest>,
    /// What the coordinator deleted because nobody needs it.
    deleted: BTreeSet<Digest>,
    /// Whether something was lost or misled: then steps may be taken again, and need what they once needed.
    troubled: bool,
    /// What was stored, in order; policies, on which everything else rests, once more.
    stored: Vec<Digest>,
    policies: Vec<Digest>,
}

impl Blobs {
    /// Loses one that somebody may still need. Returns whether there was one.
    pub(super) fn lose(&mut self, chance: &mut Chance) -> bool {
        let (among, window) = match chance.happens(0.3) {
            true => (&self.policies, 3),
            false => (&self.stored, 40),
        };
        if among.is_empty() {
            return false;
        }
        let back = chance.below(among.len().min(window) as u64) as usize;
        let which = among[among.len() - 1 - back];
        self.troubled = true;
        self.lost.insert(which)
    }

    /// Deletes what the coordinator says that nobody needs.
    pub(super) fn delete(&mut self, blobs: BTreeSet<Digest>) -> u64 {
        let count = blobs.len() as u64;
        self.deleted.extend(blobs);
        count
    }

    /// Whether the coordinator deleted one of these although nothing was lost.
    pub(super) fn deleted_in_use(&self, unusable: &[Unusable]) -> bool {
        !self.troubled && unusable.iter().any(|input| self.deleted.contains(&input.blob))
    }

    /// Stores a result's blobs, also in place of lost ones.
    pub(super) fn store(&mut self, outcome: &Outcome) {
        for (blob, _) in outcome.outputs() {
            self.lost.remove(&blob);
            self.deleted.remove(&blob);
            self.stored.push(blob);
        }
        if let Outcome::Initialised { .. } | Outcome::Committed { .. } = outcome {
            self.policies.extend(outcome.outputs().map(|(blob, _)| blob));
        }
    }

    /// A blob that was stored is not what it should be.
    pub(super) fn mislead(&mut self, blob: Digest) {
        self.troubled = true;
        self.misleading.insert(blob);
    }

    pub(super) fn misleads(&self, outcome: &Outcome) -> bool {
        outcome.outputs().any(|(blob, _)| self.misleading.contains(&blob))
    }

    /// What somebody who does this unit finds unusable.
    pub(super) fn unusable(&self, assignment: &Assignment) -> Vec<Unusable> {
        let found = assignment.inputs().filter_map(|(blob, _)| {
            let fault = match () {
                () if self.lost.contains(&blob) || self.deleted.contains(&blob) => Fault::Storage,
                () if self.misleading.contains(&blob) => Fault::Producer,
                () => return None,
            };
            Some(Unusable { blob, fault })
        });
        found.collect()
    }
}
