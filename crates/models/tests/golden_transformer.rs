//! The FLUX transformer against diffusers and peft: values written by `tests/golden/flux_transformer.py`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use gavel_models::denoiser::{ActivationMemory, Conditioning, Denoiser, Grid, Input};
use gavel_models::flux::{FluxTransformer, POOLED_PROMPT_EMBEDS, PROMPT_EMBEDS};
use gavel_models::lora::{LoraAdapter, LoraGradients};
use serde::Deserialize;

/// Largest difference allowed, relative to the largest value of the tensor: float32, sums in another order.
const VALUE_TOLERANCE: f64 = 2e-4;
const GRADIENT_TOLERANCE: f64 = 1e-3;

#[derive(Deserialize)]
struct Numbers {
    height_tokens: usize,
    width_tokens: usize,
    guidance: Option<f32>,
    eta: f64,
    clip_range: f64,
    beta: f64,
    weights_sha256: String,
}

struct Case {
    folder: PathBuf,
    numbers: Numbers,
    tensors: BTreeMap<String, Tensor>,
    transformer: FluxTransformer,
    adapter: LoraAdapter,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[derive(Clone, Copy)]
enum Implementation {
    Fused,
    CandleOps,
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
    fn open(name: &str, implementation: Implementation) -> Self {
        let folder = root().join("tests/golden/flux_transformer").join(name);
        let own_model = folder.join("transformer");
        let model = if own_model.exists() {
            own_model
        } else {
            root().join("models/tiny-flux/transformer")
        };
        let load = match implementation {
            Implementation::Fused => FluxTransformer::load,
            Implementation::CandleOps => FluxTransformer::load_with_candle_ops,
        };
        let transformer = load(&model, &Device::Cpu, DType::F32).unwrap();
        let file = folder.join("golden.safetensors");
        let bytes = std::fs::read(&file).unwrap();
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let numbers: Numbers = serde_json::from_str(&header.metadata().as_ref().unwrap()["golden"]).unwrap();
        assert_eq!(
            weights_sha256(&model),
            numbers.weights_sha256,
            "{name}: run tests/golden/flux_transformer.py again, the weights have changed"
        );
        let tensors = candle_core::safetensors::load(&file, &Device::Cpu)
            .unwrap()
            .into_iter()
            .collect();
        let adapter = LoraAdapter::load(&folder.join("adapter"), transformer.layers()).unwrap();
        Self {
            folder,
            numbers,
            tensors,
            transformer,
            adapter,
        }
    }

    fn get(&self, name: &str) -> &Tensor {
        &self.tensors[name]
    }

    fn values(&self, name: &str) -> Vec<f64> {
        to_vec(self.get(name))
    }

    fn pass(&self, latents: Tensor, sigma: Vec<f32>) -> Pass {
        Pass {
            latents,
            conditioning: Conditioning::from_iter([
                (PROMPT_EMBEDS, self.get("prompt_embeds").clone()),
                (POOLED_PROMPT_EMBEDS, self.get("pooled").clone()),
            ]),
            sigma,
            guidance: self.numbers.guidance,
            grid: Grid {
                height: self.numbers.height_tokens,
                width: self.numbers.width_tokens,
            },
        }
    }

    fn golden_pass(&self) -> Pass {
        let sigma = self.get("sigma").to_vec1().unwrap();
        self.pass(self.get("latents").clone(), sigma)
    }

    fn velocity(&self, adapter: Option<&LoraAdapter>, pass: &Pass) -> Tensor {
        self.transformer.velocity(adapter, &pass.input()).unwrap()
    }

    fn check(&self, what: &str, found: &Tensor) {
        assert_eq!(found.dims(), self.get(what).dims());
        check_close(
            &format!("{}: {what}", self.folder.display()),
            &to_vec(found),
            &self.values(what),
            VALUE_TOLERANCE,
        );
    }

