//! Rules that coordinator, workers and the command line all follow, each written once.

use std::collections::BTreeSet;

use crate::ids::{Candidate, PromptIndex, Step};
use crate::noise::{NoiseKey, Use};
use crate::spec::RunSpec;

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
    let per_step = spec.prompts.per_step;
    let key = |prompt: &u32| {
        let key = NoiseKey {
            step: step.0,
            prompt: *prompt,
            ..NoiseKey::new(spec.run.seed, Use::HeldOutDraw)
        };
        key.bytes()
    };
    let mut prompts: Vec<u32> = (0..per_step).collect();
    prompts.sort_by_cached_key(key);
    prompts.truncate(held_out.prompts(per_step) as usize);
    prompts.into_iter().collect()
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
    use crate::run::fixtures::spec;
    use crate::spec::HeldOutJudgeSpec;

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
