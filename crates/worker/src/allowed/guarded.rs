//! The guard before the work.

use gavel_core::RunAssets;
use gavel_core::ids::RunId;
use gavel_core::spec::RunSpec;
use gavel_core::work::rally::Group;
use gavel_core::work::{Assignment, Outcome, Role, Unit};

use super::Allowed;
use crate::context::WorkContext;
use crate::work::{Work, WorkError};

/// Work that gets ready for no run that wants more of the machine than is allowed.
pub(crate) struct Guarded<W> {
    work: W,
    allowed: Allowed,
    roles: Vec<Role>,
}

impl<W> Guarded<W> {
    pub(crate) fn new(work: W, allowed: Allowed, roles: Vec<Role>) -> Self {
        Self { work, allowed, roles }
    }
}

impl<W: Work> Work for Guarded<W> {
    fn prepare(&mut self, run: &RunId, spec: &RunSpec, assets: &RunAssets) -> Result<(), WorkError> {
        // Another worker's owner may allow it.
        let allowed = self.roles.iter().try_for_each(|role| self.allowed.check(spec, *role));
        let allowed = allowed.map_err(|refusal| WorkError::retry(&refusal));
        let ready = allowed.and_then(|()| self.work.prepare(run, spec, assets));
        ready.map_err(|error| match (self.roles.as_slice(), error) {
            // Failed attempts of a judge are held against the pairs, of which nothing has been said yet: they wait for a judge
            // that has the folder, the device, the key or the leave that this one lacks.
            ([Role::Judge], WorkError::Retry(reason)) => WorkError::Unavailable(reason),
            (_, error) => error,
        })
    }

    fn perform(&mut self, unit: &Unit, assignment: &Assignment, context: &WorkContext) -> Result<Outcome, WorkError> {
        self.work.perform(unit, assignment, context)
    }

    fn assist(&mut self, assignment: &Assignment, group: &Group, context: &WorkContext) -> Result<(), WorkError> {
        self.work.assist(assignment, group, context)
    }
}
