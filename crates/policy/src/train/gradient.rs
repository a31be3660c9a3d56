//! The gradient of a shard: recompute each velocity with the adapter, differentiate the loss, pull it back to the adapter.

use std::fmt;

use candle_core::Tensor;
use gavel_core::{
    ids::{Candidate, Digest, PromptIndex},
    rpo::Term,
    spec::{ObjectiveSpec, RunSpec, TrainerSpec},
    work::{ShardStatistics, SkippedPair},
};
use gavel_models::{
    denoiser::ActivationMemory,
    lora::{LoraAdapter, LoraGradients},
};

use super::{
    Error, Trainer,
    batch::{Row, batches, in_words, rows},
    term,
};
use crate::{trajectory::Trajectory, values::with_values};

/// The rewarded candidates of one prompt. Their gradient is kept or skipped as a whole.
#[derive(Debug, Clone)]
pub struct Group {
    /// Index of the prompt in its step.
    pub prompt_index: PromptIndex,
    /// The candidates, in order.
    pub candidates: Vec<RewardedTrajectory>,
}

/// A trajectory with its reward.
#[derive(Debug, Clone)]
pub struct RewardedTrajectory {
    /// The trajectory.
    pub trajectory: Trajectory,
    /// Its reward; clamped to `objective.advantage_clip`, it is the advantage of each of its timesteps.
    pub reward: f64,
}

/// What a gradient depends on besides policy and trajectories.
#[derive(Debug, Clone)]
pub struct GradientSettings<'a> {
    /// The loss.
    pub objective: &'a ObjectiveSpec,
    /// Timesteps that are trained, each below the trajectories' `noise_steps`.
    pub timesteps: Vec<usize>,
    /// What a forward keeps. With `Checkpoint`, for models that hardly fit, rows also run one at a time; the sums are then
    /// taken in another order, so this setting belongs to what determines a run's bytes.
    pub memory: ActivationMemory,
    /// |ratio - 1| above which a term is reported in [`ShardGradient::deviation`].
    pub ratio_deviation: f64,
}

impl<'a> GradientSettings<'a> {
    /// Those of a run.
    pub fn of(spec: &'a RunSpec) -> Self {
        Self {
            objective: &spec.objective,
            timesteps: spec.trained_steps(),
            memory: activation_memory(&spec.trainer),
            ratio_deviation: spec.limits.ratio_deviation,
        }
    }
}

/// What `trainer.checkpoint_activations` asks for.
pub fn activation_memory(trainer: &TrainerSpec) -> ActivationMemory {
    match trainer.checkpoint_activations {
        true => ActivationMemory::Checkpoint,
        false => ActivationMemory::KeepAll,
    }
}

/// The summed gradient of a shard.
#[derive(Debug, Clone)]
pub struct ShardGradient {
    /// d(sum of the terms' losses) / d(adapter), not divided, in the adapter's flat order; `None` when no group gave a
    /// gradient.
    pub gradient: Option<Vec<f32>>,
    /// Sums over the terms of the groups that were kept.
    pub statistics: ShardStatistics,
    /// Groups whose loss or gradient was not finite.
    pub skipped: Vec<SkippedPair>,
    /// The first term, by timestep, that deviates beyond [`GradientSettings::ratio_deviation`].
    pub deviation: Option<Deviation>,
}

/// Sampler and trainer disagree on a term.
#[derive(Debug, Clone, PartialEq)]
pub struct Deviation {
    /// The prompt.
    pub prompt_index: PromptIndex,
    /// The candidate.
    pub candidate: Candidate,
    /// The timestep.
    pub timestep: usize,
    /// exp(new log-probability - the sampler's).
    pub ratio: f64,
    /// Largest difference of the recomputed velocity from the stored one, relative to the stored one's largest value.
    pub velocity_difference: f64,
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Two float32 forwards of one model differ by less, whatever the order of their sums.
        const SAME: f64 = 1e-4;
        let Self {
            prompt_index: prompt,
            candidate,
            timestep,
            ratio,
            velocity_difference,
        } = self;
        write!(
            f,
            "prompt {prompt}, candidate {candidate}, timestep {timestep}: ratio {ratio}; "
        )?;
        if *velocity_difference <= SAME {
            write!(
                f,
                "the velocities agree, so the first tensor that differs is `log_probs` or `latents`"
            )
        } else {
            write!(
                f,
                "the first tensor that differs is `velocities`, by {velocity_difference:.1e} of its largest value"
            )
        }
    }
}

