//! The FLUX transformer against diffusers and peft: values written by `tests/golden/flux_transformer.py`.

use candle_core::{Device, Tensor};
use gavel_core::spec::Quantization;
use gavel_models::denoiser::{ActivationMemory, Conditioning, Denoiser, Grid, Input};
use gavel_models::flux::{FluxTransformer, POOLED_PROMPT_EMBEDS, PROMPT_EMBEDS};
use gavel_models::lora::{LoraAdapter, LoraGradients};
use serde::Deserialize;

use crate::golden::{Golden, quantization, to_vec};
use crate::kernels::{Kernels, root};

#[derive(Deserialize)]
struct Numbers {
    height_tokens: usize,
    width_tokens: usize,
    guidance: Option<f32>,
}

struct Case {
    golden: Golden<Numbers>,
    transformer: FluxTransformer,
    adapter: LoraAdapter,
}

/// Owns what an [`Input`] borrows.
struct Pass {
    latents: Tensor,
    conditioning: Conditioning,
    sigma: Vec<f32>,
    guidance: Option<f32>,
    grid: Grid,
}

impl Pass {
    fn input(&self) -> Input<'_> {
        Input {
            latents: &self.latents,
            conditioning: &self.conditioning,
            sigma: &self.sigma,
            guidance: self.guidance,
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

impl Case {
    fn open(name: &str, kernels: Kernels) -> Self {
        let folder = root().join("tests/golden/flux_transformer").join(name);
        let own_model = folder.join("transformer");
        let model = if own_model.exists() {
            own_model
        } else {
            root().join("models/tiny-flux/transformer")
        };
        let placement = kernels.placement().quantized(quantization(name));
        let transformer = FluxTransformer::load(&model, &placement).unwrap();
        let golden = Golden::open(&folder, &model, "tests/golden/flux_transformer.py", kernels);
        let adapter = LoraAdapter::load(&folder.join("adapter"), transformer.layers()).unwrap();
        Self {
            golden,
            transformer,
            adapter,
        }
    }

    fn pass(&self, latents: Tensor, sigma: Vec<f32>) -> Pass {
        Pass {
            latents,
            conditioning: Conditioning::from_iter([
                (PROMPT_EMBEDS, self.golden.get("prompt_embeds").clone()),
                (POOLED_PROMPT_EMBEDS, self.golden.get("pooled").clone()),
            ]),
            sigma,
            guidance: self.golden.own.guidance,
            grid: Grid {
                height: self.golden.own.height_tokens,
                width: self.golden.own.width_tokens,
            },
        }
    }

    fn golden_pass(&self) -> Pass {
        let sigma = self.golden.get("sigma").to_vec1().unwrap();
        self.pass(self.golden.get("latents").clone(), sigma)
    }

    fn velocity(&self, adapter: Option<&LoraAdapter>, pass: &Pass) -> Tensor {
        let velocity = self.transformer.velocity(adapter, &pass.input()).unwrap();
        velocity.to_device(&Device::Cpu).unwrap()
    }

    fn gradients(&self, memory: ActivationMemory) -> LoraGradients {
        let (velocity, tape) = self
            .transformer
            .velocity_for_vjp(&self.adapter, &self.golden_pass().input(), memory)
            .unwrap();
        self.golden.check("velocity", &velocity);
        let mut gradients = LoraGradients::zeros(&self.adapter);
        self.transformer
            .vjp(
                &self.adapter,
                tape,
                &self.golden.loss_gradient(&velocity),
                &mut gradients,
            )
            .unwrap();
        gradients
    }
}

fn check_case(name: &str, kernels: Kernels) {
    let case = Case::open(name, kernels);
    case.golden
        .check("velocity_base", &case.velocity(None, &case.golden_pass()));
    case.golden
        .check("velocity", &case.velocity(Some(&case.adapter), &case.golden_pass()));

    let mut x = case.golden.get("latents").clone();
    let sigmas = case.golden.values("sigmas");
    for step in sigmas.windows(2) {
        let sigma = vec![step[0] as f32; x.dim(0).unwrap()];
        let velocity = case.velocity(Some(&case.adapter), &case.pass(x.clone(), sigma));
        x = (x + (velocity * (step[1] - step[0])).unwrap()).unwrap();
    }
    case.golden.check("ode_sample", &x);

    let kept = case.gradients(ActivationMemory::KeepAll);
    case.golden.check_gradients(&kept);
    let checkpointed = case.gradients(ActivationMemory::Checkpoint);
    assert!(
        kept.flatten().unwrap() == checkpointed.flatten().unwrap(),
        "{name}: checkpointing changes the gradients"
    );
}

const CASES: [&str; 7] = [
    "tiny_flux",
    "tiny_flux_fp8",
    "tiny_flux_nf4",
    "wide_picture",
    "sharded_without_guidance",
    "double_blocks_only",
    "single_blocks_only",
];

#[test]
fn fused_kernels_match_diffusers_and_peft() {
    CASES.into_iter().for_each(|name| check_case(name, Kernels::Fused));
}

#[test]
fn the_code_of_gpus_matches_diffusers_and_peft() {
    for name in CASES {
        check_case(name, Kernels::CandleF32);
        check_case(name, Kernels::CandleBf16);
    }
}

#[test]
fn a_batch_equals_its_samples_one_by_one_bit_for_bit() {
    for (name, kernels) in CASES
        .into_iter()
        .flat_map(|name| Kernels::ALL.map(|kernels| (name, kernels)))
    {
        let case = Case::open(name, kernels);
        let pass = case.golden_pass();
        let batch = to_vec(&case.velocity(Some(&case.adapter), &pass));
        let singles: Vec<f64> = (0..pass.sigma.len())
            .flat_map(|sample| to_vec(&case.velocity(Some(&case.adapter), &pass.single(sample))))
            .collect();
        assert!(batch == singles, "{name} by {kernels:?}");
    }
}

/// docs/gpu.md has the figures.
#[test]
fn quantized_weights_move_the_velocity_of_the_small_model_by_a_little() {
    let case = Case::open("tiny_flux", Kernels::Fused);
    let folder = root().join("models/tiny-flux/transformer");
    let pass = case.golden_pass();
    let expected = to_vec(&case.velocity(None, &pass));
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
    let moved = |quantization| {
        let placement = Kernels::Fused.placement().quantized(Some(quantization));
        let narrow = FluxTransformer::load(&folder, &placement).unwrap();
        let found = to_vec(&narrow.velocity(None, &pass.input()).unwrap());
        let error = squares(&mut found.iter().zip(&expected).map(|(a, b)| a - b));
        (error / squares(&mut expected.iter().copied())).sqrt()
    };
    let (eight, four) = (moved(Quantization::Fp8), moved(Quantization::Nf4));
    assert!((0.002..0.05).contains(&eight), "{eight}");
    assert!((eight..0.2).contains(&four), "{four}");
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let case = Case::open("wide_picture", Kernels::Fused);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let velocity = to_vec(&case.velocity(Some(&case.adapter), &case.golden_pass()));
            (velocity, case.gradients(ActivationMemory::KeepAll).flatten().unwrap())
        })
    };
    // One thread runs whole chunks; seven share the rows and heads of each operation too.
    let one = run(1);
    assert!(one == run(2));
    assert!(one == run(7));
}

