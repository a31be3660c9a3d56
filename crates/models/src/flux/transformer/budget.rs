//! What FLUX.1-dev's passes cost a GPU. docs/gpu.md has the table.

use candle_core::{DType, Device, Tensor};

use super::config::FluxTransformerConfig;
use super::network::FluxNetwork;
use super::{Load, POOLED_PROMPT_EMBEDS, PROMPT_EMBEDS};
use crate::denoiser::budget::{Figures, Passes, figures, passes};
use crate::denoiser::loader::Loader;
use crate::denoiser::{Conditioning, Grid};
use crate::lora::{AdaptableLayers, LoraConfig};
use crate::ops::WithBackend as _;
use crate::ops::candle::counted::by_name;

/// FLUX.1-dev with other numbers of blocks.
fn config(double: usize, single: usize) -> FluxTransformerConfig {
    FluxTransformerConfig {
        patch_size: 1,
        in_channels: 64,
        out_channels: None,
        num_layers: double,
        num_single_layers: single,
        attention_head_dim: 128,
        num_attention_heads: 24,
        joint_attention_dim: 4096,
        pooled_projection_dim: 768,
        guidance_embeds: true,
        axes_dims_rope: vec![16, 56, 56],
    }
}

/// A picture of 512 x 512 under 512 tokens of a prompt, with the adapter of configs/flux-dev.toml.
fn measured(double: usize, single: usize) -> Passes {
    let targets = [
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
    let lora = LoraConfig {
        rank: 16,
        alpha: 16.0,
        dropout: 0.0,
        target_modules: targets.map(str::to_owned).to_vec(),
    };
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let conditioning = Conditioning::from_iter([
        (PROMPT_EMBEDS, zeros(&[1, 512, 4096])),
        (POOLED_PROMPT_EMBEDS, zeros(&[1, 768])),
    ]);
    passes(
        |names, weights| {
            let mut layers = AdaptableLayers::default();
            FluxNetwork::load(Loader::new(names, weights, &mut layers), config(double, single)).unwrap();
        },
        |backend, weights| {
            let config = config(double, single);
            Load { config, weights }.run(backend).unwrap()
        },
        &lora,
        &conditioning,
        Grid { height: 32, width: 32 },
    )
}

/// What a change costs or saves is to be seen: whoever changes these changes docs/gpu.md too.
const FIGURES: Figures = [
    ("base", 1735, 104),
    ("with an adapter", 2305, 123),
    ("backwards", 6251, 335),
];

#[test]
fn passes_of_flux_dev_cost_what_the_documentation_tells() {
    let (one, more_double, more_single) = (measured(1, 1), measured(2, 1), measured(1, 2));
    // 19 double and 38 single blocks.
    let found = figures(&one, &[(&more_double, 18), (&more_single, 37)]);
    let kinds = by_name(&more_double.vjp);
    assert_eq!(found, FIGURES, "a backward with one block more is made of\n{kinds}");
}
