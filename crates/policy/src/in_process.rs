//! One step and one evaluation in this process, without a fleet: what `gavel bench` times, `gavel doctor` tries and whoever
//! wants numbers without a coordinator calls. Work is cut as a fleet cuts it, so that the results are a fleet's.

use std::time::{Duration, Instant};

use gavel_core::{
    Hint,
    ids::{Digest, PromptIndex, Step},
    measure::{JudgeCounts, WinRate},
    rpo::{self, learning_rate},
    spec::RunSpec,
    work::{Orders, Side, VerdictRecord},
};
use gavel_models::denoiser::Task;
use gavel_rubric::{AskError, Judge, JudgedPair, Rubrics};
use image::RgbImage;

use crate::{
    sample::{self, Policy, Prompt, Request, Sample, Sampler},
    train::{self, GradientSettings, Group, PolicyState, RewardedTrajectory, Trainer, Updated, update},
};

/// A step or an evaluation in this process failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Sampling failed.
    #[error(transparent)]
    Sample(#[from] sample::Error),
    /// The judge could not be asked.
    #[error(transparent)]
    Judge(#[from] AskError),
    /// Training failed.
    #[error(transparent)]
    Train(Box<train::Error>),
}

impl From<train::Error> for Error {
    fn from(error: train::Error) -> Self {
        Self::Train(Box::new(error))
    }
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Sample(error) => error.hint(),
            Self::Judge(error) => error.hint(),
            Self::Train(error) => error.hint(),
        }
    }
}

/// What a run's steps and evaluations are done with in this process.
pub struct InProcess<'a> {
    /// The run.
    pub spec: &'a RunSpec,
    /// Its sampler.
    pub sampler: &'a mut Sampler,
    /// Its judge.
    pub judge: &'a dyn Judge,
    /// What the judge decides by.
    pub rubrics: &'a Rubrics,
}

/// A whole step.
#[derive(Debug, Clone)]
pub struct InProcessStep {
    /// What came of it; the policy of before where nothing was decided.
    pub updated: Updated,
    /// Groups that the judge decided.
    pub decided: usize,
    /// How long sampling took: conditioning, all denoising steps, decoding.
    pub sampling: Duration,
    /// How long judging took.
    pub judging: Duration,
    /// How long gradients and the optimizer step took.
    pub training: Duration,
}

/// A policy against the base on held-out prompts.
#[derive(Debug, Clone)]
pub struct LocalEvaluation {
    /// The base's picture of each prompt.
    pub base: Vec<RgbImage>,
    /// The policy's, from the same noise.
    pub tuned: Vec<RgbImage>,
    /// The judge's verdict on each; the base's picture is the first.
    pub comparisons: Vec<VerdictRecord>,
    /// The verdicts, counted; `None` when none of them could be judged.
    pub win_rate: Option<WinRate>,
}

