//! What follows from a result that counts.

use std::ops::Range;

use super::check::Objection;
use super::completion::{Completion, JudgedOf, SampledFor, UnitResult};
use super::results::{CandidateResult, ShardResult, StepResult};
use super::trouble::Trouble;
use super::{Refusal, Run, StepInFlight};
use crate::ids::{Digest, Fence, Millis, PromptIndex, Step, WorkerId};
use crate::rpo;
use crate::schedule;
use crate::work::{
    Arm, AskedMatches, Outcome, Policy, Role, Sampled, SkippedPair, TaskList, Unit, VerdictRecord, rules,
};

/// What an optimizer step came to.
struct Update {
    policy: Policy,
    grad_norm: f64,
    learning_rate: f64,
}

impl Run {
    pub(super) fn accept(
        &mut self,
        unit: Unit,
        fence: Fence,
        worker: WorkerId,
        outcome: Outcome,
        now: Millis,
    ) -> Result<(), Refusal> {
        let completion = Completion::new(unit, outcome)?;
        match self.check(&completion) {
            Ok(()) => {}
            Err(Objection::Invalid(problem)) => return Err(Refusal::InvalidOutcome { unit, problem }),
            Err(Objection::Stop(reason)) => {
                self.fail(format!("{unit}: {reason}"));
                return Ok(());
            }
        }
        self.board.end(&unit);
        self.accepted.insert(unit, fence, worker);
        if let Some(trouble) = self.troubles.remove(&unit).and_then(Trouble::done) {
            self.troubles.insert(unit, trouble);
        }
        let Completion {
            model,
            seconds,
            spent,
            result,
            ..
        } = completion;
        self.pin_model(&unit, model);
        if let Some(spent) = spent {
            self.spent.add(&spent);
        }
        let seconds = seconds.unwrap_or_default();
        match result {
            UnitResult::Initialised(policy) => {
                self.results.policies.push(policy);
                self.go_on(now);
            }
            UnitResult::Sampled { from, samples, .. } => match from {
                SampledFor::Step(step) => self.note_samples(step, &self.extent(&unit), &samples, seconds),
                SampledFor::Evaluation(arm) => self.note_held_out(arm, &self.extent(&unit), &samples),
            },
            UnitResult::Judged { of, verdicts } => {
                if let JudgedOf::Step(step) | JudgedOf::HeldOut(step) = of
                    && let Some(flight) = self.flight_mut(step)
                {
                    flight.seconds.judge += seconds;
                }
                self.note_verdicts(of, self.extent(&unit), verdicts);
            }
            UnitResult::RubricWritten { place, rubric } => self.note_rubric(place, rubric),
            UnitResult::QuestionsAnswered {
                arm,
                prompt_index,
                answers,
            } => self.note_answers(arm, prompt_index, answers),
            UnitResult::Gradient {
                step,
                shard,
                result,
                skipped,
                ..
            } => self.note_gradient(step, shard, result, skipped, seconds),
            UnitResult::Committed {
                policy,
                grad_norm,
                learning_rate,
            } => {
                let update = Update {
                    policy,
                    grad_norm,
                    learning_rate,
                };
                self.commit(update, seconds, now);
            }
        }
        Ok(())
    }

    /// The first result of a kind says which model the run works with.
    fn pin_model(&mut self, unit: &Unit, model: Option<Digest>) {
        let Some(model) = model else { return };
        let has_models = self.writer_has_models();
        let pinned = match unit.role() {
            Role::Judge if matches!(unit, Unit::HeldOutJudge { .. }) => &mut self.models.held_out_judge,
            Role::Judge if matches!(unit, Unit::WriteRubric { .. }) && has_models => &mut self.models.writer,
            Role::Judge => &mut self.models.judge,
            Role::Sampler | Role::Trainer => &mut self.models.transformer,
        };
        pinned.get_or_insert(model);
    }

