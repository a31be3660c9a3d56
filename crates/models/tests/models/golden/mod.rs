//! Golden values of a transformer, as `tests/golden/*_transformer.py` writes them, and what is compared with them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use gavel_core::spec::Quantization;
use gavel_models::lora::LoraGradients;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::kernels::Kernels;

/// How much further a gradient may be off than a value: it has gone through every layer twice.
const GRADIENT_FACTOR: f64 = 5.0;

/// Numbers that the golden values of every family have.
#[derive(Deserialize)]
struct Numbers {
    eta: f64,
    clip_range: f64,
    beta: f64,
    weights_sha256: String,
}

/// The golden values of one model; `N` are the numbers that the family adds.
pub(crate) struct Golden<N> {
    file: PathBuf,
    numbers: Numbers,
    kernels: Kernels,
    pub(crate) own: N,
    tensors: BTreeMap<String, Tensor>,
}

impl<N: DeserializeOwned> Golden<N> {
    /// Opens the case in `folder`, which `script` made of the weights in `model`, to hold what `kernels` compute against it.
    pub(crate) fn open(folder: &Path, model: &Path, script: &str, kernels: Kernels) -> Self {
        let file = folder.join("golden.safetensors");
        let bytes = std::fs::read(&file).unwrap();
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let numbers = &header.metadata().as_ref().unwrap()["golden"];
        let shared: Numbers = serde_json::from_str(numbers).unwrap();
        assert_eq!(
            weights_sha256(model),
            shared.weights_sha256,
            "{}: run {script} again, the weights have changed",
            folder.display()
        );
        let tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
        Self {
            file,
            numbers: shared,
            kernels,
            own: serde_json::from_str(numbers).unwrap(),
            tensors: tensors.into_iter().collect(),
        }
    }
}

impl<N> Golden<N> {
    pub(crate) fn get(&self, name: &str) -> &Tensor {
        &self.tensors[name]
    }

    pub(crate) fn values(&self, name: &str) -> Vec<f64> {
        to_vec(self.get(name))
    }

    /// Compares a tensor with the golden one.
    pub(crate) fn check(&self, what: &str, found: &Tensor) {
        self.check_stretched(what, found, 1.0);
    }

    /// Compares a tensor with the golden one; `stretched` is by how much its making stretches the differences of what it is made of.
    pub(crate) fn check_stretched(&self, what: &str, found: &Tensor, stretched: f64) {
        assert_eq!(found.dims(), self.get(what).dims());
        check_close(
            &format!("{} by {:?}: {what}", self.file.display(), self.kernels),
            &to_vec(found),
            &self.values(what),
            stretched * self.kernels.tolerance(),
        );
    }

    /// Compares the gradient of every factor with the golden one.
    pub(crate) fn check_gradients(&self, gradients: &LoraGradients) {
        let bytes = gradients.to_safetensors().unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let expected: Vec<&String> = self.tensors.keys().filter(|name| name.starts_with("grad.")).collect();
        assert_eq!(expected.len(), tensors.len());
        for name in expected {
            let view = tensors.tensor(name.strip_prefix("grad.").unwrap()).unwrap();
            assert_eq!(view.shape(), self.get(name).dims(), "{name}");
            let found: Vec<f64> = view
                .data()
                .chunks_exact(4)
                .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())))
                .collect();
            let what = format!("{} by {:?}: {name}", self.file.display(), self.kernels);
            check_close(
                &what,
                &found,
                &self.values(name),
                GRADIENT_FACTOR * self.kernels.tolerance(),
            );
        }
    }

    /// dLoss/dvelocity of mean(clipped PPO + beta * Gaussian KL), by formula.
    ///
    /// In bfloat16 it is taken at the golden velocity: at a rounded one the loss is another, and where a ratio lies at the edge of its
    /// range, it may be clipped.
    pub(crate) fn loss_gradient(&self, velocity: &Tensor) -> Tensor {
        let (x, x_next, v, v_base) = (
            self.values("latents"),
            self.values("x_next"),
            match self.kernels {
                Kernels::Fused | Kernels::CandleF32 => to_vec(velocity),
                Kernels::CandleBf16 => self.values("velocity"),
            },
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
}

/// How the weights of a case are kept: the name of one with quantized weights says so.
pub(crate) fn quantization(case: &str) -> Option<Quantization> {
    match case.rsplit('_').next() {
        Some("fp8") => Some(Quantization::Fp8),
        Some("nf4") => Some(Quantization::Nf4),
        _ => None,
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

pub(crate) fn to_vec(tensor: &Tensor) -> Vec<f64> {
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
