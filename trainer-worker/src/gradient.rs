//! The gradient of a shard: recompute each velocity with the adapter, differentiate the loss, pull it back to the adapter.

use std::fmt;

use candle_core::{DType, Tensor};
use gavel_core::{
    ids::{Candidate, Digest, PromptIndex},
    rpo::{self, StepCoefficients, Term, TermInput},
    spec::ObjectiveSpec,
    work::{ShardStatistics, SkippedPair},
};
use gavel_models::{
    flux::transformer::ActivationMemory,
    lora::{LoraAdapter, LoraGradients},
    trajectory::{Extents, Trajectory},
};

use crate::{
    Error, Trainer,
    batch::{Row, in_words, rows},
};

/// The rewarded candidates of one prompt. Their gradient is kept or skipped as a whole.
#[derive(Debug, Clone)]
pub struct Group {
    /// The prompt's place in its step.
    pub prompt: PromptIndex,
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
    pub timesteps: &'a [usize],
    /// What a forward keeps. With `Checkpoint`, for models that hardly fit, rows also run one at a time; the sums are then
    /// taken in another order, so this setting belongs to what determines a run's bytes.
    pub memory: ActivationMemory,
    /// |ratio - 1| above which a term is reported in [`ShardGradient::deviation`].
    pub ratio_deviation: f64,
}

/// The summed gradient of a shard.
#[derive(Debug, Clone)]
pub struct ShardGradient {
    /// d(sum of the terms' losses) / d(adapter), not divided; `None` when no group gave a gradient.
    pub gradient: Option<LoraGradients>,
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
    pub prompt: PromptIndex,
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
            prompt,
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

impl Trainer {
    /// Sums the gradient of `groups`, in their order. The base's velocity is always computed too: the KL against it is
    /// reported even where `kl_beta` is 0 and nothing flows from it.
    ///
    /// # Errors
    /// [`Error::OtherModel`], [`Error::Trajectory`], [`Error::NoNoise`] for trajectories that do not fit, [`Error::Model`].
    pub fn gradient(
        &self,
        adapter: &LoraAdapter,
        groups: &[Group],
        settings: &GradientSettings<'_>,
    ) -> Result<ShardGradient, Error> {
        let mut shard = ShardGradient {
            gradient: None,
            statistics: ShardStatistics::default(),
            skipped: Vec::new(),
            deviation: None,
        };
        let Some(extents) = self.check(groups, settings.timesteps)? else {
            return Ok(shard);
        };
        let members: Vec<&Group> = groups.iter().collect();
        let candidates = groups.iter().map(|group| group.candidates.len()).max().unwrap_or(1);
        let group_rows = candidates * settings.timesteps.len() * (extents.tokens + extents.text_tokens);
        let together = (BATCH_ROWS / group_rows.max(1)).max(1);
        for members in members.chunks(together) {
            self.add(adapter, members, &extents, settings, &mut shard)?;
        }
        Ok(shard)
    }

