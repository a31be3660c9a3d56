//! When a run pauses itself: the rules of `[stop]`.
//!
//! A rule says that somebody should look, and nothing else: it changes no result, and what somebody has resumed from it does not
//! bring up again.

use super::{Run, StepRecord};
use crate::ids::Step;
use crate::spec::StopSpec;

/// What can be done about it, whatever the rule.
const REMEDY: &str = "`gavel resume` lets it go on, `gavel rollback` takes steps back, `gavel cancel` ends it";

impl Run {
    /// Why the run should be held now, by a rule of its own: which rule, the figures, and what to do. Whoever drives the run asks
    /// after each event that [`Event::is_measured`](super::Event::is_measured), and when it takes the run over, and holds it with [`Event::Paused`](super::Event::Paused).
    pub fn stop_rule(&self) -> Option<String> {
        let stop = self.spec.stop.as_ref()?;
        if self.paused.is_some() || self.is_trained() || self.is_ended() {
            return None;
        }
        // Earlier steps were looked at when they were the latest.
        let latest = self
            .results
            .steps
            .last()
            .filter(|step| step.record.step > self.watched_from);
        let of_a_step = latest.and_then(|step| broken_by(stop, &step.record));
        let disagrees = || {
            let (least, steps) = stop.agreement()?;
            self.disagreement(least, steps)
        };
        let reason = of_a_step
            .or_else(disagrees)
            .or_else(|| self.out_of_patience(stop.patience?))?;
        Some(format!("{reason}; {REMEDY}"))
    }

    /// Whether the held-out judge agreed with the judge on a share of less than `least`, over the pairs of the latest `steps` steps that
    /// both decided. Fewer steps say nothing yet.
    fn disagreement(&self, least: f64, steps: u32) -> Option<String> {
        let records = self.results.steps.iter().rev().map(|step| &step.record);
        let unseen = records.take_while(|record| record.step > self.watched_from);
        let counted: Vec<&StepRecord> = unseen.take(steps as usize).collect();
        let (first, last) = (counted.last()?.step, counted.first()?.step);
        let pairs = |record: &StepRecord| f64::from(record.held_out_pairs.unwrap_or(0));
        let both: f64 = counted.iter().map(|record| pairs(record)).sum();
        let alike = |record: &&StepRecord| (pairs(record) * record.held_out_agreement.unwrap_or(0.0)).round();
        let alike: f64 = counted.iter().map(alike).sum();
        let share = alike / both;
        // Without a pair that both decided the share is no number, and less than nothing.
        let is_broken = counted.len() == steps as usize && share < least;
        is_broken.then(|| {
            format!(
                "`stop.agreement_min`: in steps {first} to {last} the held-out judge prefers the same picture as the judge on {alike} of the \
                 {both} pairs that both decided, a share of {share:.3}, less than {least}: look at the pairs on which they differ, the \
                 policy may have learnt to please the judge and nobody else, and earlier steps may be better"
            )
        })
    }

    /// Whether the latest `patience` probes brought no win rate above the best before them.
    fn out_of_patience(&self, patience: u32) -> Option<String> {
        let judged = self.results.probes.iter().take_while(|probe| probe.is_complete());
        let rated: Vec<(Step, f64)> = judged.filter_map(|probe| self.rating(Some(probe.step))).collect();
        let (before, latest) = rated.split_at_checked(rated.len().checked_sub(patience as usize)?)?;
        let (step, best) = before
            .iter()
            .copied()
            .reduce(|best, next| if next.1 > best.1 { next } else { best })?;
        let unseen = latest
            .iter()
            .all(|(step, rate)| *step > self.watched_from && *rate <= best);
        unseen.then(|| {
            format!(
                "`stop.patience`: the latest {patience} probes brought no win rate above the {best:.3} of step {step}, whose policy \
                 is kept and can be exported with `gavel export --step best`"
            )
        })
    }
}

/// The rule that a step breaks, with its figures.
fn broken_by(stop: &StopSpec, record: &StepRecord) -> Option<String> {
    let StepRecord {
        step,
        kl,
        decided,
        pairs,
        diversity,
        ..
    } = record;
    if let Some(most) = stop.kl_max.filter(|most| kl > most) {
        return Some(format!(
            "`stop.kl_max`: the KL of step {step} is {kl:.3e}, more than {most:e}: the policy moves away faster than was meant, a \
             smaller `optimizer.learning_rate` or a larger `objective.kl_beta` holds it"
        ));
    }
    if let Some((least, found)) = stop
        .diversity_min
        .zip(*diversity)
        .filter(|(least, found)| found < least)
    {
        return Some(format!(
            "`stop.diversity_min`: the pictures of a prompt differ by {found:.4} on average in step {step}, less than {least}: look at \
             them, the policy may paint the same whatever the noise, and earlier steps may be better"
        ));
    }
    let share = f64::from(*decided) / f64::from((*pairs).max(1));
    let least = stop.decided_min.filter(|least| share < *least)?;
    Some(format!(
        "`stop.decided_min`: the judge decided {decided} of {pairs} in step {step}, a share of {share:.3}, less than {least}: look at \
         its pictures, the candidates have become alike or the judge sees no difference"
    ))
}
