//! What follows from a result that counts.

use std::ops::Range;

use super::check::{Objection, expected_kind, outcome_kind};
use super::lease::Trouble;
use super::results::{CandidateResult, ShardResult, StepResult};
use super::{Accepted, Effect, Phase, Refusal, Run, StepInFlight};
use crate::ids::{Millis, PromptIndex, Step, WorkerId};
use crate::rpo;
use crate::schedule;
use crate::work::{Arm, Outcome, Policy, Sampled, SkippedPair, Unit, VerdictRecord, rules};

impl Run {
    pub(super) fn accept(
        &mut self,
        unit: Unit,
        accepted: Accepted,
        outcome: Outcome,
        now: Millis,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let (expected, found) = (expected_kind(&unit), outcome_kind(&outcome));
        if expected != found {
            return Err(Refusal::WrongOutcome { unit, expected, found });
        }
        match self.check(&unit, &outcome) {
            Ok(()) => {}
            Err(Objection::Invalid(problem)) => return Err(Refusal::InvalidOutcome { unit, problem }),
            Err(Objection::Stop(reason)) => {
                self.halt(
                    Phase::Failed {
                        reason: format!("{unit}: {reason}"),
                    },
                    effects,
                );
                return Ok(());
            }
        }
        self.board.end(&unit);
        self.accepted.insert(unit, accepted);
        if let Some(trouble) = self.troubles.remove(&unit).filter(|trouble| trouble.losses > 0) {
            let Trouble { losses, last, .. } = trouble;
            self.troubles.insert(
                unit,
                Trouble {
                    losses,
                    last,
                    ..Trouble::default()
                },
            );
        }
        self.pin_model(&outcome);
        match (unit, outcome) {
            (Unit::Initialise, Outcome::Initialised { policy, .. }) => {
                self.results.policies.push(policy.clone());
                effects.push(Effect::StepCommitted(Step(0), policy));
                self.begin_steps(now, effects);
            }
            (Unit::Sample { .. }, Outcome::Sampled { samples, seconds, .. }) => {
                self.note_samples(&unit, &samples, seconds, effects);
            }
            (Unit::EvaluateSample { arm, .. }, Outcome::Sampled { samples, .. }) => {
                self.note_held_out(&unit, arm, &samples, effects);
            }
            (_, Outcome::Judged { verdicts, seconds, .. }) => {
                if let Unit::Judge { step, .. } = unit
                    && let Some(flight) = self.flight_mut(step)
                {
                    flight.seconds.judge += seconds;
                }
                self.note_verdicts(&unit, verdicts, effects);
            }
            (
                Unit::Gradient { step, shard },
                Outcome::Gradient {
                    gradient,
                    statistics,
                    skipped,
                    seconds,
                    ..
                },
            ) => {
                self.note_gradient(
                    step,
                    shard,
                    ShardResult { gradient, statistics },
                    skipped,
                    seconds,
                    effects,
                );
            }
            (
                Unit::Commit { step },
                Outcome::Committed {
                    policy,
                    grad_norm,
                    learning_rate,
                    seconds,
                },
            ) => {
                self.commit(step, policy, grad_norm, learning_rate, seconds, now, effects);
            }
            // `expected_kind` has paired every unit with its outcome.
            _ => {}
        }
        if self.phase() == Phase::Finished {
            effects.push(Effect::Ended);
        }
        Ok(())
    }

