//! Trainer units of a fleet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use gavel_core::{
    RunAssets,
    ids::{Candidate, Digest, RunId, Step},
    rpo::learning_rate,
    spec::{GradientExchange, ModelSpec, RunSpec},
    work::rally::{self, Presence},
    work::{Assignment, Outcome, Policy, RewardedGroup, Unit},
};
use gavel_models::{
    Family,
    load::Placement,
    lora::{LoraAdapter, LoraConfig},
};
use gavel_policy::{
    ConditioningFile, Sampler, Trajectory,
    train::{
        Committed, EncodedPolicy, Error, GradientSettings, Group, OptimizerState, PolicyState, Reduction,
        RewardedTrajectory, Trainer, Wanted, check_conditioning, check_on_policy, check_provenance, commit,
        read_gradient, write_gradient,
    },
};
use gavel_worker::{Work, WorkContext, WorkError};

use crate::{
    exchange::{self, Exchange},
    gather::StepSums,
    kept::Kept,
    sums::Sums,
};

/// [`Work`] of a trainer: initialises, sums gradients, commits.
pub struct TrainerWork {
    /// For runs whose sums do not go through blobs.
    exchange: Box<dyn Exchange>,
    kept: Kept,
    run: Option<RunId>,
    sums: Sums,
    loaded: Option<(ModelSpec, Trainer)>,
    spec: Option<RunSpec>,
    /// The policies that units used last, newest first.
    states: Vec<(Policy, PolicyState)>,
}

/// The policy of this step, and the one before it while trainers still work on it.
const STATES_MAX: usize = 2;

impl Default for TrainerWork {
    fn default() -> Self {
        Self::with_exchange(exchange::of_this_build())
    }
}

impl TrainerWork {
    /// With another transport than this build's for runs whose gradient sums do not go through blobs.
    pub fn with_exchange(exchange: Box<dyn Exchange>) -> Self {
        Self {
            exchange,
            kept: Kept::default(),
            run: None,
            sums: Sums::default(),
            loaded: None,
            spec: None,
            states: Vec::new(),
        }
    }

    /// Frees the model and all that was computed with it, unless it is this one: two may not fit.
    pub fn free_unless(&mut self, model: &ModelSpec) {
        if self.loaded.as_ref().is_some_and(|(loaded, _)| loaded != model) {
            self.loaded = None;
            self.kept.let_go();
            self.states.clear();
        }
    }

    /// Gets ready as [`Work::prepare`] does, with the weights of a sampler of the same run instead of weights of its own.
    ///
    /// # Errors
    /// As [`Work::prepare`].
    pub fn prepare_beside(&mut self, sampler: &Sampler, run: &RunId, spec: &RunSpec) -> Result<(), WorkError> {
        self.prepare_with(run, spec, |_| Ok(Trainer::beside(sampler)))
    }

    fn prepare_with(
        &mut self,
        run: &RunId,
        spec: &RunSpec,
        load: impl FnOnce(&ModelSpec) -> Result<Trainer, WorkError>,
    ) -> Result<(), WorkError> {
        if spec.trainer.exchange == GradientExchange::Nccl {
            let found = self.exchange.check().map_err(|error| WorkError::retry(&error))?;
            tracing::info!(%run, "gradient sums travel by {found}");
        }
        let model = &spec.model;
        self.free_unless(model);
        if self.loaded.is_none() {
            let trainer = load(model)?;
            tracing::info!(%run, model = %model.path.display(), fingerprint = %trainer.model().short(), "denoiser loaded");
            self.loaded = Some((model.clone(), trainer));
        }
        self.spec = Some(spec.clone());
        self.run = Some(run.clone());
        Ok(())
    }
}

impl Work for TrainerWork {
    fn prepare(&mut self, run: &RunId, spec: &RunSpec, _: &RunAssets) -> Result<(), WorkError> {
        self.prepare_with(run, spec, load)
    }