    /// dLoss/dvelocity of mean(clipped PPO + beta * Gaussian KL), by formula.
    fn loss_gradient(&self, velocity: &Tensor) -> Tensor {
        let (x, x_next, v, v_base) = (
            self.values("latents"),
            self.values("x_next"),
            to_vec(velocity),
            self.values("velocity_base"),
        );
        let (sigmas, sigmas_next) = (self.values("sigma"), self.values("sigma_next"));
        let (advantages, old) = (self.values("advantages"), self.values("log_prob_old"));
        let Numbers {
            eta, clip_range, beta, ..
        } = self.numbers;
        let batch = sigmas.len();
        let count = x.len() / batch;
        let mut gradient = vec![0.0_f32; x.len()];
        let mut loss = 0.0;
        for sample in 0..batch {
            let (sigma, d) = (sigmas[sample], sigmas_next[sample] - sigmas[sample]);
            let variance = eta * eta * -d;
            let range = sample * count..(sample + 1) * count;
            // score = -(x + (1 - sigma) v) / sigma, so the mean is linear in v with this slope.
            let mean = |i: usize, v: f64| x[i] + d * v + 0.5 * eta * eta * d * (x[i] + (1.0 - sigma) * v) / sigma;
            let slope = d + 0.5 * eta * eta * d * (1.0 - sigma) / sigma;
            let log_prob = range
                .clone()
                .map(|i| -(x_next[i] - mean(i, v[i])).powi(2) / (2.0 * variance))
                .sum::<f64>()
                / count as f64
                - 0.5 * variance.ln()
                - 0.5 * (2.0 * std::f64::consts::PI).ln();
            let ratio = (log_prob - old[sample]).exp();
            let (free, clipped) = (
                -advantages[sample] * ratio,
                -advantages[sample] * ratio.clamp(1.0 - clip_range, 1.0 + clip_range),
            );
            let ppo_slope = if free >= clipped { free } else { 0.0 };
            let kl = range
                .clone()
                .map(|i| (mean(i, v[i]) - mean(i, v_base[i])).powi(2) / (2.0 * variance))
                .sum::<f64>();
            loss += (free.max(clipped) + beta * kl / count as f64) / batch as f64;
            for i in range {
                let residual = (x_next[i] - mean(i, v[i])) / variance;
                let drift = (mean(i, v[i]) - mean(i, v_base[i])) / variance;
                gradient[i] = ((ppo_slope * residual + beta * drift) * slope / (count * batch) as f64) as f32;
            }
        }
        let expected = self.values("loss")[0];
        assert!(
            (loss - expected).abs() < 1e-4 * expected.abs().max(1.0),
            "loss {loss}, expected {expected}"
        );
        Tensor::from_vec(gradient, velocity.dims(), &Device::Cpu).unwrap()
    }

    fn gradients(&self, memory: ActivationMemory) -> LoraGradients {
        let (velocity, tape) = self
            .transformer
            .velocity_for_vjp(&self.adapter, &self.golden_pass().input(), memory)
            .unwrap();
        self.check("velocity", &velocity);
        let mut gradients = LoraGradients::zeros(&self.adapter);
        self.transformer
            .vjp(&self.adapter, tape, &self.loss_gradient(&velocity), &mut gradients)
            .unwrap();
        gradients
    }
}

fn weights_sha256(folder: &Path) -> String {
    use sha2::{Digest, Sha256};
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
        .collect();
    files.sort();
    let mut hash = Sha256::new();
    files.iter().for_each(|file| hash.update(std::fs::read(file).unwrap()));
    hex::encode(hash.finalize())
}

fn to_vec(tensor: &Tensor) -> Vec<f64> {
    tensor
        .to_dtype(DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

fn check_close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
    let difference = found
        .iter()
        .zip(expected)
        .fold(0.0_f64, |worst, (a, b)| worst.max((a - b).abs()));
    assert!(
        difference <= tolerance * largest,
        "{what}: differs by {difference:e} of {largest:e}"
    );
}

fn check_case(name: &str, implementation: Implementation) {
    let case = Case::open(name, implementation);
    case.check("velocity_base", &case.velocity(None, &case.golden_pass()));
    case.check("velocity", &case.velocity(Some(&case.adapter), &case.golden_pass()));

    let mut x = case.get("latents").clone();
    let sigmas = case.values("sigmas");
    for step in sigmas.windows(2) {
        let sigma = vec![step[0] as f32; x.dim(0).unwrap()];
        let velocity = case.velocity(Some(&case.adapter), &case.pass(x.clone(), sigma));
        x = (x + (velocity * (step[1] - step[0])).unwrap()).unwrap();
    }
    case.check("ode_sample", &x);

    let kept = case.gradients(ActivationMemory::KeepAll);
    let bytes = kept.to_safetensors().unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let expected: Vec<&String> = case.tensors.keys().filter(|name| name.starts_with("grad.")).collect();
    assert_eq!(expected.len(), tensors.len());
    for name in expected {
        let view = tensors.tensor(name.strip_prefix("grad.").unwrap()).unwrap();
        assert_eq!(view.shape(), case.get(name).dims(), "{name}");
        let found: Vec<f64> = view
            .data()
            .chunks_exact(4)
            .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())))
            .collect();
        check_close(name, &found, &case.values(name), GRADIENT_TOLERANCE);
    }
    let checkpointed = case.gradients(ActivationMemory::Checkpoint);
    assert!(
        kept.flatten().unwrap() == checkpointed.flatten().unwrap(),
        "{name}: checkpointing changes the gradients"
    );
}

