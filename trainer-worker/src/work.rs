//! Trainer units of a fleet.

use std::time::Instant;

use gavel_core::{
    RunAssets,
    ids::{Candidate, Digest, RunId, Step},
    rpo::learning_rate,
    spec::{ModelSpec, RunSpec},
    unit::{Assignment, Outcome, Policy, RewardedPair, Unit},
};
use gavel_models::{
    flux::transformer::ActivationMemory,
    load::{device, dtype},
    lora::{LoraAdapter, LoraConfig},
    trajectory::Trajectory,
};
use gavel_worker::{Work, WorkContext, WorkError};

use crate::{
    Committed, EncodedPolicy, Error, GradientSettings, Group, OptimizerState, PolicyState, RewardedTrajectory, Trainer,
    commit,
    gradient::check_on_policy,
    gradient_file,
    provenance::{self, Wanted},
    reduce,
};

/// [`Work`] of a trainer: initialises, sums gradients, commits.
#[derive(Default)]
pub struct TrainerWork {
    loaded: Option<(ModelSpec, Trainer)>,
    spec: Option<RunSpec>,
    /// The policies that units used last, newest first.
    states: Vec<(Policy, PolicyState)>,
}

/// The policy of this step, and the one before it while trainers still work on it.
const STATES_MAX: usize = 2;

impl Work for TrainerWork {
    fn prepare(&mut self, run: &RunId, spec: &RunSpec, _: &RunAssets) -> Result<(), WorkError> {
        let model = &spec.model;
        if self.loaded.as_ref().is_none_or(|(loaded, _)| loaded != model) {
            // Frees the old model first: two may not fit.
            self.loaded = None;
            self.states.clear();
            let device =
                device(model.device).map_err(|error| WorkError::Retry(format!("device {}: {error}", model.device)))?;
            let trainer =
                Trainer::load(&model.path, &device, dtype(model.dtype)).map_err(|error| WorkError::retry(&error))?;
            tracing::info!(%run, model = %model.path.display(), fingerprint = %trainer.model().short(), "transformer loaded");
            self.loaded = Some((model.clone(), trainer));
        }
        self.spec = Some(spec.clone());
        Ok(())
    }

    fn perform(&mut self, _: &Unit, assignment: &Assignment, context: &WorkContext) -> Result<Outcome, WorkError> {
        let started = Instant::now();
        let (Some((_, trainer)), Some(spec)) = (&self.loaded, &self.spec) else {
            return Err(WorkError::Retry(
                "this trainer was given work before it was prepared".into(),
            ));
        };
        let bench = Bench {
            trainer,
            spec,
            context,
            started,
        };
        match assignment {
            Assignment::Initialise => {
                let state =
                    bench
                        .trainer
                        .initialise(&LoraConfig::from(&spec.lora), spec.run.seed, spec.optimizer.averages());
                let state = state.map_err(|error| fatal(&error))?;
                let model = bench.trainer.model();
                let policy = self.store(context, state)?;
                Ok(Outcome::Initialised { policy, model })
            }
            Assignment::Gradient {
                step,
                policy,
                pairs,
                policy_lag,
            } => {
                let adapter = &state(&mut self.states, &bench, policy)?.adapter;
                bench.gradient(*step, policy, adapter, pairs, *policy_lag)
            }
            Assignment::Commit {
                policy, terms: 0, step, ..
            } => {
                let learning_rate = learning_rate(&spec.optimizer, *step, spec.run.steps);
                let seconds = started.elapsed().as_secs_f64();
                Ok(Outcome::Committed {
                    policy: policy.clone(),
                    grad_norm: 0.0,
                    learning_rate,
                    seconds,
                })
            }
            Assignment::Commit {
                step,
                policy,
                gradients,
                terms,
            } => {
                let learning_rate = learning_rate(&spec.optimizer, *step, spec.run.steps);
                let state = state(&mut self.states, &bench, policy)?;
                let mean = bench.mean_gradient(&state.adapter, gradients, *terms)?;
                let committed = commit(state, &mean, &spec.optimizer, learning_rate).map_err(|error| fatal(&error))?;
                let Committed { state, grad_norm } = committed;
                let policy = self.store(context, state)?;
                let seconds = started.elapsed().as_secs_f64();
                Ok(Outcome::Committed {
                    policy,
                    grad_norm,
                    learning_rate,
                    seconds,
                })
            }
            _ => Err(WorkError::Fatal("a trainer was given a unit of another role".into())),
        }
    }
}

impl TrainerWork {
    /// Stores a policy's blobs, keeps it at hand, and returns its record.
    fn store(&mut self, context: &WorkContext, state: PolicyState) -> Result<Policy, WorkError> {
        let EncodedPolicy {
            policy,
            adapter,
            optimizer,
            averaged,
        } = state.encode().map_err(|error| fatal(&error))?;
        context.put(adapter);
        context.put(optimizer);
        if let Some(averaged) = averaged {
            context.put(averaged);
        }
        keep(&mut self.states, policy.clone(), state);
        Ok(policy)
    }
}

/// What one unit works with.
struct Bench<'a> {
    trainer: &'a Trainer,
    spec: &'a RunSpec,
    context: &'a WorkContext,
    started: Instant,
}

