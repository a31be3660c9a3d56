//! Each way in which a model folder can be wrong has its own error, which names the place.

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use gavel_core::Hint;
use gavel_models::load::Placement;
use gavel_models::{
    LoadError, Weights,
    flux::pipeline::{FluxPipeline, FluxTextEncoders},
    load::read_config,
    text::{ClipTextEncoder, PromptTokenizer},
    vae::AutoencoderKl,
    vlm::Vlm,
};
use tempfile::TempDir;

fn shipped(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models").join(model)
}

fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/golden")
        .join(case)
}

/// A copy of a folder, to be damaged.
fn copy(from: &Path) -> TempDir {
    fn copy_into(from: &Path, to: &Path) {
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                fs::create_dir(&target).unwrap();
                copy_into(&entry.path(), &target);
            } else {
                fs::copy(entry.path(), target).unwrap();
            }
        }
    }
    let copy = tempfile::tempdir().unwrap();
    copy_into(from, copy.path());
    copy
}

fn edit(file: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{from}");
    fs::write(file, text.replace(from, to)).unwrap();
}

fn open(dir: &Path) -> Result<Weights, LoadError> {
    Weights::open(dir, &Placement::cpu())
}

fn judge(dir: &Path) -> LoadError {
    Vlm::load(dir, &Placement::cpu()).unwrap_err()
}

fn vae(dir: &Path) -> LoadError {
    AutoencoderKl::load(dir, &Placement::cpu()).unwrap_err()
}

#[test]
fn a_missing_folder_and_a_folder_without_weights_are_told_apart() {
    let empty = tempfile::tempdir().unwrap();
    let error = open(&empty.path().join("nowhere")).unwrap_err();
    assert!(
        matches!(error, LoadError::FolderMissing { .. }) && error.hint().is_some(),
        "{error}"
    );
    let error = open(empty.path()).unwrap_err();
    assert!(matches!(error, LoadError::NoWeights { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("diffusion_pytorch_model.safetensors.index.json"),
        "{error}"
    );
}

#[test]
fn damaged_weight_files_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    let whole = fs::read(shipped("tiny-judge").join("model.safetensors")).unwrap();
    for length in [0, 4, 100, whole.len() - 1] {
        fs::write(&file, &whole[..length]).unwrap();
        let error = open(folder.path()).unwrap_err();
        assert!(
            matches!(error, LoadError::Truncated { size, .. } if size == length as u64),
            "{length}: {error}"
        );
        assert!(error.hint().unwrap().contains("fetch this file again"));
    }
    let mut damaged = whole.clone();
    damaged[8..40].fill(b'x');
    fs::write(&file, damaged).unwrap();
    assert!(matches!(open(folder.path()).unwrap_err(), LoadError::Header { .. }));
    fs::write(
        &file,
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5063056\n",
    )
    .unwrap();
    let error = open(folder.path()).unwrap_err();
    assert!(
        matches!(error, LoadError::LfsPointer { .. }) && error.hint().unwrap().contains("git lfs pull"),
        "{error}"
    );
}

#[test]
fn tensors_are_checked_by_name_shape_and_use() {
    let weights = open(&shipped("tiny-judge")).unwrap();
    let error = weights
        .get("model.layers.0.mlp.down_proj.wieght", &[128, 320])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("the nearest is `model.layers.0.mlp.down_proj.weight`"),
        "{error}"
    );
    let error = weights.get("model.norm.weight", &[127]).unwrap_err().to_string();
    assert!(
        error.ends_with("tensor `model.norm.weight` has shape [128], this architecture needs [127]"),
        "{error}"
    );
    assert!(weights.get_optional("lm_head.weight", &[464, 128]).unwrap().is_none());
    weights.get("model.norm.weight", &[128]).unwrap();
    let LoadError::Unused { names, .. } = weights.finish(&["visual.", "model.layers."]).unwrap_err() else {
        panic!("unused tensors must be told");
    };
    assert_eq!(names, ["model.embed_tokens.weight"]);
}