    /// The first result of a kind says which model the run works with.
    fn pin_model(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Initialised { model, .. } | Outcome::Sampled { model, .. } | Outcome::Gradient { model, .. } => {
                self.models.transformer.get_or_insert(*model);
            }
            Outcome::Judged { model, .. } => {
                self.models.judge.get_or_insert(*model);
            }
            Outcome::Committed { .. } => {}
        }
    }

    pub(super) fn attempt_failed(
        &mut self,
        unit: Unit,
        worker: &WorkerId,
        reason: String,
        fatal: bool,
        effects: &mut Vec<Effect>,
    ) {
        if fatal {
            return self.halt(
                Phase::Failed {
                    reason: format!("{unit}, worker {worker}: {reason}"),
                },
                effects,
            );
        }
        let trouble = self.troubles.entry(unit).or_default();
        trouble.failures += 1;
        trouble.last.clone_from(&reason);
        let failures = trouble.failures;
        if failures < self.spec.limits.attempts {
            self.board.end(&unit);
            return self.make_ready(unit, effects);
        }
        match unit {
            Unit::Judge { .. } | Unit::EvaluateJudge { .. } | Unit::CalibrateJudge { .. } => {
                self.board.end(&unit);
                self.troubles.remove(&unit);
                let rubric = self.assets.rubric.digest;
                let verdicts = self
                    .judged_places(&unit)
                    .map(|place| VerdictRecord::failed(PromptIndex(place), reason.clone(), rubric));
                self.note_verdicts(&unit, verdicts.collect(), effects);
                if self.phase() == Phase::Finished {
                    effects.push(Effect::Ended);
                }
            }
            _ => {
                let reason = format!("{unit}: {failures} attempts failed, the last on worker {worker}: {reason}");
                self.halt(Phase::Failed { reason }, effects);
            }
        }
    }

    /// Begins every step whose sampling policy exists, up to the last of the run.
    pub(super) fn begin_steps(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let per_step = self.spec.prompts.per_step;
        loop {
            let step = Step(self.flights.back().map_or(self.committed(), |flight| flight.step).0 + 1);
            let policies = self.results.policies.len() as u32;
            if step.0 > self.spec.run.steps || rules::sampling_version(&self.spec, step) >= policies {
                return;
            }
            let lines = schedule::prompt_lines(self.spec.run.seed, self.assets.prompts.len() as u32, step, per_step);
            let shards = schedule::chunks(per_step, self.spec.trainer.shard);
            self.flights.push_back(StepInFlight::new(step, lines, shards, now));
            for chunk in 0..schedule::chunks(per_step, self.spec.sampling.batch) {
                self.make_ready(Unit::Sample { step, chunk }, effects);
            }
        }
    }

    fn note_samples(&mut self, unit: &Unit, samples: &[Sampled], seconds: f64, effects: &mut Vec<Effect>) {
        let Unit::Sample { step, .. } = *unit else { return };
        let places = self.places(unit);
        let batch = self.spec.judge.batch;
        let size = usize::from(self.spec.sampling.candidates);
        let Some(flight) = self.flight_mut(step) else { return };
        flight.seconds.sample += seconds;
        let result = |sampled: &Sampled| {
            Some(CandidateResult {
                trajectory: sampled.trajectory?,
                image: sampled.image,
            })
        };
        let candidates = samples
            .chunks_exact(size)
            .map(|group| group.iter().filter_map(result).collect())
            .collect();
        for chunk in flight.note_samples(&places, candidates, batch) {
            self.make_ready(Unit::Judge { step, chunk }, effects);
        }
    }

    fn note_held_out(&mut self, unit: &Unit, arm: Arm, samples: &[Sampled], effects: &mut Vec<Effect>) {
        let places = self.places(unit);
        let images = match arm {
            Arm::Base => &mut self.results.base_images,
            Arm::Tuned => &mut self.results.tuned_images,
        };
        for sampled in samples {
            images[sampled.prompt.0 as usize] = Some(sampled.image);
        }
        match arm {
            Arm::Base => self.missing.base -= 1,
            Arm::Tuned => self.missing.tuned -= 1,
        }
        for chunk in schedule::overlapping(&places, self.spec.judge.batch) {
            let unit = Unit::EvaluateJudge { chunk };
            let complete = self.places(&unit).all(|place| {
                let place = place as usize;
                self.results.base_images[place].is_some() && self.results.tuned_images[place].is_some()
            });
            if complete {
                self.make_ready(unit, effects);
            }
        }
    }

    fn note_verdicts(&mut self, unit: &Unit, verdicts: Vec<VerdictRecord>, effects: &mut Vec<Effect>) {
        let places = self.places(unit);
        match unit {
            Unit::Judge { step, .. } => {
                self.pairs_judged += verdicts.iter().filter(|record| record.is_judged()).count() as u64;
                let size = self.spec.trainer.shard;
                let matches = rpo::match_count(usize::from(self.spec.sampling.candidates));
                let Some(flight) = self.flight_mut(*step) else { return };
                let verdicts = verdicts.chunks(matches).map(<[VerdictRecord]>::to_vec).collect();
                flight.note_verdicts(&places, verdicts, size);
                self.open_training(*step, schedule::overlapping(&places, size), effects);
            }
            Unit::EvaluateJudge { .. } => {
                for (place, record) in places.zip(verdicts) {
                    self.results.comparisons[place as usize] = Some(record);
                }
                self.missing.comparisons -= 1;
            }
            Unit::CalibrateJudge { .. } => {
                for (place, record) in places.zip(verdicts) {
                    self.results.calibration[place as usize] = Some(record);
                }
                self.missing.calibration -= 1;
            }
            // Only judge units give verdicts.
            _ => {}
        }
    }

    /// Makes those of these shards' gradients ready whose groups are all judged, if this is the step that is being trained: a
    /// step that is sampled ahead waits for the policy that it trains. Asks for the commit once every shard is done, and stops
    /// a run whose judge works on nothing at all.
    pub(super) fn open_training(&mut self, step: Step, shards: Range<u32>, effects: &mut Vec<Effect>) {
        let Some(flight) = self.flights.front().filter(|flight| flight.step == step) else {
            return;
        };
        for shard in flight.trainable(shards, self.spec.trainer.shard) {
            let unit = Unit::Gradient { step, shard };
            if self.board.lease(&unit).is_none() && !self.board.is_ready(&unit) {
                self.make_ready(unit, effects);
            }
        }
        let Some(flight) = self.flights.front().filter(|flight| flight.is_trained()) else {
            return;
        };
        if let Some(reason) = flight.unjudgeable() {
            let reason = format!("no pair of step {step} could be judged; the last reason: {reason}");
            return self.halt(Phase::Failed { reason }, effects);
        }
        self.make_ready(Unit::Commit { step }, effects);
    }

    fn note_gradient(
        &mut self,
        step: Step,
        shard: u32,
        result: ShardResult,
        skipped: Vec<SkippedPair>,
        seconds: f64,
        effects: &mut Vec<Effect>,
    ) {
        let count = skipped.len() as u32;
        let Some(flight) = self.flight_mut(step) else { return };
        flight.seconds.train += seconds;
        for pair in skipped {
            flight.groups[pair.prompt.0 as usize].skipped = Some(pair.reason);
        }
        flight.note_shard(shard, result);
        self.pairs_skipped += count;
        self.pairs_skipped_lately += count;
        // A gradient makes no other gradient ready, but it may be the last.
        self.open_training(step, 0..0, effects);
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the fields of one outcome, with where and when it arrived"
    )]
    fn commit(
        &mut self,
        step: Step,
        policy: Policy,
        grad_norm: f64,
        learning_rate: f64,
        seconds: f64,
        now: Millis,
        effects: &mut Vec<Effect>,
    ) {
        let Some(mut flight) = self.flights.pop_front() else {
            return;
        };
        flight.seconds.commit = seconds;
        let record = flight.record(&self.spec.objective, grad_norm, learning_rate, now);
        let shards = flight.shards.into_iter().flatten().collect();
        self.results.steps.push(StepResult {
            record,
            groups: flight.groups,
            shards,
        });
        self.results.policies.push(policy.clone());
        effects.push(Effect::StepCommitted(step, policy.clone()));
        let every = self.spec.checkpoints.every;
        if every > 0 && step.0.is_multiple_of(every) {
            effects.push(Effect::Checkpoint(step, policy));
        }
        if let Some(next) = self.flights.front_mut() {
            // It has been sampled ahead; its own time begins now.
            next.started = now;
            let (next, shards) = (next.step, 0..next.shards.len() as u32);
            self.open_training(next, shards, effects);
        }
        if step.0 < self.spec.run.steps {
            self.begin_steps(now, effects);
        } else {
            for chunk in 0..self.missing.tuned {
                self.make_ready(Unit::EvaluateSample { arm: Arm::Tuned, chunk }, effects);
            }
        }
    }
}
