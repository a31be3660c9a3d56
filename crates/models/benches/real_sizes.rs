//! One part of FLUX.1-dev, or the judge of 7 billion parameters, at its real sizes: `benchmarks/real_sizes.py` writes the weights and calls this.
//!
//! `cargo bench -p gavel-models --profile dev --bench real_sizes -- FOLDER PART DTYPE REPEATS DEVICE` prints one line of JSON: seconds of
//! loading, of each repeat and until the device had all its work, processor seconds of all threads, the process's peak memory and the most that was used of the GPU's.
//! DTYPE is f32, bf16, or one of the quantizations fp8 and nf4, beside which all else is bf16.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench has nobody to report an error to"
)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use candle_core::{Device, DeviceLocation, Tensor};
use gavel_core::spec;
use gavel_models::Family;
use gavel_models::denoiser::{ActivationMemory, Conditioning, Denoiser, Grid, Input};
use gavel_models::flux::{FluxTransformer, POOLED_PROMPT_EMBEDS, PROMPT_EMBEDS};
use gavel_models::load::{Placement, gpu_memory};
use gavel_models::lora::{LoraAdapter, LoraConfig, LoraGradients};
use gavel_models::text::T5Encoder;
use gavel_models::vae::AutoencoderKl;
use gavel_models::vlm::{Content, Conversation, Message, Vlm};
use image::{Rgb, RgbImage};

const TEXT_TOKENS: usize = 512;
const GRID: Grid = Grid { height: 32, width: 32 };

fn values(shape: &[usize]) -> Tensor {
    let count = shape.iter().product::<usize>();
    let values: Vec<f32> = (0..count).map(|i| ((i * 7919 % 2003) as f32 / 1001.5) - 1.0).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Processor seconds of this process so far.
fn processor_seconds() -> f64 {
    /// Linux counts in hundredths.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / TICKS
}

fn peak_memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// The most memory of a GPU that was in use, looked at once a millisecond until it is dropped.
struct Watch {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Watch {
    fn start(ordinal: usize) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            let mut most = 0;
            while !until.load(Ordering::Relaxed) {
                most = most.max(gpu_memory(ordinal).map_or(0, |memory| memory.used_bytes));
                std::thread::sleep(Duration::from_millis(1));
            }
            most
        });
        Self { ended, thread }
    }

    fn most_kib(self) -> u64 {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().unwrap() / 1024
    }
}

/// How a part is measured.
struct Bench {
    placement: Placement,
    repeats: usize,
    /// When its weights began to be loaded.
    started: Instant,
}

impl Bench {
    /// Runs the work of a loaded part once unmeasured and then as often as asked.
    fn measure(&self, mut work: impl FnMut()) {
        let Self {
            placement,
            repeats,
            started,
        } = self;
        let loading = started.elapsed().as_secs_f64();
        // Answers with the seconds until the device had all its work.
        let mut whole = || {
            let start = Instant::now();
            work();
            let handed = start.elapsed().as_secs_f64();
            placement.device().synchronize().unwrap();
            handed
        };
        let watch = match placement.device().location() {
            DeviceLocation::Cuda { gpu_id } => Some(Watch::start(gpu_id)),
            _ => None,
        };
        whole();
        let (mut seconds, mut handed, processor) = (Vec::new(), Vec::new(), processor_seconds());
        for _ in 0..*repeats {
            let start = Instant::now();
            handed.push(whole());
            seconds.push(start.elapsed().as_secs_f64());
        }
        let processor = (processor_seconds() - processor) / *repeats as f64;
        let (memory, gpu_memory) = (peak_memory_kib(), watch.map_or(0, Watch::most_kib));
        println!(
            "{{\"loading_seconds\": {loading:?}, \"seconds\": {seconds:?}, \"handed_over_seconds\": {handed:?}, \"processor_seconds\": {processor}, \"peak_memory_kib\": {memory}, \
         \"peak_gpu_memory_kib\": {gpu_memory}}}"
        );
    }
}

/// What is measured of a transformer.
#[derive(Clone, Copy)]
enum Pass {
    Base,
    Adapted,
    /// Forwards and backwards, with so much kept in between.
    Training(ActivationMemory),
}

