//! What is wrong with a Qwen-Image folder is told by the place where it is wrong, by a look at the folder and by loading it.

use std::fs;
use std::path::{Path, PathBuf};

use gavel_core::Hint;
use gavel_models::denoiser::{Encoding, SourceAreas, Task};
use gavel_models::load::Placement;
use gavel_models::qwen::{PROMPT_EMBEDS, source_latents};
use gavel_models::{Family, LoadError};
use image::{Rgb, RgbImage};
use tempfile::TempDir;

/// Where a weight file is cut: nothing left, within the length of the header, within the header, within the last tensor.
const CUTS: [fn(usize) -> usize; 4] = [|_| 0, |_| 4, |_| 100, |size| size - 1];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/qwen_pipeline")
}

/// A folder of `QwenImageEditPipeline`, to be damaged.
fn edit_folder(text_encoder: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let index = golden().join("edit/model_index.json");
    fs::copy(index, folder.path().join("model_index.json")).unwrap();
    for (part, name) in [
        ("transformer", "transformer"),
        ("vae", "vae"),
        (text_encoder, "text_encoder"),
        ("scheduler", "scheduler"),
        ("processor", "processor"),
        ("tokenizer", "tokenizer"),
    ] {
        let target = folder.path().join(name);
        fs::create_dir(&target).unwrap();
        for entry in fs::read_dir(golden().join("parts").join(part)).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), target.join(entry.file_name())).unwrap();
        }
    }
    folder
}

fn load(folder: &TempDir) -> LoadError {
    Family::QwenImageEdit
        .load_pipeline(folder.path(), &Placement::cpu())
        .map(drop)
        .unwrap_err()
}

fn inspect(folder: &TempDir) -> LoadError {
    Family::QwenImageEdit.inspect(folder.path()).map(drop).unwrap_err()
}

fn change(file: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{from}");
    fs::write(file, text.replace(from, to)).unwrap();
}

fn assert_named(folder: &TempDir, told: &str) {
    for error in [inspect(folder), load(folder)] {
        let text = error.to_string();
        assert!(text.contains(told), "`{text}` does not tell `{told}`");
        assert!(
            text.contains(&folder.path().display().to_string()),
            "`{text}` does not say where"
        );
    }
}

/// What is damaged below is whole before.
#[test]
fn an_intact_folder_is_looked_into_and_loaded_and_takes_an_empty_prompt() {
    for text_encoder in ["text_encoder", "text_encoder-sharded"] {
        let folder = edit_folder(text_encoder);
        let inspection = Family::QwenImageEdit.inspect(folder.path()).unwrap();
        let pipeline = Family::QwenImageEdit
            .load_pipeline(folder.path(), &Placement::cpu())
            .unwrap();
        assert_eq!(inspection.source_pictures(), 1..=1);
        assert_eq!(inspection.grid(32, 80).unwrap(), pipeline.grid(32, 80).unwrap());
        assert!(inspection.grid(32, 72).is_err() && pipeline.grid(32, 72).is_err());
        let sources = [RgbImage::from_pixel(90, 61, Rgb([10, 200, 90]))];
        assert_eq!(pipeline.output_size(&sources, 96 * 64), Some((64, 96)));
        let rows = |words| {
            let encoding = Encoding {
                max_sequence_length: 8,
                source_areas: Some(SourceAreas {
                    latents: 96 * 64,
                    text: 64 * 64,
                }),
            };
            let task = Task {
                words,
                sources: &sources,
            };
            let conditioning = pipeline.condition(&task, &encoding).unwrap();
            assert_eq!(conditioning.get(&source_latents(0)).unwrap().dims(), [4, 6, 64]);
            conditioning.get(PROMPT_EMBEDS).unwrap().dims()[0]
        };
        assert_eq!(rows("") + 1, rows(" "));
    }
}

#[test]
fn a_file_that_is_missing_is_named() {
    for (file, told) in [
        ("model_index.json", "model_index.json: no such file"),
        ("scheduler/scheduler_config.json", "scheduler_config.json: no such file"),
        (
            "processor/preprocessor_config.json",
            "preprocessor_config.json: no such file",
        ),
        ("text_encoder/config.json", "text_encoder/config.json: no such file"),
        ("text_encoder/model.safetensors", "text_encoder: holds no weights"),
        ("vae/config.json", "vae/config.json: no such file"),
        ("vae/diffusion_pytorch_model.safetensors", "vae: holds no weights"),
        ("transformer/config.json", "transformer/config.json: no such file"),
        (
            "transformer/diffusion_pytorch_model.safetensors",
            "transformer: holds no weights",
        ),
    ] {
        let folder = edit_folder("text_encoder");
        fs::remove_file(folder.path().join(file)).unwrap();
        assert_named(&folder, told);
    }
    // The tokenizer is there twice, the image processor is not.
    for part in ["transformer", "text_encoder", "vae", "scheduler", "processor"] {
        let folder = edit_folder("text_encoder");
        let path = folder.path().join(part);
        fs::remove_dir_all(&path).unwrap();
        for error in [inspect(&folder), load(&folder)] {
            let text = error.to_string();
            assert!(
                text.starts_with(&path.display().to_string()) && text.contains(": no such f"),
                "{part}: {text}"
            );
        }
    }
}

