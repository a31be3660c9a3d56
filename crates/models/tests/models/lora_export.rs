//! Adapters for other programs: each layout is read back as the same tensors, and merged weights compute what base and adapter do.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use gavel_core::spec;
use gavel_models::denoiser::{Conditioning, Denoiser, Grid, Input};
use gavel_models::flux::{POOLED_PROMPT_EMBEDS, PROMPT_EMBEDS};
use gavel_models::load::Placement;
use gavel_models::lora::{Layout, LoraAdapter, LoraConfig, LoraError, export_files, write_files};
use gavel_models::qwen::{self, source_latents};
use gavel_models::{Family, LoadError};
use safetensors::SafeTensors;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A small model of each kind of names.
struct Model {
    family: Family,
    dir: PathBuf,
    denoiser: Box<dyn Denoiser>,
}

impl Model {
    fn open(family: Family, dir: PathBuf) -> Self {
        let denoiser = family.load_denoiser(&dir, &Placement::cpu()).unwrap();
        Self { family, dir, denoiser }
    }

    fn flux() -> Self {
        Self::open(Family::Flux, root().join("models/tiny-flux"))
    }

    fn qwen() -> Self {
        Self::open(Family::QwenImageEdit, root().join("models/tiny-qwen-edit"))
    }

    fn adapter(&self, targets: &[&str]) -> LoraAdapter {
        let config = LoraConfig {
            rank: 3,
            alpha: 4.5,
            dropout: 0.0,
            target_modules: targets.iter().map(|target| (*target).to_owned()).collect(),
        };
        let mut adapter = LoraAdapter::init(self.denoiser.layers(), &config, [7; 32]).unwrap();
        let flat: Vec<f32> = (0..adapter.parameter_count())
            .map(|i| (i * 7919 % 101) as f32 / 1010.0 - 0.04)
            .collect();
        adapter.unflatten(&flat).unwrap();
        adapter
    }

    /// Every layer that can take an adapter.
    fn all(&self) -> LoraAdapter {
        let paths: Vec<&str> = self.denoiser.layers().paths().collect();
        self.adapter(&paths)
    }

    fn published(&self) -> LoraAdapter {
        self.adapter(self.family.published_targets())
    }

    fn velocity(&self, denoiser: &dyn Denoiser, adapter: Option<&LoraAdapter>) -> Vec<f32> {
        let grid = Grid { height: 2, width: 3 };
        let ramp = |shape: &[usize]| {
            let count = shape.iter().product::<usize>();
            let values: Vec<f32> = (0..count).map(|i| (i * 31 % 17) as f32 / 8.0 - 1.0).collect();
            Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
        };
        let conditioning = match self.family {
            Family::Flux => Conditioning::from_iter([
                (PROMPT_EMBEDS.to_owned(), ramp(&[1, 5, 64])),
                (POOLED_PROMPT_EMBEDS.to_owned(), ramp(&[1, 64])),
            ]),
            Family::QwenImage | Family::QwenImageEdit => Conditioning::from_iter([
                (qwen::PROMPT_EMBEDS.to_owned(), ramp(&[1, 5, 64])),
                (source_latents(0), ramp(&[1, 2, 3, 64])),
            ]),
        };
        let latents = ramp(&[1, grid.tokens(), 64]);
        let input = Input {
            latents: &latents,
            conditioning: &conditioning,
            sigma: &[0.7],
            guidance: Some(3.5),
            grid,
        };
        let velocity = denoiser.velocity(adapter, &input).unwrap();
        velocity.flatten_all().unwrap().to_vec1().unwrap()
    }
}

fn export(adapter: &LoraAdapter, layout: Layout<'_>, dtype: spec::Dtype) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let bytes = adapter.to_safetensors().unwrap();
    let files = export_files(&bytes, adapter.config(), layout, dtype).unwrap();
    assert_eq!(files, export_files(&bytes, adapter.config(), layout, dtype).unwrap());
    write_files(files, folder.path()).unwrap();
    folder
}

fn layouts(model: &Model) -> [Layout<'_>; 3] {
    let layers = model.denoiser.layers();
    [Layout::Peft, Layout::Diffusers, Layout::Kohya { layers, name: "run" }]
}

fn same_tensors(read: &LoraAdapter, original: &LoraAdapter, what: &str) {
    assert_eq!(read.manifest(), original.manifest(), "{what}");
    assert!(read.flatten() == original.flatten(), "{what}");
    assert_eq!(read.config().scale(), original.config().scale(), "{what}");
    assert_eq!(read.config().alpha, original.config().alpha, "{what}");
}