    fn perform(&mut self, _: &Unit, assignment: &Assignment, context: &WorkContext) -> Result<Outcome, WorkError> {
        let ready = ready(&self.loaded, &self.spec, &self.run, context)?;
        let (spec, started) = (ready.spec, ready.started);
        match assignment {
            Assignment::Initialise { adapter } => {
                let (lora, averages) = (LoraConfig::from(&spec.lora), spec.optimizer.averages());
                let state = match adapter {
                    Some(adapter) => ready.trainer.start_from(&context.get(adapter)?, &lora, averages),
                    None => ready.trainer.initialise(&lora, spec.run.seed, averages),
                };
                let state = state.map_err(|error| fatal(&error))?;
                let model = ready.trainer.model();
                let policy = self.store(context, state)?;
                Ok(Outcome::Initialised { policy, model })
            }
            Assignment::Gradient {
                step,
                policy,
                groups,
                policy_lag,
            } => {
                let adapter = &state(&mut self.states, &ready, policy)?.adapter;
                ready.gradient(*step, policy, adapter, groups, *policy_lag, &mut self.sums)
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
                holders,
                terms,
            } => {
                let learning_rate = learning_rate(&spec.optimizer, *step, spec.run.steps);
                let state = state(&mut self.states, &ready, policy)?;
                let mean = match spec.trainer.exchange {
                    GradientExchange::Blobs => ready.mean_gradient(&state.adapter, gradients, *terms)?,
                    GradientExchange::Nccl => {
                        let sums = StepSums {
                            gradients,
                            holders,
                            terms: *terms,
                            parameters: state.adapter.parameter_count(),
                            device: spec.model.device,
                            here: &self.sums,
                        };
                        sums.called_together(self.exchange.as_ref(), &mut self.kept, context)?
                    }
                };
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

    /// Takes part in the exchange for somebody else's commit, and takes the same optimizer step: its policy is at hand when
    /// the coordinator names it.
    fn assist(
        &mut self,
        assignment: &Assignment,
        group: &rally::Group,
        context: &WorkContext,
    ) -> Result<(), WorkError> {
        let ready = ready(&self.loaded, &self.spec, &self.run, context)?;
        let Assignment::Commit {
            step,
            policy,
            gradients,
            holders,
            terms,
        } = assignment
        else {
            return Err(WorkError::Fatal("trainers come together for commits only".into()));
        };
        let spec = ready.spec;
        let state = state(&mut self.states, &ready, policy)?;
        let sums = StepSums {
            gradients,
            holders,
            terms: *terms,
            parameters: state.adapter.parameter_count(),
            device: spec.model.device,
            here: &self.sums,
        };
        let presence = sums.presence(&self.kept, group, context);
        context.join(&presence)?;
        match presence {
            Presence::Ready => {}
            Presence::WithoutSums(lost) => {
                let count = lost.len();
                tracing::warn!(count, "gradient sums were given up for other runs, they are made again");
                return Ok(());
            }
            Presence::WithoutGroup => {
                tracing::info!("the last group is not kept here, another one is formed");
                return Ok(());
            }
        }
        let mean = sums.exchanged(self.exchange.as_ref(), &mut self.kept, group, context)?;
        let learning_rate = learning_rate(&spec.optimizer, *step, spec.run.steps);
        // What is wrong with the step is said by the one that commits it.
        if let Ok(Committed { state, .. }) = commit(state, &mean, &spec.optimizer, learning_rate)
            && let Ok(EncodedPolicy { policy, .. }) = state.encode()
        {
            keep(&mut self.states, policy, state);
        }
        Ok(())
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
        context.put_named(policy.adapter, adapter);
        context.put_named(policy.optimizer, optimizer);
        if let (Some(name), Some(averaged)) = (policy.averaged, averaged) {
            context.put_named(name, averaged);
        }
        keep(&mut self.states, policy.clone(), state);
        Ok(policy)
    }
}

/// What one unit works with.
struct Ready<'a> {
    trainer: &'a Trainer,
    spec: &'a RunSpec,
    run: &'a RunId,
    context: &'a WorkContext,
    started: Instant,
}

fn load(model: &ModelSpec) -> Result<Trainer, WorkError> {
    let family = Family::from_name(model.family.as_str()).map_err(|error| WorkError::fatal(&error))?;
    let placement =
        Placement::of_model(model).map_err(|error| WorkError::Retry(format!("device {}: {error}", model.device)))?;
    Trainer::load(family, &model.path, &placement).map_err(|error| WorkError::retry(&error))
}

fn ready<'a>(
    loaded: &'a Option<(ModelSpec, Trainer)>,
    spec: &'a Option<RunSpec>,
    run: &'a Option<RunId>,
    context: &'a WorkContext,
) -> Result<Ready<'a>, WorkError> {
    let (Some((_, trainer)), Some(spec), Some(run)) = (loaded, spec, run) else {
        return Err(WorkError::Retry(
            "this trainer was given work before it was prepared".into(),
        ));
    };
    Ok(Ready {
        trainer,
        spec,
        run,
        context,
        started: Instant::now(),
    })
}

