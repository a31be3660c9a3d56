//! Adapters on disk: what is written is read back, and what does not fit is refused with its reason.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use gavel_core::Hint as _;
use gavel_models::denoiser::{Conditioning, Denoiser, Grid, Input};
use gavel_models::flux::{FluxTransformer, POOLED_PROMPT_EMBEDS, PROMPT_EMBEDS};
use gavel_models::load::Placement;
use gavel_models::lora::{LoraAdapter, LoraConfig, LoraError, LoraGradients};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

fn transformer(case: &str) -> FluxTransformer {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/golden/flux_transformer")
        .join(case);
    FluxTransformer::load(&folder.join("transformer"), &Placement::cpu()).unwrap()
}

fn config(targets: &[&str]) -> LoraConfig {
    let target_modules = targets.iter().map(|target| (*target).to_owned()).collect();
    LoraConfig {
        rank: 3,
        alpha: 5.0,
        dropout: 0.0,
        target_modules,
    }
}

/// An adapter with values in B too.
fn adapter(transformer: &FluxTransformer) -> LoraAdapter {
    let mut adapter = LoraAdapter::init(
        transformer.layers(),
        &config(&["attn.to_q", "ff.net.0.proj", "proj_mlp"]),
        [1; 32],
    )
    .unwrap();
    let flat: Vec<f32> = (0..adapter.parameter_count())
        .map(|i| (i % 17) as f32 / 17.0 - 0.4)
        .collect();
    adapter.unflatten(&flat).unwrap();
    adapter
}

fn saved(transformer: &FluxTransformer) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    adapter(transformer).save(folder.path()).unwrap();
    let weights = folder.path().join("adapter_model.safetensors");
    (folder, weights)
}

