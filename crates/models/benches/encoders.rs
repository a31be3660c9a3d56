//! The two hottest frozen models of the quickstart: `cargo bench -p gavel-models --bench encoders --profile dev`.
//!
//! `tests/golden/bench_encoders.py` times PyTorch on the same inputs; compare at an equal number of threads
//! (`RAYON_NUM_THREADS=1`, `OMP_NUM_THREADS=1`).

#![expect(clippy::unwrap_used, reason = "a bench has nobody to report an error to")]

use std::{hint::black_box, path::Path, time::Duration};

use candle_core::{Device, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};
use gavel_models::load::Placement;
use gavel_models::{
    denoiser::{Grid, packing::unpack_latents},
    vae::AutoencoderKl,
    vlm::{Content, Conversation, Message, Vlm},
};
use image::{Rgb, RgbImage};

const IMAGES: usize = 64;
const PAIRS: usize = 64;
const PROMPT: &str = "a green square left of a yellow triangle on a white background";

fn shipped(part: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models").join(part)
}

fn vae_decode(criterion: &mut Criterion) {
    let vae = AutoencoderKl::load(&shipped("tiny-flux/vae"), &Placement::cpu()).unwrap();
    let packed: Vec<f32> = (0..IMAGES * 16 * 64)
        .map(|i| ((i * 7919) % 1013) as f32 / 506.5 - 1.0)
        .collect();
    let packed = Tensor::from_vec(packed, (IMAGES, 16, 64), &Device::Cpu).unwrap();
    let latents = unpack_latents(&packed, Grid { height: 4, width: 4 }, 16).unwrap();
    criterion.bench_function("vae decode, 64 images of 64x64", |bencher| {
        bencher.iter(|| vae.decode(black_box(&latents)).unwrap());
    });
}

fn judge(criterion: &mut Criterion) {
    let model = Vlm::load(&shipped("tiny-judge"), &Placement::cpu()).unwrap();
    let images: Vec<RgbImage> = (0..2 * PAIRS as u32)
        .map(|seed| {
            RgbImage::from_fn(64, 64, |x, y| {
                Rgb([(x * 3 + seed) as u8, (y * 2 + seed) as u8, (x + y) as u8])
            })
        })
        .collect();
    let question = [Message::user(vec![
        Content::text("Image 1: "),
        Content::Image,
        Content::text(format!(" Caption: {PROMPT}\nImage 2: ")),
        Content::Image,
        Content::text(format!(
            " Caption: {PROMPT}\nRubric:\n- The background has the stated colour.\n- Each object has its stated colour \
             and shape.\n- The objects are placed as stated.\n- The shapes are clean, with nothing extra.\nWhich image is \
             better, 1 or 2?"
        )),
    ])];
    let conversations: Vec<Conversation> = images
        .chunks_exact(2)
        .flat_map(|pair| [[&pair[0], &pair[1]], [&pair[1], &pair[0]]])
        .map(|images| Conversation {
            messages: &question,
            images: images.to_vec(),
        })
        .collect();
    criterion.bench_function("judge, 64 pairs in both orders", |bencher| {
        bencher.iter(|| model.next_token_logits_batch(black_box(&conversations)).unwrap());
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_secs(1));
    targets = vae_decode, judge
}
criterion_main!(benches);
