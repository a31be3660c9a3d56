//! Text encoders and autoencoder against transformers and diffusers.
//!
//! `tests/golden/encoders.py` writes the expected tensors; run it again when the shipped models change.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use gavel_core::spec::Quantization;
use gavel_models::{
    denoiser::{Encoding, Grid, Pipeline, Task, packing::unpack_latents},
    flux::{FluxPipeline, POOLED_PROMPT_EMBEDS, PROMPT_EMBEDS, pipeline::FluxTextEncoders},
    text::{ClipTextEncoder, PromptTokenizer, T5Encoder},
    vae::AutoencoderKl,
};
use image::RgbImage;

use crate::kernels::{Kernels, root};

const PROMPTS: [&str; 3] = [
    "a red circle on a blue background",
    "",
    "A green square left of a yellow triangle, on a white background; it's drawn TWICE 1984! \
     A green square left of a yellow triangle, on a white background; it's drawn TWICE 1984! \
     A green square left of a yellow triangle, on a white background; it's drawn TWICE 1984! \
     A green square left of a yellow triangle, on a white background; it's drawn TWICE 1984! ",
];

fn golden(case: &str) -> (PathBuf, HashMap<String, Tensor>) {
    let dir = root().join("tests/golden/encoders").join(case);
    let expected = candle_core::safetensors::load(dir.join("expected.safetensors"), &Device::Cpu).unwrap();
    (dir, expected)
}

/// For T5's states and decoded pictures: these networks grow their values far beyond what a last norm or convolution leaves of them,
/// and bfloat16's steps with them.
fn wide_tolerance(kernels: Kernels) -> f64 {
    match kernels {
        Kernels::Fused | Kernels::CandleF32 => kernels.tolerance(),
        Kernels::CandleBf16 => 8e-2,
    }
}

#[track_caller]
fn assert_close(kernels: Kernels, found: &Tensor, expected: &Tensor, what: &str) {
    assert_within(kernels.tolerance(), found, expected, &format!("{what} by {kernels:?}"));
}

/// `tolerance` is relative to the largest element.
#[track_caller]
fn assert_within(tolerance: f64, found: &Tensor, expected: &Tensor, what: &str) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let flat = |tensor: &Tensor| {
        tensor
            .flatten_all()
            .unwrap()
            .to_dtype(DType::F32)
            .unwrap()
            .to_vec1::<f32>()
            .unwrap()
    };
    let (found, expected) = (flat(found), flat(expected));
    let largest = expected.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    let error = found
        .iter()
        .zip(&expected)
        .fold(0.0_f32, |max, (a, b)| max.max((a - b).abs()));
    assert!(
        f64::from(error) <= tolerance * f64::from(largest),
        "{what}: error {error:e}, largest element {largest:e}"
    );
}

fn sequences(ids: &Tensor) -> Vec<Vec<u32>> {
    ids.to_dtype(DType::U32).unwrap().to_vec2().unwrap()
}

fn images(pixels: &Tensor) -> Vec<RgbImage> {
    let (count, height, width, _) = pixels.dims4().unwrap();
    let image = |index: usize| {
        let bytes = pixels
            .get(index)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1::<u8>()
            .unwrap();
        RgbImage::from_raw(width as u32, height as u32, bytes).unwrap()
    };
    (0..count).map(image).collect()
}

#[test]
fn clip_pools_the_state_that_transformers_pools() {
    for kernels in Kernels::ALL {
        for case in ["clip-legacy-eos", "clip-first-eos"] {
            let (dir, expected) = golden(case);
            let clip = ClipTextEncoder::load(&dir, &kernels.placement()).unwrap();
            for length in [7, 31] {
                let found = clip.pooled(&sequences(&expected[&format!("ids.{length}")])).unwrap();
                assert_close(
                    kernels,
                    &found,
                    &expected[&format!("pooled.{length}")],
                    &format!("{case} {length}"),
                );
            }
        }
    }
}

#[test]
fn t5_states_match_transformers() {
    for kernels in Kernels::ALL {
        for case in ["t5-relu-sharded", "t5-gated"] {
            let (dir, expected) = golden(case);
            let t5 = T5Encoder::load(&dir, &kernels.placement()).unwrap();
            for length in [5, 83] {
                let found = t5.encode(&sequences(&expected[&format!("ids.{length}")])).unwrap();
                assert_within(
                    wide_tolerance(kernels),
                    &found,
                    &expected[&format!("states.{length}")],
                    &format!("{case} {length} by {kernels:?}"),
                );
            }
        }
    }
}

