//! Which trace a lease belongs to.

use gavel_core::ids::Digest;
use gavel_core::work::LeaseKey;
use gavel_telemetry::TraceContext;
use uuid::Uuid;

/// Makes the trace of a lease when it is granted: that of its step, so that sampling, judging and training of a pair are one
/// trace, with a span of the lease's own. What belongs to no step has a trace of its own. Both follow from names and from a number that
/// this process drew when it began: nobody has to remember them, whoever is told of the same lease again (a worker that is called to
/// somebody else's commit) is told of the same, and a run of the same name on another day has other traces.
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
        let seed = |name: &str| Digest::of(format!("{} {run} {name}", self.process).as_bytes());
        let lease = seed(&format!("{unit} {fence}"));
        let trace = unit.step().map_or(lease, |step| seed(&format!("step {step}")));
        TraceContext::of(&trace, &lease)
    }
}

#[cfg(test)]
mod tests {
    use gavel_core::ids::{Fence, RunId, Step};
    use gavel_core::work::Unit;

    use super::*;

    #[test]
    fn a_step_has_one_trace_in_which_each_lease_is_a_span_and_another_step_or_process_has_another() {
        let key = |unit, fence| LeaseKey {
            run: RunId("small".into()),
            unit,
            fence: Fence(fence),
        };
        let traces = LeaseTraces::new();
        let sample = |step| Unit::Sample {
            step: Step(step),
            chunk: 0,
        };
        let judge = |step| Unit::Judge {
            step: Step(step),
            chunk: 0,
        };
        let of = |unit, fence| traces.of(&key(unit, fence));
        assert_eq!(of(sample(1), 1), of(sample(1), 1));
        assert_ne!(of(sample(1), 1), of(judge(1), 2));
        assert_eq!(of(sample(1), 1).trace_id(), of(judge(1), 2).trace_id());
        assert_ne!(of(sample(1), 1).trace_id(), of(sample(2), 3).trace_id());
        assert_ne!(of(Unit::Initialise, 1).trace_id(), of(Unit::Initialise, 2).trace_id());
        let later = LeaseTraces::new().of(&key(sample(1), 1));
        assert_ne!(of(sample(1), 1).trace_id(), later.trace_id());
    }
}
