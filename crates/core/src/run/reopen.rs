//! What is done again: units whose results were lost or are not to be trusted, steps whose policy is gone, work of a worker
//! that is set apart. Every result follows from the spec, so doing work again gives the same bytes.

use std::collections::BTreeSet;

use super::{Refusal, Run, ShardResult};
use crate::ids::{Digest, Millis, PromptIndex, Step, WorkerId};
use crate::schedule;
use crate::work::{Arm, Fault, Part, Side, Unit, Unusable};

/// What made a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// The policy of this version: its commit, or the initialisation.
    Policy(u32),
    /// A unit.
    Unit(Unit),
    /// Nobody before the unit: what it lacks it makes itself.
    Itself,
    /// Whoever submitted the run.
    Submission,
}

impl Run {
    /// Has the inputs made again that a worker could not use; its own unit waits for them.
    pub(super) fn make_again(
        &mut self,
        unit: Unit,
        worker: &WorkerId,
        unusable: &[Unusable],
        reason: &str,
        now: Millis,
    ) {
        let mut sources = BTreeSet::new();
        let mut suspects = BTreeSet::new();
        let mut gone = BTreeSet::new();
        for Unusable { blob, fault } in unusable {
            let Some(source) = self.source(&unit, blob) else {
                continue;
            };
            sources.insert(source);
            gone.insert(*blob);
            let maker = match source {
                Source::Policy(0) => Some(Unit::Initialise),
                Source::Policy(version) => Some(Unit::Commit { step: Step(version) }),
                Source::Unit(unit) => Some(unit),
                Source::Itself | Source::Submission => None,
            };
            if let Some(accepted) = maker.and_then(|maker| self.accepted.get(&maker))
                && *fault == Fault::Producer
            {
                suspects.insert(WorkerId::clone(&accepted.worker));
            }
        }
        if sources.is_empty() {
            // Blobs that are no input of this unit: the worker is confused, and this attempt has failed.
            return self.attempt_failed(unit, worker, reason.to_owned(), false);
        }
        if sources.contains(&Source::Submission) {
            let reason = format!(
                "{unit}: {reason}: `gavel submit --resume`, or `gavel run --resume`, stores its files anew and lets it go on"
            );
            return self.fail(reason);
        }
        for source in &sources {
            let unit = match *source {
                Source::Policy(0) => Unit::Initialise,
                Source::Policy(version) => Unit::Commit { step: Step(version) },
                Source::Unit(unit) => unit,
                Source::Itself | Source::Submission => continue,
            };
            let trouble = self.troubles.entry(unit).or_default();
            trouble.result_lost(reason);
            if trouble.losses >= self.spec.limits.attempts {
                let losses = trouble.losses;
                let reason = format!("{unit}: its result was lost or unusable {losses} times, the last: {reason}");
                return self.fail(reason);
            }
        }
        for worker in suspects {
            let reason = format!("what it made cannot be used: {reason}");
            self.quarantined.entry(worker.clone()).or_insert(reason);
            self.take_leases(&worker);
        }
        // Nobody is handed it again: the next one that samples the task encodes it.
        self.conditionings.forget(&gone);
        self.give_back(unit);
        for source in sources {
            match source {
                Source::Policy(version) => self.rewind(version, now),
                Source::Unit(unit) => self.reopen(unit),
                Source::Itself | Source::Submission => {}
            }
        }
    }

    /// Takes nothing more from a worker. What it holds counts as failed attempts, so that a unit that every worker gets wrong
    /// ends the run and not the fleet.
    pub(super) fn set_apart(&mut self, worker: WorkerId, reason: String) -> Result<(), Refusal> {
        if self.is_ended() {
            return Err(Refusal::Ended);
        }
        if let Some(reason) = self.quarantined.get(&worker).cloned() {
            return Err(Refusal::Quarantined { worker, reason });
        }
        self.quarantined.insert(worker.clone(), reason.clone());
        for unit in self.board.held_by(&worker) {
            if !self.is_ended() {
                self.attempt_failed(unit, &worker, reason.clone(), false);
            }
        }
        Ok(())
    }

    fn take_leases(&mut self, worker: &WorkerId) {
        for unit in self.board.held_by(worker) {
            self.give_back(unit);
        }
    }

