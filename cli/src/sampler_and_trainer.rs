//! A sampler and a trainer in one process, over one set of weights.

use gavel_core::RunAssets;
use gavel_core::ids::RunId;
use gavel_core::spec::RunSpec;
use gavel_core::work::rally::Group;
use gavel_core::work::{Assignment, Outcome, Role, Unit};
use gavel_sampler_worker::SamplerWork;
use gavel_trainer_worker::TrainerWork;
use gavel_worker::{Work, WorkContext, WorkError};

/// [`Work`] of both roles. One thread does it, so that they take turns and a GPU's stream is nobody else's.
#[derive(Default)]
pub(crate) struct SamplerAndTrainerWork {
    sampler: SamplerWork,
    trainer: TrainerWork,
}

impl Work for SamplerAndTrainerWork {
    fn prepare(&mut self, run: &RunId, spec: &RunSpec, assets: &RunAssets) -> Result<(), WorkError> {
        // What the trainer holds of another model would stay in memory beside the next.
        self.trainer.free_unless(&spec.model);
        self.sampler.prepare(run, spec, assets)?;
        match self.sampler.sampler() {
            Some(sampler) => self.trainer.prepare_beside(sampler, run, spec),
            None => Err(WorkError::Retry(
                "the sampler has no model after it was prepared".to_owned(),
            )),
        }
    }

    fn perform(&mut self, unit: &Unit, assignment: &Assignment, context: &WorkContext) -> Result<Outcome, WorkError> {
        match unit.role() {
            Role::Sampler => self.sampler.perform(unit, assignment, context),
            Role::Trainer | Role::Judge => self.trainer.perform(unit, assignment, context),
        }
    }

    fn assist(&mut self, assignment: &Assignment, group: &Group, context: &WorkContext) -> Result<(), WorkError> {
        self.trainer.assist(assignment, group, context)
    }
}