/// Token rows of the groups that run as one batch, unless a single group has more; bounds the memory of a pass.
const BATCH_ROWS: usize = 2560;

/// Rows whose activations are kept on a device at a time. A row of FLUX.1-dev at 512 x 512 keeps about 5 GB; the sums are the same
/// however many rows are together, because a device adds the gradients row by row.
const ROWS_KEPT_ON_DEVICE: usize = 4;

impl Trainer {
    /// Sums the gradient of `groups`, in their order. The base's velocity is always computed too: the KL against it is
    /// reported even where `kl_beta` is 0 and nothing flows from it.
    ///
    /// # Errors
    /// [`Error::OtherModel`], [`Error::Trajectory`], [`Error::Conditioning`], [`Error::NoNoise`] for trajectories that do not
    /// fit, [`Error::Model`].
    pub fn gradient(
        &self,
        adapter: &LoraAdapter,
        groups: &[Group],
        settings: &GradientSettings<'_>,
    ) -> Result<ShardGradient, Error> {
        let mut sum = Sum::default();
        if let Some(row_tokens) = self.check(groups, &settings.timesteps)? {
            let members: Vec<&Group> = groups.iter().collect();
            let candidates = groups.iter().map(|group| group.candidates.len()).max().unwrap_or(1);
            let group_rows = candidates * settings.timesteps.len() * row_tokens;
            let together = (BATCH_ROWS / group_rows.max(1)).max(1);
            for members in members.chunks(together) {
                self.add(adapter, members, settings, &mut sum)?;
            }
        }
        sum.finish()
    }

    /// Adds `groups` to the shard; where something is not finite, finds out whose it is.
    fn add(
        &self,
        adapter: &LoraAdapter,
        groups: &[&Group],
        settings: &GradientSettings<'_>,
        sum: &mut Sum,
    ) -> Result<(), Error> {
        let pass = self.pass(adapter, &rows(groups, &settings.timesteps), settings)?;
        match (pass, groups) {
            (Ok(pass), _) => sum.keep(pass),
            (Err(NotFinite(reason)), [group]) => {
                sum.skipped.push(SkippedPair {
                    prompt_index: group.prompt_index,
                    reason,
                });
                Ok(())
            }
            (Err(NotFinite(_)), groups) => {
                for group in groups {
                    self.add(adapter, &[group], settings, sum)?;
                }
                Ok(())
            }
        }
    }