    /// What made `blob`, if it is an input of `unit`.
    pub(super) fn source(&self, unit: &Unit, blob: &Digest) -> Option<Source> {
        let assignment = self.assignment(unit)?;
        let (_, part) = assignment.inputs().find(|(input, _)| input == blob)?;
        // Policy 0 may be an adapter that came with the run: nobody here can make that again.
        if self.assets.initial_adapter == Some(*blob) {
            return Some(Source::Submission);
        }
        match part {
            Part::Adapter | Part::OptimizerState | Part::AveragedAdapter => {
                // A commit of nothing hands a policy on: whoever made it first makes it again.
                let mut versions = self.results.policies.numbered();
                let (version, _) = versions.find(|(_, policy)| policy.blobs().any(|(part, _)| part == *blob))?;
                Some(Source::Policy(version as u32))
            }
            Part::Trajectory { prompt_index, .. } | Part::Image { prompt_index, .. } => {
                self.sampled_by(unit, prompt_index, None)
            }
            Part::Conditioning { prompt_index } => match unit {
                Unit::Sample { .. } => Some(Source::Itself),
                _ => self.sampled_by(unit, prompt_index, None),
            },
            Part::PairImage { prompt_index, side } => self.sampled_by(unit, prompt_index, Some(side)),
            Part::Gradient { .. } => {
                let Unit::Commit { step } = *unit else { return None };
                let shards = &self.flight(step)?.shards;
                let made =
                    |shard: &Option<ShardResult>| shard.as_ref().is_some_and(|shard| shard.gradient == Some(*blob));
                let shard = shards.iter().position(made)? as u32;
                Some(Source::Unit(Unit::Gradient { step, shard }))
            }
            Part::Rubric { prompt_index } => Some(self.rubric_written_by(unit, prompt_index, blob)),
            Part::InitialAdapter | Part::Source { .. } | Part::Target { .. } | Part::Mask { .. } => {
                Some(Source::Submission)
            }
        }
    }

    /// What wrote the rubric by which a judge unit decides about a prompt: it may have come with the run.
    fn rubric_written_by(&self, unit: &Unit, prompt_index: PromptIndex, rubric: &Digest) -> Source {
        let place = self.written_for(unit, prompt_index.0, rubric);
        place.map_or(Source::Submission, |place| Source::Unit(Unit::WriteRubric { place }))
    }

    /// What painted a picture, or sampled a trajectory, that `unit` reads.
    fn sampled_by(&self, unit: &Unit, prompt_index: PromptIndex, side: Option<Side>) -> Option<Source> {
        let chunk_of = |batch: u32| schedule::chunk_of(prompt_index.0, batch);
        match *unit {
            Unit::Judge { step, .. } | Unit::HeldOutJudge { step, .. } | Unit::Gradient { step, .. } => {
                Some(Source::Unit(Unit::Sample {
                    step,
                    chunk: chunk_of(self.spec.sampling.batch),
                }))
            }
            Unit::EvaluateJudge { probe, .. } => {
                let arm = match side? {
                    Side::First => Arm::Base,
                    Side::Second => Arm::compared(probe),
                };
                if let Arm::Probe(step) = arm
                    && !self.keeps_policy(step.0)
                {
                    // The picture cannot be painted again before its policy is made again.
                    return Some(Source::Policy(step.0));
                }
                let chunk = chunk_of(self.spec.evaluation_batch());
                Some(Source::Unit(Unit::EvaluateSample { arm, chunk }))
            }
            Unit::AnswerQuestions { arm, .. } => {
                let chunk = chunk_of(self.spec.evaluation_batch());
                Some(Source::Unit(Unit::EvaluateSample { arm, chunk }))
            }
            Unit::CalibrateJudge { .. } => Some(Source::Submission),
            Unit::Initialise
            | Unit::Sample { .. }
            | Unit::WriteRubric { .. }
            | Unit::EvaluateSample { .. }
            | Unit::Commit { .. } => None,
        }
    }

