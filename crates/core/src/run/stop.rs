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
        let reason = of_a_step.or_else(|| self.out_of_patience(stop.patience?))?;
        Some(format!("{reason}; {REMEDY}"))
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