/// The states of weights in 8 bits, by the CPU's own kernels: near those of the whole ones; of weights in 4 bits those of PyTorch with what bitsandbytes
/// makes of the weights. And what the code of GPUs computes too.
#[test]
fn a_quantized_t5_is_what_it_is_elsewhere_and_the_same_by_all_kernels() {
    let in_4_bits = root().join("tests/golden/nf4/golden.safetensors");
    let in_4_bits = candle_core::safetensors::load(in_4_bits, &Device::Cpu).unwrap();
    for (case, quantization) in ["t5-relu-sharded", "t5-gated"]
        .into_iter()
        .flat_map(|case| [Quantization::Fp8, Quantization::Nf4].map(|quantization| (case, quantization)))
    {
        let load = |dir: &Path, kernels: Kernels| {
            let placement = kernels.placement().quantized(Some(quantization));
            T5Encoder::load(dir, &placement).unwrap()
        };
        let (dir, expected) = golden(case);
        let sequences = sequences(&expected["ids.83"]);
        let fused = load(&dir, Kernels::Fused).encode(&sequences).unwrap();
        let (tolerance, expected) = match quantization {
            Quantization::Fp8 => (0.2, &expected["states.83"]),
            Quantization::Nf4 => (2e-4, &in_4_bits[&format!("states.{case}")]),
        };
        assert_within(tolerance, &fused, expected, &format!("{case} in {quantization:?}"));
        for kernels in [Kernels::CandleF32, Kernels::CandleBf16] {
            let found = load(&dir, kernels).encode(&sequences).unwrap();
            let what = format!("{case} in {quantization:?} by {kernels:?}");
            assert_within(wide_tolerance(kernels), &found, &fused, &what);
        }
        let whole = T5Encoder::load(&dir, &Kernels::Fused.placement()).unwrap();
        let bits = |states: &Tensor| states.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_ne!(
            bits(&whole.encode(&sequences).unwrap()),
            bits(&fused),
            "{case}: nothing was quantized"
        );
    }
}

#[test]
fn autoencoder_matches_diffusers() {
    for kernels in Kernels::ALL {
        for (case, sizes) in [("vae-quant", 2), ("vae-plain", 1), ("vae-wide", 1)] {
            let (dir, expected) = golden(case);
            let vae = AutoencoderKl::load(&dir, &kernels.placement()).unwrap();
            for i in 0..sizes {
                let mean = vae.encode_mean(&expected[&format!("image.{i}")]).unwrap();
                assert_close(
                    kernels,
                    &mean,
                    &expected[&format!("mean.{i}")],
                    &format!("{case} mean {i}"),
                );
                let decoded = vae.decode(&expected[&format!("latent.{i}")]).unwrap();
                assert_within(
                    wide_tolerance(kernels),
                    &decoded,
                    &expected[&format!("decoded.{i}")],
                    &format!("{case} decoded {i} by {kernels:?}"),
                );
            }
        }
    }
}

#[test]
fn shipped_prompts_are_embedded_as_flux_pipeline_does() {
    for kernels in Kernels::ALL {
        let (_, expected) = golden("tiny-flux");
        let text = FluxTextEncoders::load(&root().join("models/tiny-flux"), &kernels.placement()).unwrap();
        for length in [24, 77] {
            let found = text.encode(&PROMPTS, length).unwrap();
            assert_within(
                wide_tolerance(kernels),
                &found.prompt_embeds,
                &expected[&format!("prompt_embeds.{length}")],
                &format!("T5 {length} by {kernels:?}"),
            );
            assert_close(
                kernels,
                &found.pooled_prompt_embeds,
                &expected[&format!("pooled.{length}")],
                &format!("CLIP {length}"),
            );
        }
    }
}

#[test]
fn a_prompt_is_embedded_alike_alone_and_in_a_batch() {
    for kernels in Kernels::ALL {
        let text = FluxTextEncoders::load(&root().join("models/tiny-flux"), &kernels.placement()).unwrap();
        let batch = text.encode(&PROMPTS, 24).unwrap();
        for (i, prompt) in PROMPTS.iter().enumerate() {
            let alone = text.encode(&[prompt], 24).unwrap();
            let bits = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(bits(&alone.prompt_embeds), bits(&batch.prompt_embeds.get(i).unwrap()));
            assert_eq!(
                bits(&alone.pooled_prompt_embeds),
                bits(&batch.pooled_prompt_embeds.get(i).unwrap())
            );
        }
    }
}