#[test]
fn each_layout_is_read_back_as_the_same_tensors() {
    for model in [Model::flux(), Model::qwen()] {
        let targets = ["attn.to_q", "attn.to_v"];
        let fresh = LoraAdapter::init(model.denoiser.layers(), model.published().config(), [1; 32]).unwrap();
        let adapters = [
            ("the published layers", model.published()),
            ("all layers", model.all()),
            ("some of a fused layer", model.adapter(&targets)),
            ("a fresh adapter", fresh),
        ];
        for (which, adapter) in adapters {
            for layout in layouts(&model) {
                let folder = export(&adapter, layout, spec::Dtype::F32);
                let read = LoraAdapter::open(folder.path(), model.denoiser.layers()).unwrap();
                same_tensors(&read, &adapter, &format!("{}, {which}, {layout:?}", model.family));
            }
        }
    }
}

#[test]
fn a_smaller_number_format_rounds_and_changes_nothing_else() {
    for model in [Model::flux(), Model::qwen()] {
        let adapter = model.published();
        for (dtype, round) in [
            (
                spec::Dtype::Bf16,
                (|x| half::bf16::from_f32(x).to_f32()) as fn(f32) -> f32,
            ),
            (spec::Dtype::F16, |x| half::f16::from_f32(x).to_f32()),
        ] {
            let mut expected = adapter.clone();
            let rounded: Vec<f32> = adapter.flatten().into_iter().map(round).collect();
            expected.unflatten(&rounded).unwrap();
            for layout in layouts(&model) {
                let folder = export(&adapter, layout, dtype);
                let read = LoraAdapter::open(folder.path(), model.denoiser.layers()).unwrap();
                same_tensors(&read, &expected, &format!("{}, {dtype:?}, {layout:?}", model.family));
            }
        }
    }
}

