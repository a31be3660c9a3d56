//! Those who wait for work, first come, first served.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use gavel_core::ids::WorkerId;
use gavel_core::work::Role;

use crate::state::LeaseReply;

/// A worker that waits for work.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) worker: WorkerId,
    pub(crate) since: Instant,
    pub(crate) reply: LeaseReply,
}

/// A place in the queue.
type Ticket = u64;

/// Those who wait for work. No operation takes longer for a longer queue, since a fleet of thousands waits for most of its
/// life, but for [`Waiters::sweep`], and [`Waiters::pop_for`] past those who get nothing.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    queues: BTreeMap<Role, BTreeMap<Ticket, Waiter>>,
    by_worker: BTreeMap<WorkerId, BTreeSet<(Role, Ticket)>>,
    last: Ticket,
}

impl Waiters {
    /// Adds a waiter at the end of the queue.
    pub(crate) fn push(&mut self, role: Role, waiter: Waiter) {
        self.last += 1;
        let place = (role, self.last);
        self.by_worker.entry(waiter.worker.clone()).or_default().insert(place);
        self.queues.entry(role).or_default().insert(self.last, waiter);
    }

    /// Takes the first for whom `pick` has something, with it. A caller that hung up or whose time ran out must not get a lease
    /// that nobody would work on.
    pub(crate) fn pop_for<T>(&mut self, role: Role, pick: impl Fn(&WorkerId) -> Option<T>) -> Option<(Waiter, T)> {
        let mut waiting = self
            .queues
            .get(&role)?
            .iter()
            .filter(|(_, waiter)| !waiter.reply.is_closed());
        let (ticket, picked) = waiting.find_map(|(ticket, waiter)| Some((*ticket, pick(&waiter.worker)?)))?;
        Some((self.remove(role, ticket)?, picked))
    }

    /// Forgets those who do not wait any more.
    pub(crate) fn sweep(&mut self) {
        let closed: Vec<(Role, Ticket)> = self
            .queues
            .iter()
            .flat_map(|(role, queue)| queue.iter().map(move |(ticket, waiter)| (*role, *ticket, waiter)))
            .filter(|(_, _, waiter)| waiter.reply.is_closed())
            .map(|(role, ticket, _)| (role, ticket))
            .collect();
        for (role, ticket) in closed {
            self.remove(role, ticket);
        }
    }

    /// Takes a worker's requests.
    pub(crate) fn take_of(&mut self, worker: &WorkerId) -> Vec<Waiter> {
        let places = self.by_worker.remove(worker).unwrap_or_default();
        places
            .into_iter()
            .filter_map(|(role, ticket)| self.remove(role, ticket))
            .collect()
    }

    /// Takes everybody.
    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = Waiter> + use<> {
        self.by_worker.clear();
        std::mem::take(&mut self.queues)
            .into_values()
            .flat_map(BTreeMap::into_values)
    }

    fn remove(&mut self, role: Role, ticket: Ticket) -> Option<Waiter> {
        let waiter = self.queues.get_mut(&role)?.remove(&ticket)?;
        if let Some(places) = self.by_worker.get_mut(&waiter.worker) {
            places.remove(&(role, ticket));
            if places.is_empty() {
                self.by_worker.remove(&waiter.worker);
            }
        }
        Some(waiter)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::state::LeaseAnswer;

    fn waiter(name: &str) -> (Waiter, oneshot::Receiver<Result<LeaseAnswer, crate::DriverError>>) {
        let (reply, answer) = oneshot::channel();
        let waiter = Waiter {
            worker: WorkerId(name.into()),
            since: Instant::now(),
            reply,
        };
        (waiter, answer)
    }

    /// A queue of judges, with the receivers of those that still wait.
    fn queue(names: &[&str]) -> (Waiters, Vec<oneshot::Receiver<Result<LeaseAnswer, crate::DriverError>>>) {
        let mut waiters = Waiters::default();
        let mut answers = Vec::new();
        for name in names {
            let (waiter, answer) = waiter(name);
            waiters.push(Role::Judge, waiter);
            answers.push(answer);
        }
        (waiters, answers)
    }

    fn names(waiters: &mut Waiters) -> Vec<String> {
        std::iter::from_fn(|| waiters.pop_for(Role::Judge, |_| Some(())))
            .map(|(waiter, ())| waiter.worker.0)
            .collect()
    }

    #[test]
    fn first_come_first_served_without_those_that_hung_up() {
        let (mut waiters, mut answers) = queue(&["a", "b", "c", "a"]);
        drop(answers.remove(1));
        assert!(waiters.pop_for(Role::Sampler, |_| Some(())).is_none());
        assert_eq!(names(&mut waiters), ["a", "c", "a"]);
        waiters.sweep();
        assert!(waiters.by_worker.is_empty());
    }

    #[test]
    fn who_gets_nothing_keeps_its_place() {
        let (mut waiters, _answers) = queue(&["a", "b", "c"]);
        let popped = waiters.pop_for(Role::Judge, |worker| (worker.0 != "a").then_some(7));
        assert_eq!(
            popped.map(|(waiter, seven)| (waiter.worker.0, seven)),
            Some(("b".into(), 7))
        );
        assert_eq!(names(&mut waiters), ["a", "c"]);
    }

    #[test]
    fn all_requests_of_a_worker_are_taken_and_no_others() {
        let (mut waiters, _answers) = queue(&["a", "b", "a"]);
        assert_eq!(waiters.take_of(&WorkerId("a".into())).len(), 2);
        assert!(waiters.take_of(&WorkerId("a".into())).is_empty());
        assert_eq!(names(&mut waiters), ["b"]);
    }

    #[test]
    fn a_sweep_leaves_nothing_of_those_that_hung_up() {
        let (mut waiters, mut answers) = queue(&["a", "b", "a"]);
        answers.remove(2);
        answers.remove(1);
        waiters.sweep();
        assert_eq!((waiters.by_worker.len(), waiters.queues[&Role::Judge].len()), (1, 1));
        assert_eq!(waiters.take_all().count(), 1);
    }
}
