//! The Qwen-Image transformer against diffusers and peft: values written by `tests/golden/qwen_transformer.py`.

use std::path::PathBuf;

use candle_core::Tensor;
use gavel_models::Family;
use gavel_models::denoiser::{ActivationMemory, Conditioning, Denoiser, Grid, Input};
use gavel_models::load::Placement;
use gavel_models::lora::{LoraAdapter, LoraGradients};
use gavel_models::qwen::{PROMPT_EMBEDS, QwenImageTransformer, source_latents};
use serde::Deserialize;

use crate::golden::{Golden, quantization, to_vec};
use crate::kernels::{Kernels, root};

#[derive(Deserialize)]
struct Numbers {
    height_tokens: usize,
    width_tokens: usize,
    guidance_scale: f32,
}

/// Each case and how many source pictures it has.
const CASES: [(&str, usize); 6] = [
    ("text_to_image", 0),
    ("text_to_image_fp8", 0),
    ("edit", 1),
    ("two_sources", 2),
    ("source_at_time_zero", 2),
    ("sharded", 1),
];

struct Case {
    golden: Golden<Numbers>,
    transformer: QwenImageTransformer,
    adapter: LoraAdapter,
    sources: usize,
}

/// Owns what an [`Input`] borrows.
struct Pass {
    latents: Tensor,
    conditioning: Conditioning,
    sigma: Vec<f32>,
    grid: Grid,
}

impl Pass {
    fn input(&self) -> Input<'_> {
        Input {
            latents: &self.latents,
            conditioning: &self.conditioning,
            sigma: &self.sigma,
            guidance: None,
            grid: self.grid,
        }
    }

    /// The input of one sample.
    fn single(&self, sample: usize) -> Self {
        let part = |tensor: &Tensor| tensor.narrow(0, sample, 1).unwrap();
        Self {
            latents: part(&self.latents),
            conditioning: self
                .conditioning
                .iter()
                .map(|(name, tensor)| (name, part(tensor)))
                .collect(),
            sigma: vec![self.sigma[sample]],
            ..*self
        }
    }
}

fn folder(name: &str) -> PathBuf {
    root().join("tests/golden/qwen_transformer").join(name)
}

impl Case {
    fn open(name: &str, kernels: Kernels) -> Self {
        let (_, sources) = CASES.into_iter().find(|(case, _)| *case == name).unwrap();
        let family = if sources == 0 {
            Family::QwenImage
        } else {
            Family::QwenImageEdit
        };
        let folder = folder(name);
        let model = folder.join("transformer");
        let placement = kernels.placement().quantized(quantization(name));
        let transformer = QwenImageTransformer::load(family, &model, &placement).unwrap();
        let golden = Golden::open(&folder, &model, "tests/golden/qwen_transformer.py", kernels);
        let adapter = LoraAdapter::load(&folder.join("adapter"), transformer.layers()).unwrap();
        Self {
            golden,
            transformer,
            adapter,
            sources,
        }
    }

    fn pass(&self) -> Pass {
        let names = (0..self.sources).map(source_latents).chain([PROMPT_EMBEDS.to_owned()]);
        Pass {
            latents: self.golden.get("latents").clone(),
            conditioning: names
                .map(|name| (name.clone(), self.golden.get(&name).clone()))
                .collect(),
            sigma: self.golden.get("sigma").to_vec1().unwrap(),
            grid: Grid {
                height: self.golden.own.height_tokens,
                width: self.golden.own.width_tokens,
            },
        }
    }

    fn velocity(&self, adapter: Option<&LoraAdapter>, pass: &Pass) -> Tensor {
        self.transformer.velocity(adapter, &pass.input()).unwrap()
    }

    fn gradients(&self, memory: ActivationMemory) -> LoraGradients {
        let (velocity, tape) = self
            .transformer
            .velocity_for_vjp(&self.adapter, &self.pass().input(), memory)
            .unwrap();
        self.golden.check("velocity", &velocity);
        let mut gradients = LoraGradients::zeros(&self.adapter);
        let grad = self.golden.loss_gradient(&velocity);
        self.transformer
            .vjp(&self.adapter, tape, &grad, &mut gradients)
            .unwrap();
        gradients
    }

    /// What the transformer answers to a pass with a changed conditioning.
    fn refusal(&self, change: impl Fn(&mut Conditioning)) -> String {
        let mut pass = self.pass();
        change(&mut pass.conditioning);
        let refused = self.transformer.velocity(None, &pass.input());
        refused.unwrap_err().to_string()
    }
}

fn check_case(name: &str, kernels: Kernels) {
    let case = Case::open(name, kernels);
    let (base, adapted) = (
        case.velocity(None, &case.pass()),
        case.velocity(Some(&case.adapter), &case.pass()),
    );
    case.golden.check("velocity_base", &base);
    case.golden.check("velocity", &adapted);
    let scale = case.golden.own.guidance_scale;
    let guided = case.transformer.guided(&adapted, &base, scale).unwrap();
    let stretched = if kernels == Kernels::CandleBf16 { 2.0 } else { 1.0 };
    case.golden.check_stretched("guided", &guided, stretched);

    let kept = case.gradients(ActivationMemory::KeepAll);
    case.golden.check_gradients(&kept);
    let checkpointed = case.gradients(ActivationMemory::Checkpoint);
    assert!(
        kept.flatten().unwrap() == checkpointed.flatten().unwrap(),
        "{name}: checkpointing changes the gradients"
    );
}

#[test]
fn fused_kernels_match_diffusers_and_peft() {
    for (name, _) in CASES {
        check_case(name, Kernels::Fused);
    }
}

