//! Whether a result fits its unit: counts, order, finiteness, manifests, the ratio gate.

use super::completion::{Completion, SampledFor, UnitResult};
use super::{Run, ShardResult};
use crate::bounds::is_figure;
use crate::ids::{Candidate, Digest, PromptIndex, Step};
use crate::work::{Policy, Role, Sampled, SkippedPair, Unit, VerdictRecord};

/// What a check has against a result.
pub(super) enum Objection {
    /// The worker is refused; nothing changes.
    Invalid(String),
    /// The result is well-formed, and the run cannot go on with it.
    Stop(String),
}

fn invalid<T>(problem: impl Into<String>) -> Result<T, Objection> {
    Err(Objection::Invalid(problem.into()))
}

impl Run {
    /// Whether the result can be taken.
    pub(super) fn check(&self, completion: &Completion) -> Result<(), Objection> {
        let Completion {
            unit,
            model,
            seconds,
            // Counted, whatever it is: its numbers were looked at before.
            spent: _,
            result,
        } = completion;
        if let Some(seconds) = seconds {
            check_seconds(*seconds)?;
        }
        if let Some(model) = model {
            match unit.role() {
                Role::Judge if matches!(unit, Unit::HeldOutJudge { .. }) => {
                    check_model("held-out judge", self.models.held_out_judge, *model)?;
                }
                Role::Judge if matches!(unit, Unit::WriteRubric { .. }) && self.writer_has_models() => {
                    check_model("writer of rubrics", self.models.writer, *model)?;
                }
                Role::Judge => check_model("judge", self.models.judge, *model)?,
                Role::Sampler | Role::Trainer => check_model("transformer", self.models.transformer, *model)?,
            }
        }
        match result {
            UnitResult::Initialised(policy) if policy.tensors == 0 => Err(Objection::Stop(
                "the adapter has no tensors: `lora.target_modules` matched nothing".into(),
            )),
            UnitResult::Initialised(policy) => match self.assets.initial_adapter {
                Some(adapter) if policy.adapter != adapter => invalid(format!(
                    "policy 0 has adapter {}, the run starts from {}",
                    policy.adapter.short(),
                    adapter.short()
                )),
                _ => Ok(()),
            },
            UnitResult::Sampled {
                from,
                samples,
                manifest,
            } => {
                self.check_samples(unit, samples)?;
                let policy = match from {
                    SampledFor::Evaluation(arm) => self.arm_policy(*arm).flatten(),
                    SampledFor::Step(_) => self.policy().cloned(),
                };
                match (&policy, manifest) {
                    (None, _) => Ok(()),
                    (Some(_), None) => invalid("the worker sampled an adapter without reporting its manifest"),
                    (Some(policy), Some(found)) => check_manifest("sampler", policy, *found),
                }
            }
            UnitResult::Judged { verdicts, .. } => self.check_verdicts(unit, verdicts),
            // Its text is looked at by the judges that read it.
            UnitResult::RubricWritten { .. } => Ok(()),
            UnitResult::QuestionsAnswered {
                prompt_index, answers, ..
            } => {
                let (found, expected) = (answers.len(), self.questions(*prompt_index).len());
                match found == expected {
                    true => Ok(()),
                    false => invalid(format!("{found} answers to {expected} questions")),
                }
            }
            UnitResult::Gradient {
                result,
                manifest,
                skipped,
                ..
            } => {
                if let Some(policy) = self.policy() {
                    check_manifest("trainer", policy, *manifest)?;
                }
                self.check_gradient(unit, result, skipped)
            }
            UnitResult::Committed {
                policy,
                grad_norm,
                learning_rate,
            } => {
                if !(*learning_rate >= 0.0 && is_figure(*learning_rate)) {
                    return invalid(format!("learning rate {learning_rate} is not a number of 0 or more"));
                }
                if !(*grad_norm >= 0.0 && is_figure(*grad_norm)) {
                    return Err(Objection::Stop(format!("the gradient's norm is {grad_norm}")));
                }
                if let Some(before) = self.policy() {
                    check_manifest("optimizer step", before, policy.manifest)?;
                    if policy.averaged.is_some() != self.spec.optimizer.averages() {
                        return invalid(
                            "the averaged adapter must be there exactly when `optimizer.ema_decay` is above 0",
                        );
                    }
                }
                Ok(())
            }
        }
    }

