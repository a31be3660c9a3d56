//! What a worker is told when it starts.

use std::path::PathBuf;
use std::time::Duration;

use gavel_client::{Credentials, Sharing};
use gavel_core::spec::{Device, RunSpec};
use gavel_core::work::{Memory, Role};

use crate::allowed::Allowed;

/// What a worker is told when it starts.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Where the coordinator listens: `https://host:port`, `http://host:port` or `host:port`; several, separated by commas, where others stand by.
    pub coordinator: String,
    /// What this worker trusts, and what it shows of itself.
    pub credentials: Credentials,
    /// What this worker does. One of several roles is as many workers to the coordinator, whose units are done by one thread, in the
    /// order in which they came.
    pub roles: Vec<Role>,
    /// "cpu", "cuda:0", ...: shown to people until the worker works for a run and has its device; not interpreted.
    pub device: String,
    /// How much memory a device has and how much of it is used, as far as this program can tell: for people.
    pub memory: fn(Device) -> Option<Memory>,
    /// The folder of the coordinator's blob store, where this machine has it too: large blobs are read and written there.
    pub blob_folder: Option<PathBuf>,
    /// Where this worker gives the large blobs that it has to other workers; `None` where it does not.
    pub sharing: Option<Sharing>,
    /// How many bytes of blobs are kept in memory, those used last: of a sampler that shares nothing what it has fetched, of all others what they
    /// have stored too.
    pub cache_bytes: usize,
    /// How many units are leased beyond the one at work. With 0 the next unit is leased while the finished one is being
    /// handed in, which hides the way to a nearby coordinator; more hides a slow network, but may hold a unit that an idle
    /// worker could do.
    pub prefetch: usize,
    /// How long a unit may go on after the shutdown began; then it is given back undone.
    pub drain: Duration,
    /// How long to look for the coordinator at the start; `None` looks for ever. A coordinator that goes away later is
    /// always waited for.
    pub connect_within: Option<Duration>,
    /// A spec whose paths are taken instead of those that a run was submitted with, if it is that run's: where this machine has
    /// the files now.
    pub relocated: Option<RunSpec>,
    /// The GPU on which this worker has what a run has on a GPU, instead of the one that the run names.
    pub gpu: Option<usize>,
    /// What runs may use of this machine.
    pub allowed: Allowed,
}

impl WorkerOptions {
    /// The usual settings: 512 MiB of cache, nothing leased ahead, 10 seconds to drain, the coordinator waited for, nothing
    /// shown to it or shared with others, and little of this machine open to runs.
    pub fn new(
        coordinator: impl Into<String>,
        roles: impl IntoIterator<Item = Role>,
        device: impl Into<String>,
    ) -> Self {
        Self {
            coordinator: coordinator.into(),
            credentials: Credentials::default(),
            roles: roles.into_iter().collect(),
            device: device.into(),
            memory: |_| None,
            blob_folder: None,
            sharing: None,
            cache_bytes: 512 << 20,
            prefetch: 0,
            drain: Duration::from_secs(10),
            connect_within: None,
            relocated: None,
            gpu: None,
            allowed: Allowed::default(),
        }
    }

    /// Whether a blob that this worker stores may be asked of it: a trainer reads the policy it committed, and other workers what it
    /// shares. A sampler alone never reads its trajectories and pictures, and needs the room for what it fetches.
    pub(crate) fn keeps_what_it_stores(&self) -> bool {
        self.sharing.is_some() || self.roles.iter().any(|role| *role != Role::Sampler)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sampler_keeps_what_it_stores_only_for_others() {
        let of = |roles: &[Role]| WorkerOptions::new("localhost:1", roles.iter().copied(), "cpu");
        assert!(!of(&[Role::Sampler]).keeps_what_it_stores());
        for roles in [&[Role::Judge][..], &[Role::Trainer], &[Role::Trainer, Role::Sampler]] {
            assert!(of(roles).keeps_what_it_stores(), "{roles:?}");
        }
        let mut shares = of(&[Role::Sampler]);
        shares.sharing = Some(Sharing {
            listen: ([127, 0, 0, 1], 0).into(),
            advertised: None,
        });
        assert!(shares.keeps_what_it_stores());
    }
}
