//! Prompts whose conditioning differs in shape, as those of a family that does not pad its words.

use std::sync::Arc;

use crate::common::{adapter, lora, objective, sampling, settings, tiny_flux, trainer};
use candle_core::Tensor;
use gavel_core::{
    ids::{Digest, PromptIndex, Step},
    noise::Use,
};
use gavel_models::denoiser::{Conditioning, Denoiser, Encoding, Grid, Pipeline, Task};
use gavel_models::load::Placement;
use gavel_models::{Family, ModelError};
use gavel_policy::{Group, Levels, Method, Policy, Prompt, Request, RewardedTrajectory, Sample, Sampler};
use image::RgbImage;

/// The small pipeline, with one text token for each word instead of as many for every prompt.
struct Unpadded(Box<dyn Pipeline>);

impl Pipeline for Unpadded {
    fn denoiser(&self) -> &dyn Denoiser {
        self.0.denoiser()
    }

    fn shared_denoiser(&self) -> Arc<dyn Denoiser> {
        self.0.shared_denoiser()
    }

    fn condition(&self, task: &Task<'_>, encoding: &Encoding) -> Result<Conditioning, ModelError> {
        let padded = self.0.condition(task, encoding)?;
        let words = task.words.split(' ').count();
        let mut conditioning = Conditioning::new();
        for (name, tensor) in padded.iter() {
            let sequence = tensor.dims().len() > 1;
            let tensor = if sequence {
                tensor.narrow(0, 0, words)?
            } else {
                tensor.clone()
            };
            conditioning.insert(name, tensor.contiguous()?);
        }
        Ok(conditioning)
    }

    fn grid(&self, height: usize, width: usize) -> Result<Grid, ModelError> {
        self.0.grid(height, width)
    }

    fn sigmas(&self, steps: usize, grid: Grid) -> Result<Vec<f64>, ModelError> {
        self.0.sigmas(steps, grid)
    }

    fn decode(&self, latents: &Tensor, grid: Grid) -> Result<Vec<RgbImage>, ModelError> {
        self.0.decode(latents, grid)
    }
}

const WORDS: [&str; 4] = [
    "a red circle",
    "a green square",
    "a black triangle on a white background",
    "a circle",
];

fn prompts() -> Vec<Prompt<'static>> {
    let prompt = |(index, words): (usize, &'static &'static str)| Prompt {
        index: PromptIndex(index as u32),
        task: Task { words, sources: &[] },
        sources: &[],
    };
    WORDS.iter().enumerate().map(prompt).collect()
}

fn sample(prompts: &[Prompt<'_>], model: Digest, policy: Policy<'_>) -> Vec<Sample> {
    let pipeline = Family::Flux.load_pipeline(&tiny_flux(), &Placement::cpu()).unwrap();
    let request = Request {
        prompts,
        candidates: 2,
        first_candidate: 0,
        method: Method::Sde,
        seed: 5,
        step: Step(1),
        initial: Use::Initial,
        initial_latents: None,
        negative: None,
        sampling: &sampling(),
        levels: Levels::Shift,
        encoding: Encoding {
            max_sequence_length: 24,
            source_areas: None,
        },
    };
    Sampler::new(Box::new(Unpadded(pipeline)), model, Digest::of(b"encoders"))
        .sample(policy, &request)
        .unwrap()
}

fn files(samples: &[Sample]) -> Vec<Vec<u8>> {
    samples
        .iter()
        .map(|sample| sample.trajectory.to_safetensors())
        .collect()
}

#[test]
fn prompts_of_different_lengths_are_sampled_in_order_and_each_as_if_alone() {
    let prompts = prompts();
    let together = sample(&prompts, Digest([1; 32]), Policy::Base);
    let order: Vec<u32> = together.iter().map(|sample| sample.prompt_index.0).collect();
    assert_eq!(order, [0, 0, 1, 1, 2, 2, 3, 3]);
    for (prompt, pair) in prompts.iter().zip(together.chunks(2)) {
        let alone = sample(std::slice::from_ref(prompt), Digest([1; 32]), Policy::Base);
        assert_eq!(files(&alone), files(pair), "{}", prompt.task.words);
        let lengths: Vec<usize> = pair[0]
            .trajectory
            .conditioning
            .values()
            .filter(|tensor| tensor.shape.len() > 1)
            .map(|tensor| tensor.shape[0])
            .collect();
        assert_eq!(lengths, [prompt.task.words.split(' ').count()]);
    }
}

#[test]
fn a_gradient_of_different_lengths_is_the_sum_of_each() {
    let trainer = trainer();
    let (digest, adapter) = adapter(&trainer);
    assert_eq!(adapter.config().rank, lora().rank);
    let adapter_policy = Policy::Adapted {
        digest,
        adapter: &adapter,
    };
    let samples = sample(&prompts(), trainer.model(), adapter_policy);
    let groups: Vec<Group> = samples
        .chunks(2)
        .map(|pair| Group {
            prompt_index: pair[0].prompt_index,
            candidates: [(&pair[0], 1.0), (&pair[1], -1.0)]
                .map(|(sample, reward)| RewardedTrajectory {
                    trajectory: sample.trajectory.clone(),
                    reward,
                })
                .into(),
        })
        .collect();
    let objective = objective();
    let whole = trainer.gradient(&adapter, &groups, &settings(&objective)).unwrap();
    assert_eq!(whole.statistics.terms, 4 * 2 * 3);
    assert!(whole.statistics.ratio_deviation < 1e-5, "{:?}", whole.statistics);
    let whole = whole.gradient.unwrap();
    let mut sum = vec![0.0_f32; adapter.parameter_count()];
    for group in &groups {
        let one = trainer
            .gradient(&adapter, std::slice::from_ref(group), &settings(&objective))
            .unwrap();
        sum.iter_mut()
            .zip(one.gradient.unwrap())
            .for_each(|(sum, value)| *sum += value);
    }
    let largest = sum.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let gap = whole
        .iter()
        .zip(&sum)
        .fold(0.0_f32, |gap, (a, b)| gap.max((a - b).abs()));
    // The same terms, added in another order.
    assert!(largest > 0.0 && gap <= 1e-5 * largest, "{gap:e} of {largest:e}");
}
