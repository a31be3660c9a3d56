//! Adapters of other trainers: each form of names is read with the alpha that it implies, or refused by name.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use gavel_models::Family;
use gavel_models::denoiser::Denoiser;
use gavel_models::load::Placement;
use gavel_models::lora::{LoraAdapter, LoraError};
use gavel_models::qwen::QwenImageTransformer;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/qwen_transformer/edit")
}

fn transformer() -> QwenImageTransformer {
    let dir = folder().join("transformer");
    QwenImageTransformer::load(Family::QwenImageEdit, &dir, &Placement::cpu()).unwrap()
}

/// From a module to the name of its alpha and that one's value.
type AlphaOf = fn(&str) -> (String, f32);

/// A weight file of another trainer, made of peft's.
struct Foreign {
    /// From (module, `A` or `B`) to the name of a factor.
    name: fn(&str, char) -> String,
    alpha: Option<AlphaOf>,
    /// `lora_adapter_metadata`.
    header: Option<&'static str>,
}

impl Foreign {
    fn write(&self, dir: &Path) -> PathBuf {
        let bytes = std::fs::read(folder().join("adapter/adapter_model.safetensors")).unwrap();
        let peft = SafeTensors::deserialize(&bytes).unwrap();
        let mut tensors: HashMap<String, TensorView> = HashMap::new();
        let mut alphas: HashMap<String, [u8; 4]> = HashMap::new();
        for (name, view) in peft.tensors() {
            let name = name.strip_prefix("base_model.model.").unwrap();
            let (module, factor) = name.strip_suffix(".weight").unwrap().rsplit_once(".lora_").unwrap();
            tensors.insert((self.name)(module, factor.chars().next().unwrap()), view);
            alphas.extend(self.alpha.map(|alpha| {
                let (name, value) = alpha(module);
                (name, value.to_le_bytes())
            }));
        }
        for (name, bytes) in &alphas {
            tensors.insert(name.clone(), TensorView::new(Dtype::F32, Vec::new(), bytes).unwrap());
        }
        let header = self
            .header
            .map(|header| HashMap::from([("lora_adapter_metadata".to_owned(), header.to_owned())]));
        let file = dir.join("weights.safetensors");
        std::fs::write(&file, safetensors::serialize(tensors, header).unwrap()).unwrap();
        file
    }

    fn import(&self) -> Result<LoraAdapter, LoraError> {
        let dir = tempfile::tempdir().unwrap();
        LoraAdapter::import(&self.write(dir.path()), transformer().layers())
    }

    /// The values are peft's, and alpha is the expected one.
    fn check(&self, what: &str, alpha: f32) {
        let imported = self.import().unwrap();
        let peft = LoraAdapter::load(&folder().join("adapter"), transformer().layers()).unwrap();
        assert!(imported.flatten() == peft.flatten(), "{what}");
        assert_eq!((imported.config().rank, imported.config().alpha), (3, alpha), "{what}");
    }
}

fn diffusers(module: &str, factor: char) -> String {
    format!("transformer.{module}.lora_{factor}.weight")
}

fn bare(module: &str, factor: char) -> String {
    format!("{module}.lora_{factor}.weight")
}

fn peft(module: &str, factor: char) -> String {
    format!("base_model.model.{module}.lora_{factor}.weight")
}

fn diff_synth(module: &str, factor: char) -> String {
    format!("{module}.lora_{factor}.default.weight")
}

fn ai_toolkit(module: &str, factor: char) -> String {
    format!("diffusion_model.{module}.lora_{factor}.weight")
}

fn direction(factor: char) -> &'static str {
    if factor == 'A' { "down" } else { "up" }
}

fn kohya(module: &str, factor: char) -> String {
    format!(
        "lora_unet_{}.lora_{}.weight",
        module.replace('.', "_"),
        direction(factor)
    )
}

fn bare_down_up(module: &str, factor: char) -> String {
    format!("{module}.lora_{}.weight", direction(factor))
}

fn old_diffusers(module: &str, factor: char) -> String {
    format!("transformer.{module}.lora.{}.weight", direction(factor))
}

