//! Time of the FLUX transformer on the shipped small model: forward, and forward with backward, batches of 6 and 64.
//!
//! The PyTorch figures to hold against: `OMP_NUM_THREADS=1 python tests/golden/bench_transformer.py`, with `RAYON_NUM_THREADS=1` here.

#![expect(clippy::expect_used, reason = "a bench has nobody to report an error to")]

use std::path::Path;

use candle_core::{Device, Tensor};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use gavel_models::Family;
use gavel_models::denoiser::{ActivationMemory, Conditioning, Denoiser, Grid, Input};
use gavel_models::flux::{FluxTransformer, POOLED_PROMPT_EMBEDS, PROMPT_EMBEDS};
use gavel_models::load::Placement;
use gavel_models::lora::{LoraAdapter, LoraConfig, LoraGradients};

fn values(shape: &[usize]) -> Tensor {
    let count = shape.iter().product::<usize>();
    let values: Vec<f32> = (0..count).map(|i| ((i * 7919 % 2003) as f32 / 1001.5) - 1.0).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).expect("a tensor of the given shape")
}

fn transformer(criterion: &mut Criterion) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-flux/transformer");
    let model = FluxTransformer::load(&folder, &Placement::cpu()).expect("the shipped model");
    let target_modules = Family::Flux
        .published_targets()
        .iter()
        .map(|target| (*target).to_owned())
        .collect();
    let config = LoraConfig {
        rank: 16,
        alpha: 32.0,
        dropout: 0.0,
        target_modules,
    };
    let mut adapter = LoraAdapter::init(model.layers(), &config, [7; 32]).expect("a fresh adapter");
    let flat: Vec<f32> = adapter
        .flatten()
        .iter()
        .enumerate()
        .map(|(i, v)| v + (i % 13) as f32 * 1e-4)
        .collect();
    adapter.unflatten(&flat).expect("as many values");

    for batch in [6, 64] {
        let sizes = model.config();
        let latents = values(&[batch, 16, sizes.in_channels]);
        let conditioning = Conditioning::from_iter([
            (PROMPT_EMBEDS, values(&[batch, 24, sizes.joint_attention_dim])),
            (POOLED_PROMPT_EMBEDS, values(&[batch, sizes.pooled_projection_dim])),
        ]);
        let input = Input {
            latents: &latents,
            conditioning: &conditioning,
            sigma: &vec![0.7; batch],
            guidance: Some(3.5),
            grid: Grid { height: 4, width: 4 },
        };
        let mut group = criterion.benchmark_group(format!("tiny-flux, batch {batch}"));
        group.bench_function("forward", |bench| {
            bench.iter(|| model.velocity(Some(&adapter), &input).expect("a velocity"));
        });
        for (name, memory) in [
            ("keep all", ActivationMemory::KeepAll),
            ("checkpoint", ActivationMemory::Checkpoint),
        ] {
            group.bench_function(format!("forward and backward, {name}"), |bench| {
                bench.iter_batched(
                    || LoraGradients::zeros(&adapter),
                    |mut gradients| {
                        let (velocity, tape) = model.velocity_for_vjp(&adapter, &input, memory).expect("a velocity");
                        model.vjp(&adapter, tape, &velocity, &mut gradients).expect("gradients");
                        gradients
                    },
                    BatchSize::LargeInput,
                );
            });
        }
    }
}

criterion_group!(benches, transformer);
criterion_main!(benches);
