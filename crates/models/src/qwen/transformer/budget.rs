//! What Qwen-Image's passes cost a GPU. docs/gpu.md has the table.

use candle_core::{DType, Device, Tensor};

use super::config::QwenImageTransformerConfig;
use super::network::QwenImageNetwork;
use super::{Load, QwenImageTransformer};
use crate::denoiser::budget::{Figures, Passes, figures, passes};
use crate::denoiser::loader::Loader;
use crate::denoiser::{Conditioning, Grid};
use crate::lora::{AdaptableLayers, LoraConfig};
use crate::ops::WithBackend as _;
use crate::ops::candle::counted::by_name;
use crate::qwen::PROMPT_EMBEDS;

/// Qwen-Image with another number of blocks.
fn config(blocks: usize) -> QwenImageTransformerConfig {
    QwenImageTransformerConfig {
        patch_size: 2,
        in_channels: 64,
        out_channels: 16,
        num_layers: blocks,
        attention_head_dim: 128,
        num_attention_heads: 24,
        joint_attention_dim: 3584,
        axes_dims_rope: vec![16, 56, 56],
        zero_cond_t: false,
        guidance_embeds: false,
        use_additional_t_cond: false,
        use_layer3d_rope: false,
    }
}

/// A picture of 512 x 512 under 128 tokens of a prompt, with rank 16 on the attention projections.
fn measured(blocks: usize) -> Passes {
    let targets = QwenImageTransformer::PUBLISHED_TARGETS.iter();
    let lora = LoraConfig {
        rank: 16,
        alpha: 16.0,
        dropout: 0.0,
        target_modules: targets.map(|target| (*target).to_owned()).collect(),
    };
    let words = Tensor::zeros((1, 128, 3584), DType::F32, &Device::Cpu).unwrap();
    passes(
        |names, weights| {
            let mut layers = AdaptableLayers::default();
            QwenImageNetwork::load(Loader::new(names, weights, &mut layers), config(blocks)).unwrap();
        },
        |backend, weights| {
            let config = config(blocks);
            Load { config, weights }.run(backend).unwrap()
        },
        &lora,
        &Conditioning::from_iter([(PROMPT_EMBEDS, words)]),
        Grid { height: 32, width: 32 },
        None,
    )
}

/// What a change costs or saves is to be seen: whoever changes these changes docs/gpu.md too.
const FIGURES: Figures = [
    ("base", 3064, 103),
    ("with an adapter", 3781, 115),
    ("backwards", 9539, 274),
];

#[test]
fn passes_of_qwen_image_cost_what_the_documentation_tells() {
    let (one, two) = (measured(1), measured(2));
    let found = figures(&one, &[(&two, 59)]);
    let kinds = by_name(&two.vjp);
    assert_eq!(found, FIGURES, "a backward with one block more is made of\n{kinds}");
}
