//! Time of the FLUX transformer on the shipped small model: forward, and forward with backward, batches of 6 and 64.
//!
//! The PyTorch figures to hold against: `OMP_NUM_THREADS=1 python tests/golden/bench_transformer.py`, with `RAYON_NUM_THREADS=1` here.

#![expect(clippy::expect_used, reason = "a bench has nobody to report an error to")]

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use gavel_models::denoiser::Denoiser;
use gavel_models::flux::transformer::{ActivationMemory, FluxTransformer, TransformerInput};
use gavel_models::lora::{LoraAdapter, LoraConfig, LoraGradients};

const TARGETS: [&str; 12] = [
    "attn.to_q",
    "attn.to_k",
    "attn.to_v",
    "attn.to_out.0",
    "attn.add_q_proj",
    "attn.add_k_proj",
    "attn.add_v_proj",
    "attn.to_add_out",
    "ff.net.0.proj",
    "ff.net.2",
    "ff_context.net.0.proj",
    "ff_context.net.2",
];

fn values(shape: &[usize]) -> Tensor {
    let count = shape.iter().product::<usize>();
    let values: Vec<f32> = (0..count).map(|i| ((i * 7919 % 2003) as f32 / 1001.5) - 1.0).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).expect("a tensor of the given shape")
}

fn transformer(criterion: &mut Criterion) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-flux/transformer");
    let model = FluxTransformer::load(&folder, &Device::Cpu, DType::F32).expect("the shipped model");
    let target_modules = TARGETS.map(str::to_owned).to_vec();
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
        let input = TransformerInput {
            latents: values(&[batch, 16, sizes.in_channels]),
            prompt_embeds: values(&[batch, 24, sizes.joint_attention_dim]),
            pooled_prompt_embeds: values(&[batch, sizes.pooled_projection_dim]),
            sigma: Tensor::full(0.7_f32, batch, &Device::Cpu).expect("a vector"),
            guidance: Some(3.5),
            height_tokens: 4,
            width_tokens: 4,
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
