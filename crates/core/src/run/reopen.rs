//! What is done again: units whose results were lost or are not to be trusted, steps whose policy is gone, work of a worker
//! that is set apart. Every result follows from the spec, so doing work again gives the same bytes.

use std::collections::BTreeSet;

use super::{Effect, Phase, Refusal, Run};
use crate::ids::{Digest, Millis, Step, WorkerId};
use crate::schedule;
use crate::work::{Arm, Fault, Unit, Unusable};

/// What made a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    /// The policy of this version: its commit, or the initialisation.
    Policy(u32),
    /// A unit.
    Unit(Unit),
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
        effects: &mut Vec<Effect>,
    ) {
        let mut sources = BTreeSet::new();
        let mut suspects = BTreeSet::new();
        for Unusable { blob, fault } in unusable {
            let Some(source) = self.source(&unit, blob) else {
                continue;
            };
            sources.insert(source);
            let maker = match source {
                Source::Policy(0) => Some(Unit::Initialise),
                Source::Policy(version) => Some(Unit::Commit { step: Step(version) }),
                Source::Unit(unit) => Some(unit),
                Source::Submission => None,
            };
            if let Some(accepted) = maker.and_then(|maker| self.accepted.get(&maker))
                && *fault == Fault::Producer
            {
                suspects.insert(accepted.worker.clone());
            }
        }
        if sources.is_empty() {
            // Blobs that are no input of this unit: the worker is confused, and this attempt has failed.
            return self.attempt_failed(unit, worker, reason.to_owned(), false, effects);
        }
        if sources.contains(&Source::Submission) {
            let reason = format!(
                "{unit}: {reason}: `gavel submit --resume`, or `gavel run --resume`, stores its pictures anew and lets it go on"
            );
            return self.halt(Phase::Failed { reason }, effects);
        }
        for source in &sources {
            let unit = match *source {
                Source::Policy(0) => Unit::Initialise,
                Source::Policy(version) => Unit::Commit { step: Step(version) },
                Source::Unit(unit) => unit,
                Source::Submission => continue,
            };
            let trouble = self.troubles.entry(unit).or_default();
            trouble.losses += 1;
            reason.clone_into(&mut trouble.last);
            if trouble.losses >= self.spec.limits.attempts {
                let losses = trouble.losses;
                let reason = format!("{unit}: its result was lost or unusable {losses} times, the last: {reason}");
                return self.halt(Phase::Failed { reason }, effects);
            }
        }
        for worker in suspects {
            let reason = format!("what it made cannot be used: {reason}");
            self.quarantined.entry(worker.clone()).or_insert(reason);
            self.give_back(&worker, effects);
        }
        self.board.end(&unit);
        self.make_ready(unit, effects);
        for source in sources {
            match source {
                Source::Policy(version) => self.rewind(version, now, effects),
                Source::Unit(unit) => self.reopen(unit, effects),
                Source::Submission => {}
            }
        }
    }

    /// Takes nothing more from a worker. What it holds counts as failed attempts, so that a unit that every worker gets wrong
    /// ends the run and not the fleet.
    pub(super) fn set_apart(
        &mut self,
        worker: WorkerId,
        reason: String,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        if self.is_ended() {
            return Err(Refusal::Ended);
        }
        if let Some(reason) = self.quarantined.get(&worker).cloned() {
            return Err(Refusal::Quarantined { worker, reason });
        }
        self.quarantined.insert(worker.clone(), reason.clone());
        for unit in self.board.held_by(&worker) {
            if !self.is_ended() {
                self.attempt_failed(unit, &worker, reason.clone(), false, effects);
            }
        }
        Ok(())
    }

    fn give_back(&mut self, worker: &WorkerId, effects: &mut Vec<Effect>) {
        for unit in self.board.held_by(worker) {
            self.board.end(&unit);
            self.make_ready(unit, effects);
        }
    }

    /// What made `blob`, if it is an input of `unit`.
    fn source(&self, unit: &Unit, blob: &Digest) -> Option<Source> {
        let policy = || {
            let version = self.results.policies.iter().position(|policy| policy.has(blob))?;
            Some(Source::Policy(version as u32))
        };
        match *unit {
            Unit::Initialise => None,
            Unit::Sample { .. } => policy(),
            Unit::EvaluateSample { arm: Arm::Tuned, .. } => policy(),
            Unit::EvaluateSample { arm: Arm::Base, .. } => None,
            Unit::Judge { step, .. } => self.sample_source(step, unit, blob),
            Unit::Gradient { step, .. } => self.sample_source(step, unit, blob).or_else(policy),
            Unit::Commit { step } => {
                let flight = self.flight(step)?;
                let shard = flight
                    .shards
                    .iter()
                    .position(|shard| shard.as_ref().is_some_and(|shard| shard.gradient == Some(*blob)));
                let gradient = shard.map(|shard| Unit::Gradient {
                    step,
                    shard: shard as u32,
                });
                gradient.map(Source::Unit).or_else(policy)
            }
            Unit::EvaluateJudge { .. } => self.places(unit).find_map(|place| {
                let arms = [
                    (Arm::Base, &self.results.base_images),
                    (Arm::Tuned, &self.results.tuned_images),
                ];
                let (arm, _) = arms
                    .into_iter()
                    .find(|(_, images)| images[place as usize] == Some(*blob))?;
                let batch = self.spec.evaluation.as_ref().map_or(1, |evaluation| evaluation.batch);
                let chunk = place / batch.max(1);
                Some(Source::Unit(Unit::EvaluateSample { arm, chunk }))
            }),
            Unit::CalibrateJudge { .. } => self
                .places(unit)
                .map(|place| &self.assets.labelled[place as usize])
                .any(|labelled| labelled.first == *blob || labelled.second == *blob)
                .then_some(Source::Submission),
        }
    }

    fn sample_source(&self, step: Step, unit: &Unit, blob: &Digest) -> Option<Source> {
        let flight = self.flight(step)?;
        let place = self.places(unit).find(|place| {
            let candidates = flight.groups[*place as usize].candidates.iter();
            candidates
                .into_iter()
                .any(|made| made.image == *blob || made.trajectory == *blob)
        })?;
        let chunk = place / self.spec.sampling.batch.max(1);
        Some(Source::Unit(Unit::Sample { step, chunk }))
    }

    /// Makes an accepted unit ready again and takes back all that followed from it.
    fn reopen(&mut self, unit: Unit, effects: &mut Vec<Effect>) {
        if self.accepted.remove(&unit).is_none() {
            // Only accepted units have blobs that others read.
            return;
        }
        let places = self.places(&unit);
        match unit {
            Unit::Sample { step, .. } => {
                let (batch, size) = (self.spec.judge.batch, self.spec.trainer.shard);
                let Some(flight) = self.flight_mut(step) else { return };
                let (chunks, shards) = flight.forget_samples(&places, batch, size);
                self.forget(|unit| match *unit {
                    Unit::Judge { step: of, chunk } => of == step && chunks.contains(&chunk),
                    Unit::Gradient { step: of, shard } => of == step && shards.contains(&shard),
                    Unit::Commit { step: of } => of == step,
                    _ => false,
                });
            }
            Unit::Gradient { step, shard } => {
                let Some(flight) = self.flight_mut(step) else { return };
                flight.forget_shard(shard);
                for pair in flight.part_mut(&places) {
                    pair.skipped = None;
                }
                self.forget(|unit| *unit == Unit::Commit { step });
            }
            Unit::EvaluateSample { arm, .. } => {
                let images = match arm {
                    Arm::Base => &mut self.results.base_images,
                    Arm::Tuned => &mut self.results.tuned_images,
                };
                images[places.start as usize..places.end as usize].fill(None);
                match arm {
                    Arm::Base => self.missing.base += 1,
                    Arm::Tuned => self.missing.tuned += 1,
                }
                for chunk in schedule::overlapping(&places, self.spec.judge.batch) {
                    self.forget_comparison(Unit::EvaluateJudge { chunk });
                }
            }
            _ => {}
        }
        self.make_ready(unit, effects);
    }

    fn forget_comparison(&mut self, unit: Unit) {
        let places = self.places(&unit);
        let comparisons = &mut self.results.comparisons[places.start as usize..places.end as usize];
        if comparisons.iter().any(Option::is_some) {
            comparisons.fill(None);
            self.missing.comparisons += 1;
        }
        self.forget(|other| *other == unit);
    }

    /// Units that are neither ready nor leased nor accepted any more.
    fn forget(&mut self, gone: impl Fn(&Unit) -> bool) {
        self.board.withdraw(&gone);
        self.accepted.retain(|unit, _| !gone(unit));
    }

    /// Goes back to before the policy of this version, and on from there: the steps from it on are taken again.
    fn rewind(&mut self, version: u32, now: Millis, effects: &mut Vec<Effect>) {
        if self.results.policies.len() as u32 <= version {
            // Gone already, with an earlier one.
            return;
        }
        let first = version.max(1);
        self.results.policies.truncate(version as usize);
        self.results.steps.truncate(first as usize - 1);
        self.flights.clear();
        self.forget(|unit| match *unit {
            Unit::Initialise => version == 0,
            // What was sampled ahead is sampled anew too: simple, and a lost policy is rare.
            Unit::Sample { step, .. }
            | Unit::Judge { step, .. }
            | Unit::Gradient { step, .. }
            | Unit::Commit { step } => step.0 >= first,
            Unit::EvaluateSample { arm, .. } => arm == Arm::Tuned,
            Unit::EvaluateJudge { .. } => true,
            Unit::CalibrateJudge { .. } => false,
        });
        self.results.tuned_images.fill(None);
        self.results.comparisons.fill(None);
        let held_out = self.results.base_images.len() as u32;
        let batch = self.spec.evaluation.as_ref().map_or(1, |evaluation| evaluation.batch);
        self.missing.tuned = schedule::chunks(held_out, batch);
        self.missing.comparisons = schedule::chunks(held_out, self.spec.judge.batch);
        if version == 0 {
            self.make_ready(Unit::Initialise, effects);
        } else {
            self.begin_steps(now, effects);
        }
    }
}
