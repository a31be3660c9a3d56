//! Which workers somebody means.

use super::Role;
use crate::ids::WorkerId;

/// Some of a fleet's workers: those that fit all that is named. What is left empty fits every worker.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WorkerFilter {
    /// Their names.
    pub workers: Vec<WorkerId>,
    /// The machines that they say they run on.
    pub hosts: Vec<String>,
    /// What they do.
    pub roles: Vec<Role>,
}

impl WorkerFilter {
    /// Whether everything is left empty.
    pub fn is_all(&self) -> bool {
        self.workers.is_empty() && self.hosts.is_empty() && self.roles.is_empty()
    }

    /// Whether a worker is meant.
    pub fn fits(&self, worker: &WorkerId, host: &str, role: Role) -> bool {
        let named = self.workers.is_empty() || self.workers.contains(worker);
        let there = self.hosts.is_empty() || self.hosts.iter().any(|name| name == host);
        let does = self.roles.is_empty() || self.roles.contains(&role);
        named && there && does
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_fits_where_it_fits_all_that_is_named() {
        let worker = WorkerId("judge-1".into());
        let fits = |filter: &WorkerFilter| filter.fits(&worker, "node-7", Role::Judge);
        assert!(fits(&WorkerFilter::default()) && WorkerFilter::default().is_all());
        let mut filter = WorkerFilter {
            hosts: vec!["node-1".into(), "node-7".into()],
            roles: vec![Role::Judge],
            ..WorkerFilter::default()
        };
        assert!(fits(&filter) && !filter.is_all());
        filter.workers = vec![WorkerId("judge-2".into())];
        assert!(!fits(&filter));
        filter.workers.push(worker.clone());
        assert!(fits(&filter));
        filter.roles = vec![Role::Trainer];
        assert!(!fits(&filter));
    }
}