fn transformer(folder: &Path, bench: &Bench, pass: Pass) {
    let model = FluxTransformer::load(folder, &bench.placement).unwrap();
    let sizes = model.config();
    let latents = values(&[1, GRID.height * GRID.width, sizes.in_channels]);
    let conditioning = Conditioning::from_iter([
        (PROMPT_EMBEDS, values(&[1, TEXT_TOKENS, sizes.joint_attention_dim])),
        (POOLED_PROMPT_EMBEDS, values(&[1, sizes.pooled_projection_dim])),
    ]);
    let input = Input {
        latents: &latents,
        conditioning: &conditioning,
        sigma: &[0.7],
        guidance: Some(3.5),
        grid: GRID,
    };
    if matches!(pass, Pass::Base) {
        return bench.measure(|| drop(model.velocity(None, &input).unwrap()));
    }
    let target_modules = Family::Flux
        .published_targets()
        .iter()
        .map(|target| (*target).to_owned())
        .collect();
    let config = LoraConfig {
        rank: 16,
        alpha: 16.0,
        dropout: 0.0,
        target_modules,
    };
    let adapter = LoraAdapter::init(model.layers(), &config, [7; 32]).unwrap();
    let Pass::Training(memory) = pass else {
        return bench.measure(|| drop(model.velocity(Some(&adapter), &input).unwrap()));
    };
    bench.measure(|| {
        let mut gradients = LoraGradients::zeros(&adapter);
        let (velocity, tape) = model.velocity_for_vjp(&adapter, &input, memory).unwrap();
        model.vjp(&adapter, tape, &velocity, &mut gradients).unwrap();
    });
}

/// A pair of pictures of 512 x 512, asked about in both orders; `benchmarks/real_sizes.py` says the same.
fn judge(folder: &Path, bench: &Bench) {
    let model = Vlm::load(&folder.join("judge"), &bench.placement).unwrap();
    let text: Vec<String> = serde_json::from_slice(&std::fs::read(folder.join("question.json")).unwrap()).unwrap();
    let content = text
        .iter()
        .flat_map(|part| [Content::text(part), Content::Image])
        .take(2 * text.len() - 1);
    let question = [Message::user(content.collect())];
    let pictures = [0, 1].map(|seed| {
        RgbImage::from_fn(512, 512, |x, y| {
            Rgb([(x * 3 + seed) as u8, (y * 2) as u8, (x + y) as u8])
        })
    });
    let conversations = [[0, 1], [1, 0]].map(|order| Conversation {
        messages: &question,
        images: order.iter().map(|i| &pictures[*i]).collect(),
    });
    bench.measure(|| drop(model.next_token_logits_batch(&conversations).unwrap()));
}

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let [folder, part, dtype, repeats, device] = arguments.as_slice() else {
        // What `cargo bench` without arguments comes to.
        return println!("real_sizes: give FOLDER PART DTYPE REPEATS DEVICE, as benchmarks/real_sizes.py does");
    };
    let (dtype, quantization) = match dtype.as_str() {
        "f32" => (spec::Dtype::F32, None),
        "fp8" => (spec::Dtype::Bf16, Some(spec::Quantization::Fp8)),
        "nf4" => (spec::Dtype::Bf16, Some(spec::Quantization::Nf4)),
        _ => (spec::Dtype::Bf16, None),
    };
    let placement = Placement::open(device.parse().unwrap(), dtype)
        .unwrap()
        .quantized(quantization);
    let bench = Bench {
        placement,
        repeats: repeats.parse().unwrap(),
        started: Instant::now(),
    };
    let folder = Path::new(folder);
    match part.as_str() {
        "transformer" => transformer(&folder.join("transformer"), &bench, Pass::Base),
        "adapted" => transformer(&folder.join("transformer"), &bench, Pass::Adapted),
        "training" | "checkpointed" => {
            let memory = match part.as_str() {
                "training" => ActivationMemory::KeepAll,
                _ => ActivationMemory::Checkpoint,
            };
            transformer(&folder.join("transformer"), &bench, Pass::Training(memory));
        }
        "t5" => {
            let model = T5Encoder::load(&folder.join("text_encoder_2"), &bench.placement).unwrap();
            let ids: Vec<u32> = (0..TEXT_TOKENS as u32).map(|i| (i * 7919) % 32_000).collect();
            bench.measure(|| drop(model.encode(std::slice::from_ref(&ids)).unwrap()));
        }
        "vae" => {
            let model = AutoencoderKl::load(&folder.join("vae"), &bench.placement).unwrap();
            let latents = values(&[1, 16, 2 * GRID.height, 2 * GRID.width]);
            bench.measure(|| drop(model.decode(&latents).unwrap()));
        }
        "judge" => judge(folder, &bench),
        other => println!("real_sizes: no part is called {other:?}"),
    }
}