#[test]
fn an_index_must_fit_its_shards() {
    let index = "model.safetensors.index.json";
    let folder = copy(&golden("judge/judge-untied-sharded"));
    fs::remove_file(folder.path().join("model-00002-of-00003.safetensors")).unwrap();
    let error = judge(folder.path());
    assert!(
        matches!(&error, LoadError::ShardMissing { shard, .. } if shard == "model-00002-of-00003.safetensors"),
        "{error}"
    );

    let folder = copy(&golden("judge/judge-untied-sharded"));
    edit(&folder.path().join(index), "\"lm_head.weight\"", "\"lm_tail.weight\"");
    let error = judge(folder.path());
    assert!(
        matches!(&error, LoadError::ShardLacksTensor { name, .. } if name == "lm_tail.weight"),
        "{error}"
    );

    let folder = copy(&golden("judge/judge-untied-sharded"));
    fs::write(folder.path().join(index), "{\"metadata\": {}}").unwrap();
    let error = judge(folder.path());
    assert!(error.source().unwrap().to_string().contains("weight_map"), "{error}");
}

#[test]
fn configurations_name_the_key_that_is_wrong() {
    let folder = copy(&shipped("tiny-judge"));
    let config = folder.path().join("config.json");
    edit(&config, "\"num_heads\": 4", "\"num_heads\": \"four\"");
    let error = judge(folder.path());
    assert!(
        error
            .to_string()
            .ends_with("bad configuration at `vision_config.num_heads`"),
        "{error}"
    );

    let folder = copy(&shipped("tiny-judge"));
    edit(
        &folder.path().join("config.json"),
        "\"num_hidden_layers\"",
        "\"hidden_layer_count\"",
    );
    let error = judge(folder.path());
    assert!(error.to_string().contains("`text_config`"), "{error}");
    assert!(
        error
            .source()
            .unwrap()
            .to_string()
            .contains("missing field `num_hidden_layers`")
    );

    let error = read_config::<serde_json::Value>(&folder.path().join("nothing.json")).unwrap_err();
    assert!(matches!(error, LoadError::FileMissing { .. }), "{error}");
}

/// A folder saved by transformers 4.53 names the channels twice; the two names were one key, and the second a duplicate.
#[test]
fn channels_under_their_old_and_new_name_are_read() {
    let folder = copy(&shipped("tiny-judge"));
    let config = folder.path().join("config.json");
    edit(&config, "\"num_heads\": 4", "\"in_chans\": 3, \"num_heads\": 4");
    let text = fs::read_to_string(&config).unwrap();
    assert!(text.contains("\"in_channels\": 3"), "{text}");
    Vlm::load(folder.path(), &Placement::cpu()).unwrap();

    edit(&config, "\"in_chans\": 3", "\"in_chans\": 4");
    let error = judge(folder.path()).to_string();
    assert!(error.contains("`vision_config.in_chans` is 4"), "{error}");
}

/// transformers 4.5x writes both.
#[test]
fn a_rope_type_under_its_old_and_new_name_is_read_where_they_agree() {
    let folder = copy(&shipped("tiny-judge"));
    let config = folder.path().join("config.json");
    edit(
        &config,
        "\"rope_type\": \"default\"",
        "\"rope_type\": \"default\", \"type\": \"mrope\"",
    );
    Vlm::load(folder.path(), &Placement::cpu()).unwrap();
    edit(&config, "\"type\": \"mrope\"", "\"type\": \"yarn\"");
    let error = judge(folder.path()).to_string();
    assert!(error.contains("`yarn` under `type`"), "{error}");
}

/// Of a folder with both files, transformers 5 reads processor_config.json.
#[test]
fn the_image_processor_is_read_from_where_transformers_reads_it() {
    let folder = copy(&shipped("tiny-judge"));
    let nested = folder.path().join("processor_config.json");
    fs::write(&nested, "{\"processor_class\": \"Qwen2_5_VLProcessor\"}").unwrap();
    Vlm::load(folder.path(), &Placement::cpu()).unwrap();
    fs::write(&nested, "{\"image_processor\": {\"resample\": 0}}").unwrap();
    let error = judge(folder.path()).to_string();
    assert!(
        error.contains("processor_config.json: `resample` is 0") && !error.contains("pre"),
        "{error}"
    );
}