    pub(super) fn attempt_failed(&mut self, unit: Unit, worker: &WorkerId, reason: String, fatal: bool) {
        if fatal {
            return self.fail(format!("{unit}, worker {worker}: {reason}"));
        }
        let trouble = self.troubles.entry(unit).or_default();
        trouble.failed(worker, &reason);
        let failures = trouble.failures;
        if failures < self.spec.limits.attempts {
            return self.give_back(unit);
        }
        if let Unit::WriteRubric { place } = unit {
            // Nobody can write it: the general rubric decides.
            self.board.end(&unit);
            self.troubles.remove(&unit);
            return self.note_rubric(place, None);
        }
        if let Unit::AnswerQuestions { arm, prompt_index } = unit {
            self.board.end(&unit);
            self.troubles.remove(&unit);
            return self.note_unanswered(arm, prompt_index, &reason);
        }
        let Some(of) = JudgedOf::unit(&unit) else {
            return self.fail(format!(
                "{unit}: {failures} attempts failed, the last on worker {worker}: {reason}"
            ));
        };
        self.board.end(&unit);
        self.troubles.remove(&unit);
        let verdicts = self.verdict_prompts(&unit).map(|index| {
            let rubric = self.rubric(&unit, index);
            VerdictRecord::failed(PromptIndex(index), reason.clone(), rubric)
        });
        let verdicts = verdicts.collect();
        self.note_verdicts(of, self.extent(&unit), verdicts);
    }

    /// Begins every step whose sampling policy exists, up to the last of the run.
    pub(super) fn begin_steps(&mut self, now: Millis) {
        let per_step = self.spec.prompts.per_step;
        loop {
            let step = Step(self.flights.back().map_or(self.committed(), |flight| flight.step).0 + 1);
            let policies = self.results.policies.len() as u32;
            if step.0 > self.spec.run.steps || rules::sampling_version(&self.spec, step) >= policies {
                return;
            }
            let lines = schedule::prompt_lines(self.spec.run.seed, self.assets.prompts.len() as u32, step, per_step);
            let shards = schedule::chunks(per_step, self.spec.trainer.shard);
            let held_out = rules::held_out_prompts(&self.spec, step);
            self.ask_for_rubrics(TaskList::Prompts, lines.iter().copied());
            let flight = StepInFlight::new(step, lines, shards, held_out, now);
            self.flights.push_back(flight.rechecking(self.rechecked(step)));
            for chunk in 0..schedule::chunks(per_step, self.spec.sampling.batch) {
                self.board.add(Unit::Sample { step, chunk });
            }
        }
    }

    fn note_samples(&mut self, step: Step, extent: &Range<u32>, samples: &[Sampled], seconds: f64) {
        let batch = self.spec.judge.batch;
        let size = usize::from(self.spec.sampling.candidates);
        let mut known = Vec::new();
        let Some(flight) = self.flight_mut(step) else { return };
        flight.seconds.sample += seconds;
        let result = |sampled: &Sampled| {
            Some(CandidateResult {
                trajectory: sampled.trajectory?,
                image: sampled.image,
            })
        };
        let sampled = samples
            .chunks_exact(size)
            .map(|group| (group[0].conditioning, group.iter().filter_map(result).collect()))
            .collect();
        let chunks = flight.note_samples(extent, sampled, batch);
        for group in flight.part(extent) {
            known.extend(group.conditioning.map(|blob| (group.line, blob)));
        }
        for (line, blob) in known {
            self.conditionings.learn(line, blob);
        }
        for chunk in chunks {
            self.open_judge_unit(Unit::Judge { step, chunk });
            let held_out = Unit::HeldOutJudge { step, chunk };
            if self.verdict_prompts(&held_out).next().is_some() {
                self.board.add(held_out);
            }
        }
    }

    fn note_held_out(&mut self, arm: Arm, extent: &Range<u32>, samples: &[Sampled]) {
        let images = self.results.images_mut(arm);
        for sampled in samples {
            images[sampled.prompt_index.0 as usize] = Some(sampled.image);
        }
        match arm {
            Arm::Base => self.missing.base -= 1,
            Arm::Tuned => self.missing.tuned -= 1,
            Arm::Probe(_) => {}
        }
        for unit in self.comparisons_of(arm, extent) {
            // A probe looks at fewer prompts than a chunk may have, and may have been judged without these pictures.
            self.open_judge_unit(unit);
        }
        self.open_questions(arm, extent);
    }

    fn note_verdicts(&mut self, of: JudgedOf, extent: Range<u32>, verdicts: Vec<VerdictRecord>) {
        let judged = match of {
            JudgedOf::Step(step) => return self.note_matches(step, &extent, &verdicts),
            JudgedOf::HeldOut(step) => return self.note_second_opinions(step, &extent, &verdicts),
            JudgedOf::Comparison(probe) => {
                self.missing.comparisons -= u32::from(probe.is_none());
                self.results.comparisons_mut(probe)
            }
            JudgedOf::Calibration => {
                self.missing.calibration -= 1;
                &mut self.results.calibration
            }
        };
        for (index, record) in extent.zip(verdicts) {
            judged[index as usize] = Some(record);
        }
        self.let_probed_policies_go();
    }