#[test]
fn the_text_branch_of_a_last_double_block_gets_no_gradient() {
    let case = Case::open("double_blocks_only", Kernels::Fused);
    let bytes = case.gradients(ActivationMemory::KeepAll).to_safetensors().unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let silent = tensors
        .tensor("transformer_blocks.1.attn.to_add_out.lora_B.weight")
        .unwrap();
    assert!(silent.data().iter().all(|byte| *byte == 0));
}

#[test]
fn gradients_of_two_backwards_add_up() {
    let case = Case::open("wide_picture", Kernels::Fused);
    let once = case.gradients(ActivationMemory::KeepAll);
    let (velocity, tape) = case
        .transformer
        .velocity_for_vjp(&case.adapter, &case.golden_pass().input(), ActivationMemory::KeepAll)
        .unwrap();
    let mut twice = once.clone();
    case.transformer
        .vjp(&case.adapter, tape, &case.golden.loss_gradient(&velocity), &mut twice)
        .unwrap();
    let mut doubled = once;
    doubled.scale(2.0).unwrap();
    assert!(twice.flatten().unwrap() == doubled.flatten().unwrap());
}

#[test]
fn a_tape_of_another_transformer_is_refused() {
    let (case, other) = (
        Case::open("wide_picture", Kernels::Fused),
        Case::open("wide_picture", Kernels::Fused),
    );
    let (velocity, tape) = case
        .transformer
        .velocity_for_vjp(&case.adapter, &case.golden_pass().input(), ActivationMemory::KeepAll)
        .unwrap();
    let mut gradients = LoraGradients::zeros(&other.adapter);
    let refused = other.transformer.vjp(&other.adapter, tape, &velocity, &mut gradients);
    assert_eq!(
        refused.unwrap_err().to_string(),
        "`tape`: comes from another transformer"
    );
}

#[test]
fn conditioning_of_another_family_is_refused_by_name() {
    let case = Case::open("wide_picture", Kernels::Fused);
    let refusal = |change: &dyn Fn(&mut Conditioning)| {
        let mut pass = case.golden_pass();
        change(&mut pass.conditioning);
        case.transformer.velocity(None, &pass.input()).unwrap_err().to_string()
    };
    let pooled = case.golden.get("pooled");
    let unread = refusal(&|conditioning| conditioning.insert("image_latents", pooled.clone()));
    assert!(
        unread.contains("`image_latents`, which this model does not read"),
        "{unread}"
    );
    let misfit = refusal(&|conditioning| conditioning.insert(PROMPT_EMBEDS, pooled.clone()));
    assert!(misfit.starts_with("`prompt_embeds` has shape"), "{misfit}");
    let missing = refusal(&|conditioning| {
        *conditioning = Conditioning::from_iter([(POOLED_PROMPT_EMBEDS, pooled.clone())]);
    });
    assert_eq!(missing, "the conditioning has no tensor `prompt_embeds`");
}