#[test]
fn absurd_sizes_are_refused_before_anything_is_made_of_them() {
    let flux = |file: &str, from: &str, to: &str| {
        let folder = copy(&shipped("tiny-flux"));
        edit(&folder.path().join(file), from, to);
        FluxPipeline::load(folder.path(), &Placement::cpu())
            .unwrap_err()
            .to_string()
    };
    let text = fs::read_to_string(shipped("tiny-flux/text_encoder/config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&text).unwrap();
    let heads = format!("\"num_attention_heads\": {}", config["num_attention_heads"]);
    for (count, problem) in [
        (0_u64, "`num_attention_heads` is 0"),
        (
            1 << 20,
            "`num_attention_heads` is 1048576, this implementation needs a divisor of the width",
        ),
        (2_000_000_000, "bad configuration at `num_attention_heads`"),
    ] {
        let error = flux(
            "text_encoder/config.json",
            &heads,
            &format!("\"num_attention_heads\": {count}"),
        );
        assert!(error.contains(problem), "{error}");
    }
    for (file, key) in [
        ("transformer/config.json", "num_layers"),
        ("transformer/config.json", "num_attention_heads"),
        ("text_encoder_2/config.json", "num_layers"),
        ("vae/config.json", "layers_per_block"),
    ] {
        let text = fs::read_to_string(shipped("tiny-flux").join(file)).unwrap();
        let config: serde_json::Value = serde_json::from_str(&text).unwrap();
        let error = flux(
            file,
            &format!("\"{key}\": {}", config[key]),
            &format!("\"{key}\": 2000000000"),
        );
        assert!(error.contains(&format!("bad configuration at `{key}`")), "{error}");
    }
}

#[test]
fn a_variant_is_named_with_what_to_do() {
    let folder = copy(&shipped("tiny-flux/vae"));
    fs::rename(
        folder.path().join("diffusion_pytorch_model.safetensors"),
        folder.path().join("diffusion_pytorch_model.fp16.safetensors"),
    )
    .unwrap();
    let error = vae(folder.path());
    assert!(
        error
            .to_string()
            .contains("but `diffusion_pytorch_model.fp16.safetensors`"),
        "{error}"
    );
    let hint = error.hint().unwrap();
    assert!(
        hint.contains("ln -s diffusion_pytorch_model.fp16.safetensors diffusion_pytorch_model.safetensors"),
        "{hint}"
    );
}

#[test]
fn tokenizer_settings_that_give_other_tokens_are_refused() {
    for key in ["padding_side", "truncation_side"] {
        let folder = copy(&shipped("tiny-flux/tokenizer"));
        let file = folder.path().join("tokenizer_config.json");
        let mut config: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        config[key] = "left".into();
        fs::write(&file, config.to_string()).unwrap();
        let error = PromptTokenizer::load_clip(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("`{key}` is \"left\"")), "{error}");
    }
    let folder = copy(&shipped("tiny-flux/tokenizer"));
    let file = folder.path().join("tokenizer_config.json");
    let mut config: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    config["added_tokens_decoder"] = serde_json::json!({"7": {"content": "<|endoftext|>"}});
    fs::write(&file, config.to_string()).unwrap();
    let error = PromptTokenizer::load_clip(folder.path()).unwrap_err().to_string();
    assert!(error.contains("gives `<|endoftext|>` the number 7"), "{error}");
}

#[test]
fn settings_of_qwen3_vl_that_do_not_fit_are_named() {
    for (from, to, named) in [
        (
            "\"num_position_embeddings\": 25",
            "\"num_position_embeddings\": 26",
            "needs a square number",
        ),
        (
            "\"out_hidden_size\": 20",
            "\"out_hidden_size\": 24",
            "needs the language model's width, 20",
        ),
        (
            "\"depth\": 3",
            "\"depth\": 2",
            "`vision_config.deepstack_visual_indexes` is [0, 2]",
        ),
        (
            "\"num_hidden_layers\": 3",
            "\"num_hidden_layers\": 1",
            "`vision_config.deepstack_visual_indexes` is [0, 2]",
        ),
        ("\"head_dim\": 12", "\"head_dim\": 14", "`mrope_section` is [2, 2, 2]"),
        ("\"head_dim\": 12", "\"head_dim\": 0", "`head_dim` is 0"),
        (
            "\"spatial_merge_size\": 2",
            "\"spatial_merge_size\": 0",
            "positive sizes",
        ),
        ("\"num_position_embeddings\"", "\"positions\"", "`vision_config`"),
    ] {
        let folder = copy(&golden("vlm/qwen3-two-levels"));
        edit(&folder.path().join("config.json"), from, to);
        let error = judge(folder.path()).to_string();
        assert!(error.contains(named), "{from}: {error}");
    }
}

#[test]
fn models_of_another_family_or_size_are_refused() {
    let folder = copy(&shipped("tiny-judge"));
    edit(&folder.path().join("config.json"), "\"qwen2_5_vl\"", "\"llava\"");
    assert!(judge(folder.path()).to_string().contains("`model_type` is \"llava\""));

    let folder = copy(&shipped("tiny-flux/vae"));
    edit(
        &folder.path().join("config.json"),
        "\"latent_channels\": 16",
        "\"latent_channels\": 4",
    );
    assert!(matches!(vae(folder.path()), LoadError::Shape { .. }));

    let folder = copy(&shipped("tiny-flux/vae"));
    edit(
        &folder.path().join("config.json"),
        "\"use_quant_conv\": false",
        "\"use_quant_conv\": true",
    );
    assert!(matches!(vae(folder.path()), LoadError::TensorMissing { .. }));

    let folder = copy(&golden("encoders/vae-quant"));
    edit(
        &folder.path().join("config.json"),
        "\"use_quant_conv\": true",
        "\"use_quant_conv\": false",
    );
    assert!(matches!(vae(folder.path()), LoadError::Unused { .. }));

    let folder = copy(&shipped("tiny-flux"));
    edit(
        &folder.path().join("model_index.json"),
        "\"FluxPipeline\"",
        "\"StableDiffusionPipeline\"",
    );
    let error = FluxPipeline::load(folder.path(), &Placement::cpu())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`_class_name` is \"StableDiffusionPipeline\""),
        "{error}"
    );

    let error = ClipTextEncoder::load(&shipped("tiny-flux/text_encoder_2"), &Placement::cpu()).unwrap_err();
    assert!(matches!(error, LoadError::Config { .. }), "{error}");
}

