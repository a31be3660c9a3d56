//! The workers that are known at the moment. Not in the ledger: after a restart they register again.

use std::collections::BTreeMap;
use std::time::Duration;

use gavel_core::bounds::{self, Exceeded};
use gavel_core::ids::{Millis, WorkerId};
use gavel_core::work::{DeviceUse, Role, WorkerFilter, WorkerStatus};

use crate::sharing::{Shares, Sharing};

/// How a worker introduces itself.
#[derive(Debug, Clone)]
pub(crate) struct Introduction {
    /// Its name, which its secret proves.
    pub(crate) id: WorkerId,
    pub(crate) role: Role,
    pub(crate) host: String,
    pub(crate) pid: u32,
    pub(crate) device: String,
    pub(crate) version: String,
    /// Where it serves the large blobs that it has to others.
    pub(crate) shares: Option<Shares>,
}

/// The worker table.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    known: BTreeMap<WorkerId, WorkerStatus>,
    /// Who of them shares blobs.
    pub(crate) sharing: Sharing,
}

impl Workers {
    /// Refuses a worker beyond the most that are registered at a time; one that is known may register again.
    pub(crate) fn find_room(&self, id: &WorkerId) -> Result<(), Exceeded> {
        match self.known.contains_key(id) {
            true => Ok(()),
            false => bounds::WORKERS.check("worker", self.known.len() + 1),
        }
    }

    /// Adds a worker; one that is known keeps its counts. It is welcome, also if it was told to leave before.
    pub(crate) fn register(&mut self, introduction: Introduction, now: Millis) -> WorkerId {
        let id = introduction.id;
        let earlier = self.known.remove(&id);
        let worker = WorkerStatus {
            id: id.clone(),
            role: introduction.role,
            host: introduction.host,
            pid: introduction.pid,
            device: introduction.device,
            memory: None,
            busy_percent: None,
            version: introduction.version,
            registered_unix_ms: earlier.as_ref().map_or(now.0, |worker| worker.registered_unix_ms),
            seen_unix_ms: now.0,
            completed: earlier.as_ref().map_or(0, |worker| worker.completed),
            failed: earlier.as_ref().map_or(0, |worker| worker.failed),
            leaves: false,
            leases: Vec::new(),
        };
        self.known.insert(id.clone(), worker);
        match introduction.shares {
            Some(shares) => self.sharing.join(id.clone(), shares),
            None => self.sharing.leave(&id),
        }
        id
    }

    pub(crate) fn remove(&mut self, id: &WorkerId) -> Option<WorkerStatus> {
        self.sharing.leave(id);
        self.known.remove(id)
    }

    /// Notes a sign of life; the worker's role, or `None` when it is not known.
    pub(crate) fn seen(&mut self, id: &WorkerId, now: Millis) -> Option<Role> {
        let worker = self.known.get_mut(id)?;
        worker.seen_unix_ms = now.0;
        Some(worker.role)
    }

    /// Notes what a worker says that it uses; without a word it stays as it was.
    pub(crate) fn note_use(&mut self, id: &WorkerId, used: Option<DeviceUse>) {
        if let Some(worker) = self.known.get_mut(id)
            && let Some(DeviceUse {
                device,
                memory,
                busy_percent,
            }) = used
        {
            worker.device = device.to_string();
            worker.memory = memory;
            worker.busy_percent = busy_percent;
        }
    }

