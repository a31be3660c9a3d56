//! Text encoders that compute elsewhere than the rest of their pipeline.

use std::path::Path;

use candle_core::Tensor;
use gavel_core::spec::{Device, Dtype, ModelSpec};
use gavel_models::Family;
use gavel_models::denoiser::{Conditioning, Encoding, SourceAreas, Task};
use gavel_models::load::Placement;
use image::{Rgb, RgbImage};

/// The conditioning of one task by a pipeline in bfloat16.
fn conditioning(family: Family, folder: &str, device: Device, text_encoder_device: Option<Device>) -> Conditioning {
    let spec = ModelSpec {
        device,
        text_encoder_device,
        dtype: Dtype::Bf16,
        ..ModelSpec::default()
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models").join(folder);
    let pipeline = family
        .load_pipeline(&folder, &Placement::of_model(&spec).unwrap())
        .unwrap();
    let sources = match family.takes_sources() {
        true => vec![RgbImage::from_fn(64, 64, |x, y| Rgb([x as u8, y as u8, 90]))],
        false => Vec::new(),
    };
    let task = Task {
        words: "make the circle red",
        sources: &sources,
    };
    let encoding = Encoding {
        max_sequence_length: 24,
        source_areas: Some(SourceAreas {
            latents: 64 * 64,
            text: 64 * 64,
        }),
    };
    let conditioning = pipeline.condition(&task, &encoding).unwrap();
    pipeline.denoiser().check_conditioning(&conditioning.shapes()).unwrap();
    conditioning
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

#[test]
fn words_are_encoded_where_the_text_encoders_are_and_pictures_where_the_rest_is() {
    for (family, folder) in [(Family::Flux, "tiny-flux"), (Family::QwenImageEdit, "tiny-qwen-edit")] {
        let of = |device, text_encoders| conditioning(family, folder, device, text_encoders);
        let host = of(Device::Cpu, None);
        let like_a_gpu = of(Device::CpuCandle, None);
        let apart = of(Device::CpuCandle, Some(Device::Cpu));
        let mut from_words = 0;
        for name in apart.shapes().keys() {
            let [host, like_a_gpu, apart] = [&host, &like_a_gpu, &apart].map(|one| bits(one.get(name).unwrap()));
            assert_ne!(host, like_a_gpu, "{name} does not tell where it was computed");
            let is_of_words = !name.starts_with("source");
            from_words += usize::from(is_of_words);
            let expected = if is_of_words { host } else { like_a_gpu };
            assert!(apart == expected, "{family}: {name}");
        }
        assert!(from_words > 0);
    }
}