impl Ready<'_> {
    fn gradient(
        &self,
        step: Step,
        policy: &Policy,
        adapter: &LoraAdapter,
        pairs: &[RewardedGroup],
        policy_lag: u32,
        sums: &mut Sums,
    ) -> Result<Outcome, WorkError> {
        let sampled_by = (policy_lag == 0).then_some(policy.adapter);
        let groups = self.groups(step, pairs, sampled_by)?;
        let settings = GradientSettings::of(self.spec);
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
            tracing::warn!(%step, prompt = %skipped.prompt_index, reason = skipped.reason, "pair skipped: not finite");
        }
        let terms = shard.statistics.terms;
        let gradient = shard.gradient.map(|gradient| {
            let file = write_gradient(adapter, &gradient, terms, "sum");
            match self.spec.trainer.exchange {
                GradientExchange::Blobs => self.context.put(file),
                GradientExchange::Nccl => {
                    let name = Digest::of(&file);
                    sums.keep(self.run, step, name, gradient);
                    name
                }
            }
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

    /// The groups' trajectories, each proved to be what was asked for. `sampled_by` is the adapter that must have sampled them,
    /// where that is the one that is trained.
    fn groups(
        &self,
        step: Step,
        rewarded: &[RewardedGroup],
        sampled_by: Option<Digest>,
    ) -> Result<Vec<Group>, WorkError> {
        let digests: Vec<Digest> = rewarded
            .iter()
            .flat_map(|group| &group.candidates)
            .map(|candidate| candidate.trajectory)
            .collect();
        let shared: BTreeSet<Digest> = rewarded.iter().filter_map(|group| group.conditioning).collect();
        let shared: Vec<Digest> = shared.into_iter().collect();
        // All at once, so that all that is lost is told at once.
        let mut fetched = self.context.get_many(&[shared.as_slice(), &digests].concat())?;
        let mut blobs = digests.iter().zip(fetched.split_off(shared.len()));
        let mut conditionings = BTreeMap::new();
        for (digest, blob) in shared.into_iter().zip(fetched) {
            let file = ConditioningFile::from_safetensors(&blob)
                .map_err(|error| WorkError::misleading(digest, format!("conditioning blob {digest}: {error}")))?;
            conditionings.insert(digest, file);
        }
        let mut groups = Vec::with_capacity(rewarded.len());
        for group in rewarded {
            let mut candidates = Vec::with_capacity(group.candidates.len());
            for ((number, candidate), (digest, blob)) in (0..).zip(&group.candidates).zip(blobs.by_ref()) {
                let wanted = Wanted {
                    step,
                    prompt_index: group.prompt_index,
                    candidate: Candidate(number),
                };
                let trajectory = Trajectory::from_safetensors(&blob)
                    .map_err(|error| WorkError::misleading(*digest, format!("trajectory blob {digest}: {error}")))?;
                check_provenance(&trajectory, self.spec, wanted)
                    .map_err(|problem| WorkError::misleading(*digest, problem))?;
                check_conditioning(&trajectory, group.conditioning)
                    .map_err(|problem| WorkError::misleading(*digest, problem))?;
                let trajectory = match group.conditioning.and_then(|given| conditionings.get_key_value(&given)) {
                    Some((given, file)) => {
                        file.check_for(&trajectory.metadata)
                            .map_err(|problem| WorkError::misleading(*given, problem))?;
                        trajectory.with_conditioning(&file.tensors)
                    }
                    None => trajectory,
                };
                if let Some(policy) = sampled_by {
                    check_on_policy(&trajectory, policy).map_err(|error| WorkError::misleading(*digest, error))?;
                }
                candidates.push(RewardedTrajectory {
                    trajectory,
                    reward: candidate.reward,
                });
            }
            groups.push(Group {
                prompt_index: group.prompt_index,
                candidates,
            });
        }
        Ok(groups)
    }

    fn mean_gradient(&self, adapter: &LoraAdapter, gradients: &[Digest], terms: u64) -> Result<Vec<f32>, WorkError> {
        let mut reduction = Reduction::new(adapter.parameter_count());
        self.context.each(gradients, |digest, blob| {
            let shard = read_gradient(adapter, &blob)
                .map_err(|error| WorkError::misleading(*digest, format!("gradient blob {digest}: {error}")))?;
            reduction.add(&shard);
            Ok(())
        })?;
        Ok(reduction.mean(terms))
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
    ready: &Ready<'_>,
    policy: &Policy,
) -> Result<&'a PolicyState, WorkError> {
    match states.iter().position(|(known, _)| known == policy) {
        Some(index) => Ok(&states[index].1),
        None => {
            let loaded = ready.load(policy)?;
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