impl InProcess<'_> {
    /// Samples a step's prompts, judges them, and takes the update.
    ///
    /// # Errors
    /// [`Error`]; the policy is then unchanged.
    pub fn step(
        &mut self,
        trainer: &Trainer,
        state: &PolicyState,
        step: Step,
        prompts: &[Prompt<'_>],
    ) -> Result<InProcessStep, Error> {
        let spec = self.spec;
        let started = Instant::now();
        let digest = Digest::of(&state.adapter.to_safetensors().map_err(train::Error::from)?);
        let adapter = &state.adapter;
        let policy = Policy::Adapted { digest, adapter };
        let samples = self.sample(policy, prompts, spec.sampling.batch, |prompts| {
            Request::training(spec, step, prompts)
        })?;
        let sampled = Instant::now();
        let groups = self.reward(prompts, samples)?;
        let judged = Instant::now();
        let updated = update(
            trainer,
            state,
            &groups,
            &GradientSettings::of(spec),
            spec.trainer.shard as usize,
            &spec.optimizer,
            learning_rate(&spec.optimizer, step, spec.run.steps),
        )?;
        Ok(InProcessStep {
            updated,
            decided: groups.len(),
            sampling: sampled - started,
            judging: judged - sampled,
            training: judged.elapsed(),
        })
    }

    /// Paints held-out prompts with the base and with a policy, from the same noise, and compares them.
    ///
    /// # Errors
    /// [`Error`].
    pub fn evaluate(&mut self, tuned: Policy<'_>, held_out: &[Prompt<'_>]) -> Result<LocalEvaluation, Error> {
        let spec = self.spec;
        let batch = spec.evaluation.as_ref().map_or(spec.sampling.batch, |one| one.batch);
        let mut paint = |policy| -> Result<Vec<RgbImage>, Error> {
            let samples = self.sample(policy, held_out, batch, |prompts| Request::evaluation(spec, prompts))?;
            Ok(samples.into_iter().map(|sample| sample.image).collect())
        };
        let (base, tuned) = (paint(Policy::Base)?, paint(tuned)?);
        let pairs: Vec<JudgedPair<'_>> = held_out
            .iter()
            .zip(base.iter().zip(&tuned))
            .map(|(prompt, (base, tuned))| pair(self.rubrics, prompt, base, tuned))
            .collect();
        let comparisons = self.ask(&pairs)?;
        let win_rate = WinRate::of(comparisons.iter());
        Ok(LocalEvaluation {
            base,
            tuned,
            comparisons,
            win_rate,
        })
    }

    /// Samples prompts, as many at a time as a sampler leases.
    fn sample<'p>(
        &mut self,
        policy: Policy<'_>,
        prompts: &'p [Prompt<'p>],
        batch: u32,
        request: impl Fn(&'p [Prompt<'p>]) -> Request<'p>,
    ) -> Result<Vec<Sample>, Error> {
        let mut samples = Vec::new();
        for chunk in prompts.chunks(batch.max(1) as usize) {
            samples.extend(self.sampler.sample(policy, &request(chunk))?);
        }
        Ok(samples)
    }

    /// Judges every match of every prompt's candidates; the decided groups with their rewards.
    fn reward(&self, prompts: &[Prompt<'_>], samples: Vec<Sample>) -> Result<Vec<Group>, Error> {
        let candidates = usize::from(self.spec.sampling.candidates);
        let groups = || samples.chunks_exact(candidates);
        let lists: Vec<Vec<&RgbImage>> = match self.judge.sees_lists() {
            true => groups()
                .map(|group| group.iter().map(|sample| &sample.image).collect())
                .collect(),
            false => vec![Vec::new(); prompts.len()],
        };
        let mut pairs = Vec::with_capacity(prompts.len() * rpo::match_count(candidates));
        for ((prompt, group), list) in prompts.iter().zip(groups()).zip(&lists) {
            pairs.extend(rpo::matches(candidates).map(|(first, second)| JudgedPair {
                list,
                ..pair(self.rubrics, prompt, &group[first].image, &group[second].image)
            }));
        }
        let verdicts = self.ask(&pairs)?;
        let mut verdicts = verdicts.chunks_exact(rpo::match_count(candidates));
        let objective = &self.spec.objective;
        let mut samples = samples.into_iter();
        let mut groups = Vec::new();
        for prompt in prompts {
            let group: Vec<Sample> = samples.by_ref().take(candidates).collect();
            let Some(ranks) = verdicts.next().and_then(|verdicts| rpo::ranks(candidates, verdicts)) else {
                continue;
            };
            let rewards = rpo::rewards(&ranks, objective.reward_preferred, objective.reward_dispreferred);
            let rewarded = group
                .into_iter()
                .zip(rewards)
                .map(|(sample, reward)| RewardedTrajectory {
                    trajectory: sample.trajectory,
                    reward,
                });
            groups.push(Group {
                prompt_index: prompt.index,
                candidates: rewarded.collect(),
            });
        }
        Ok(groups)
    }

    /// Asks about pairs, as many at a time as a judge leases.
    fn ask(&self, pairs: &[JudgedPair<'_>]) -> Result<Vec<VerdictRecord>, AskError> {
        let mut verdicts = Vec::with_capacity(pairs.len());
        for chunk in pairs.chunks(self.spec.judge.batch.max(1) as usize) {
            verdicts.extend(self.judge.judge(chunk)?);
        }
        Ok(verdicts)
    }
}

/// Two pictures of a prompt, with those that it edits and the rubric that decides about it.
fn pair<'a>(rubrics: &'a Rubrics, prompt: &Prompt<'a>, first: &'a RgbImage, second: &'a RgbImage) -> JudgedPair<'a> {
    let Prompt { index, task, sources } = *prompt;
    JudgedPair {
        prompt_index: index,
        prompt: task.words,
        sources: task.sources,
        first,
        second,
        rubric: rubrics.of(task.words, sources),
        orders: Orders::Both,
        list: &[],
    }
}

/// A pair whose better picture people have named.
#[derive(Debug, Clone, Copy)]
pub struct Labelled<'a> {
    /// The words, and the source pictures of an edit.
    pub task: Task<'a>,
    /// Hashes of the source pictures.
    pub sources: &'a [Digest],
    /// The first picture.
    pub first: &'a RgbImage,
    /// The second picture.
    pub second: &'a RgbImage,
    /// The better one.
    pub preferred: Side,
}

/// Asks a judge about labelled pairs and counts how it did.
///
/// # Errors
/// [`AskError`] when a pair cannot be judged.
pub fn judge_counts(judge: &dyn Judge, rubrics: &Rubrics, labelled: &[Labelled<'_>]) -> Result<JudgeCounts, AskError> {
    let mut records = Vec::with_capacity(labelled.len());
    for (index, one) in (0..).zip(labelled) {
        let prompt = Prompt {
            index: PromptIndex(index),
            task: one.task,
            sources: one.sources,
        };
        let judged = judge.judge(&[pair(rubrics, &prompt, one.first, one.second)])?;
        records.extend(judged.into_iter().map(|record| (record, one.preferred)));
    }
    Ok(JudgeCounts::of(
        records.iter().map(|(record, preferred)| (record, *preferred)),
    ))
}