#[test]
fn a_tokenizer_is_needed_in_one_layout_and_whole() {
    for file in ["tokenizer/vocab.json", "tokenizer/merges.txt"] {
        let folder = edit_folder("text_encoder");
        fs::remove_file(folder.path().join("processor/tokenizer.json")).unwrap();
        fs::remove_file(folder.path().join(file)).unwrap();
        assert_named(
            &folder,
            "processor: holds no tokenizer (looked for tokenizer.json, or vocab.json with merges.txt)",
        );
    }
    let folder = edit_folder("text_encoder");
    fs::write(folder.path().join("processor/tokenizer.json"), "{}").unwrap();
    assert!(matches!(inspect(&folder), LoadError::Tokenizer { .. }));
    assert_named(&folder, "processor/tokenizer.json");
}

#[test]
fn a_weight_file_that_ends_early_is_named() {
    for (text_encoder, file) in [
        ("text_encoder", "text_encoder/model.safetensors"),
        ("text_encoder-sharded", "text_encoder/model-00003-of-00004.safetensors"),
        ("text_encoder", "vae/diffusion_pytorch_model.safetensors"),
        ("text_encoder", "transformer/diffusion_pytorch_model.safetensors"),
    ] {
        let folder = edit_folder(text_encoder);
        let path = folder.path().join(file);
        let whole = fs::read(&path).unwrap();
        for cut in CUTS {
            let length = cut(whole.len());
            fs::write(&path, &whole[..length]).unwrap();
            for error in [inspect(&folder), load(&folder)] {
                assert!(
                    matches!(&error, LoadError::Truncated { file, size } if *file == path && *size == length as u64),
                    "{file} cut to {length}: {error}"
                );
                assert!(error.hint().is_some());
            }
        }
    }
}

#[test]
fn a_shard_that_is_missing_is_named() {
    let folder = edit_folder("text_encoder-sharded");
    let shard = "model-00002-of-00004.safetensors";
    fs::remove_file(folder.path().join("text_encoder").join(shard)).unwrap();
    for error in [inspect(&folder), load(&folder)] {
        assert!(
            matches!(&error, LoadError::ShardMissing { shard: missing, .. } if missing == shard),
            "{error}"
        );
    }
}

#[test]
fn a_part_of_another_class_is_named_with_what_is_needed() {
    for (key, class, other) in [
        ("_class_name", "QwenImageEditPipeline", "QwenImagePipeline"),
        ("transformer", "QwenImageTransformer2DModel", "FluxTransformer2DModel"),
        ("vae", "AutoencoderKLQwenImage", "AutoencoderKL"),
        (
            "text_encoder",
            "Qwen2_5_VLForConditionalGeneration",
            "Qwen3VLForConditionalGeneration",
        ),
        ("tokenizer", "Qwen2Tokenizer", "T5Tokenizer"),
        ("scheduler", "FlowMatchEulerDiscreteScheduler", "DDIMScheduler"),
        ("processor", "Qwen2VLProcessor", "CLIPProcessor"),
    ] {
        let folder = edit_folder("text_encoder");
        let index = folder.path().join("model_index.json");
        change(&index, &format!("\"{class}\""), &format!("\"{other}\""));
        for error in [inspect(&folder), load(&folder)] {
            let LoadError::Unsupported {
                file,
                key: named,
                found,
                expected,
            } = &error
            else {
                panic!("{other}: {error}");
            };
            assert_eq!((file, named.as_str()), (&index, key));
            assert!(found.contains(other) && expected.contains(class), "{error}");
        }
    }
}

/// The fast tokenizer has the same files; the look goes on to the next part, which is damaged here.
#[test]
fn the_other_name_of_the_tokenizer_is_accepted() {
    let folder = edit_folder("text_encoder");
    change(
        &folder.path().join("model_index.json"),
        "\"Qwen2Tokenizer\"",
        "\"Qwen2TokenizerFast\"",
    );
    fs::remove_dir_all(folder.path().join("scheduler")).unwrap();
    assert_named(&folder, "scheduler_config.json: no such file");
}

#[test]
fn a_text_encoder_of_another_size_is_refused_by_its_tensors() {
    for (from, to, told) in [
        (
            "\"num_hidden_layers\": 2",
            "\"num_hidden_layers\": 3",
            "has no tensor `model.layers.2.",
        ),
        (
            "\"num_hidden_layers\": 2",
            "\"num_hidden_layers\": 1",
            "does not use: `model.layers.1.",
        ),
        (
            "\"intermediate_size\": 80",
            "\"intermediate_size\": 96",
            "this architecture needs",
        ),
    ] {
        let folder = edit_folder("text_encoder");
        change(&folder.path().join("text_encoder/config.json"), from, to);
        let error = load(&folder).to_string();
        assert!(error.contains(told) && error.contains("text_encoder"), "{to}: {error}");
    }
}