#[test]
fn missing_tokenizer_files_are_named() {
    let folder = copy(&shipped("tiny-flux"));
    let load = || FluxTextEncoders::load(folder.path(), &Placement::cpu()).unwrap_err();

    fs::remove_file(folder.path().join("tokenizer/tokenizer.json")).unwrap();
    fs::remove_file(folder.path().join("tokenizer/merges.txt")).unwrap();
    let error = load();
    assert!(
        error
            .to_string()
            .contains("tokenizer.json, or vocab.json with merges.txt"),
        "{error}"
    );

    let t5 = folder.path().join("tokenizer_2");
    fs::remove_file(t5.join("tokenizer.json")).unwrap();
    let error = PromptTokenizer::load_t5(&t5).unwrap_err();
    assert!(matches!(error, LoadError::TokenizerMissing { .. }), "{error}");
    fs::write(t5.join("spiece.model"), [10, 14]).unwrap();
    let error = PromptTokenizer::load_t5(&t5).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("holds `spiece.model` but no `tokenizer.json`"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("AutoTokenizer"));

    let folder = copy(&shipped("tiny-judge"));
    fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    assert!(matches!(judge(folder.path()), LoadError::TokenizerMissing { .. }));
    fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    assert!(matches!(judge(folder.path()), LoadError::Tokenizer { .. }));
}

#[test]
fn chat_templates_are_found_in_three_places_and_missed_with_an_error() {
    let folder = copy(&shipped("tiny-judge"));
    let messages = [gavel_models::vlm::Message::user(vec![
        gavel_models::vlm::Content::text("Which?"),
    ])];
    let prompt = |folder: &TempDir| {
        Vlm::load(folder.path(), &Placement::cpu())
            .unwrap()
            .chat_prompt(&messages)
            .unwrap()
    };
    let expected = "<|im_start|>user\nWhich?<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(prompt(&folder), expected);
    fs::remove_file(folder.path().join("chat_template.jinja")).unwrap();
    assert_eq!(prompt(&folder), expected);
    fs::remove_file(folder.path().join("chat_template.json")).unwrap();
    assert!(matches!(judge(folder.path()), LoadError::ChatTemplateMissing { .. }));
    let config = folder.path().join("tokenizer_config.json");
    edit(
        &config,
        "\"backend\"",
        "\"chat_template\": \"{{ messages[0].role.upper() }}{{ eos_token }}\", \"backend\"",
    );
    assert_eq!(prompt(&folder), "USER<|im_end|>");
    edit(&config, "{{ messages[0]", "{{ messages[0");
    assert!(matches!(judge(folder.path()), LoadError::ChatTemplate { .. }));
}
