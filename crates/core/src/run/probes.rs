//! Probes: the policies of some steps, measured on the first held-out prompts while the run goes on.
//!
//! A probe changes nothing that training reads. It is part of the run's results, so that a run ends only when the last of them
//! is judged.

use std::ops::Range;

use super::Run;
use super::results::Probe;
use super::status::ProbeStatus;
use crate::ids::Step;
use crate::measure::WinRate;
use crate::schedule;
use crate::work::{Arm, Unit, rules};

impl Run {
    /// Asks for the held-out pictures of the latest policy, if it is one that is measured.
    pub(super) fn begin_probe(&mut self) {
        self.let_probed_policies_go();
        let step = self.committed();
        let prompts = self.probed_prompts();
        if prompts == 0 || !rules::is_probed(&self.spec, step) || self.results.probe(step).is_some() {
            return;
        }
        self.results.probes.push(Probe::new(step, prompts));
        self.kept_for_probes.insert(step);
        let arm = Arm::Probe(step);
        for chunk in 0..schedule::chunks(prompts as u32, self.spec.evaluation_batch()) {
            self.board.add(Unit::EvaluateSample { arm, chunk });
        }
    }

    /// The probes of this step and of later ones are none any more: their steps are taken back, or the run ends there.
    pub(super) fn forget_probes(&mut self, from: Step) {
        self.results.probes.retain(|probe| probe.step < from);
        self.kept_for_probes.retain(|step| *step < from);
        self.forget(|unit| match *unit {
            Unit::EvaluateSample {
                arm: Arm::Probe(step), ..
            } => step >= from,
            Unit::EvaluateJudge { probe: Some(step), .. } => step >= from,
            _ => false,
        });
    }

    /// Keeps of the measured policies the best alone, and those that are not judged to the end: a picture of theirs that is lost
    /// is painted again.
    pub(super) fn let_probed_policies_go(&mut self) {
        let rated = self
            .results
            .probes
            .iter()
            .filter(|probe| self.kept_for_probes.contains(&probe.step));
        let best = best(rated.filter_map(|probe| self.rating(Some(probe.step))));
        let open = self.results.probes.iter().filter(|probe| !probe.is_complete());
        let kept = open.map(|probe| probe.step).chain(best);
        let kept = kept.filter(|step| self.kept_for_probes.contains(step)).collect();
        self.kept_for_probes = kept;
    }

    /// Whether verdicts of a probe are missing.
    pub(super) fn has_open_probes(&self) -> bool {
        self.results.probes.iter().any(|probe| !probe.is_complete())
    }

    /// The judge units that compare pictures of this arm of these held-out prompts.
    pub(super) fn comparisons_of(&self, arm: Arm, prompts: &Range<u32>) -> Vec<Unit> {
        let probes = self.results.probes.iter().map(|probe| Some(probe.step));
        let all = std::iter::once(None).chain(probes);
        let chunks = schedule::overlapping(prompts, self.spec.judge.batch);
        all.filter(|probe| arm == Arm::Base || arm == Arm::compared(*probe))
            .flat_map(|probe| chunks.clone().map(move |chunk| Unit::EvaluateJudge { probe, chunk }))
            .filter(|unit| !self.extent(unit).is_empty())
            .collect()
    }

    /// Whether a judge unit's held-out prompts have their verdicts.
    pub(super) fn is_compared(&self, unit: &Unit) -> bool {
        let Unit::EvaluateJudge { probe, .. } = *unit else {
            return false;
        };
        let extent = self.extent(unit);
        let comparisons = &self.results.comparisons(probe)[extent.start as usize..extent.end as usize];
        comparisons.iter().all(Option::is_some)
    }

    /// What was measured while the run went on, step by step, and at the end the last step on the same prompts.
    pub fn probes(&self) -> Vec<ProbeStatus> {
        let mut probes: Vec<ProbeStatus> = self
            .results
            .probes
            .iter()
            .map(|probe| self.measured(Some(probe.step)))
            .collect();
        if self.probed_prompts() > 0 && self.is_trained() {
            probes.push(self.measured(None));
        }
        probes
    }

    /// The measured step with the highest win rate, of those whose policies are kept; the earlier of two that are alike.
    pub fn best(&self) -> Option<Step> {
        let kept = self
            .probes()
            .into_iter()
            .filter(|probe| self.keeps_policy(probe.step.0));
        best(kept.filter_map(|probe| self.rating((probe.step != self.last_step()).then_some(probe.step))))
    }

    /// The step and the win rate of what is judged to the end.
    pub(super) fn rating(&self, probe: Option<Step>) -> Option<(Step, f64)> {
        let ProbeStatus {
            step,
            prompts,
            compared,
            win_rate,
            ..
        } = self.measured(probe);
        (compared == prompts).then_some((step, win_rate?.value))
    }

    /// A probe's figures, or without one those of the last step's policy on the prompts of a probe.
    fn measured(&self, probe: Option<Step>) -> ProbeStatus {
        let prompts = self.probed_prompts();
        let painted = self.results.images(Arm::compared(probe)).iter().take(prompts).flatten();
        let compared = || self.results.comparisons(probe).iter().take(prompts).flatten();
        ProbeStatus {
            step: probe.unwrap_or(self.last_step()),
            prompts: prompts as u32,
            painted: painted.count() as u32,
            compared: compared().count() as u32,
            win_rate: WinRate::of(compared()),
        }
    }

    fn last_step(&self) -> Step {
        Step(self.spec.run.steps)
    }

    /// How many held-out prompts a probe paints; 0 in a run without probes.
    fn probed_prompts(&self) -> usize {
        let held_out = self.results.base_images.len();
        self.spec
            .evaluation
            .as_ref()
            .map_or(0, |evaluation| evaluation.probed(held_out))
    }
}

/// The step with the highest rate, the first of equals.
fn best(rated: impl Iterator<Item = (Step, f64)>) -> Option<Step> {
    let best = rated.reduce(|best, next| if next.1 > best.1 { next } else { best });
    best.map(|(step, _)| step)
}