const CASES: [&str; 5] = [
    "tiny_flux",
    "wide_picture",
    "sharded_without_guidance",
    "double_blocks_only",
    "single_blocks_only",
];

#[test]
fn fused_kernels_match_diffusers_and_peft() {
    CASES
        .into_iter()
        .for_each(|name| check_case(name, Implementation::Fused));
}

#[test]
fn plain_candle_operations_match_diffusers_and_peft() {
    CASES
        .into_iter()
        .for_each(|name| check_case(name, Implementation::CandleOps));
}

#[test]
fn a_batch_equals_its_samples_one_by_one_bit_for_bit() {
    for name in CASES {
        let case = Case::open(name, Implementation::Fused);
        let pass = case.golden_pass();
        let batch = to_vec(&case.velocity(Some(&case.adapter), &pass));
        let singles: Vec<f64> = (0..pass.sigma.len())
            .flat_map(|sample| to_vec(&case.velocity(Some(&case.adapter), &pass.single(sample))))
            .collect();
        assert!(batch == singles, "{name}");
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let case = Case::open("wide_picture", Implementation::Fused);
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
    let case = Case::open("double_blocks_only", Implementation::Fused);
    let bytes = case.gradients(ActivationMemory::KeepAll).to_safetensors().unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let silent = tensors
        .tensor("transformer_blocks.1.attn.to_add_out.lora_B.weight")
        .unwrap();
    assert!(silent.data().iter().all(|byte| *byte == 0));
}

#[test]
fn gradients_of_two_backwards_add_up() {
    let case = Case::open("wide_picture", Implementation::Fused);
    let once = case.gradients(ActivationMemory::KeepAll);
    let (velocity, tape) = case
        .transformer
        .velocity_for_vjp(&case.adapter, &case.golden_pass().input(), ActivationMemory::KeepAll)
        .unwrap();
    let mut twice = once.clone();
    case.transformer
        .vjp(&case.adapter, tape, &case.loss_gradient(&velocity), &mut twice)
        .unwrap();
    let mut doubled = once;
    doubled.scale(2.0).unwrap();
    assert!(twice.flatten().unwrap() == doubled.flatten().unwrap());
}

#[test]
fn a_tape_of_another_transformer_is_refused() {
    let (case, other) = (
        Case::open("wide_picture", Implementation::Fused),
        Case::open("wide_picture", Implementation::Fused),
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
    let case = Case::open("wide_picture", Implementation::Fused);
    let refusal = |change: &dyn Fn(&mut Conditioning)| {
        let mut pass = case.golden_pass();
        change(&mut pass.conditioning);
        case.transformer.velocity(None, &pass.input()).unwrap_err().to_string()
    };
    let pooled = case.get("pooled");
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