/// Writes the weight file again with other names, shapes or values.
fn rewrite(file: &Path, change: impl Fn(&str, &[usize], &[u8]) -> Option<(String, Vec<usize>, Dtype, Vec<u8>)>) {
    let bytes = std::fs::read(file).unwrap();
    let tensors: Vec<_> = SafeTensors::deserialize(&bytes)
        .unwrap()
        .tensors()
        .iter()
        .filter_map(|(name, view)| change(name, view.shape(), view.data()))
        .collect();
    let views: HashMap<_, _> = tensors
        .iter()
        .map(|(name, shape, dtype, data)| (name.clone(), TensorView::new(*dtype, shape.clone(), data).unwrap()))
        .collect();
    std::fs::write(file, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn a_saved_adapter_is_read_back_bit_for_bit() {
    let transformer = transformer("wide_picture");
    let original = adapter(&transformer);
    let (folder, _) = saved(&transformer);
    let loaded = LoraAdapter::load(folder.path(), transformer.layers()).unwrap();
    assert!(loaded == original);
    assert_eq!(loaded.manifest(), original.manifest());
    let bytes = original.to_safetensors().unwrap();
    assert_eq!(bytes, loaded.to_safetensors().unwrap());
    assert!(LoraAdapter::from_safetensors(&bytes, original.config(), transformer.layers()).unwrap() == original);
}

/// diffusers 0.35 fails on a header that lacks one of the settings.
#[test]
fn the_header_for_diffusers_holds_every_setting_of_peft_s_file() {
    let (folder, _) = saved(&transformer("sharded_without_guidance"));
    let settings = std::fs::read(folder.path().join("adapter_config.json")).unwrap();
    let settings: BTreeMap<String, Value> = serde_json::from_slice(&settings).unwrap();
    let weights = std::fs::read(folder.path().join("pytorch_lora_weights.safetensors")).unwrap();
    let (_, header) = SafeTensors::read_metadata(&weights).unwrap();
    let header = &header.metadata().as_ref().unwrap()["lora_adapter_metadata"];
    let header: BTreeMap<String, Value> = serde_json::from_str(header).unwrap();
    assert!(header.contains_key("transformer.rank_pattern"));
    let prefixed = settings
        .into_iter()
        .map(|(key, value)| (format!("transformer.{key}"), value));
    assert!(prefixed.eq(header), "one of them lacks a setting of the other");
}

#[test]
fn keys_of_diffusers_and_keys_without_prefix_are_read_too() {
    let transformer = transformer("wide_picture");
    for prefix in ["transformer.", ""] {
        let (folder, weights) = saved(&transformer);
        rewrite(&weights, |name, shape, data| {
            let name = name.replace("base_model.model.", prefix);
            Some((name, shape.to_vec(), Dtype::F32, data.to_vec()))
        });
        assert!(LoraAdapter::load(folder.path(), transformer.layers()).unwrap() == adapter(&transformer));
    }
}

#[test]
fn half_precision_adapters_are_read_as_float32() {
    let transformer = transformer("wide_picture");
    let (folder, weights) = saved(&transformer);
    rewrite(&weights, |name, shape, data| {
        let halved = data.chunks_exact(4).flat_map(|bytes| [bytes[2], bytes[3]]).collect();
        Some((name.to_owned(), shape.to_vec(), Dtype::BF16, halved))
    });
    let (found, exact) = (
        LoraAdapter::load(folder.path(), transformer.layers())
            .unwrap()
            .flatten(),
        adapter(&transformer).flatten(),
    );
    assert!(found.iter().zip(&exact).all(|(a, b)| (a - b).abs() <= b.abs() / 128.0));
}

#[test]
fn a_file_that_does_not_fit_is_refused_with_its_reason() {
    let transformer = transformer("wide_picture");
    let refusal = |change: &dyn Fn(&Path)| {
        let (folder, weights) = saved(&transformer);
        change(&weights);
        LoraAdapter::load(folder.path(), transformer.layers()).unwrap_err()
    };
    let keep =
        |name: &str, shape: &[usize], data: &[u8]| Some((name.to_owned(), shape.to_vec(), Dtype::F32, data.to_vec()));

    let truncated = refusal(&|weights| {
        let bytes = std::fs::read(weights).unwrap();
        std::fs::write(weights, &bytes[..bytes.len() - 5]).unwrap();
    });
    assert!(matches!(truncated, LoraError::Safetensors { .. }), "{truncated}");

    let missing = refusal(&|weights| {
        rewrite(weights, |name, shape, data| {
            (!name.ends_with("0.attn.to_q.lora_B.weight"))
                .then(|| keep(name, shape, data))
                .flatten()
        });
    });
    assert!(
        matches!(&missing, LoraError::Missing { name, .. } if name.ends_with("to_q.lora_B.weight")),
        "{missing}"
    );

    let renamed = refusal(&|weights| {
        let (bytes, file) = (std::fs::read(weights).unwrap(), weights);
        let mut tensors: HashMap<String, TensorView> = SafeTensors::deserialize(&bytes)
            .unwrap()
            .tensors()
            .into_iter()
            .collect();
        let extra = tensors.values().next().unwrap().clone();
        tensors.insert(
            "base_model.model.transformer_blocks.0.attn.to_k.lora_A.weight".to_owned(),
            extra,
        );
        std::fs::write(file, safetensors::serialize(tensors, None).unwrap()).unwrap();
    });
    assert!(
        matches!(&renamed, LoraError::Unused { names, .. } if names.len() == 1),
        "{renamed}"
    );

    let other_rank = refusal(&|weights| {
        rewrite(weights, |name, shape, data| {
            let a = name.ends_with("lora_A.weight");
            let (shape, bytes) = if a {
                (vec![2, shape[1]], 2 * shape[1] * 4)
            } else {
                (vec![shape[0], 2], shape[0] * 2 * 4)
            };
            Some((name.to_owned(), shape, Dtype::F32, data[..bytes].to_vec()))
        });
    });
    assert!(
        matches!(
            other_rank,
            LoraError::Rank {
                expected: 3,
                found: 2,
                ..
            }
        ),
        "{other_rank}"
    );

    let other_width = refusal(&|weights| {
        rewrite(weights, |name, _, _| {
            Some((name.to_owned(), vec![7, 5], Dtype::F32, vec![0; 140]))
        });
    });
    assert!(matches!(other_width, LoraError::Shape { .. }), "{other_width}");

    let integers = refusal(&|weights| {
        rewrite(weights, |name, shape, data| {
            Some((name.to_owned(), shape.to_vec(), Dtype::I32, data.to_vec()))
        });
    });
    assert!(matches!(integers, LoraError::Dtype { .. }), "{integers}");

    let absent = refusal(&|weights| std::fs::remove_file(weights).unwrap());
    assert!(matches!(absent, LoraError::Io { action: "read", .. }), "{absent}");
}

#[test]
fn settings_that_change_the_arithmetic_are_refused() {
    let transformer = transformer("wide_picture");
    for (key, value) in [
        ("use_dora", "true"),
        ("use_rslora", "true"),
        ("bias", "\"all\""),
        ("rank_pattern", "{\"to_q\": 8}"),
        ("modules_to_save", "[\"proj_out\"]"),
        ("target_modules", "\"all-linear\""),
        ("peft_type", "\"LOKR\""),
        ("monteclora_config", "{\"samples\": 2}"),
        ("no_such_setting", "1"),
    ] {
        let (folder, _) = saved(&transformer);
        let file = folder.path().join("adapter_config.json");
        let mut settings: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        settings[key] = serde_json::from_str(value).unwrap();
        std::fs::write(&file, settings.to_string()).unwrap();
        let refused = LoraAdapter::load(folder.path(), transformer.layers()).unwrap_err();
        assert!(
            matches!(&refused, LoraError::Unsupported { key: found, .. } if *found == key),
            "{key}: {refused}"
        );
    }
}

fn with_setting(transformer: &FluxTransformer, key: &str, value: &str) -> Result<LoraAdapter, LoraError> {
    let (folder, _) = saved(transformer);
    let file = folder.path().join("adapter_config.json");
    let mut settings: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    settings[key] = serde_json::from_str(value).unwrap();
    // As an editor may write it.
    std::fs::write(&file, format!("\u{feff}{settings}")).unwrap();
    LoraAdapter::load(folder.path(), transformer.layers())
}

#[test]
fn a_start_that_was_taken_out_of_the_base_is_refused() {
    let transformer = transformer("wide_picture");
    for start in [
        "pissa",
        "pissa_niter_4",
        "olora",
        "corda",
        "loftq",
        "lora_ga",
        "something new",
    ] {
        let refused = with_setting(&transformer, "init_lora_weights", &format!("\"{start}\"")).unwrap_err();
        assert!(matches!(refused, LoraError::ChangedBase { .. }), "{refused}");
        assert!(refused.to_string().contains("`init_lora_weights` is"), "{refused}");
        assert!(
            refused
                .hint()
                .unwrap()
                .contains("path_initial_model_for_weight_conversion")
        );
    }
    for start in ["true", "false", "null", "\"gaussian\"", "\"eva\"", "\"orthogonal\""] {
        assert!(with_setting(&transformer, "init_lora_weights", start).unwrap() == adapter(&transformer));
    }
}

#[test]
fn settings_that_say_nothing_are_read_whatever_they_are_called() {
    let transformer = transformer("wide_picture");
    for (key, value) in [
        ("peft_version", "\"0.99\""),
        ("loftq_config", "{\"loftq_bits\": 4}"),
        ("of_another_release", "null"),
        ("of_another_release", "false"),
        ("of_another_release", "{}"),
        ("modules_to_save", "[]"),
        ("megatron_core", "\"megatron.core\""),
    ] {
        assert!(with_setting(&transformer, key, value).is_ok(), "{key}");
    }
}

#[test]
fn one_tensor_under_two_names_is_refused() {
    let transformer = transformer("wide_picture");
    let (folder, weights) = saved(&transformer);
    let bytes = std::fs::read(&weights).unwrap();
    let mut tensors: HashMap<String, TensorView> = HashMap::new();
    for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
        tensors.insert(name.replace("base_model.model.", "transformer."), view.clone());
        tensors.insert(name, view);
    }
    std::fs::write(&weights, safetensors::serialize(tensors, None).unwrap()).unwrap();
    let refused = LoraAdapter::load(folder.path(), transformer.layers()).unwrap_err();
    assert!(
        matches!(&refused, LoraError::Twice { first, second, .. }
            if first.starts_with("base_model.model.") && second.starts_with("transformer.")),
        "{refused}"
    );
}

#[test]
fn a_prefix_too_many_is_shown_by_a_name_that_the_file_holds() {
    let transformer = transformer("wide_picture");
    let (folder, weights) = saved(&transformer);
    rewrite(&weights, |name, shape, data| {
        Some((format!("transformer.{name}"), shape.to_vec(), Dtype::F32, data.to_vec()))
    });
    let refused = LoraAdapter::load(folder.path(), transformer.layers()).unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("but one called `transformer.base_model.model."),
        "{refused}"
    );
    assert!(refused.hint().unwrap().contains("rename the tensors"));
}