    /// Makes an accepted unit ready again and takes back all that followed from it.
    fn reopen(&mut self, unit: Unit) {
        if !self.accepted.remove(&unit) {
            // Only accepted units have blobs that others read.
            return;
        }
        let extent = self.extent(&unit);
        match unit {
            Unit::Sample { step, .. } => {
                let (batch, size) = (self.spec.judge.batch, self.spec.trainer.shard);
                let Some(flight) = self.flight_mut(step) else { return };
                let (chunks, shards) = flight.forget_samples(&extent, batch, size);
                self.forget(|unit| match *unit {
                    Unit::Judge { step: of, chunk } | Unit::HeldOutJudge { step: of, chunk } => {
                        of == step && chunks.contains(&chunk)
                    }
                    Unit::Gradient { step: of, shard } => of == step && shards.contains(&shard),
                    Unit::Commit { step: of } => of == step,
                    _ => false,
                });
            }
            Unit::Gradient { step, shard } => {
                let Some(flight) = self.flight_mut(step) else { return };
                flight.forget_shard(shard);
                for pair in flight.part_mut(&extent) {
                    pair.skipped = None;
                }
                self.forget(|unit| *unit == Unit::Commit { step });
            }
            Unit::WriteRubric { place } => self.forget_rubric(place),
            Unit::EvaluateSample { arm, .. } => {
                self.results.images_mut(arm)[extent.start as usize..extent.end as usize].fill(None);
                match arm {
                    Arm::Base => self.missing.base += 1,
                    Arm::Tuned => self.missing.tuned += 1,
                    Arm::Probe(_) => {}
                }
                for unit in self.comparisons_of(arm, &extent) {
                    self.forget_comparison(unit);
                }
                self.forget_answers(arm, &extent);
            }
            // A policy is made again by going back to before it, and verdicts and answers are no blobs.
            Unit::Initialise
            | Unit::Commit { .. }
            | Unit::Judge { .. }
            | Unit::HeldOutJudge { .. }
            | Unit::EvaluateJudge { .. }
            | Unit::CalibrateJudge { .. }
            | Unit::AnswerQuestions { .. } => {}
        }
        self.board.add(unit);
    }

    fn forget_comparison(&mut self, unit: Unit) {
        let Unit::EvaluateJudge { probe, .. } = unit else {
            return;
        };
        let extent = self.extent(&unit);
        let comparisons = &mut self.results.comparisons_mut(probe)[extent.start as usize..extent.end as usize];
        if comparisons.iter().any(Option::is_some) {
            comparisons.fill(None);
            self.missing.comparisons += u32::from(probe.is_none());
        }
        self.forget(|other| *other == unit);
    }

    /// Units that are neither ready nor leased nor accepted any more.
    pub(super) fn forget(&mut self, gone: impl Fn(&Unit) -> bool) {
        self.board.withdraw(&gone);
        self.accepted.retain(|unit| !gone(unit));
    }

    /// Goes back to before the policy of this version, and on from there: the steps from it on are taken again.
    pub(super) fn rewind(&mut self, version: u32, now: Millis) {
        if self.results.policies.len() as u32 <= version {
            // Gone already, with an earlier one.
            return;
        }
        let first = version.max(1);
        self.results.policies.truncate(version as usize);
        self.held_policies.retain(|step| step.0 < version);
        self.results.steps.truncate(first as usize - 1);
        self.flights.clear();
        self.forget(|unit| match *unit {
            Unit::Initialise => version == 0,
            // What was sampled ahead is sampled anew too: simple, and a lost policy is rare.
            Unit::Sample { step, .. }
            | Unit::Judge { step, .. }
            | Unit::HeldOutJudge { step, .. }
            | Unit::Gradient { step, .. }
            | Unit::Commit { step } => step.0 >= first,
            Unit::WriteRubric { .. }
            | Unit::EvaluateSample { .. }
            | Unit::EvaluateJudge { .. }
            | Unit::CalibrateJudge { .. }
            | Unit::AnswerQuestions { .. } => false,
        });
        self.forget_tuned();
        self.forget_probes(Step(version));
        self.watched_from = self.watched_from.min(self.committed());
        // What came before was given away meanwhile, and does not come back.
        self.kept_from = self.kept_from.min(Step(first));
        self.details_from = self.details_from.min(Step(first));
        if version == 0 {
            self.board.add(Unit::Initialise);
        } else {
            self.begin_steps(now);
        }
    }
}