impl Bench<'_> {
    fn gradient(
        &self,
        step: Step,
        policy: &Policy,
        adapter: &LoraAdapter,
        pairs: &[RewardedPair],
        policy_lag: u32,
    ) -> Result<Outcome, WorkError> {
        let sampled_by = (policy_lag == 0).then_some(policy.adapter);
        let groups = self.groups(step, pairs, sampled_by)?;
        let settings = GradientSettings {
            objective: &self.spec.objective,
            timesteps: &self.spec.trained_steps(),
            memory: match self.spec.trainer.checkpoint_activations {
                true => ActivationMemory::Checkpoint,
                false => ActivationMemory::KeepAll,
            },
            ratio_deviation: self.spec.limits.ratio_deviation,
        };
        if self.context.cancelled() {
            return Err(WorkError::Cancelled);
        }
        let shard = self
            .trainer
            .gradient(adapter, &groups, &settings)
            .map_err(|error| classify(&error))?;
        if let Some(deviation) = &shard.deviation
            && step == Step(1)
            && policy_lag == 0
        {
            let bound = settings.ratio_deviation;
            return Err(WorkError::Fatal(format!(
                "sampler and trainer disagree before the first update (bound {bound}): {deviation}"
            )));
        }
        for skipped in &shard.skipped {
            tracing::warn!(%step, prompt = %skipped.prompt, reason = skipped.reason, "pair skipped: not finite");
        }
        let terms = shard.statistics.terms;
        let gradient = shard.gradient.map(|gradient| {
            self.context
                .put(gradient_file::write(adapter, gradient.as_slice(), terms, "sum"))
        });
        Ok(Outcome::Gradient {
            gradient,
            manifest: Digest(adapter.manifest().names_sha256),
            model: self.trainer.model(),
            statistics: shard.statistics,
            skipped: shard.skipped,
            seconds: self.started.elapsed().as_secs_f64(),
        })
    }

    /// The pairs' trajectories, each proved to be what was asked for. `sampled_by` is the adapter that must have sampled them,
    /// where that is the one that is trained.
    fn groups(&self, step: Step, pairs: &[RewardedPair], sampled_by: Option<Digest>) -> Result<Vec<Group>, WorkError> {
        let digests: Vec<Digest> = pairs
            .iter()
            .flat_map(|pair| &pair.candidates)
            .map(|candidate| candidate.trajectory)
            .collect();
        let mut blobs = digests.iter().zip(self.context.get_many(&digests)?);
        let mut groups = Vec::with_capacity(pairs.len());
        for pair in pairs {
            let mut candidates = Vec::with_capacity(pair.candidates.len());
            for ((number, candidate), (digest, blob)) in (0..).zip(&pair.candidates).zip(blobs.by_ref()) {
                let wanted = Wanted {
                    step,
                    prompt: pair.prompt,
                    candidate: Candidate(number),
                };
                let trajectory = Trajectory::from_safetensors(&blob)
                    .map_err(|error| WorkError::misleading(*digest, format!("trajectory blob {digest}: {error}")))?;
                provenance::check(&trajectory, self.spec, wanted)
                    .map_err(|problem| WorkError::misleading(*digest, problem))?;
                if let Some(policy) = sampled_by {
                    check_on_policy(&trajectory, policy).map_err(|error| WorkError::misleading(*digest, error))?;
                }
                candidates.push(RewardedTrajectory {
                    trajectory,
                    reward: candidate.reward,
                });
            }
            groups.push(Group {
                prompt: pair.prompt,
                candidates,
            });
        }
        Ok(groups)
    }

    fn mean_gradient(&self, adapter: &LoraAdapter, gradients: &[Digest], terms: u64) -> Result<Vec<f32>, WorkError> {
        let blobs = self.context.get_many(gradients)?;
        let shards: Vec<Vec<f32>> = gradients
            .iter()
            .zip(&blobs)
            .map(|(digest, blob)| {
                gradient_file::read(adapter, blob)
                    .map_err(|error| WorkError::misleading(*digest, format!("gradient blob {digest}: {error}")))
            })
            .collect::<Result<_, _>>()?;
        Ok(reduce(adapter.parameter_count(), &shards, terms))
    }

    fn load(&self, policy: &Policy) -> Result<PolicyState, WorkError> {
        let adapter = self.context.get(&policy.adapter)?;
        let adapter = self
            .trainer
            .adapter(&adapter, &LoraConfig::from(&self.spec.lora))
            .map_err(|error| fatal(&error))?;
        let blob = self.context.get(&policy.optimizer)?;
        let optimizer = OptimizerState::from_safetensors(&blob)
            .map_err(Error::in_file(format!("optimizer blob {}", policy.optimizer)))
            .map_err(|error| fatal(&error))?;
        Ok(PolicyState { adapter, optimizer })
    }
}

/// The policy's state: at hand, or loaded from its blobs.
fn state<'a>(
    states: &'a mut Vec<(Policy, PolicyState)>,
    bench: &Bench<'_>,
    policy: &Policy,
) -> Result<&'a PolicyState, WorkError> {
    match states.iter().position(|(known, _)| known == policy) {
        Some(place) => Ok(&states[place].1),
        None => {
            let loaded = bench.load(policy)?;
            keep(states, policy.clone(), loaded);
            Ok(&states[0].1)
        }
    }
}

fn keep(states: &mut Vec<(Policy, PolicyState)>, policy: Policy, state: PolicyState) {
    states.retain(|(known, _)| *known != policy);
    states.insert(0, (policy, state));
    states.truncate(STATES_MAX);
}

/// A device may fail here and not elsewhere; everything else follows from the run and would fail anywhere.
fn classify(error: &Error) -> WorkError {
    match error {
        Error::Model(_) => WorkError::retry(error),
        _ => WorkError::fatal(error),
    }
}

fn fatal(error: &Error) -> WorkError {
    WorkError::fatal(error)
}