    /// Adds `groups` to the shard; where something is not finite, finds out whose it is.
    fn add(
        &self,
        adapter: &LoraAdapter,
        groups: &[&Group],
        extents: &Extents,
        settings: &GradientSettings<'_>,
        shard: &mut ShardGradient,
    ) -> Result<(), Error> {
        let pass = self.pass(adapter, &rows(groups, settings.timesteps), extents, settings)?;
        match (pass, groups) {
            (Ok(pass), _) => shard.keep(pass),
            (Err(NotFinite(reason)), [group]) => {
                shard.skipped.push(SkippedPair {
                    prompt: group.prompt,
                    reason,
                });
                Ok(())
            }
            (Err(NotFinite(_)), groups) => {
                for group in groups {
                    self.add(adapter, &[group], extents, settings, shard)?;
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
        extents: &Extents,
        settings: &GradientSettings<'_>,
    ) -> Result<Result<Pass, NotFinite>, Error> {
        let mut pass = Pass {
            gradient: LoraGradients::zeros(adapter),
            statistics: ShardStatistics::default(),
            deviation: None,
        };
        let together = match settings.memory {
            ActivationMemory::KeepAll => rows.len().max(1),
            ActivationMemory::Checkpoint => 1,
        };
        for rows in rows.chunks(together) {
            let input = self.input(rows, extents)?;
            let reference = to_vec(&self.transformer.velocity(None, &input)?)?;
            let (velocity, tape) = self.transformer.velocity_for_vjp(adapter, &input, settings.memory)?;
            let shape = velocity.dims().to_vec();
            let velocity = to_vec(&velocity)?;
            let mut grad_velocity = vec![0.0; velocity.len()];
            let size = extents.latent_size();
            let parts = velocity
                .chunks_exact(size)
                .zip(reference.chunks_exact(size))
                .zip(grad_velocity.chunks_exact_mut(size));
            for (row, ((velocity, reference), grad_velocity)) in rows.iter().zip(parts) {
                let term = row.term(settings.objective, velocity, reference, grad_velocity);
                if !term.is_finite() {
                    let reason = format!(
                        "{}, timestep {}: loss {}, ratio {}, kl {}",
                        in_words(row.trajectory),
                        row.timestep,
                        term.loss,
                        term.ratio,
                        term.kl
                    );
                    return Ok(Err(NotFinite(reason)));
                }
                pass.count(&term);
                if (term.ratio - 1.0).abs() > settings.ratio_deviation {
                    let found = row.deviation(term.ratio, velocity);
                    pass.deviation = Some(earlier(pass.deviation.take(), found));
                }
            }
            let grad_velocity = Tensor::from_vec(grad_velocity, shape, &self.device)?;
            self.transformer
                .vjp(adapter, tape, &grad_velocity, &mut pass.gradient)?;
        }
        if !pass.gradient.is_finite() {
            return Ok(Err(NotFinite("the loss is finite, its gradient is not".to_owned())));
        }
        Ok(Ok(pass))
    }
}

/// The gradient and the figures of the rows that ran together.
struct Pass {
    gradient: LoraGradients,
    statistics: ShardStatistics,
    deviation: Option<Deviation>,
}

/// What was not finite, in words.
struct NotFinite(String);

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

impl ShardGradient {
    fn keep(&mut self, pass: Pass) -> Result<(), Error> {
        match &mut self.gradient {
            Some(gradient) => gradient.add(&pass.gradient)?,
            None => self.gradient = Some(pass.gradient),
        }
        let (sums, added) = (&mut self.statistics, pass.statistics);
        sums.terms += added.terms;
        sums.kl += added.kl;
        sums.clipped += added.clipped;
        sums.ratio_deviation = sums.ratio_deviation.max(added.ratio_deviation);
        sums.loss += added.loss;
        if let Some(found) = pass.deviation {
            self.deviation = Some(earlier(self.deviation.take(), found));
        }
        Ok(())
    }
}

impl Row<'_> {
    fn term(&self, objective: &ObjectiveSpec, velocity: &[f32], reference: &[f32], grad_velocity: &mut [f32]) -> Term {
        let (trajectory, timestep) = (self.trajectory, self.timestep);
        let metadata = &trajectory.metadata;
        let (sigma, sigma_next) = (trajectory.sigmas[timestep], trajectory.sigmas[timestep + 1]);
        let input = TermInput {
            coefficients: &StepCoefficients::new(metadata.sde, metadata.eta, sigma, sigma_next),
            latents: trajectory.latent(timestep),
            next: trajectory.latent(timestep + 1),
            old_log_prob: f64::from(trajectory.log_probs[timestep]),
            velocity,
            reference_velocity: reference,
            advantage: self.reward,
        };
        rpo::term(objective, &input, grad_velocity)
    }

    fn deviation(&self, ratio: f64, velocity: &[f32]) -> Deviation {
        let stored = self.trajectory.velocity(self.timestep);
        let largest = stored
            .iter()
            .fold(0.0, |largest: f64, value| largest.max(f64::from(value.abs())));
        let difference = stored.iter().zip(velocity).fold(0.0, |largest: f64, (a, b)| {
            largest.max((f64::from(*a) - f64::from(*b)).abs())
        });
        Deviation {
            prompt: PromptIndex(self.trajectory.metadata.prompt_index),
            candidate: Candidate(self.trajectory.metadata.candidate),
            timestep: self.timestep,
            ratio,
            velocity_difference: difference / largest.max(f64::MIN_POSITIVE),
        }
    }
}

fn earlier(known: Option<Deviation>, found: Deviation) -> Deviation {
    match known {
        Some(known) if known.timestep <= found.timestep => known,
        _ => found,
    }
}

fn to_vec(tensor: &Tensor) -> Result<Vec<f32>, Error> {
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

/// Refuses a trajectory that was sampled with another adapter than `policy`: for work that is exactly on-policy.
///
/// # Errors
/// [`Error::OtherAdapter`].
pub(crate) fn check_on_policy(trajectory: &Trajectory, policy: Digest) -> Result<(), Error> {
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
