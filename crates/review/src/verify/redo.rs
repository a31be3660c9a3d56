//! Does a unit again with the code of the worker that did it.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use gavel_core::run::Run;
use gavel_core::spec::{GradientExchange, JudgeBackEnd, RunSpec};
use gavel_core::work::{Outcome, Role};
use gavel_judge_worker::JudgeWork;
use gavel_policy::trajectory::TrajectoryMetadata;
use gavel_policy::{ConditioningFile, Trajectory};
use gavel_sampler_worker::SamplerWork;
use gavel_trainer_worker::TrainerWork;
use gavel_worker::{Work, WorkContext};

use super::blobs::{Named, inputs, outputs};
use super::compare::{Equal, compare};
use super::recorded::Recorded;
use super::store::{Damage, Store};
use crate::Error;

/// What came of doing a unit again.
pub(super) enum UnitComparison {
    /// The same.
    Equal(Equal),
    /// These blobs, which it needs, are gone or damaged.
    Lacks(Vec<String>),
    /// Something else, in words.
    Differs(String),
}

/// The workers of this process, one role at a time so that only its model is in memory.
pub(super) struct UnitVerifier<'a> {
    run: &'a Run,
    spec: RunSpec,
    worker: Option<(Role, Box<dyn Work>)>,
    store: Store<'a>,
}

impl<'a> UnitVerifier<'a> {
    pub(super) fn new(run: &'a Run, store: Store<'a>) -> Self {
        let mut spec = run.spec().clone();
        // Whatever way the sums went, what is done again goes through the store.
        spec.trainer.exchange = GradientExchange::Blobs;
        Self {
            run,
            spec,
            worker: None,
            store,
        }
    }

    /// Takes the models from other folders than those that the run names: the same files, elsewhere.
    pub(super) fn use_models(&mut self, model: Option<&Path>, judge: Option<&Path>) {
        if let Some(model) = model {
            model.clone_into(&mut self.spec.model.path);
        }
        let Some(judge) = judge else { return };
        if let Some(path) = folder(&mut self.spec.judge.back_end) {
            let before = std::mem::replace(path, judge.to_owned());
            let held_out = self.spec.judge.held_out.as_mut();
            if let Some(path) = held_out.and_then(|held_out| folder(&mut held_out.back_end))
                && *path == before
            {
                judge.clone_into(path);
            }
        }
    }

    /// Reckons with the number of steps that the run was to have when the step was taken: learning rates follow from it.
    pub(super) fn use_steps(&mut self, steps: u32) {
        self.spec.run.steps = steps;
    }

    pub(super) fn store(&self) -> &Store<'a> {
        &self.store
    }

    pub(super) fn into_damages(self) -> Vec<Damage> {
        self.store.damages()
    }

    /// Does a unit again and compares.
    ///
    /// # Errors
    /// The blobs cannot be read or the worker cannot start: nothing that speaks against the record.
    pub(super) fn verify(&mut self, recorded: &Recorded) -> Result<UnitComparison, Error> {
        let context = WorkContext::in_memory().map_err(Error::Runtime)?;
        // The encoding is done again, too.
        let assignment = recorded.assignment.encoded_anew();
        let mut lacking = Vec::new();
        for named in inputs(&assignment) {
            match self.store.get(&named)? {
                Some(bytes) => drop(context.put(bytes)),
                None => lacking.push(format!("{} {}", named.what, named.digest)),
            }
        }
        if !lacking.is_empty() {
            return Ok(UnitComparison::Lacks(lacking));
        }
        let worker = self.worker(recorded.unit.role())?;
        let again = match worker.perform(&recorded.unit, &assignment, &context) {
            Ok(again) => in_recorded_format(&recorded.outcome, again, &context),
            Err(error) => {
                return Ok(UnitComparison::Differs(format!(
                    "{}: it was done once and cannot be done again: {error}",
                    recorded.unit
                )));
            }
        };
        match compare(&recorded.unit, &recorded.outcome, &again) {
            Ok(equal) => {
                self.mend(&recorded.outcome, &context)?;
                Ok(UnitComparison::Equal(equal))
            }
            Err(difference) => Ok(UnitComparison::Differs(
                match self.explain(&recorded.outcome, &again, &context)? {
                    Some(reason) => format!("{difference}; {reason}"),
                    None => difference,
                },
            )),
        }
    }

    /// The worker of a role, ready for the run.
    fn worker(&mut self, role: Role) -> Result<&mut dyn Work, Error> {
        let ready = self.worker.take_if(|(ready, _)| *ready == role);
        // Another role's model is freed first: two may not fit.
        self.worker = None;
        let worker = match ready {
            Some(ready) => ready,
            None => (role, self.prepare(role)?),
        };
        Ok(self.worker.insert(worker).1.as_mut())
    }

    fn prepare(&self, role: Role) -> Result<Box<dyn Work>, Error> {
        let mut worker: Box<dyn Work> = match role {
            Role::Sampler => Box::<SamplerWork>::default(),
            Role::Judge => Box::<JudgeWork>::default(),
            Role::Trainer => Box::<TrainerWork>::default(),
        };
        let prepared = worker.prepare(self.run.id(), &self.spec, self.run.assets());
        prepared.map_err(|source| Error::Model { role, source })?;
        Ok(worker)
    }

    /// Looks whether what was made once is still stored, and keeps what was made again where it is not.
    fn mend(&mut self, outcome: &Outcome, context: &WorkContext) -> Result<(), Error> {
        for named in outputs(outcome) {
            // A commit of nothing names the blobs of the policy before it and makes none.
            if self.store.get(&named)?.is_none()
                && let Ok(bytes) = context.get(&named.digest)
            {
                self.store.replace(named.digest, bytes);
            }
        }
        Ok(())
    }

    /// Says what a difference in trajectories comes from, where the recorded one can be looked into.
    fn explain(&mut self, recorded: &Outcome, again: &Outcome, context: &WorkContext) -> Result<Option<String>, Error> {
        let (
            Outcome::Sampled { samples, .. },
            Outcome::Sampled {
                samples: samples_again, ..
            },
        ) = (recorded, again)
        else {
            return Ok(None);
        };
        let differs = samples.iter().zip(samples_again).find(|(one, other)| one != other);
        let Some((Some(digest), Some(digest_again))) = differs.map(|(one, other)| (one.trajectory, other.trajectory))
        else {
            return Ok(None);
        };
        let named = Named {
            what: "the recorded trajectory".to_owned(),
            digest,
        };
        let (Some(stored), Ok(made)) = (self.store.get(&named)?, context.get(&digest_again)) else {
            return Ok(None);
        };
        let (Ok(stored), Ok(made)) = (
            Trajectory::from_safetensors(&stored),
            Trajectory::from_safetensors(&made),
        ) else {
            return Ok(None);
        };
        let conditioning = stored.metadata.conditioning.map(|digest| Named {
            what: "the recorded conditioning".to_owned(),
            digest,
        });
        let conditioning = conditioning.map(|named| self.store.get(&named)).transpose()?.flatten();
        let stored = conditioned(stored, conditioning);
        let conditioning = made.metadata.conditioning.and_then(|digest| context.get(&digest).ok());
        Ok(Some(first_tensor(&stored, &conditioned(made, conditioning))))
    }
}