#[test]
fn names_without_alpha_have_scale_one() {
    let plain = |name| Foreign {
        name,
        alpha: None,
        header: None,
    };
    plain(diffusers).check("diffusers", 3.0);
    plain(old_diffusers).check("diffusers of before peft", 3.0);
    plain(ai_toolkit).check("ai-toolkit", 3.0);
    plain(diff_synth).check("DiffSynth", 3.0);
    plain(kohya).check("kohya", 3.0);
}

#[test]
fn alpha_tensors_count() {
    let with = |name, alpha| Foreign {
        name,
        alpha: Some(alpha),
        header: None,
    };
    with(ai_toolkit, |module| (format!("diffusion_model.{module}.alpha"), 1.5)).check("ai-toolkit", 1.5);
    with(bare_down_up, |module| (format!("{module}.alpha"), 6.0)).check("down and up", 6.0);
    with(kohya, |module| {
        (format!("lora_unet_{}.alpha", module.replace('.', "_")), 6.0)
    })
    .check("kohya", 6.0);
    with(diffusers, |module| (format!("transformer.{module}.alpha"), 6.0)).check("diffusers", 6.0);
}

#[test]
fn the_header_of_diffusers_says_alpha() {
    let foreign = |header| Foreign {
        name: diffusers,
        alpha: None,
        header: Some(header),
    };
    foreign(r#"{"transformer.r": 3, "transformer.lora_alpha": 7}"#).check("few keys", 7.0);
    let targets = r#"{"transformer.r": 3, "transformer.lora_alpha": 5, "transformer.target_modules": ["to_q"]}"#;
    let refused = foreign(targets).import().unwrap_err();
    assert!(matches!(&refused, LoraError::Unused { .. }), "{refused}");
    let scaled = foreign(r#"{"transformer.r": 3, "transformer.lora_alpha": 5, "transformer.use_rslora": true}"#);
    let refused = scaled.import().unwrap_err().to_string();
    assert!(refused.contains("`use_rslora`"), "{refused}");
}

#[test]
fn peft_names_without_the_file_that_says_alpha_are_refused() {
    for name in [peft, bare] {
        let foreign = Foreign {
            name,
            alpha: None,
            header: None,
        };
        let refused = foreign.import().unwrap_err();
        assert!(matches!(&refused, LoraError::AlphaUnknown { .. }), "{refused}");
        assert!(refused.to_string().contains("`adapter_config.json`"), "{refused}");
    }
}

#[test]
fn what_belongs_to_no_layer_is_refused_by_name() {
    let of_another = Foreign {
        name: |module, factor| format!("unet.{module}.lora_{factor}.weight"),
        alpha: None,
        header: None,
    };
    let refused = of_another.import().unwrap_err();
    assert!(
        matches!(&refused, LoraError::Foreign { names, .. } if names.len() == 32),
        "{refused}"
    );
    assert!(refused.to_string().contains("`unet.transformer_blocks.0."), "{refused}");

    let partly = Foreign {
        name: |module, factor| match module {
            "transformer_blocks.0.attn.to_q" => format!("text_encoder.q.lora_{factor}.weight"),
            other => diffusers(other, factor),
        },
        alpha: None,
        header: None,
    };
    let refused = partly.import().unwrap_err();
    assert!(
        matches!(&refused, LoraError::Unused { names, .. } if names.len() == 2 && names[0].starts_with("text_encoder.")),
        "{refused}"
    );
}

#[test]
fn modules_of_different_alpha_are_refused() {
    let foreign = Foreign {
        name: ai_toolkit,
        alpha: Some(|module| {
            let alpha = if module.ends_with("1.attn.to_q") { 2.0 } else { 1.5 };
            (format!("diffusion_model.{module}.alpha"), alpha)
        }),
        header: None,
    };
    let refused = foreign.import().unwrap_err();
    assert!(
        matches!(&refused, LoraError::Alpha { name, .. } if name.ends_with("1.attn.to_q.alpha")),
        "{refused}"
    );
}