fn names_in(file: &Path) -> BTreeMap<String, Vec<usize>> {
    let bytes = std::fs::read(file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
    tensors
        .iter()
        .map(|(name, view)| (name.clone(), view.shape().to_vec()))
        .collect()
}

/// The names that ComfyUI makes of its models' layers (`comfy/lora.py`, `model_lora_keys_unet`): `lora_unet_`, and `_` for each dot.
#[test]
fn kohya_s_names_are_those_of_flux_s_original_code_and_of_qwen_s_own() {
    let model = Model::flux();
    let [.., kohya] = layouts(&model);
    let folder = export(&model.published(), kohya, spec::Dtype::F32);
    let names = names_in(&folder.path().join("run.safetensors"));
    // Width 96, the feed-forward's 384: queries, keys and values of rank 3 each, and the feed-forward's part with none.
    for (name, shape) in [
        ("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", vec![9, 96]),
        ("lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight", vec![288, 9]),
        ("lora_unet_double_blocks_0_img_attn_qkv.alpha", vec![]),
        ("lora_unet_double_blocks_1_txt_mlp_2.lora_down.weight", vec![3, 384]),
        ("lora_unet_single_blocks_1_linear1.lora_down.weight", vec![12, 96]),
        ("lora_unet_single_blocks_1_linear1.lora_up.weight", vec![672, 12]),
    ] {
        assert_eq!(names.get(name), Some(&shape), "{name}");
    }
    assert!(names.keys().all(|name| !name.contains("transformer_blocks")));

    let model = Model::qwen();
    let [.., kohya] = layouts(&model);
    let folder = export(&model.published(), kohya, spec::Dtype::F32);
    let names = names_in(&folder.path().join("run.safetensors"));
    for (name, shape) in [
        (
            "lora_unet_transformer_blocks_0_attn_add_q_proj.lora_down.weight",
            vec![3, 96],
        ),
        (
            "lora_unet_transformer_blocks_3_attn_to_out_0.lora_up.weight",
            vec![96, 3],
        ),
        ("lora_unet_transformer_blocks_3_attn_to_out_0.alpha", vec![]),
    ] {
        assert_eq!(names.get(name), Some(&shape), "{name}");
    }
}

#[test]
fn an_adapter_for_another_network_has_no_names_in_kohya_s() {
    let (flux, qwen) = (Model::flux(), Model::qwen());
    let adapter = flux.adapter(&["proj_mlp"]);
    let layers = qwen.denoiser.layers();
    let layout = Layout::Kohya { layers, name: "run" };
    let refused = export_files(
        &adapter.to_safetensors().unwrap(),
        adapter.config(),
        layout,
        spec::Dtype::F32,
    );
    let refused = refused.unwrap_err();
    assert!(
        matches!(&refused, LoraError::Unused { names, .. } if names.contains(&"single_transformer_blocks.0.proj_mlp".to_owned())),
        "{refused}"
    );
}

/// A copy of a model with merged weights.
fn merged(model: &Model, adapter: &LoraAdapter) -> (tempfile::TempDir, Box<dyn Denoiser>) {
    let folder = tempfile::tempdir().unwrap();
    let out = model.family.denoiser_dir(folder.path());
    adapter.merge(&model.family.denoiser_dir(&model.dir), &out).unwrap();
    let denoiser = model.family.load_denoiser(folder.path(), &Placement::cpu()).unwrap();
    (folder, denoiser)
}

fn largest(values: impl Iterator<Item = f32>) -> f32 {
    values.map(f32::abs).fold(0.0, f32::max)
}

/// A pipeline folder that has this denoiser alone, with its weights in another format.
fn stored_as(denoiser: &Path, dtype: DType) -> tempfile::TempDir {
    let base = tempfile::tempdir().unwrap();
    let folder = base.path().join("transformer");
    std::fs::create_dir(&folder).unwrap();
    for entry in std::fs::read_dir(denoiser).unwrap() {
        let from = entry.unwrap().path();
        let to = folder.join(from.file_name().unwrap());
        if from.extension().unwrap() != "safetensors" {
            std::fs::copy(&from, &to).unwrap();
            continue;
        }
        let tensors = candle_core::safetensors::load(&from, &Device::Cpu).unwrap();
        let stored: HashMap<String, Tensor> = tensors
            .into_iter()
            .map(|(name, tensor)| (name, tensor.to_dtype(dtype).unwrap()))
            .collect();
        candle_core::safetensors::save(&stored, &to).unwrap();
    }
    base
}

#[test]
fn merged_weights_compute_what_base_and_adapter_do() {
    for (dtype, tolerance) in [
        // Sums in another order.
        (DType::F32, 2e-5),
        // The sum of W and its change is rounded to 8 bits.
        (DType::BF16, 1e-2),
    ] {
        for shipped in [Model::flux(), Model::qwen()] {
            let base = stored_as(&shipped.family.denoiser_dir(&shipped.dir), dtype);
            let model = Model::open(shipped.family, base.path().to_owned());
            let adapter = model.all();
            let (_folder, denoiser) = merged(&model, &adapter);
            let with = model.velocity(model.denoiser.as_ref(), Some(&adapter));
            let without = model.velocity(model.denoiser.as_ref(), None);
            let found = model.velocity(denoiser.as_ref(), None);
            let scale = largest(with.iter().copied());
            let error = largest(with.iter().zip(&found).map(|(a, b)| a - b)) / scale;
            let effect = largest(with.iter().zip(&without).map(|(a, b)| a - b)) / scale;
            assert!(error < tolerance, "{}, {dtype:?}: {error:e}", model.family);
            assert!(effect > 4.0 * tolerance, "{}, {dtype:?}: {effect:e}", model.family);
        }
    }
}

#[test]
fn merging_keeps_files_names_formats_and_every_byte_that_is_not_adapted() {
    let transformer = root().join("tests/golden/qwen_transformer/sharded/transformer");
    let base = stored_as(&transformer, DType::BF16);
    let folder = base.path().join("transformer");
    let model = Model::open(Family::QwenImageEdit, base.path().to_owned());
    let adapter = model.adapter(&["attn.to_k"]);
    let (out, _) = merged(&model, &adapter);
    let mut changed = 0;
    let mut shards = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let from = entry.unwrap().path();
        let to = out.path().join("transformer").join(from.file_name().unwrap());
        let (before, after) = (std::fs::read(&from).unwrap(), std::fs::read(&to).unwrap());
        if from.extension().unwrap() != "safetensors" {
            assert_eq!(before, after);
            continue;
        }
        shards += 1;
        let (header, _) = SafeTensors::read_metadata(&before).unwrap();
        assert_eq!(before[..header + 8], after[..header + 8], "the header");
        let after = SafeTensors::deserialize(&after).unwrap();
        for (name, view) in SafeTensors::deserialize(&before).unwrap().tensors() {
            let differs = view.data() != after.tensor(&name).unwrap().data();
            assert_eq!(differs, name.ends_with("attn.to_k.weight"), "{name}");
            changed += usize::from(differs);
        }
    }
    assert_eq!(changed, adapter.modules().count());
    assert!(shards > 1);

    let again = adapter.merge(&folder, &out.path().join("transformer")).unwrap_err();
    assert!(
        matches!(again, LoadError::Write { .. }),
        "nothing is written over: {again}"
    );
}
