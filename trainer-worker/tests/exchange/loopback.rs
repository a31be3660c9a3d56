//! An exchange within one process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use gavel_trainer_worker::exchange::{Communicator, Exchange, ExchangeError, Parts, Seat, Watch};

/// Members find each other by the rendezvous. Clones share the place.
#[derive(Clone, Default)]
pub(crate) struct Loopback(Arc<Place>);

#[derive(Default)]
struct Place {
    meetings: Mutex<BTreeMap<Vec<u8>, Meeting>>,
    changed: Condvar,
}

#[derive(Default)]
struct Meeting {
    size: usize,
    present: BTreeSet<usize>,
    /// What was sent and not yet received, by the number of the call and both ranks.
    under_way: BTreeMap<(usize, usize, usize), Vec<f32>>,
    /// Number of values that each member received.
    received: BTreeMap<usize, usize>,
}

impl Loopback {
    /// The sizes of the groups that every member came to.
    pub(crate) fn groups(&self) -> Vec<usize> {
        let meetings = self.0.meetings.lock().unwrap();
        let whole = meetings
            .values()
            .filter(|meeting| meeting.size > 0 && meeting.present.len() == meeting.size);
        whole.map(|meeting| meeting.size).collect()
    }

    /// Number of values that each member of the only group received.
    pub(crate) fn received(&self) -> Vec<usize> {
        let meetings = self.0.meetings.lock().unwrap();
        let [meeting] = &meetings.values().collect::<Vec<_>>()[..] else {
            panic!("{} groups", meetings.len())
        };
        meeting.received.values().copied().collect()
    }

    /// Waits until `look` finds what it looks for in a meeting. Cancellation comes without a notification.
    fn wait<T>(
        &self,
        rendezvous: &[u8],
        watch: &Watch<'_>,
        mut look: impl FnMut(&mut Meeting) -> Option<T>,
    ) -> Result<T, ExchangeError> {
        let mut meetings = self.0.meetings.lock().unwrap();
        loop {
            let meeting = meetings.get_mut(rendezvous).expect("the caller opened it");
            if let Some(found) = look(meeting) {
                self.0.changed.notify_all();
                return Ok(found);
            }
            watch.goes_on()?;
            let tick = Duration::from_millis(20);
            meetings = self.0.changed.wait_timeout(meetings, tick).unwrap().0;
        }
    }
}

impl Exchange for Loopback {
    fn check(&self) -> Result<String, ExchangeError> {
        Ok("a loopback".into())
    }

    fn rendezvous(&self) -> Result<Vec<u8>, ExchangeError> {
        let mut meetings = self.0.meetings.lock().unwrap();
        let name = format!("meeting {}", meetings.len()).into_bytes();
        meetings.insert(name.clone(), Meeting::default());
        Ok(name)
    }

    fn meet(&self, seat: &Seat<'_>, watch: &Watch<'_>) -> Result<Box<dyn Communicator>, ExchangeError> {
        let mut arrived = false;
        self.wait(seat.rendezvous, watch, |meeting| {
            if !std::mem::replace(&mut arrived, true) {
                assert!(meeting.present.insert(seat.rank), "two members of one rank");
                meeting.size = seat.size;
                meeting.received.insert(seat.rank, 0);
                self.0.changed.notify_all();
            }
            (meeting.present.len() == seat.size).then_some(())
        })?;
        Ok(Box::new(Line {
            loopback: self.clone(),
            rendezvous: seat.rendezvous.to_vec(),
            rank: seat.rank,
            size: seat.size,
            calls: 0,
        }))
    }
}

/// A member's way to the others.
struct Line {
    loopback: Loopback,
    rendezvous: Vec<u8>,
    rank: usize,
    size: usize,
    calls: usize,
}

impl Line {
    fn send(&self, parts: impl Iterator<Item = (usize, Vec<f32>)>) {
        let mut meetings = self.loopback.0.meetings.lock().unwrap();
        let meeting = meetings.get_mut(&self.rendezvous).expect("it has met");
        for (peer, values) in parts {
            let before = meeting.under_way.insert((self.calls, self.rank, peer), values);
            assert!(before.is_none(), "the ranks are the same in every exchange");
        }
        self.loopback.0.changed.notify_all();
    }

    fn receive(&self, from: usize, watch: &Watch<'_>) -> Result<Vec<f32>, ExchangeError> {
        let part = (self.calls, from, self.rank);
        self.loopback.wait(&self.rendezvous, watch, |meeting| {
            let values = meeting.under_way.remove(&part)?;
            *meeting.received.entry(self.rank).or_default() += values.len();
            Some(values)
        })
    }
}

impl Communicator for Line {
    fn scatter(
        &mut self,
        parts: &Parts<'_>,
        received: &mut [f32],
        meanwhile: &mut dyn FnMut(),
        watch: &Watch<'_>,
    ) -> Result<(), ExchangeError> {
        self.calls += 1;
        let mut rest = parts.values;
        let outgoing = parts.to.iter().map(|count| {
            let (part, others) = rest.split_at(*count);
            rest = others;
            part.to_vec()
        });
        let outgoing: Vec<_> = outgoing.enumerate().filter(|(_, part)| !part.is_empty()).collect();
        assert!(outgoing.iter().all(|(peer, _)| *peer != self.rank));
        assert!(rest.is_empty());
        self.send(outgoing.into_iter());
        meanwhile();
        let mut room = received;
        for (from, count) in parts.from.iter().enumerate().filter(|(_, count)| **count > 0) {
            let (part, others) = room.split_at_mut(*count);
            part.copy_from_slice(&self.receive(from, watch)?);
            room = others;
        }
        assert!(room.is_empty());
        Ok(())
    }

    fn gather(&mut self, own: &[f32], all: &mut [f32], watch: &Watch<'_>) -> Result<(), ExchangeError> {
        self.calls += 1;
        let others = |rank: &usize| *rank != self.rank;
        self.send((0..self.size).filter(others).map(|peer| (peer, own.to_vec())));
        for (rank, part) in all.chunks_exact_mut(own.len()).enumerate() {
            match rank == self.rank {
                true => part.copy_from_slice(own),
                false => part.copy_from_slice(&self.receive(rank, watch)?),
            }
        }
        Ok(())
    }
}
