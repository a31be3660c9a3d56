//! Rules that coordinator, workers and the command line all follow, each written once.

use std::collections::BTreeSet;

use super::{AskedMatches, Orders, Unit, VerdictRecord};
use crate::ids::{Candidate, PromptIndex, Step};
use crate::noise::{NoiseKey, Use};
use crate::spec::{AdaptiveOrders, JudgeSpec, RunSpec};

/// The version of the policy that samples a step: as far behind the one that the step trains as `sampling.max_policy_lag` says,
/// as soon as there are so many. A rule, not a race, so that the run's bytes do not depend on who was faster.
pub fn sampling_version(spec: &RunSpec, step: Step) -> u32 {
    trained_version(step).saturating_sub(spec.sampling.max_policy_lag)
}

/// The version of the policy that a step trains; its commit makes the next one.
pub fn trained_version(step: Step) -> u32 {
    step.0.saturating_sub(1)
}

/// How many versions older than the policy that a step trains the one is that samples it; 0 is exactly on-policy.
pub fn policy_lag(spec: &RunSpec, step: Step) -> u32 {
    trained_version(step) - sampling_version(spec, step)
}

/// Whether the policy that a step commits belongs into the run's checkpoints.
pub fn is_checkpoint(spec: &RunSpec, step: Step) -> bool {
    let every = spec.checkpoints.every;
    every > 0 && step.0 > 0 && step.0.is_multiple_of(every)
}

/// Whether the policy that a step commits is measured while the run goes on; that of the last step is measured at its end.
pub fn is_probed(spec: &RunSpec, step: Step) -> bool {
    let every = spec.evaluation.as_ref().and_then(|evaluation| evaluation.every);
    step.0 > 0 && step.0 < spec.run.steps && every.is_some_and(|every| step.0.is_multiple_of(every))
}

/// The prompts of a step, by their index in it, whose pairs the held-out judge sees too: those with the smallest keys, as many as
/// its share comes to. None in a run without one.
pub fn held_out_prompts(spec: &RunSpec, step: Step) -> BTreeSet<u32> {
    let Some(held_out) = &spec.judge.held_out else {
        return BTreeSet::new();
    };
    drawn_prompts(spec, step, Use::HeldOutDraw, held_out.prompts(spec.prompts.per_step))
}

/// Those of a step's prompts with the smallest keys, by their index in it.
fn drawn_prompts(spec: &RunSpec, step: Step, usage: Use, count: u32) -> BTreeSet<u32> {
    let key = |prompt: &u32| {
        let key = NoiseKey {
            step: step.0,
            prompt: *prompt,
            ..NoiseKey::new(spec.run.seed, usage)
        };
        key.bytes()
    };
    let mut prompts: Vec<u32> = (0..spec.prompts.per_step).collect();
    prompts.sort_by_cached_key(key);
    prompts.truncate(count as usize);
    prompts.into_iter().collect()
}

/// Whether the judge has earned trust for a step: one image order is enough for most of its pairs. `asked` says how the matches of
/// a committed step were asked.
///
/// What counts are the latest `judge.orders_window` steps of those that led to the policy from which the step is sampled. They are
/// committed before the step begins, however many steps are under way, so that trust does not depend on who was faster. Without so
/// many steps, and without a pair among them that was asked in both orders, there is none.
pub fn is_trusted(spec: &RunSpec, step: Step, asked: impl Fn(Step) -> Option<AskedMatches>) -> bool {
    let Some(AdaptiveOrders { trust, window, .. }) = spec.judge.adaptive_orders() else {
        return false;
    };
    let last = sampling_version(spec, step);
    let Some(before) = last.checked_sub(window) else {
        return false;
    };
    let mut all = AskedMatches::default();
    for step in (before + 1..=last).map(Step) {
        let Some(asked) = asked(step) else { return false };
        all.add(&asked);
    }
    all.flip_rate().is_some_and(|rate| rate <= trust)
}

/// The prompts of a step, by their index in it, whose pairs are asked in both image orders also by a judge that has earned trust;
/// all of them where none can be earned.
pub fn rechecked_prompts(spec: &RunSpec, step: Step) -> BTreeSet<u32> {
    let per_step = spec.prompts.per_step;
    let rule = spec.judge.adaptive_orders();
    let count = rule.map_or(per_step, |rule| rule.rechecked(per_step));
    drawn_prompts(spec, step, Use::RecheckDraw, count)
}

