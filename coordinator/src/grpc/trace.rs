//! Which trace a lease belongs to.

use gavel_core::ids::Digest;
use gavel_core::work::LeaseKey;
use gavel_telemetry::TraceContext;
use uuid::Uuid;

/// Makes the trace of a lease when it is granted. It follows from the lease's name and from a number that this process drew
/// when it began: nobody has to remember it, whoever is told of the same lease again (a worker that is called to somebody
/// else's commit) is told of the same trace, and a run of the same name on another day has other traces.
pub(super) struct LeaseTraces {
    process: Uuid,
}

impl LeaseTraces {
    pub(super) fn new() -> Self {
        Self {
            process: Uuid::new_v4(),
        }
    }

    pub(super) fn of(&self, key: &LeaseKey) -> TraceContext {
        let LeaseKey { run, unit, fence } = key;
        let name = format!("{} {run} {unit} {fence}", self.process);
        TraceContext::of(&Digest::of(name.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use gavel_core::ids::{Fence, RunId};
    use gavel_core::work::Unit;

    use super::*;

    #[test]
    fn a_lease_has_one_trace_and_another_lease_or_process_another() {
        let key = |fence| LeaseKey {
            run: RunId("small".into()),
            unit: Unit::Initialise,
            fence: Fence(fence),
        };
        let traces = LeaseTraces::new();
        assert_eq!(traces.of(&key(1)), traces.of(&key(1)));
        assert_ne!(traces.of(&key(1)).trace_id(), traces.of(&key(2)).trace_id());
        assert_ne!(traces.of(&key(1)).trace_id(), LeaseTraces::new().of(&key(1)).trace_id());
    }
}
