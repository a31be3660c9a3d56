//! Who has which blob, and to how many each sends now.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use gavel_core::bounds;
use gavel_core::ids::{Digest, WorkerId};
use gavel_core::work::{Pass, SharingKey};

use super::Shares;

/// To how many a worker sends at a time, whatever the blobs; and to how many the coordinator sends one blob.
const FETCHERS: u32 = 2;
/// The most names that are held of all workers together.
const HELD_BY_ALL: usize = 262_144;
/// The most failures that are remembered of all workers together.
const FAILURES: usize = 16_384;

/// A worker's registration as one that shares; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SharerId(u64);

/// From where somebody fetches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Sharer(SharerId),
    Coordinator,
}

/// A worker that shares its blobs.
#[derive(Debug)]
pub(super) struct Sharer {
    worker: WorkerId,
    pub(super) shares: Shares,
    pub(super) key: SharingKey,
    /// To how many it sends.
    sending: u32,
    held: BTreeSet<Digest>,
}

/// Workers' certificates, each with a blob that somebody did not get there: whatever the worker says, nobody is sent there for it again. The oldest
/// are forgotten where there are too many.
#[derive(Debug, Default)]
struct Failures {
    known: BTreeSet<(Digest, Digest)>,
    order: VecDeque<(Digest, Digest)>,
}

impl Failures {
    fn add(&mut self, certificate: Digest, blob: Digest) {
        if self.known.insert((certificate, blob)) {
            self.order.push_back((certificate, blob));
        }
        if self.order.len() > FAILURES
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    fn has(&self, certificate: Digest, blob: Digest) -> bool {
        self.known.contains(&(certificate, blob))
    }
}

/// Who has which blob, and to how many each sends now. Knows no clock and nobody who waits.
#[derive(Debug, Default)]
pub(super) struct Sources {
    last: u64,
    sharers: BTreeMap<SharerId, Sharer>,
    by_worker: BTreeMap<WorkerId, SharerId>,
    by_certificate: BTreeMap<Digest, SharerId>,
    holders: BTreeMap<Digest, BTreeSet<SharerId>>,
    /// To how many the coordinator sends a blob; none that it sends to nobody.
    own: BTreeMap<Digest, u32>,
    /// Names in `holders`, each as often as it is held.
    held: usize,
    failures: Failures,
}

impl Sources {
    /// Whether nobody shares.
    pub(super) fn is_empty(&self) -> bool {
        self.sharers.is_empty()
    }

    pub(super) fn sharer(&self, id: SharerId) -> Option<&Sharer> {
        self.sharers.get(&id)
    }

    pub(super) fn key_of(&self, worker: &WorkerId) -> Option<&SharingKey> {
        self.sharers.get(self.by_worker.get(worker)?).map(|sharer| &sharer.key)
    }

    /// Whether somebody shares under this certificate.
    pub(super) fn has(&self, certificate: &Digest) -> bool {
        self.by_certificate.contains_key(certificate)
    }

    /// A worker shares from now on, and holds nothing yet. Whether it does: nobody shares under the certificate of another.
    pub(super) fn join(&mut self, worker: WorkerId, shares: Shares, key: SharingKey) -> bool {
        self.leave(&worker);
        if self.has(&shares.certificate) {
            return false;
        }
        self.last += 1;
        let id = SharerId(self.last);
        self.by_worker.insert(worker.clone(), id);
        self.by_certificate.insert(shares.certificate, id);
        let sharer = Sharer {
            worker,
            shares,
            key,
            sending: 0,
            held: BTreeSet::new(),
        };
        self.sharers.insert(id, sharer);
        true
    }

    /// A worker shares no longer; the certificate under which it did.
    pub(super) fn leave(&mut self, worker: &WorkerId) -> Option<Digest> {
        let id = self.by_worker.remove(worker)?;
        let sharer = self.sharers.remove(&id)?;
        for blob in &sharer.held {
            self.forget(blob, id);
        }
        self.by_certificate.remove(&sharer.shares.certificate);
        Some(sharer.shares.certificate)
    }

    /// Notes what a worker has and has not any more; its certificate, or `None` where it does not share. More than is taken is left out, and
    /// what somebody did not get there before.
    pub(super) fn hold(&mut self, worker: &WorkerId, held: &[Digest], gone: &[Digest]) -> Option<Digest> {
        let id = *self.by_worker.get(worker)?;
        for blob in gone {
            if self.sharers.get_mut(&id)?.held.remove(blob) {
                self.forget(blob, id);
            }
        }
        for blob in held {
            let sharer = self.sharers.get_mut(&id)?;
            let has_room = bounds::HELD.admits(sharer.held.len() as u64 + 1) && self.held < HELD_BY_ALL;
            let has_failed = self.failures.has(sharer.shares.certificate, *blob);
            if has_room && !has_failed && sharer.held.insert(*blob) {
                self.holders.entry(*blob).or_default().insert(id);
                self.held += 1;
            }
        }
        Some(self.sharers.get(&id)?.shares.certificate)
    }