/// The image order in which a match is asked that is asked in one: either is as likely, so that a judge's liking for the picture that
/// is shown first does no candidate good. `number` is the match's in its group.
pub fn one_order(spec: &RunSpec, step: Step, prompt_index: PromptIndex, number: usize) -> Orders {
    let key = NoiseKey {
        step: step.0,
        prompt: prompt_index.0,
        timestep: number as u32,
        ..NoiseKey::new(spec.run.seed, Use::OrderDraw)
    };
    match key.bytes()[0] & 1 {
        0 => Orders::Straight,
        _ => Orders::Swapped,
    }
}

/// Whether nobody is asked about a pair of this unit because its pictures are too near each other. Only pairs of a step are left
/// out: what is measured of a policy, or of the judge, is measured on all pairs.
pub fn is_too_alike(judge: &JudgeSpec, unit: &Unit, difference: Option<f64>) -> bool {
    let is_of_a_step = matches!(unit, Unit::Judge { .. } | Unit::HeldOutJudge { .. });
    let nearer = judge
        .min_distance
        .zip(difference)
        .is_some_and(|(least, found)| found < least);
    is_of_a_step && nearer
}

/// What does not fit between a verdict of this unit and how its pair was to be asked; `orders` are those of its assignment.
pub fn asked_otherwise(judge: &JudgeSpec, unit: &Unit, orders: Orders, record: &VerdictRecord) -> Option<String> {
    let difference = || {
        record
            .difference
            .map_or("an unknown distance".into(), |found| found.to_string())
    };
    match is_too_alike(judge, unit, record.difference) {
        _ if !record.is_judged() => None,
        false if record.is_too_alike() => Some(format!(
            "nobody was asked because its pictures are too alike, and they differ by {}",
            difference()
        )),
        true if !record.is_too_alike() => Some(format!(
            "is judged although its pictures differ by {}, less than judge.min_distance",
            difference()
        )),
        true => None,
        false if record.orders != orders => Some(format!(
            "the image orders asked are `{}`, and `{orders}` were to be asked",
            record.orders
        )),
        false => {
            let [straight, swapped] = record.order_probabilities;
            (!orders.is_both() && straight != swapped)
                .then(|| format!("is asked in one image order and has two probabilities, {straight} and {swapped}"))
        }
    }
}

/// Whose noise is drawn: one candidate of one prompt of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CandidateNoise {
    /// `run.seed`.
    pub seed: u64,
    /// The optimizer step; 0 in an evaluation.
    pub step: Step,
    /// The prompt's index in the step or in the held-out set.
    pub prompt_index: PromptIndex,
    /// Which of the prompt's candidates.
    pub candidate: Candidate,
}

impl CandidateNoise {
    /// The key of the noise that sampling starts from. Candidates that share it (`sampling.shared_noise`) start from that of
    /// candidate 0. `usage` is [`Use::Initial`] or [`Use::EvaluationInitial`].
    pub fn initial(&self, usage: Use, shared: bool) -> NoiseKey {
        let candidate = if shared { 0 } else { self.candidate.0 };
        NoiseKey {
            candidate,
            ..self.key(0, usage)
        }
    }

    /// The key of the noise of one stochastic step: every candidate's own.
    pub fn step(&self, timestep: usize) -> NoiseKey {
        self.key(timestep as u32, Use::Step)
    }