#[test]
fn the_code_of_gpus_matches_diffusers_and_peft() {
    for (name, _) in CASES {
        check_case(name, Kernels::CandleF32);
        check_case(name, Kernels::CandleBf16);
    }
}

#[test]
fn a_batch_equals_its_samples_one_by_one_bit_for_bit() {
    for ((name, _), kernels) in CASES
        .into_iter()
        .flat_map(|case| Kernels::ALL.map(|kernels| (case, kernels)))
    {
        let case = Case::open(name, kernels);
        let pass = case.pass();
        let batch = to_vec(&case.velocity(Some(&case.adapter), &pass));
        let singles: Vec<f64> = (0..pass.sigma.len())
            .flat_map(|sample| to_vec(&case.velocity(Some(&case.adapter), &pass.single(sample))))
            .collect();
        assert!(batch == singles, "{name} by {kernels:?}");
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let case = Case::open("source_at_time_zero", Kernels::Fused);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let velocity = to_vec(&case.velocity(Some(&case.adapter), &case.pass()));
            (velocity, case.gradients(ActivationMemory::KeepAll).flatten().unwrap())
        })
    };
    let one = run(1);
    assert!(one == run(2));
    assert!(one == run(7));
}

#[test]
fn the_text_branch_of_the_last_block_gets_no_gradient() {
    for (name, last) in [("edit", 1), ("source_at_time_zero", 2)] {
        for kernels in Kernels::ALL {
            let case = Case::open(name, kernels);
            let bytes = case.gradients(ActivationMemory::KeepAll).to_safetensors().unwrap();
            let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            let is_zero = |layer: &str| {
                let tensor = tensors.tensor(&format!("transformer_blocks.{last}.attn.{layer}.weight"));
                let values: Vec<f32> = tensor
                    .unwrap()
                    .data()
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                    .collect();
                values.iter().all(|value| *value == 0.0)
            };
            for layer in ["add_q_proj", "to_add_out"] {
                assert!(is_zero(&format!("{layer}.lora_A")), "{name}: {layer}");
                assert!(is_zero(&format!("{layer}.lora_B")), "{name}: {layer}");
            }
            assert!(!is_zero("add_k_proj.lora_A") && !is_zero("add_v_proj.lora_B"), "{name}");
        }
    }
}

#[test]
fn conditioning_that_does_not_fit_is_refused_by_name() {
    let case = Case::open("two_sources", Kernels::Fused);
    let source = case.golden.get("source_latents.1");
    let refusal = |change: &dyn Fn(&mut Conditioning)| case.refusal(change);

    let missing = refusal(&|conditioning| {
        *conditioning = Conditioning::from_iter([(source_latents(0), source.clone())]);
    });
    assert_eq!(missing, "the conditioning has no tensor `prompt_embeds`");
    let words = refusal(&|conditioning| conditioning.insert(PROMPT_EMBEDS, source.flatten(1, 2).unwrap()));
    assert!(words.starts_with("`prompt_embeds` has shape"), "{words}");
    let unread = refusal(&|conditioning| conditioning.insert("pooled_prompt_embeds", source.clone()));
    assert!(
        unread.contains("`pooled_prompt_embeds`, which this model does not read"),
        "{unread}"
    );
    let gap = refusal(&|conditioning| conditioning.insert(source_latents(3), source.clone()));
    assert_eq!(gap, "the conditioning has no tensor `source_latents.2`");
    let flat = refusal(&|conditioning| conditioning.insert(source_latents(1), source.flatten(1, 2).unwrap()));
    assert!(
        flat.starts_with("`source_latents` has shape") && flat.contains("`source_latents.1`"),
        "{flat}"
    );
    let narrow = refusal(&|conditioning| conditioning.insert(source_latents(0), source.narrow(3, 0, 4).unwrap()));
    assert!(
        narrow.contains("[1, 6, 4]") && narrow.contains("`source_latents.0`"),
        "{narrow}"
    );
    let nothing_to_edit = refusal(&|conditioning| {
        *conditioning = Conditioning::from_iter([(PROMPT_EMBEDS, case.golden.get(PROMPT_EMBEDS).clone())]);
    });
    assert_eq!(nothing_to_edit, "the conditioning has no tensor `source_latents.0`");

    let from_words = Case::open("text_to_image", Kernels::Fused);
    let edits = from_words.refusal(|conditioning| conditioning.insert(source_latents(0), source.clone()));
    assert!(edits.contains("a batch of 3"), "{edits}");
    let latents = from_words.golden.get("latents").unsqueeze(1).unwrap();
    let edits = from_words.refusal(|conditioning| conditioning.insert(source_latents(0), latents.clone()));
    assert!(
        edits.contains("`source_latents.0`, which this model does not read"),
        "{edits}"
    );
}

#[test]
fn settings_of_other_models_are_refused_by_name() {
    let refusal = |key: &str, value: serde_json::Value| {
        let copy = tempfile::tempdir().unwrap();
        let file = folder("edit").join("transformer/config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        config[key] = value;
        std::fs::write(copy.path().join("config.json"), config.to_string()).unwrap();
        let refused = QwenImageTransformer::load(Family::QwenImageEdit, copy.path(), &Placement::cpu());
        refused.unwrap_err().to_string()
    };
    for key in ["guidance_embeds", "use_additional_t_cond", "use_layer3d_rope"] {
        let refused = refusal(key, true.into());
        assert!(
            refused.contains(&format!("`{key}`")) && refused.contains("true"),
            "{refused}"
        );
    }
    for (key, value) in [
        ("num_layers", serde_json::json!(0)),
        ("out_channels", serde_json::json!(8)),
        ("axes_dims_rope", serde_json::json!([4, 8, 10])),
    ] {
        let refused = refusal(key, value);
        assert!(refused.contains(&format!("`{key}`")), "{refused}");
    }
}
