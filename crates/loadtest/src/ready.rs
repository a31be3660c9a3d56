//! Since when each unit can be leased, as the workers know it: from the moment when its last input was sent.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use gavel_core::ids::Step;
use gavel_core::work::Unit;

/// Since when units can be leased. In a synthetic run each unit covers one prompt, so that a unit of a later stage has exactly
/// one unit of the stage before it as input.
#[derive(Debug, Default)]
pub(crate) struct ReadySince(Mutex<HashMap<Unit, Instant>>);

impl ReadySince {
    /// Notes that a unit's result is being sent.
    pub(crate) fn sent(&self, unit: Unit, now: Instant) {
        let follower = match unit {
            Unit::Initialise => Unit::Commit { step: Step(0) },
            Unit::Sample { step, chunk } => Unit::Judge { step, chunk },
            Unit::Judge { step, chunk } => Unit::Gradient { step, shard: chunk },
            // The last of a step's gradients overwrites the others.
            Unit::Gradient { step, .. } => Unit::Commit { step },
            // A step's samples can be leased since the commit of the step before it.
            Unit::Commit { .. } => unit,
            Unit::HeldOutJudge { .. }
            | Unit::WriteRubric { .. }
            | Unit::EvaluateSample { .. }
            | Unit::EvaluateJudge { .. }
            | Unit::CalibrateJudge { .. }
            | Unit::AnswerQuestions { .. } => return,
        };
        self.lock().insert(follower, now);
    }

    /// Since when a granted unit could be leased; `None` for the first unit of a run.
    pub(crate) fn granted(&self, unit: Unit) -> Option<Instant> {
        match unit {
            Unit::Sample { step, .. } => self.lock().get(&Unit::Commit { step: before(step) }).copied(),
            _ => self.lock().get(&unit).copied(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Unit, Instant>> {
        // Every entry is whole whoever panicked beside it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn before(step: Step) -> Step {
    Step(step.0.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_unit_can_be_leased_since_its_last_input_was_sent() {
        let ready = ReadySince::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let step = Step(1);
        assert_eq!(ready.granted(Unit::Initialise), None);
        ready.sent(Unit::Initialise, at(1));
        assert_eq!(ready.granted(Unit::Sample { step, chunk: 7 }), Some(at(1)));
        ready.sent(Unit::Sample { step, chunk: 7 }, at(2));
        assert_eq!(ready.granted(Unit::Judge { step, chunk: 7 }), Some(at(2)));
        ready.sent(Unit::Judge { step, chunk: 7 }, at(3));
        assert_eq!(ready.granted(Unit::Gradient { step, shard: 7 }), Some(at(3)));
        ready.sent(Unit::Gradient { step, shard: 7 }, at(4));
        ready.sent(Unit::Gradient { step, shard: 8 }, at(5));
        assert_eq!(ready.granted(Unit::Commit { step }), Some(at(5)));
        ready.sent(Unit::Commit { step }, at(6));
        assert_eq!(
            ready.granted(Unit::Sample {
                step: Step(2),
                chunk: 0
            }),
            Some(at(6))
        );
    }
}