#[test]
fn a_folder_without_settings_is_read_where_its_file_says_them() {
    let transformer = transformer("wide_picture");
    let (folder, weights) = saved(&transformer);
    std::fs::remove_file(folder.path().join("adapter_config.json")).unwrap();
    let read = LoraAdapter::open(folder.path(), transformer.layers()).unwrap();
    assert_eq!(read.flatten(), adapter(&transformer).flatten());
    assert_eq!(
        (read.config().rank, read.config().alpha),
        (3, 5.0),
        "alpha is the header's"
    );

    std::fs::remove_file(folder.path().join("pytorch_lora_weights.safetensors")).unwrap();
    let refused = LoraAdapter::open(folder.path(), transformer.layers()).unwrap_err();
    assert!(matches!(refused, LoraError::AlphaUnknown { .. }), "{refused}");
    std::fs::remove_file(weights).unwrap();
    let refused = LoraAdapter::open(folder.path(), transformer.layers()).unwrap_err();
    assert!(matches!(refused, LoraError::NoAdapter { .. }), "{refused}");
    assert!(refused.hint().unwrap().contains("adapter_config.json"));
}

/// Queries, keys and values are one layer in FLUX's original code, as ComfyUI and kohya's scripts name them.
#[test]
fn layers_under_the_names_of_the_original_code_are_read() {
    let transformer = transformer("wide_picture");
    let attention = ["to_q", "to_k", "to_v"].map(|part| format!("transformer_blocks.0.attn.{part}"));
    let single =
        ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"].map(|part| format!("single_transformer_blocks.1.{part}"));
    let output = "single_transformer_blocks.0.proj_out".to_owned();
    let targets: Vec<&str> = attention
        .iter()
        .chain(&single)
        .chain([&output])
        .map(String::as_str)
        .collect();
    let mut expected = LoraAdapter::init(transformer.layers(), &config(&targets), [2; 32]).unwrap();
    let mut flat: Vec<f32> = (0..expected.parameter_count()).map(|i| (i % 13) as f32 - 6.0).collect();
    let tensors: BTreeMap<String, ([usize; 2], std::ops::Range<usize>)> = expected
        .tensors()
        .map(|(name, shape, range)| (name, (shape, range)))
        .collect();
    // One layer has one A.
    for modules in [attention.as_slice(), &single] {
        let first = tensors[&format!("{}.lora_A.weight", modules[0])].1.clone();
        for module in modules {
            let to = tensors[&format!("{module}.lora_A.weight")].1.clone();
            let values = flat[first.clone()].to_vec();
            flat[to].copy_from_slice(&values);
        }
    }
    expected.unflatten(&flat).unwrap();

    for (prefix, separator) in [("diffusion_model.", "."), ("lora_unet_", "_")] {
        let mut written: HashMap<String, (Vec<usize>, Vec<u8>)> = HashMap::new();
        for (original, modules) in [
            ("double_blocks.0.img_attn.qkv", attention.as_slice()),
            ("single_blocks.1.linear1", &single),
            ("single_blocks.0.linear2", std::slice::from_ref(&output)),
        ] {
            let name = format!("{prefix}{}", original.replace('.', separator));
            let of = |module: &String, factor: &str| &tensors[&format!("{module}.lora_{factor}.weight")];
            let bytes = |range: &std::ops::Range<usize>| -> Vec<u8> {
                flat[range.clone()]
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect()
            };
            let (shape, range) = of(&modules[0], "A");
            written.insert(format!("{name}.lora_down.weight"), (shape.to_vec(), bytes(range)));
            let rows = modules.iter().map(|module| of(module, "B").0[0]).sum();
            let data = modules.iter().flat_map(|module| bytes(&of(module, "B").1)).collect();
            written.insert(format!("{name}.lora_up.weight"), (vec![rows, 3], data));
            written.insert(format!("{name}.alpha"), (Vec::new(), 5.0_f32.to_le_bytes().to_vec()));
        }
        let views: HashMap<&String, TensorView> = written
            .iter()
            .map(|(name, (shape, data))| (name, TensorView::new(Dtype::F32, shape.clone(), data).unwrap()))
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("comfy.safetensors");
        std::fs::write(&file, safetensors::serialize(views, None).unwrap()).unwrap();
        let read = LoraAdapter::import(&file, transformer.layers()).unwrap();
        assert_eq!(read.flatten(), expected.flatten(), "{prefix}");
        assert_eq!((read.config().rank, read.config().alpha), (3, 5.0));
    }
}