#[test]
fn clip_tokenizer_reads_vocab_and_merges_as_it_reads_tokenizer_json() {
    let shipped = root().join("models/tiny-flux/tokenizer");
    let older = tempfile::tempdir().unwrap();
    for name in ["vocab.json", "merges.txt", "tokenizer_config.json"] {
        fs::copy(shipped.join(name), older.path().join(name)).unwrap();
    }
    let (json, files) = (
        PromptTokenizer::load_clip(&shipped).unwrap(),
        PromptTokenizer::load_clip(older.path()).unwrap(),
    );
    for prompt in PROMPTS
        .into_iter()
        .chain(["Äpfel\tund  \n Birnen's <|endoftext|> ok", "1234 !!?? don't"])
    {
        assert_eq!(
            json.encode(prompt, 77).unwrap(),
            files.encode(prompt, 77).unwrap(),
            "{prompt}"
        );
    }
}

#[test]
fn shipped_pipeline_encodes_and_decodes_images_as_flux_pipeline_does() {
    for kernels in Kernels::ALL {
        let (_, expected) = golden("tiny-flux");
        let pipeline = FluxPipeline::load(&root().join("models/tiny-flux"), &kernels.placement()).unwrap();
        let grid = Grid { height: 3, width: 5 };
        assert_eq!(pipeline.grid(48, 80).unwrap(), grid);

        let packed = pipeline.encode_images(&images(&expected["pixels"])).unwrap();
        assert_close(kernels, &packed, &expected["packed"], "packed");

        let unpacked = unpack_latents(&expected["latents"], grid, 16).unwrap();
        let vae = AutoencoderKl::load(&root().join("models/tiny-flux/vae"), &kernels.placement()).unwrap();
        let decoded = vae.decode(&vae.unscale_latents(&unpacked).unwrap()).unwrap();
        assert_within(
            wide_tolerance(kernels),
            &decoded,
            &expected["decoded"],
            &format!("decoded by {kernels:?}"),
        );

        let found = pipeline.decode(&expected["latents"], grid).unwrap();
        let wanted = images(&expected["bytes"]);
        assert_eq!(found.len(), wanted.len());
        for (found, wanted) in found.iter().zip(&wanted) {
            // A value within the tolerance of a rounding boundary may fall on the other side; in bfloat16 the tolerance is some bytes.
            let most = if kernels == Kernels::CandleBf16 { 24 } else { 1 };
            assert!(
                found
                    .as_raw()
                    .iter()
                    .zip(wanted.as_raw())
                    .all(|(a, b)| a.abs_diff(*b) <= most)
            );
            let different = found
                .as_raw()
                .iter()
                .zip(wanted.as_raw())
                .filter(|(a, b)| a != b)
                .count();
            assert!(
                most > 1 || different * 200 <= found.as_raw().len(),
                "{different} bytes differ"
            );
        }
        let alone = pipeline
            .decode(&expected["latents"].narrow(0, 1, 1).unwrap(), grid)
            .unwrap();
        assert_eq!(alone[0], found[1], "an image must not depend on its batch");
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for kernels in Kernels::ALL {
        let (dir, expected) = golden("vae-quant");
        let vae = AutoencoderKl::load(&dir, &kernels.placement()).unwrap();
        let latent = Tensor::cat(&[&expected["latent.0"]; 5], 0).unwrap();
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                vae.decode(&latent)
                    .unwrap()
                    .flatten_all()
                    .unwrap()
                    .to_vec1::<f32>()
                    .unwrap()
            })
        };
        assert_eq!(with(1), with(3));
    }
}

const ENCODING: Encoding = Encoding {
    max_sequence_length: 24,
    source_areas: None,
};

#[test]
fn the_conditioning_of_a_task_is_what_the_text_encoders_give() {
    for kernels in Kernels::ALL {
        let pipeline = FluxPipeline::load(&root().join("models/tiny-flux"), &kernels.placement()).unwrap();
        let (_, expected) = golden("tiny-flux");
        let task = Task {
            words: PROMPTS[0],
            sources: &[],
        };
        let conditioning = pipeline.condition(&task, &ENCODING).unwrap();
        let first = |name: &str| expected[name].get(0).unwrap();
        assert_close(
            kernels,
            conditioning.get(PROMPT_EMBEDS).unwrap(),
            &first("prompt_embeds.24"),
            PROMPT_EMBEDS,
        );
        assert_close(
            kernels,
            conditioning.get(POOLED_PROMPT_EMBEDS).unwrap(),
            &first("pooled.24"),
            POOLED_PROMPT_EMBEDS,
        );
        pipeline.denoiser().check_conditioning(&conditioning.shapes()).unwrap();

        let sources = images(&expected["pixels"]);
        let edit = Task {
            sources: &sources,
            ..task
        };
        assert!(
            pipeline.condition(&edit, &ENCODING).is_err(),
            "a source picture was silently ignored"
        );
    }
}