    /// The memory that the workers of a role use and have, summed, as far as they tell it. Workers on one device each count it.
    pub(crate) fn memory(&self, role: Role) -> [(&'static str, u64); 2] {
        let told = self.known.values().filter(|worker| worker.role == role);
        let told = told.filter_map(|worker| worker.memory);
        let (used, total) = told.fold((0_u64, 0_u64), |(used, total), memory| {
            (
                used.saturating_add(memory.used_bytes),
                total.saturating_add(memory.total_bytes),
            )
        });
        [("used", used), ("total", total)]
    }

    /// Tells those who are meant to leave, and names them. Those that come later are none of them.
    pub(crate) fn drain(&mut self, meant: &WorkerFilter) -> Vec<WorkerId> {
        let known = self.known.values_mut();
        let leaving = known.filter(|worker| meant.fits(&worker.id, &worker.host, worker.role));
        let told = leaving.map(|worker| {
            worker.leaves = true;
            worker.id.clone()
        });
        told.collect()
    }

    /// Whether the worker was told to leave.
    pub(crate) fn leaves(&self, id: &WorkerId) -> bool {
        self.known.get(id).is_some_and(|worker| worker.leaves)
    }

    /// Whether a worker is known.
    pub(crate) fn knows(&self, id: &WorkerId) -> bool {
        self.known.contains_key(id)
    }

    pub(crate) fn count_completed(&mut self, id: &WorkerId) {
        if let Some(worker) = self.known.get_mut(id) {
            worker.completed += 1;
        }
    }

    pub(crate) fn count_failed(&mut self, id: &WorkerId) {
        if let Some(worker) = self.known.get_mut(id) {
            worker.failed += 1;
        }
    }

    /// Workers that were silent for longer than `bound`.
    pub(crate) fn silent(&self, now: Millis, bound: Duration) -> Vec<WorkerId> {
        let bound = u64::try_from(bound.as_millis()).unwrap_or(u64::MAX);
        let silent = self
            .known
            .values()
            .filter(|worker| now.since(Millis(worker.seen_unix_ms)) > bound);
        silent.map(|worker| worker.id.clone()).collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &WorkerStatus> {
        self.known.values()
    }
}

#[cfg(test)]
mod tests {
    use gavel_core::spec::Device;
    use gavel_core::work::Memory;

    use super::*;

    fn introduction() -> Introduction {
        Introduction {
            id: WorkerId("judge-1".into()),
            role: Role::Judge,
            host: "here".into(),
            pid: 1,
            device: "cpu".into(),
            version: "0".into(),
            shares: None,
        }
    }

    #[test]
    fn a_worker_beyond_the_most_is_refused_unless_it_is_known() {
        let mut workers = Workers::default();
        for number in 0..bounds::WORKERS.most {
            let id = WorkerId(number.to_string());
            assert_eq!(workers.find_room(&id), Ok(()));
            workers.register(Introduction { id, ..introduction() }, Millis(0));
        }
        assert!(workers.find_room(&WorkerId("one more".into())).is_err());
        assert_eq!(workers.find_room(&WorkerId("7".into())), Ok(()));
    }

    #[test]
    fn a_worker_that_registers_again_keeps_its_name_and_its_counts() {
        let mut workers = Workers::default();
        let id = workers.register(introduction(), Millis(10));
        workers.count_completed(&id);
        assert_eq!(workers.register(introduction(), Millis(20)), id);
        let worker = workers.iter().next().expect("one worker");
        assert_eq!(
            (worker.completed, worker.registered_unix_ms, worker.seen_unix_ms),
            (1, 10, 20)
        );
    }

    #[test]
    fn a_worker_shares_blobs_from_its_registration_until_it_is_gone_or_registers_without() {
        let mut workers = Workers::default();
        let shares = || Introduction {
            shares: Some(Shares {
                address: "here:1".into(),
                certificate: gavel_core::ids::Digest([1; 32]),
            }),
            ..introduction()
        };
        let id = workers.register(shares(), Millis(0));
        let first = workers.sharing.terms(&id).expect("it shares").key;
        workers.register(shares(), Millis(1));
        let second = workers.sharing.terms(&id).expect("it shares").key;
        assert_ne!(first.bytes(), second.bytes(), "no pass of before opens anything");
        workers.register(introduction(), Millis(2));
        assert!(workers.sharing.terms(&id).is_none());
        workers.register(shares(), Millis(3));
        workers.remove(&id);
        assert!(workers.sharing.terms(&id).is_none());
    }

    #[test]
    fn what_a_worker_uses_is_shown_until_it_says_something_else() {
        let mut workers = Workers::default();
        let id = workers.register(introduction(), Millis(0));
        assert_eq!(workers.memory(Role::Judge), [("used", 0), ("total", 0)]);
        let used = DeviceUse {
            device: Device::Cuda(1),
            memory: Some(Memory {
                used_bytes: 3,
                total_bytes: u64::MAX,
            }),
            busy_percent: Some(40),
        };
        workers.note_use(&id, Some(used));
        workers.note_use(&id, None);
        let other = Introduction {
            id: WorkerId("judge-2".into()),
            ..introduction()
        };
        let other = workers.register(other, Millis(0));
        workers.note_use(&other, Some(used));
        let shown: Vec<_> = workers.iter().map(|worker| worker.device.as_str()).collect();
        assert_eq!(shown, ["cuda:1", "cuda:1"]);
        assert!(workers.iter().all(|worker| worker.busy_percent == Some(40)));
        assert_eq!(workers.memory(Role::Judge), [("used", 6), ("total", u64::MAX)]);
        assert_eq!(workers.memory(Role::Trainer), [("used", 0), ("total", 0)]);
    }

    #[test]
    fn who_is_told_to_leave_leaves_and_who_comes_later_stays() {
        let mut workers = Workers::default();
        let id = workers.register(introduction(), Millis(0));
        assert!(!workers.leaves(&id));
        assert_eq!(workers.drain(&WorkerFilter::default()), std::slice::from_ref(&id));
        assert!(workers.leaves(&id));
        let later = Introduction {
            id: WorkerId("judge-2".into()),
            ..introduction()
        };
        let elsewhere = WorkerFilter {
            hosts: vec!["elsewhere".into()],
            ..WorkerFilter::default()
        };
        assert_eq!(workers.drain(&elsewhere), []);
        assert_eq!(
            [later, introduction()]
                .map(|again| workers.register(again, Millis(1)))
                .map(|id| workers.leaves(&id)),
            [false; 2]
        );
    }

    #[test]
    fn silence_is_measured_from_the_last_sign_of_life() {
        let mut workers = Workers::default();
        let id = workers.register(introduction(), Millis(0));
        assert_eq!(workers.seen(&id, Millis(900)), Some(Role::Judge));
        assert!(workers.silent(Millis(1_900), Duration::from_secs(1)).is_empty());
        assert_eq!(workers.silent(Millis(1_901), Duration::from_secs(1)), vec![id]);
    }
}
