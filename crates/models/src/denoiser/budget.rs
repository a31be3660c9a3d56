//! What a pass would cost a GPU at published sizes, for the families' tests: the real code on tensors without values.

use std::cell::RefCell;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use gavel_core::spec::Quantization;
use serde_json::{Map, json};

use super::engine::Compute;
use super::loader::{LayerSource, Precision};
use super::{ActivationMemory, Conditioning, Grid, Input};
use crate::load::Placement;
use crate::lora::{LoraAdapter, LoraConfig, LoraGradients};
use crate::ops::candle::CandleOps;
use crate::ops::candle::counted::{Cost, Counted, Kernel, Record, cost};
use crate::{LoadError, Weights};

/// Writes down which tensors a network takes.
#[derive(Default)]
pub(crate) struct Names(RefCell<Vec<(String, Vec<usize>)>>);

impl Names {
    fn note(&self, name: String, shape: &[usize]) {
        self.0.borrow_mut().push((name, shape.to_vec()));
    }
}

impl LayerSource for Names {
    type Projection = ();
    type HeadNorm = ();
    type RmsNorm = ();

    fn linear(&self, _: &Weights, inputs: usize, parts: &[(String, usize)], _: Precision) -> Result<(), LoadError> {
        for (path, outputs) in parts {
            self.note(format!("{path}.weight"), &[*outputs, inputs]);
            self.note(format!("{path}.bias"), &[*outputs]);
        }
        Ok(())
    }

    fn head_norm(&self, _: &Weights, paths: [&str; 2], head_dim: usize) -> Result<(), LoadError> {
        for path in paths {
            self.note(format!("{path}.weight"), &[head_dim]);
        }
        Ok(())
    }

    fn rms_norm(&self, _: &Weights, path: &str, width: usize) -> Result<(), LoadError> {
        self.note(format!("{path}.weight"), &[width]);
        Ok(())
    }
}

/// Weights in bfloat16, all 0, in a file without blocks on the disk.
fn zeros(dir: &Path, tensors: &[(String, Vec<usize>)], quantization: Option<Quantization>) -> Weights {
    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in tensors {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        header.insert(
            name.clone(),
            json!({ "dtype": "BF16", "shape": shape, "data_offsets": [start, end] }),
        );
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = File::create(dir.join("diffusion_pytorch_model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&header).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
    let placement = Placement::candle(Device::Cpu, DType::BF16).quantized(quantization);
    Weights::open(dir, &placement).unwrap()
}

/// Kernels and whole GB of a pass of each kind, as docs/gpu.md tells them.
pub(crate) type Figures = [(&'static str, i64, i64); 3];

/// Megabytes (10^6) of each kind, as docs/gpu.md tells them.
pub(crate) type MemoryFigures = [(&'static str, i64); 4];

/// Bytes of a GPU's memory: of the weights; of an adapter where it computes, with the tables of positions; and the most beside these while a
/// velocity is computed with the adapter, and while it and its gradient are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) weights: i64,
    pub(crate) adapter: i64,
    pub(crate) velocity: i64,
    pub(crate) training: i64,
}

impl Memory {
    fn all(self) -> [i64; 4] {
        [self.weights, self.adapter, self.velocity, self.training]
    }
}

/// The kernels of a pass of each kind: of the base, with an adapter, and backwards with each block's forward run again.
pub(crate) struct Passes {
    pub(crate) base: Vec<Kernel>,
    pub(crate) adapted: Vec<Kernel>,
    pub(crate) vjp: Vec<Kernel>,
    pub(crate) memory: Memory,
}

impl Passes {
    fn costs(&self) -> [Cost; 3] {
        [&self.base, &self.adapted, &self.vjp].map(|kernels| cost(kernels))
    }
}

/// What a whole network's passes cost: those of a small one, and so many more blocks of each kind, told by networks that have one more.
pub(crate) fn figures(small: &Passes, more: &[(&Passes, i64)]) -> Figures {
    let base = small.costs();
    let total = |pass: usize| {
        let blocks = more
            .iter()
            .map(|(larger, times)| (larger.costs()[pass].plus(base[pass], -1), *times));
        blocks.fold(base[pass], |total, (block, times)| total.plus(block, times))
    };
    let rounded = |name, pass| {
        let Cost { kernels, bytes } = total(pass);
        (name, kernels, (bytes as f64 / 1e9).round() as i64)
    };
    [
        rounded("base", 0),
        rounded("with an adapter", 1),
        rounded("backwards", 2),
    ]
}

/// What a whole network needs of memory, told as [`figures`] tells what it costs.
pub(crate) fn memory_figures(small: &Passes, more: &[(&Passes, i64)]) -> MemoryFigures {
    let total = |what: usize| {
        let base = small.memory.all()[what];
        let blocks = more
            .iter()
            .map(|(larger, times)| (larger.memory.all()[what] - base) * times);
        (base + blocks.sum::<i64>()) as f64 / 1e6
    };
    let rounded = |name, what| (name, total(what).round() as i64);
    [
        rounded("weights", 0),
        rounded("adapter", 1),
        rounded("a velocity", 2),
        rounded("training", 3),
    ]
}

/// Runs one sample through a network. `walk` goes through its layers, `open` opens it.
pub(crate) fn passes(
    walk: impl FnOnce(&Names, &Weights),
    open: impl FnOnce(CandleOps<Counted>, &Weights) -> Box<dyn Compute>,
    lora: &LoraConfig,
    conditioning: &Conditioning,
    grid: Grid,
    quantization: Option<Quantization>,
) -> Passes {
    let (empty, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let names = Names::default();
    walk(&names, &zeros(empty.path(), &[], None));
    let weights = zeros(folder.path(), &names.0.into_inner(), quantization);
    let record = Record::default();
    let backend = CandleOps::<Counted> {
        place: record.clone(),
        dtype: DType::BF16,
    };
    let network = open(backend, &weights);
    let loaded = record.live();
    let adapter = LoraAdapter::init(network.layers(), lora, [0; 32]).unwrap();
    let latents = Tensor::zeros((1, grid.tokens(), 64), DType::F32, &Device::Cpu).unwrap();
    let input = Input {
        latents: &latents,
        conditioning,
        sigma: &[0.5],
        guidance: Some(3.5),
        grid,
    };
    // The first pass makes tables and brings the adapter to the device, once for all.
    let velocity = network.velocity(Some(&adapter), &input).unwrap();
    let bound = record.live();
    record.take();
    network.velocity(None, &input).unwrap();
    let base = record.take();
    record.take_most();
    network.velocity(Some(&adapter), &input).unwrap();
    let (adapted, forwards) = (record.take(), record.take_most());
    let memory = ActivationMemory::Checkpoint;
    let (_, tape) = network.velocity_for_vjp(&adapter, &input, memory).unwrap();
    record.take();
    let mut gradients = LoraGradients::zeros(&adapter);
    network.vjp(&adapter, tape, &velocity, &mut gradients).unwrap();
    Passes {
        base,
        adapted,
        vjp: record.take(),
        memory: Memory {
            weights: loaded,
            adapter: bound - loaded,
            velocity: forwards - bound,
            training: record.take_most() - bound,
        },
    }
}