    /// Somebody did not get a blob from the worker with this certificate, to which it had been sent: that one is never taken for a holder of it again.
    pub(super) fn failed(&mut self, blob: &Digest, certificate: &Digest, pass: &Pass) -> Option<&WorkerId> {
        let id = *self.by_certificate.get(certificate)?;
        let sharer = self.sharers.get_mut(&id)?;
        if !sharer.key.made(pass, blob) || !sharer.held.remove(blob) {
            return None;
        }
        self.failures.add(*certificate, *blob);
        self.forget(blob, id);
        self.sharers.get(&id).map(|sharer| &sharer.worker)
    }

    fn forget(&mut self, blob: &Digest, id: SharerId) {
        if let Some(holders) = self.holders.get_mut(blob)
            && holders.remove(&id)
        {
            self.held -= 1;
            if holders.is_empty() {
                self.holders.remove(blob);
            }
        }
    }

    /// Takes a hand that is free: of the holder that sends to the fewest, or else of the coordinator. Nobody is sent to itself.
    pub(super) fn take(&mut self, blob: &Digest, asker: Option<&Digest>) -> Option<Source> {
        let holders = self.holders.get(blob).into_iter().flatten();
        let free = holders.filter_map(|id| Some((*id, self.sharers.get(id)?)));
        let free = free.filter(|(_, sharer)| sharer.sending < FETCHERS && Some(&sharer.shares.certificate) != asker);
        let least = free.min_by_key(|(id, sharer)| (sharer.sending, *id)).map(|(id, _)| id);
        if let Some(id) = least {
            self.sharers.get_mut(&id)?.sending += 1;
            return Some(Source::Sharer(id));
        }
        let own = self.own.get(blob).copied().unwrap_or(0);
        if own >= FETCHERS {
            return None;
        }
        self.own.insert(*blob, own + 1);
        Some(Source::Coordinator)
    }