    /// The verdicts on the matches of a step's groups.
    fn note_matches(&mut self, step: Step, extent: &Range<u32>, verdicts: &[VerdictRecord]) {
        self.matches_judged += verdicts.iter().filter(|record| record.is_judged()).count() as u64;
        self.asked.add(&AskedMatches::of(verdicts));
        let size = self.spec.trainer.shard;
        let matches = rpo::match_count(usize::from(self.spec.sampling.candidates));
        let Some(flight) = self.flight_mut(step) else { return };
        let verdicts = verdicts.chunks(matches).map(<[VerdictRecord]>::to_vec).collect();
        flight.note_verdicts(extent, verdicts, size);
        self.open_training(step, schedule::overlapping(extent, size));
    }

    /// What the held-out judge says of its share of a step's groups. It may be the last that the step's commit waits for.
    fn note_second_opinions(&mut self, step: Step, extent: &Range<u32>, verdicts: &[VerdictRecord]) {
        let matches = rpo::match_count(usize::from(self.spec.sampling.candidates));
        let Some(flight) = self.flight_mut(step) else { return };
        flight.note_held_out(
            extent,
            verdicts.chunks(matches).map(<[VerdictRecord]>::to_vec).collect(),
        );
        self.open_training(step, 0..0);
    }

    /// Makes those of these shards' gradients ready whose groups are all judged, if this is the step that is being trained: a
    /// step that is sampled ahead waits for the policy that it trains. Asks for the commit once every shard is done and the held-out
    /// judge has seen its share, so that the step's figures are whole; and stops a run whose judge works on nothing at all.
    pub(super) fn open_training(&mut self, step: Step, shards: Range<u32>) {
        let Some(flight) = self.flights.front().filter(|flight| flight.step == step) else {
            return;
        };
        for shard in flight.trainable(shards, self.spec.trainer.shard) {
            let unit = Unit::Gradient { step, shard };
            if self.board.lease(&unit).is_none() && !self.board.is_ready(&unit) {
                self.board.add(unit);
            }
        }
        let Some(flight) = self.flights.front().filter(|flight| flight.is_trained()) else {
            return;
        };
        if let Some(reason) = flight.unjudgeable() {
            let reason = format!("no pair of step {step} could be judged; the last reason: {reason}");
            return self.fail(reason);
        }
        if flight.is_watched() {
            self.board.add(Unit::Commit { step });
        }
    }

    fn note_gradient(&mut self, step: Step, shard: u32, result: ShardResult, skipped: Vec<SkippedPair>, seconds: f64) {
        let count = skipped.len() as u32;
        let Some(flight) = self.flight_mut(step) else { return };
        flight.seconds.train += seconds;
        for pair in skipped {
            flight.groups[pair.prompt_index.0 as usize].skipped = Some(pair.reason);
        }
        flight.note_shard(shard, result);
        self.pairs_skipped += count;
        self.pairs_skipped_lately += count;
        // A gradient makes no other gradient ready, but it may be the last.
        self.open_training(step, 0..0);
    }

    fn commit(&mut self, update: Update, seconds: f64, now: Millis) {
        let Some(mut flight) = self.flights.pop_front() else {
            return;
        };
        flight.seconds.commit = seconds;
        let record = flight.record(&self.spec, update.grad_norm, update.learning_rate, now);
        let shards = flight.shards.into_iter().flatten().collect();
        self.results.steps.push(StepResult {
            record,
            groups: flight.groups,
            shards,
        });
        self.results.policies.push(update.policy);
        if let Some(next) = self.flights.front_mut() {
            // It has been sampled ahead; its own time begins now.
            next.started = now;
            let (next, shards) = (next.step, 0..next.shards.len() as u32);
            self.open_training(next, shards);
        }
        self.kept_from = self.kept_from.max(self.window());
        self.let_details_go();
        self.let_conditionings_go();
        self.begin_probe();
        self.let_policies_go();
        self.let_commits_go();
        self.go_on(now);
    }

    /// Begins what follows a policy: more steps, or the evaluation of the last one.
    fn go_on(&mut self, now: Millis) {
        if self.is_trained() {
            self.begin_tuned();
        } else {
            self.begin_steps(now);
        }
    }
}