/// A trajectory with the conditioning of this file, where that is one.
fn conditioned(trajectory: Trajectory, file: Option<Bytes>) -> Trajectory {
    match file.and_then(|bytes| ConditioningFile::from_safetensors(&bytes).ok()) {
        Some(file) => trajectory.with_conditioning(&file.tensors),
        None => trajectory,
    }
}

/// What was done again, with each trajectory in the format in which it was recorded.
fn in_recorded_format(recorded: &Outcome, mut again: Outcome, context: &WorkContext) -> Outcome {
    if let (Outcome::Sampled { samples, .. }, Outcome::Sampled { samples: made, .. }) = (recorded, &mut again) {
        for (recorded, made) in samples.iter().zip(made) {
            let conditioning = made.conditioning.and_then(|digest| context.get(&digest).ok());
            if let (Some(trajectory), Some(digest)) = (recorded.trajectory, made.trajectory)
                && trajectory != digest
                && let Ok(bytes) = context.get(&digest)
                && let Ok(again) = Trajectory::from_safetensors(&bytes)
                && let Some(bytes) = conditioned(again, conditioning).to_safetensors_of(trajectory)
            {
                made.trajectory = Some(context.put(bytes));
                // A trajectory of before holds its conditioning, and the record names none beside it.
                made.conditioning = made.conditioning.and(recorded.conditioning);
            }
        }
    }
    again
}

/// Names the first tensor that differs, in the order in which they come about.
fn first_tensor(stored: &Trajectory, made: &Trajectory) -> String {
    let without = |trajectory: &Trajectory| TrajectoryMetadata {
        conditioning: None,
        ..trajectory.metadata.clone()
    };
    if without(stored) != without(made) {
        return format!("metadata differs: {:?}, again {:?}", stored.metadata, made.metadata);
    }
    let empty = Vec::new();
    let conditioning = stored.conditioning.iter().map(|(name, tensor)| {
        let again = made.conditioning.get(name);
        (
            name.as_str(),
            &tensor.values,
            again.map_or(&empty, |tensor| &tensor.values),
        )
    });
    let tensors = [("sigmas", &stored.sigmas, &made.sigmas)]
        .into_iter()
        .chain(conditioning)
        .chain([
            ("velocities", &stored.velocities, &made.velocities),
            ("latents", &stored.latents, &made.latents),
            ("log_probs", &stored.log_probs, &made.log_probs),
        ]);
    for (name, stored, made) in tensors {
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        if bits(stored) != bits(made) {
            let largest = stored
                .iter()
                .zip(made)
                .map(|(one, other)| (one - other).abs())
                .fold(0.0, f32::max);
            return format!("the first tensor that differs is `{name}`, by at most {largest:e}");
        }
    }
    "the tensors are equal, so the file was written in another way".to_owned()
}

/// The folder of the model that a judge loads itself.
fn folder(judge: &mut JudgeBackEnd) -> Option<&mut PathBuf> {
    match judge {
        JudgeBackEnd::InProcess(model) => Some(&mut model.path),
        JudgeBackEnd::Clip(model) => Some(&mut model.path),
        JudgeBackEnd::Server(_) | JudgeBackEnd::Scorer(_) | JudgeBackEnd::Evaluator(_) | JudgeBackEnd::Ensemble(_) => {
            None
        }
    }
}
