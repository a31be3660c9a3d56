//! What FLUX.1-dev's passes cost a GPU. docs/gpu.md has the table.

use candle_core::{DType, Device, Tensor};
use gavel_core::spec::Quantization;

use super::config::FluxTransformerConfig;
use super::network::FluxNetwork;
use super::{Load, POOLED_PROMPT_EMBEDS, PROMPT_EMBEDS};
use crate::denoiser::budget::{Figures, MemoryFigures, Passes, figures, memory_figures, passes};
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
fn measured(double: usize, single: usize, quantization: Option<Quantization>) -> Passes {
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
        quantization,
    )
}

/// What a change costs or saves is to be seen: whoever changes these changes docs/gpu.md too.
const FIGURES: Figures = [
    ("base", 1735, 104),
    ("with an adapter", 2305, 123),
    ("backwards", 6251, 335),
];
const MEMORY: MemoryFigures = [
    ("weights", 23_803),
    ("adapter", 359),
    ("a velocity", 533),
    ("training", 1332),
];

#[test]
fn passes_of_flux_dev_cost_what_the_documentation_tells() {
    let measured = |double, single| measured(double, single, None);
    // The last single block has image rows only, and needs less memory than the others.
    let (small, more_double, more_single) = (measured(1, 2), measured(2, 2), measured(1, 3));
    // 19 double and 38 single blocks.
    let more = [(&more_double, 18), (&more_single, 36)];
    let found = figures(&small, &more);
    let kinds = by_name(&more_double.vjp);
    assert_eq!(found, FIGURES, "a backward with one block more is made of\n{kinds}");
    assert_eq!(memory_figures(&small, &more), MEMORY);
}

/// Half the weights; beside them no more than one weight is ever wide, the largest of which is a modulation's.
#[test]
fn weights_of_8_bits_need_the_memory_that_the_documentation_tells() {
    const LARGEST: i64 = 2 * 18_432 * 3_072;
    let fp8 = Some(Quantization::Fp8);
    let (small, more_double, more_single) = (measured(1, 1, fp8), measured(2, 1, fp8), measured(1, 2, fp8));
    let [weights, ..] = memory_figures(&small, &[(&more_double, 18), (&more_single, 37)]);
    assert_eq!(weights, ("weights", 11_981));
    let (narrow, whole) = (small.memory, measured(1, 1, None).memory);
    assert_eq!(narrow.adapter, whole.adapter);
    for (narrow, whole) in [(narrow.velocity, whole.velocity), (narrow.training, whole.training)] {
        assert!((0..=LARGEST).contains(&(narrow - whole)), "{narrow} instead of {whole}");
    }
    // One kernel widens one weight: ten in a double block, four in a single one.
    assert_eq!(
        small.base.iter().filter(|kernel| kernel.name == "dequantized").count(),
        10 + 4
    );
}