    fn key(&self, timestep: u32, usage: Use) -> NoiseKey {
        NoiseKey {
            seed: self.seed,
            step: self.step.0,
            prompt: self.prompt_index.0,
            candidate: self.candidate.0,
            timestep,
            usage,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Digest;
    use crate::run::fixtures::spec;
    use crate::spec::{HeldOutJudgeSpec, OrdersRule};
    use crate::work::{Side, Verdict};

    #[test]
    fn the_first_steps_are_sampled_by_the_initial_policy_until_the_lag_is_reached() {
        let mut spec = spec();
        spec.sampling.max_policy_lag = 2;
        let versions: Vec<(u32, u32)> = (1..=5)
            .map(|step| (sampling_version(&spec, Step(step)), policy_lag(&spec, Step(step))))
            .collect();
        assert_eq!(versions, [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2)]);
    }

    #[test]
    fn checkpoints_are_multiples_and_never_the_initial_policy() {
        let mut spec = spec();
        spec.checkpoints.every = 2;
        let kept = |spec: &RunSpec| {
            (0..7)
                .filter(|step| is_checkpoint(spec, Step(*step)))
                .collect::<Vec<_>>()
        };
        assert_eq!(kept(&spec), [2, 4, 6]);
        spec.checkpoints.every = 0;
        assert!(kept(&spec).is_empty());
    }

    #[test]
    fn probes_are_multiples_before_the_last_step() {
        let mut spec = spec();
        spec.run.steps = 6;
        let probed = |spec: &RunSpec| (0..9).filter(|step| is_probed(spec, Step(*step))).collect::<Vec<_>>();
        assert!(probed(&spec).is_empty());
        spec.evaluation.as_mut().unwrap().every = Some(2);
        assert_eq!(probed(&spec), [2, 4]);
        spec.evaluation = None;
        assert!(probed(&spec).is_empty());
    }

    #[test]
    fn the_held_out_judge_sees_other_prompts_in_each_step_and_as_many_as_its_share() {
        let mut spec = spec();
        spec.prompts.per_step = 64;
        assert!(held_out_prompts(&spec, Step(1)).is_empty());
        spec.judge.held_out = Some(Box::new(HeldOutJudgeSpec {
            share: 0.25,
            ..HeldOutJudgeSpec::default()
        }));
        let of = |spec: &RunSpec, step| held_out_prompts(spec, Step(step));
        assert_eq!(of(&spec, 1).len(), 16);
        assert_eq!(of(&spec, 1), of(&spec, 1));
        assert_ne!(of(&spec, 1), of(&spec, 2));
        let mut other = spec.clone();
        other.run.seed += 1;
        assert_ne!(of(&spec, 1), of(&other, 1));
        spec.judge.held_out.as_mut().unwrap().share = 1.0;
        assert_eq!(of(&spec, 3), (0..64).collect());
    }

    fn adaptive() -> RunSpec {
        let mut spec = spec();
        spec.prompts.per_step = 64;
        spec.judge.orders = OrdersRule::Adaptive;
        (spec.judge.orders_trust, spec.judge.orders_window) = (Some(0.25), Some(2));
        spec
    }

    #[test]
    fn trust_is_earned_by_the_steps_before_the_policy_that_samples_and_by_no_later_one() {
        let mut spec = adaptive();
        // Of four pairs asked in both orders so many flip in each step.
        let trusted = |spec: &RunSpec, flipped: &[u64]| {
            let asked = |step: Step| {
                let flipped = *flipped.get(step.0 as usize - 1)?;
                Some(AskedMatches {
                    twice: 4,
                    flipped,
                    ..AskedMatches::default()
                })
            };
            let steps = (1..=7).filter(|step| is_trusted(spec, Step(*step), asked));
            steps.collect::<Vec<_>>()
        };
        assert_eq!(trusted(&spec, &[1, 1, 1, 1, 1, 1]), [3, 4, 5, 6, 7]);
        assert_eq!(trusted(&spec, &[0, 2, 1, 1, 3, 0]), [3, 5]);
        spec.sampling.max_policy_lag = 2;
        assert_eq!(trusted(&spec, &[1, 1, 1, 1, 1, 1]), [5, 6, 7]);
        assert_eq!(trusted(&spec, &[0, 2, 1, 1]), [5, 7]);
        assert_eq!(
            trusted(&spec, &[1, 1, 1]),
            [5, 6],
            "what is not committed is not trusted"
        );
        spec.judge.orders = OrdersRule::Both;
        assert!(trusted(&spec, &[0; 6]).is_empty());
    }

    #[test]
    fn without_a_pair_in_both_orders_there_is_no_trust() {
        let once = AskedMatches {
            once: 9,
            ..AskedMatches::default()
        };
        assert!(!is_trusted(&adaptive(), Step(5), |_| Some(once)));
    }

    #[test]
    fn other_prompts_are_rechecked_in_each_step_than_the_held_out_judge_sees() {
        let mut spec = adaptive();
        let of = |spec: &RunSpec, step| rechecked_prompts(spec, Step(step));
        assert_eq!(of(&spec, 1).len(), 8);
        assert_eq!(of(&spec, 1), of(&spec, 1));
        assert_ne!(of(&spec, 1), of(&spec, 2));
        spec.judge.held_out = Some(Box::new(HeldOutJudgeSpec {
            share: 0.125,
            ..HeldOutJudgeSpec::default()
        }));
        assert_ne!(of(&spec, 1), held_out_prompts(&spec, Step(1)));
        spec.judge.orders = OrdersRule::Both;
        assert_eq!(of(&spec, 1).len(), 64);
    }

    #[test]
    fn both_orders_are_drawn_as_often_and_each_match_has_its_own() {
        let spec = adaptive();
        let drawn = |step, prompt, number| one_order(&spec, Step(step), PromptIndex(prompt), number);
        let straight = |orders: Vec<Orders>| orders.iter().filter(|orders| **orders == Orders::Straight).count();
        // 2000 draws of one half have a standard deviation of 22.
        assert!((900..1100).contains(&straight((0..2000).map(|prompt| drawn(1, prompt, 0)).collect())));
        assert!((900..1100).contains(&straight((0..2000).map(|step| drawn(step, 1, 0)).collect())));
        assert!((900..1100).contains(&straight((0..2000).map(|number| drawn(1, 1, number)).collect())));
        assert_eq!(drawn(3, 4, 1), drawn(3, 4, 1));
    }

    #[test]
    fn a_verdict_that_was_asked_otherwise_is_found() {
        let mut judge = adaptive().judge;
        judge.min_distance = Some(0.1);
        let unit = Unit::Judge {
            step: Step(1),
            chunk: 0,
        };
        let evaluation = Unit::CalibrateJudge { chunk: 0 };
        let alike = VerdictRecord::too_alike(PromptIndex(0), Digest([0; 32]));
        let record = |difference, orders, order_probabilities| VerdictRecord {
            verdict: Verdict::Preferred { side: Side::First },
            difference: Some(difference),
            orders,
            order_probabilities,
            ..alike.clone()
        };
        let fits =
            |unit: &Unit, orders, record: &VerdictRecord| asked_otherwise(&judge, unit, orders, record).is_none();
        assert!(fits(&unit, Orders::Both, &record(0.2, Orders::Both, [0.9, 0.8])));
        assert!(fits(&unit, Orders::Swapped, &record(0.2, Orders::Swapped, [0.9; 2])));
        assert!(!fits(&unit, Orders::Swapped, &record(0.2, Orders::Swapped, [0.9, 0.8])));
        assert!(!fits(&unit, Orders::Swapped, &record(0.2, Orders::Straight, [0.9; 2])));
        assert!(!fits(&unit, Orders::Both, &record(0.2, Orders::Straight, [0.9; 2])));
        assert!(!fits(&unit, Orders::Both, &record(0.05, Orders::Both, [0.9, 0.8])));
        assert!(fits(&evaluation, Orders::Both, &record(0.05, Orders::Both, [0.9, 0.8])));
        let left_out = |difference| VerdictRecord {
            difference,
            ..alike.clone()
        };
        assert!(fits(&unit, Orders::Straight, &left_out(Some(0.05))));
        assert!(!fits(&unit, Orders::Straight, &left_out(Some(0.1))));
        assert!(!fits(&unit, Orders::Straight, &left_out(None)));
        assert!(!fits(&evaluation, Orders::Both, &left_out(Some(0.05))));
        let failed = VerdictRecord::failed(PromptIndex(0), "away".into(), Digest([0; 32]));
        assert!(fits(&unit, Orders::Straight, &failed));
    }

    #[test]
    fn candidates_share_the_noise_that_they_start_from_and_no_other() {
        let of = |candidate| CandidateNoise {
            seed: 3,
            step: Step(2),
            prompt_index: PromptIndex(1),
            candidate: Candidate(candidate),
        };
        assert_eq!(of(0).initial(Use::Initial, true), of(1).initial(Use::Initial, true));
        assert_ne!(of(0).initial(Use::Initial, false), of(1).initial(Use::Initial, false));
        assert_ne!(of(0).step(4), of(1).step(4));
        assert_ne!(of(0).step(0), of(0).initial(Use::Initial, true));
    }
}