    /// The gradient of some rows.
    fn pass(
        &self,
        adapter: &LoraAdapter,
        rows: &[Row<'_>],
        settings: &GradientSettings<'_>,
    ) -> Result<Result<Pass, NotFinite>, Error> {
        let mut pass = Pass {
            gradient: LoraGradients::zeros(adapter),
            statistics: ShardStatistics::default(),
            deviation: None,
        };
        let together = match settings.memory {
            ActivationMemory::KeepAll if self.denoiser.placement().is_host() => rows.len().max(1),
            ActivationMemory::KeepAll => ROWS_KEPT_ON_DEVICE,
            ActivationMemory::Checkpoint => 1,
        };
        for rows in batches(rows, together) {
            let batch = self.input(rows)?;
            let input = batch.as_input();
            let reference = self.denoiser.velocity(None, &input)?;
            let (velocity, tape) = self.denoiser.velocity_for_vjp(adapter, &input, settings.memory)?;
            let terms = match self.denoiser.placement().is_host() {
                true => term::on_slices(settings.objective, rows, &velocity, &reference)?,
                false => {
                    let next = self.stack(rows, Row::next)?;
                    term::on_tensors(settings.objective, rows, &batch.latents, &next, &velocity, &reference)?
                }
            };
            for (index, (row, term)) in rows.iter().zip(&terms.terms).enumerate() {
                if !term.is_finite() {
                    return Ok(Err(NotFinite::of(row, term)));
                }
                pass.count(term);
                if (term.ratio - 1.0).abs() > settings.ratio_deviation {
                    let found = row.deviation(term.ratio, &velocity.get(index)?)?;
                    pass.deviation = Some(earlier(pass.deviation.take(), found));
                }
            }
            self.denoiser
                .vjp(adapter, tape, &terms.grad_velocity, &mut pass.gradient)?;
        }
        if !pass.gradient.is_finite()? {
            return Ok(Err(NotFinite("the loss is finite, its gradient is not".to_owned())));
        }
        Ok(Ok(pass))
    }
}

/// A shard on its way: the gradient stays where it is computed until all of it is there.
#[derive(Default)]
struct Sum {
    gradient: Option<LoraGradients>,
    statistics: ShardStatistics,
    skipped: Vec<SkippedPair>,
    deviation: Option<Deviation>,
}

/// The gradient and the figures of the rows that ran together.
struct Pass {
    gradient: LoraGradients,
    statistics: ShardStatistics,
    deviation: Option<Deviation>,
}

/// What was not finite, in words.
struct NotFinite(String);

impl NotFinite {
    fn of(row: &Row<'_>, term: &Term) -> Self {
        Self(format!(
            "{}, timestep {}: loss {}, ratio {}, kl {}",
            in_words(row.trajectory),
            row.timestep,
            term.loss,
            term.ratio,
            term.kl
        ))
    }
}

impl Pass {
    fn count(&mut self, term: &Term) {
        let sums = &mut self.statistics;
        sums.terms += 1;
        sums.kl += term.kl;
        sums.clipped += u64::from(term.clipped);
        sums.ratio_deviation = sums.ratio_deviation.max((term.ratio - 1.0).abs());
        sums.loss += term.loss;
    }
}

impl Sum {
    fn keep(&mut self, pass: Pass) -> Result<(), Error> {
        match &mut self.gradient {
            Some(gradient) => gradient.add(&pass.gradient)?,
            None => self.gradient = Some(pass.gradient),
        }
        add_statistics(&mut self.statistics, &pass.statistics);
        if let Some(found) = pass.deviation {
            self.deviation = Some(earlier(self.deviation.take(), found));
        }
        Ok(())
    }

    fn finish(self) -> Result<ShardGradient, Error> {
        Ok(ShardGradient {
            gradient: self.gradient.map(|gradient| gradient.flatten()).transpose()?,
            statistics: self.statistics,
            skipped: self.skipped,
            deviation: self.deviation,
        })
    }
}

impl Row<'_> {
    /// `velocity` (tokens, channels) f32 is what the trainer computed.
    fn deviation(&self, ratio: f64, velocity: &Tensor) -> Result<Deviation, Error> {
        let stored = self.trajectory.velocity(self.timestep);
        let largest = stored
            .iter()
            .fold(0.0, |largest: f64, value| largest.max(f64::from(value.abs())));
        let difference = with_values(velocity, |velocity| {
            stored.iter().zip(velocity).fold(0.0, |largest: f64, (a, b)| {
                largest.max((f64::from(*a) - f64::from(*b)).abs())
            })
        })?;
        Ok(Deviation {
            prompt_index: PromptIndex(self.trajectory.metadata.prompt_index),
            candidate: Candidate(self.trajectory.metadata.candidate),
            timestep: self.timestep,
            ratio,
            velocity_difference: difference / largest.max(f64::MIN_POSITIVE),
        })
    }
}

/// Adds the figures of more terms.
pub(super) fn add_statistics(sums: &mut ShardStatistics, added: &ShardStatistics) {
    sums.terms += added.terms;
    sums.kl += added.kl;
    sums.clipped += added.clipped;
    sums.ratio_deviation = sums.ratio_deviation.max(added.ratio_deviation);
    sums.loss += added.loss;
}

fn earlier(known: Option<Deviation>, found: Deviation) -> Deviation {
    match known {
        Some(known) if known.timestep <= found.timestep => known,
        _ => found,
    }
}

/// Refuses a trajectory that was sampled with another adapter than `policy`: for work that is exactly on-policy.
///
/// # Errors
/// [`Error::OtherAdapter`].
pub fn check_on_policy(trajectory: &Trajectory, policy: Digest) -> Result<(), Error> {
    let found = trajectory.metadata.adapter;
    if found == Some(policy) {
        return Ok(());
    }
    Err(Error::OtherAdapter {
        trajectory: in_words(trajectory),
        expected: policy,
        found: found.map_or("base".to_owned(), |digest| digest.to_string()),
    })
}