    fn check_samples(&self, unit: &Unit, samples: &[Sampled]) -> Result<(), Objection> {
        let trained = matches!(unit, Unit::Sample { .. });
        let candidates = if trained { self.spec.sampling.candidates } else { 1 };
        let expected = self
            .extent(unit)
            .flat_map(|index| (0..candidates).map(move |candidate| (PromptIndex(index), Candidate(candidate))));
        if !samples
            .iter()
            .map(|sampled| (sampled.prompt_index, sampled.candidate))
            .eq(expected)
        {
            return invalid(format!(
                "samples must cover prompts {:?} with {candidates} candidates each, in order",
                self.extent(unit)
            ));
        }
        if trained && samples.iter().any(|sampled| sampled.trajectory.is_none()) {
            return invalid("a candidate has no trajectory");
        }
        let differs = |pair: &&[Sampled]| {
            pair[0].prompt_index == pair[1].prompt_index && pair[0].conditioning != pair[1].conditioning
        };
        if let Some(pair) = samples.windows(2).find(differs) {
            return invalid(format!(
                "the candidates of prompt {} name different conditionings",
                pair[0].prompt_index
            ));
        }
        Ok(())
    }

    fn check_verdicts(&self, unit: &Unit, verdicts: &[VerdictRecord]) -> Result<(), Objection> {
        if !verdicts
            .iter()
            .map(|record| record.prompt_index.0)
            .eq(self.verdict_prompts(unit))
        {
            return invalid(format!(
                "verdicts must cover the pairs of {:?}, in order",
                self.extent(unit)
            ));
        }
        for record in verdicts {
            if !record.is_numeric() {
                return invalid(format!(
                    "pair {}: a probability lies outside 0 to 1, or a vote's weight is no number",
                    record.prompt_index
                ));
            }
            let rubric = self.rubric(unit, record.prompt_index.0);
            if record.rubric != rubric {
                return invalid(format!(
                    "pair {}: judged by rubric {}, the run's is {} for this prompt",
                    record.prompt_index,
                    record.rubric.short(),
                    rubric.short()
                ));
            }
        }
        self.asked_otherwise(unit, verdicts).map_or(Ok(()), invalid)
    }

    fn check_gradient(
        &self,
        unit: &Unit,
        ShardResult { gradient, statistics }: &ShardResult,
        skipped: &[SkippedPair],
    ) -> Result<(), Objection> {
        if gradient.is_some() != (statistics.terms > 0) {
            return invalid("a gradient must be there exactly when it has terms");
        }
        if statistics.clipped > statistics.terms {
            return invalid("more terms are clipped than there are");
        }
        let Some(flight) = self.flights.front() else {
            return invalid("no step is in flight");
        };
        let extent = self.extent(unit);
        for (index, pair) in skipped.iter().enumerate() {
            let known =
                extent.contains(&pair.prompt_index.0) && flight.groups[pair.prompt_index.0 as usize].is_decided();
            if !known
                || skipped[..index]
                    .iter()
                    .any(|other| other.prompt_index == pair.prompt_index)
            {
                return invalid(format!(
                    "skipped pair {} is no decided pair of this shard, or is listed twice",
                    pair.prompt_index
                ));
            }
        }
        let decided = flight.part(&extent).iter().filter(|pair| pair.is_decided()).count();
        let most = (decided - skipped.len()) as u64
            * u64::from(self.spec.sampling.candidates)
            * self.spec.trained_steps().len() as u64;
        if statistics.terms > most {
            return invalid(format!("{} terms from at most {most}", statistics.terms));
        }
        let bound = self.spec.limits.ratio_deviation;
        if flight.step == Step(1) && statistics.ratio_deviation > bound {
            return Err(Objection::Stop(format!(
                "before the first update sampler and trainer must agree, but |ratio - 1| reaches {} (limit {bound})",
                statistics.ratio_deviation
            )));
        }
        let skipped_now = self.pairs_skipped_lately + skipped.len() as u32;
        if skipped_now > self.spec.limits.skipped_pairs {
            let last = skipped.last().map_or("", |pair| pair.reason.as_str());
            return Err(Objection::Stop(format!(
                "{skipped_now} pairs had no finite gradient (limit {}), the last: {last}",
                self.spec.limits.skipped_pairs
            )));
        }
        Ok(())
    }
}

fn check_seconds(seconds: f64) -> Result<(), Objection> {
    if seconds >= 0.0 && is_figure(seconds) {
        Ok(())
    } else {
        invalid(format!("{seconds} seconds is no duration"))
    }
}

fn check_model(what: &str, pinned: Option<Digest>, found: Digest) -> Result<(), Objection> {
    match pinned {
        Some(pinned) if pinned != found => invalid(format!(
            "the worker's {what} has fingerprint {}, the run's has {}: another model folder",
            found.short(),
            pinned.short()
        )),
        _ => Ok(()),
    }
}

fn check_manifest(who: &str, policy: &Policy, found: Digest) -> Result<(), Objection> {
    if found == policy.manifest {
        return Ok(());
    }
    Err(Objection::Stop(format!(
        "the {who} bound an adapter with manifest {}, the policy's is {} ({} tensors): names or shapes differ",
        found.short(),
        policy.manifest.short(),
        policy.tensors
    )))
}
