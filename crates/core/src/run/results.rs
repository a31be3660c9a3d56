//! What a run has produced so far.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::series::Series;
use crate::ids::{Candidate, Digest, PromptIndex, Step};
use crate::rpo::ranks;
use crate::work::{
    Arm, AskedMatches, Part, PictureAnswer, Policy, ShardStatistics, Verdict, VerdictRecord, candidate_blobs,
    conditioning,
};

/// Everything that report and audit read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Committed policies; version n at index n. Of early ones a [lean](super::Run::lean) run has those alone that are kept.
    pub policies: Series<Policy>,
    /// Committed steps; step n at index n - 1. A lean run has the latest alone.
    pub steps: Series<StepResult>,
    /// The base's picture of each held-out prompt.
    pub base_images: Vec<Option<Digest>>,
    /// The tuned policy's picture of each held-out prompt.
    pub tuned_images: Vec<Option<Digest>>,
    /// The judge's verdict on each held-out prompt: first is the base, second the tuned policy.
    pub comparisons: Vec<Option<VerdictRecord>>,
    /// The judge's verdict on each labelled pair.
    pub calibration: Vec<Option<VerdictRecord>>,
    /// What was answered about the base's picture of each held-out prompt, to each of its questions; empty in a run that asks none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub base_answers: Vec<Option<Vec<PictureAnswer>>>,
    /// The same of the tuned policy's pictures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tuned_answers: Vec<Option<Vec<PictureAnswer>>>,
    /// What was measured of policies before the last, in the order of their steps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<Probe>,
}

/// A step's policy on the first held-out prompts: painted from the same noise as the base, and judged against it, while the run
/// goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// The step that committed the policy.
    pub step: Step,
    /// Its picture of each of these prompts.
    pub images: Vec<Option<Digest>>,
    /// The judge's verdict on each of them: first is the base, second the policy.
    pub comparisons: Vec<Option<VerdictRecord>>,
}

impl Probe {
    /// One of a policy that nobody has asked about yet.
    pub(super) fn new(step: Step, prompts: usize) -> Self {
        Self {
            step,
            images: vec![None; prompts],
            comparisons: vec![None; prompts],
        }
    }

    /// Whether every verdict is there.
    pub fn is_complete(&self) -> bool {
        self.comparisons.iter().all(Option::is_some)
    }
}

impl Results {
    /// What was measured of a step's policy.
    pub fn probe(&self, step: Step) -> Option<&Probe> {
        self.probes.iter().find(|probe| probe.step == step)
    }

    fn probe_mut(&mut self, step: Step) -> Option<&mut Probe> {
        self.probes.iter_mut().find(|probe| probe.step == step)
    }

    /// The held-out pictures of an arm; none of a probe that there is not.
    pub fn images(&self, arm: Arm) -> &[Option<Digest>] {
        match arm {
            Arm::Base => &self.base_images,
            Arm::Tuned => &self.tuned_images,
            Arm::Probe(step) => self.probe(step).map_or(&[], |probe| &probe.images),
        }
    }

    pub(super) fn images_mut(&mut self, arm: Arm) -> &mut [Option<Digest>] {
        match arm {
            Arm::Base => &mut self.base_images,
            Arm::Tuned => &mut self.tuned_images,
            Arm::Probe(step) => self.probe_mut(step).map_or(&mut [], |probe| &mut probe.images),
        }
    }

    /// What was answered about an arm's held-out pictures; nothing is asked about a probe's.
    pub fn answers(&self, arm: Arm) -> &[Option<Vec<PictureAnswer>>] {
        match arm {
            Arm::Base => &self.base_answers,
            Arm::Tuned => &self.tuned_answers,
            Arm::Probe(_) => &[],
        }
    }

    pub(super) fn answers_mut(&mut self, arm: Arm) -> &mut [Option<Vec<PictureAnswer>>] {
        match arm {
            Arm::Base => &mut self.base_answers,
            Arm::Tuned => &mut self.tuned_answers,
            Arm::Probe(_) => &mut [],
        }
    }

    /// The verdicts on a probe's pictures, or without one on those of the tuned policy.
    pub fn comparisons(&self, probe: Option<Step>) -> &[Option<VerdictRecord>] {
        match probe {
            None => &self.comparisons,
            Some(step) => self.probe(step).map_or(&[], |probe| &probe.comparisons),
        }
    }

    pub(super) fn comparisons_mut(&mut self, probe: Option<Step>) -> &mut [Option<VerdictRecord>] {
        match probe {
            None => &mut self.comparisons,
            Some(step) => self.probe_mut(step).map_or(&mut [], |probe| &mut probe.comparisons),
        }
    }
}

/// One committed step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepResult {
    /// Its figures.
    pub record: StepRecord,
    /// Its prompts' candidates, by the prompt's index in the step; empty where the run has left them to its ledger
    /// ([`Run::details_from`](super::Run::details_from)).
    pub groups: Vec<GroupResult>,
    /// Its gradient shards, in order; empty where the groups are.
    pub shards: Vec<ShardResult>,
}