    /// Gives a hand back; that of a worker that has left is gone with it.
    pub(super) fn give_back(&mut self, blob: &Digest, source: Source) {
        match source {
            Source::Sharer(id) => {
                if let Some(sharer) = self.sharers.get_mut(&id) {
                    sharer.sending -= 1;
                }
            }
            Source::Coordinator => match self.own.get_mut(blob) {
                Some(own) if *own > 1 => *own -= 1,
                _ => drop(self.own.remove(blob)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(number: u8) -> WorkerId {
        WorkerId(format!("sampler-{number}"))
    }

    fn certificate(number: u8) -> Digest {
        Digest([number; 32])
    }

    /// So many workers that share and hold nothing.
    fn sharing(count: u8) -> Sources {
        let mut sources = Sources::default();
        for number in 0..count {
            let shares = Shares {
                address: format!("worker:{number}"),
                certificate: certificate(number),
            };
            sources.join(worker(number), shares, SharingKey::new([number; 32]));
        }
        sources
    }

    /// Which worker that is; `None` for the coordinator.
    fn number(sources: &Sources, source: Source) -> Option<u8> {
        let Source::Sharer(id) = source else { return None };
        let sharer = sources.sharer(id).expect("it shares");
        Some(sharer.shares.certificate.0[0])
    }

    const BLOB: Digest = Digest([0xbb; 32]);

    #[test]
    fn holders_come_before_the_coordinator_and_each_gives_to_two() {
        let mut sources = sharing(2);
        sources.hold(&worker(0), &[BLOB], &[]);
        sources.hold(&worker(1), &[BLOB], &[]);
        let mut taken = Vec::new();
        let mut from = Vec::new();
        while let Some(source) = sources.take(&BLOB, None) {
            from.push(number(&sources, source));
            taken.push(source);
        }
        assert_eq!(from, [Some(0), Some(1), Some(0), Some(1), None, None]);
        for source in taken.drain(..) {
            sources.give_back(&BLOB, source);
        }
        let again = sources.take(&BLOB, Some(&certificate(0))).expect("all are free");
        assert_eq!(number(&sources, again), Some(1), "nobody is sent to itself");
    }

    #[test]
    fn a_worker_gives_to_two_whatever_the_blobs_and_the_coordinator_to_two_for_each() {
        let other = Digest([0xcc; 32]);
        let mut sources = sharing(1);
        sources.hold(&worker(0), &[BLOB, other], &[]);
        let mut take = |blob| sources.take(blob, None).map(|source| number(&sources, source));
        assert_eq!([take(&BLOB), take(&other)], [Some(Some(0)); 2]);
        assert_eq!(
            [take(&BLOB), take(&BLOB), take(&BLOB)],
            [Some(None), Some(None), None],
            "the worker is busy with both"
        );
        assert_eq!(take(&other), Some(None));
    }

    #[test]
    fn who_left_evicted_or_failed_is_no_holder_and_nothing_is_left_of_it() {
        let mut sources = sharing(3);
        for number in 0..3 {
            sources.hold(&worker(number), &[BLOB], &[]);
        }
        let Some(held @ Source::Sharer(_)) = sources.take(&BLOB, None) else {
            panic!("three hold it");
        };
        sources.leave(&worker(0));
        sources.give_back(&BLOB, held);
        assert_eq!(sources.hold(&worker(1), &[], &[BLOB]), Some(certificate(1)));
        let pass = |key: u8| SharingKey::new([key; 32]).pass(&BLOB, 0);
        assert!(
            sources.failed(&BLOB, &certificate(2), &pass(1)).is_none(),
            "never sent there"
        );
        assert!(
            sources.failed(&BLOB, &certificate(0), &pass(0)).is_none(),
            "it has left"
        );
        assert_eq!(sources.failed(&BLOB, &certificate(2), &pass(2)), Some(&worker(2)));
        assert_eq!(sources.take(&BLOB, None), Some(Source::Coordinator));
        assert!(sources.holders.is_empty() && sources.held == 0);
        for number in 1..3 {
            sources.leave(&worker(number));
        }
        assert!(sources.is_empty() && sources.by_certificate.is_empty() && sources.by_worker.is_empty());
    }

    #[test]
    fn a_worker_that_registers_again_holds_nothing_until_it_says_so() {
        let mut sources = sharing(1);
        sources.hold(&worker(0), &[BLOB], &[]);
        let before = sources.take(&BLOB, None).expect("it holds it");
        let shares = Shares {
            address: "elsewhere:1".into(),
            certificate: certificate(0),
        };
        sources.join(worker(0), shares, SharingKey::new([9; 32]));
        assert_eq!(sources.take(&BLOB, None), Some(Source::Coordinator));
        sources.hold(&worker(0), &[BLOB], &[]);
        sources.give_back(&BLOB, before);
        let hands = std::iter::from_fn(|| sources.take(&BLOB, None));
        let workers = hands.filter(|source| matches!(source, Source::Sharer(_)));
        assert_eq!(workers.count(), 2, "a hand of before is not one of now");
    }

    #[test]
    fn what_failed_at_a_worker_is_not_asked_of_it_again_whatever_it_says() {
        let mut sources = sharing(1);
        let shares = |certificate| Shares {
            address: "worker:0".into(),
            certificate,
        };
        let holds = |sources: &mut Sources| {
            sources.hold(&worker(0), &[], &[BLOB]);
            sources.hold(&worker(0), &[BLOB], &[]);
            sources.holders.contains_key(&BLOB)
        };
        assert!(holds(&mut sources));
        let pass = SharingKey::new([0; 32]).pass(&BLOB, 0);
        assert_eq!(sources.failed(&BLOB, &certificate(0), &pass), Some(&worker(0)));
        assert!(!holds(&mut sources));
        sources.hold(&worker(0), &[Digest([0xcc; 32])], &[]);
        assert_eq!(sources.held, 1, "another blob may be here");
        for (certificate, is_holder) in [(certificate(0), false), (certificate(1), true), (certificate(0), false)] {
            assert!(sources.join(worker(0), shares(certificate), SharingKey::new([9; 32])));
            assert_eq!(holds(&mut sources), is_holder, "{certificate}");
        }
        for index in 0..FAILURES {
            sources.failures.add(certificate(7), Digest::of(&index.to_le_bytes()));
        }
        assert_eq!(
            (sources.failures.known.len(), sources.failures.order.len()),
            (FAILURES, FAILURES)
        );
        assert!(holds(&mut sources), "the oldest is forgotten");
    }

    #[test]
    fn nobody_shares_under_the_certificate_of_another() {
        let mut sources = sharing(2);
        let stolen = || Shares {
            address: "elsewhere:1".into(),
            certificate: certificate(0),
        };
        assert!(!sources.join(worker(1), stolen(), SharingKey::new([9; 32])));
        assert!(sources.hold(&worker(1), &[BLOB], &[]).is_none(), "it does not share");
        sources.hold(&worker(0), &[BLOB], &[]);
        let pass = SharingKey::new([0; 32]).pass(&BLOB, 0);
        assert_eq!(sources.failed(&BLOB, &certificate(0), &pass), Some(&worker(0)));
        sources.leave(&worker(0));
        assert!(
            sources.join(worker(1), stolen(), SharingKey::new([9; 32])),
            "it is nobody's"
        );
    }

    #[test]
    fn what_a_worker_says_that_it_holds_is_bounded() {
        let mut sources = sharing(1);
        let many: Vec<Digest> = (0..bounds::HELD.most + 9)
            .map(|index| Digest::of(&index.to_le_bytes()))
            .collect();
        sources.hold(&worker(0), &many, &[]);
        assert_eq!(sources.held as u64, bounds::HELD.most);
        assert!(sources.hold(&worker(7), &many, &[]).is_none(), "it does not share");
        sources.leave(&worker(0));
        assert_eq!(sources.held, 0);
    }
}
