//! An exchange within one process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use gavel_trainer_worker::exchange::{Exchange, ExchangeError, Seat, Shard};

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
    present: BTreeSet<usize>,
    sums: BTreeMap<usize, Vec<f32>>,
    over: usize,
}

impl Loopback {
    /// The sizes of the groups whose exchange every member has ended.
    pub(crate) fn groups(&self) -> Vec<usize> {
        let meetings = self.0.meetings.lock().unwrap();
        let over = meetings
            .values()
            .filter(|meeting| meeting.over == meeting.present.len());
        over.map(|meeting| meeting.over).filter(|size| *size > 0).collect()
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

    fn exchange(
        &self,
        seat: &Seat<'_>,
        shards: &[Shard<'_>],
        take: &mut dyn FnMut(&[f32]),
    ) -> Result<(), ExchangeError> {
        let until = Instant::now() + seat.within;
        let mut meetings = self.0.meetings.lock().unwrap();
        let meeting = meetings.get_mut(seat.rendezvous).expect("the caller opened it");
        assert!(meeting.present.insert(seat.rank), "two members of one rank");
        for (place, shard) in shards.iter().enumerate() {
            assert_eq!(shard.sum.is_some(), shard.owner == seat.rank);
            if let Some(sum) = shard.sum {
                assert_eq!(sum.len(), seat.parameters);
                meeting.sums.insert(place, sum.to_vec());
            }
        }
        self.0.changed.notify_all();
        loop {
            let meeting = meetings.get_mut(seat.rendezvous).expect("meetings stay");
            if meeting.present.len() == seat.size {
                assert_eq!(meeting.sums.len(), shards.len(), "every shard has an owner");
                meeting.sums.values().for_each(|sum| take(sum));
                meeting.over += 1;
                return Ok(());
            }
            if (seat.cancelled)() {
                return Err(ExchangeError::Cancelled);
            }
            if Instant::now() > until {
                return Err(ExchangeError::TimedOut { within: seat.within });
            }
            // Cancellation comes without a notification.
            meetings = self
                .0
                .changed
                .wait_timeout(meetings, Duration::from_millis(20))
                .unwrap()
                .0;
        }
    }
}