/// The candidates of one prompt, a pair unless `sampling.candidates` says more: what was painted, and what became of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupResult {
    /// Line of the prompt file, counted from 0.
    pub line: u32,
    /// The candidates in order, once they are sampled; empty before.
    pub candidates: Vec<CandidateResult>,
    /// What they were conditioned on; `None` before they are sampled, and where each trajectory holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditioning: Option<Digest>,
    /// The verdicts on their matches ([`crate::rpo::matches`]), once there are any; empty before. A pair has one.
    pub verdicts: Vec<VerdictRecord>,
    /// What the held-out judge says of the same matches, of a group that is one of its share; empty before, and of every other. Nothing
    /// is rewarded for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held_out: Vec<VerdictRecord>,
    /// Why the group gave no gradient although it was decided.
    pub skipped: Option<String>,
}

impl GroupResult {
    /// The candidates' ranks, 1 being the best; `None` before the verdicts, and where these do not set the candidates apart.
    pub fn ranks(&self) -> Option<Vec<u32>> {
        ranks(self.candidates.len(), &self.verdicts)
    }

    /// What was stored of the candidates; `prompt_index` is the group's index in its step.
    pub fn blobs(&self, prompt_index: PromptIndex) -> impl Iterator<Item = (Digest, Part)> {
        let numbered = (0..).map(Candidate).zip(&self.candidates);
        let candidates = numbered.flat_map(move |(candidate, made)| {
            candidate_blobs(prompt_index, candidate, Some(made.trajectory), made.image)
        });
        conditioning(prompt_index, self.conditioning)
            .into_iter()
            .chain(candidates)
    }

    /// Whether the judge sets the candidates apart.
    pub fn is_decided(&self) -> bool {
        self.ranks().is_some()
    }

    /// Whether the candidates exist.
    pub fn is_sampled(&self) -> bool {
        !self.candidates.is_empty()
    }

    /// Whether there are verdicts.
    pub fn is_judged(&self) -> bool {
        !self.verdicts.is_empty()
    }

    /// Of the matches on which both the judge and the held-out judge decide, how many there are and on how many both prefer the same
    /// candidate.
    pub fn agreement(&self) -> (u32, u32) {
        let preferred = |record: &VerdictRecord| match record.verdict {
            Verdict::Preferred { side } => Some(side),
            Verdict::Abstain { .. } | Verdict::Failed { .. } => None,
        };
        let both = self
            .verdicts
            .iter()
            .map(preferred)
            .zip(self.held_out.iter().map(preferred));
        let both = both.filter_map(|(judge, held_out)| Some(judge? == held_out?));
        both.fold((0, 0), |(pairs, alike), is_alike| {
            (pairs + 1, alike + u32::from(is_alike))
        })
    }

    /// Why a match could not be judged; the last such reason.
    pub fn failure(&self) -> Option<&str> {
        self.verdicts.iter().rev().find_map(|record| match &record.verdict {
            Verdict::Failed { reason } => Some(reason.as_str()),
            _ => None,
        })
    }
}

/// One candidate's blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CandidateResult {
    /// The trajectory.
    pub trajectory: Digest,
    /// The PNG.
    pub image: Digest,
}

/// One shard of a step's gradient.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ShardResult {
    /// The gradient sum; `None` when no pair of the shard gave one.
    pub gradient: Option<Digest>,
    /// Sums over its terms.
    pub statistics: ShardStatistics,
}

/// One committed step in figures: an element of report.json's `steps`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StepRecord {
    /// The step, counted from 1.
    pub step: Step,
    /// Pairs, or larger groups, sampled.
    pub pairs: u32,
    /// Those whose candidates the judge sets apart.
    pub decided: u32,
    /// Those on which the judge abstained.
    pub abstained: u32,
    /// Those that could not be judged.
    pub failed: u32,
    /// Decided ones whose loss or gradient was not finite.
    pub skipped: u32,
    /// Share of the matches judged in both image orders whose orders gave the same side.
    pub order_consistency: f64,
    /// How its matches were asked; absent in a run that asks about each in both image orders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<AskedMatches>,
    /// How far apart the pictures of one prompt are: the mean of [`VerdictRecord::difference`] over the judged matches, in
    /// [0, 1]. `None` where none of them has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diversity: Option<f64>,
    /// The mean score of its judged candidates, of a judge that scores pictures; absent of every other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// The same of the held-out judge, over the groups that it sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out_score: Option<f64>,
    /// Matches that both the judge and the held-out judge decided; absent in a run without a held-out judge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out_pairs: Option<u32>,
    /// The share of these on which both prefer the same candidate, in [0, 1]; absent where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out_agreement: Option<f64>,
    /// Mean reward over the candidates of decided pairs; 0 without any.
    pub reward_mean: f64,
    /// Mean loss over the trained terms.
    pub loss: f64,
    /// Mean KL estimate over the trained terms.
    pub kl: f64,
    /// Share of terms whose ratio was clipped.
    pub clip_fraction: f64,
    /// Largest |ratio - 1|.
    pub ratio_deviation: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate of the update.
    pub learning_rate: f64,
    /// Number of trained (candidate, timestep) terms.
    pub terms: u64,
    /// Where the time went.
    pub seconds: StepSeconds,
}

/// Seconds of one step. Parts are summed over the workers that did them, so that with several of a kind a part may exceed `wall`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StepSeconds {
    /// Sampling.
    pub sample: f64,
    /// Judging.
    pub judge: f64,
    /// Gradients.
    pub train: f64,
    /// Optimizer step and storing the policy.
    pub commit: f64,
    /// From the previous commit to this one, on the coordinator's clock.
    pub wall: f64,
}