#[test]
fn numbers_that_are_none_and_absurd_ranks_are_refused() {
    let transformer = transformer("wide_picture");
    let (folder, weights) = saved(&transformer);
    rewrite(&weights, |name, shape, data| {
        let mut data = data.to_vec();
        data[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
        Some((name.to_owned(), shape.to_vec(), Dtype::F32, data))
    });
    let refused = LoraAdapter::load(folder.path(), transformer.layers()).unwrap_err();
    assert!(matches!(refused, LoraError::NotFinite { .. }), "{refused}");
    for rank in ["18446744073709551615", "65536", "0"] {
        let refused = with_setting(&transformer, "r", rank).unwrap_err();
        assert!(
            matches!(
                refused,
                LoraError::Setting { setting: "rank", .. } | LoraError::Rank { .. }
            ),
            "{refused}"
        );
    }
}

#[test]
fn targets_match_whole_path_components_as_in_peft() {
    let transformer = transformer("wide_picture");
    let modules = |targets: &[&str]| -> Vec<String> {
        let adapter = LoraAdapter::init(transformer.layers(), &config(targets), [0; 32]).unwrap();
        adapter.modules().map(str::to_owned).collect()
    };
    assert_eq!(
        modules(&["to_q"]),
        [
            "single_transformer_blocks.0.attn.to_q",
            "single_transformer_blocks.1.attn.to_q",
            "transformer_blocks.0.attn.to_q"
        ]
    );
    assert_eq!(
        modules(&["transformer_blocks.0.attn.to_q"]),
        ["transformer_blocks.0.attn.to_q"]
    );
    assert_eq!(modules(&["ff.net.2", "to_q"]).len(), 4);
    assert_eq!(
        modules(&["proj_out"]),
        [
            "proj_out",
            "single_transformer_blocks.0.proj_out",
            "single_transformer_blocks.1.proj_out"
        ]
    );
}

#[test]
fn a_target_without_a_layer_is_refused() {
    let transformer = transformer("wide_picture");
    let refusal = |targets: &[&str]| LoraAdapter::init(transformer.layers(), &config(targets), [0; 32]).unwrap_err();
    assert_eq!(
        refusal(&["attn.to_g"]).to_string(),
        "target `attn.to_g` matches no linear layer of this transformer; the nearest is `attn.to_k`"
    );
    // Part of a component is no match.
    assert!(matches!(refusal(&["o_q"]), LoraError::UnknownTarget { .. }));
    assert_eq!(
        refusal(&["norm1.linear"]).to_string(),
        "target `norm1.linear` matches `transformer_blocks.0.norm1.linear`, which cannot take an adapter"
    );
    assert!(matches!(
        refusal(&[]),
        LoraError::Setting {
            setting: "target_modules",
            ..
        }
    ));
    let dropout = LoraConfig {
        dropout: 0.1,
        ..config(&["to_q"])
    };
    let refused = LoraAdapter::init(transformer.layers(), &dropout, [0; 32]).unwrap_err();
    assert!(matches!(refused, LoraError::Setting { setting: "dropout", .. }));
}

#[test]
fn a_fresh_adapter_has_uniform_a_and_zero_b_and_follows_its_seed() {
    let transformer = transformer("wide_picture");
    let fresh = |targets: &[&str], seed| LoraAdapter::init(transformer.layers(), &config(targets), [seed; 32]).unwrap();
    let flat = fresh(&["to_q"], 1).flatten();
    assert_eq!(flat, fresh(&["to_q"], 1).flatten());
    assert_ne!(flat, fresh(&["to_q"], 2).flatten());
    let (a, b) = flat[..2 * 3 * 32].split_at(3 * 32);
    assert!(b.iter().all(|value| *value == 0.0));
    let bound = 1.0 / 32.0_f32.sqrt();
    assert!(a.iter().all(|value| value.abs() < bound));
    let variance = a.iter().map(|value| value * value).sum::<f32>() / 96.0;
    assert!(
        (variance / (bound * bound / 3.0) - 1.0).abs() < 0.35,
        "variance {variance}"
    );
    // A module starts equal whatever other targets there are: to_k comes before to_q in the flat order.
    let both = fresh(&["to_k", "to_q"], 1);
    assert_eq!(both.flatten()[2 * 3 * 32..4 * 3 * 32], flat[..2 * 3 * 32]);
}

#[test]
fn manifests_differ_when_names_or_shapes_do() {
    let (wide, single) = (transformer("wide_picture"), transformer("single_blocks_only"));
    let manifest = |transformer: &FluxTransformer, targets: &[&str]| {
        LoraAdapter::init(transformer.layers(), &config(targets), [0; 32])
            .unwrap()
            .manifest()
    };
    let queries = manifest(&wide, &["to_q"]);
    assert_eq!((queries.tensors, queries.parameters), (6, 3 * 2 * 3 * 32));
    assert_ne!(queries, manifest(&wide, &["to_k"]));
    assert_ne!(queries, manifest(&single, &["to_q"]));
}

#[test]
fn a_flat_vector_of_another_length_is_refused() {
    let transformer = transformer("wide_picture");
    let mut adapter = adapter(&transformer);
    let before = adapter.flatten();
    let refused = adapter.unflatten(&before[1..]).unwrap_err();
    assert!(matches!(refused, LoraError::Count { .. }));
    assert_eq!(adapter.flatten(), before);
    let gradients = LoraGradients::zeros(&adapter);
    assert_eq!(gradients.flatten().unwrap().len(), adapter.parameter_count());
}

#[test]
fn an_adapter_of_another_architecture_is_refused_where_it_is_used() {
    let (wide, single) = (transformer("wide_picture"), transformer("single_blocks_only"));
    let foreign = adapter(&wide);
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let latents = zeros(&[1, 2, 4]);
    let conditioning = Conditioning::from_iter([
        (PROMPT_EMBEDS, zeros(&[1, 1, 6])),
        (POOLED_PROMPT_EMBEDS, zeros(&[1, 5])),
    ]);
    let input = Input {
        latents: &latents,
        conditioning: &conditioning,
        sigma: &[0.5],
        guidance: None,
        grid: Grid { height: 1, width: 2 },
    };
    assert!(single.velocity(None, &input).is_ok());
    let refused = single.velocity(Some(&foreign), &input).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "`adapter`: was made for a transformer of another architecture"
    );
    let bad_sigma = Input { sigma: &[0.0], ..input };
    assert!(single.velocity(None, &bad_sigma).is_err());
    let too_many_sigmas = Input {
        sigma: &[0.5, 0.5],
        ..input
    };
    assert!(single.velocity(None, &too_many_sigmas).is_err());
    let bad_size = Input {
        grid: Grid { height: 1, width: 3 },
        ..input
    };
    assert!(single.velocity(None, &bad_size).is_err());
}
