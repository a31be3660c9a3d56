//! The settings of an adapter, and `adapter_config.json`.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::LoraError;

/// More columns than any layer has.
const RANK_MAX: usize = 1 << 16;

/// Settings of a LoRA adapter: y = W x + b + (alpha / rank) B A x.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoraConfig {
    /// Rows of A and columns of B, at least 1.
    pub rank: usize,
    /// Numerator of the scale alpha / rank, above 0.
    pub alpha: f32,
    /// Recorded in the file, never applied: sampler and trainer must compute the same policy, so [`super::LoraAdapter::init`]
    /// takes 0 only.
    pub dropout: f32,
    /// Linear layers to adapt. As in peft, a target matches the module of that path and all whose path ends in `.target`.
    pub target_modules: Vec<String>,
}

impl From<&gavel_core::spec::LoraSpec> for LoraConfig {
    fn from(spec: &gavel_core::spec::LoraSpec) -> Self {
        Self {
            rank: spec.rank,
            alpha: spec.alpha as f32,
            dropout: spec.dropout as f32,
            target_modules: spec.target_modules.clone(),
        }
    }
}

impl LoraConfig {
    /// alpha / rank.
    pub fn scale(&self) -> f32 {
        self.alpha / self.rank as f32
    }

    /// Whether alpha is this, but for a rounding: a third of an alpha that was tripled in float32 may miss it.
    pub(super) fn has_alpha(&self, alpha: f32) -> bool {
        (self.alpha - alpha).abs() <= 2.0 * f32::EPSILON * self.alpha.abs()
    }

    /// Refuses what cannot be trained as a policy.
    pub(super) fn check_trainable(&self) -> Result<(), LoraError> {
        if self.dropout == 0.0 {
            return Ok(());
        }
        let problem = format!(
            "is {}; policy gradients need the same policy in sampler and trainer, set it to 0",
            self.dropout
        );
        Err(LoraError::Setting {
            setting: "dropout",
            problem,
        })
    }

    pub(super) fn check(&self) -> Result<(), LoraError> {
        let problem = if !(1..=RANK_MAX).contains(&self.rank) {
            ("rank", format!("is {}, must lie in 1 to {RANK_MAX}", self.rank))
        } else if !(self.alpha.is_finite() && self.alpha > 0.0) {
            ("alpha", format!("is {}, must be above 0", self.alpha))
        } else if !(0.0..1.0).contains(&self.dropout) {
            ("dropout", format!("is {}, must lie in [0, 1)", self.dropout))
        } else if self.target_modules.is_empty() {
            ("target_modules", "must name at least one linear layer".to_owned())
        } else {
            return Ok(());
        };
        Err(LoraError::Setting {
            setting: problem.0,
            problem: problem.1,
        })
    }

    /// `adapter_config.json` as peft writes it.
    pub(super) fn to_peft(&self) -> Value {
        json!({
            "alpha_pattern": {},
            "auto_mapping": null,
            "base_model_name_or_path": null,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "layers_pattern": null,
            "layers_to_transform": null,
            "lora_alpha": number(self.alpha),
            "lora_dropout": number(self.dropout),
            "modules_to_save": null,
            "peft_type": "LORA",
            "r": self.rank,
            "rank_pattern": {},
            "revision": null,
            "target_modules": self.target_modules,
            "task_type": null,
            "use_dora": false,
            "use_rslora": false,
        })
    }

    /// The same for the header of a diffusers file, where each key carries the component's name. All of them: diffusers 0.35 fails
    /// where one is missing.
    pub(super) fn to_diffusers(&self) -> Value {
        let settings = self.to_peft();
        let keys = settings.as_object().into_iter().flatten();
        keys.map(|(key, value)| (format!("transformer.{key}"), value.clone()))
            .collect()
    }

    /// The header that versions before wrote, with few of the keys.
    pub(super) fn to_diffusers_before(&self) -> Value {
        json!({
            "transformer.bias": "none",
            "transformer.lora_alpha": number(self.alpha),
            "transformer.lora_dropout": number(self.dropout),
            "transformer.r": self.rank,
            "transformer.target_modules": self.target_modules,
        })
    }

    pub(super) fn from_peft(file: &Path, text: &str) -> Result<Self, LoraError> {
        let value: Value = serde_json::from_str(text).map_err(|source| LoraError::Json {
            file: file.to_owned(),
            source,
        })?;
        let wrong = |key: &str| LoraError::Unsupported {
            file: file.to_owned(),
            key: key.to_owned(),
            found: value.get(key).unwrap_or(&Value::Null).to_string(),
        };
        for (key, found) in value.as_object().into_iter().flatten() {
            match setting(key) {
                Setting::Read | Setting::Inert => {}
                Setting::Fixed(expected) if found.is_null() || found == expected => {}
                Setting::Start if is_start_that_keeps_the_base(found) => {}
                Setting::Start => {
                    return Err(LoraError::ChangedBase {
                        file: file.to_owned(),
                        found: found.to_string(),
                    });
                }
                Setting::Empty if is_empty(found) => {}
                Setting::Fixed(_) | Setting::Empty => return Err(wrong(key)),
            }
        }
        let number = |key| value.get(key).and_then(Value::as_f64).map(|number| number as f32);
        let targets = value
            .get("target_modules")
            .and_then(Value::as_array)
            .ok_or_else(|| wrong("target_modules"))?;
        let target_modules: Option<Vec<String>> = targets
            .iter()
            .map(|target| target.as_str().map(str::to_owned))
            .collect();
        let config = Self {
            rank: value.get("r").and_then(Value::as_u64).ok_or_else(|| wrong("r"))? as usize,
            alpha: number("lora_alpha").ok_or_else(|| wrong("lora_alpha"))?,
            dropout: number("lora_dropout").unwrap_or(0.0),
            target_modules: target_modules.ok_or_else(|| wrong("target_modules"))?,
        };
        config.check()?;
        Ok(config)
    }
}

/// What a key of `adapter_config.json` may say.
enum Setting {
    /// It is a field of [`LoraConfig`].
    Read,
    /// It changes nothing in what a stored adapter computes.
    Inert,
    /// It may say this alone.
    Fixed(&'static str),
    /// How the factors began.
    Start,
    /// It changes the arithmetic or the set of trained tensors, or nobody here knows it: it may say nothing.
    Empty,
}

fn setting(key: &str) -> Setting {
    match key {
        "r" | "lora_alpha" | "lora_dropout" | "target_modules" => Setting::Read,
        "auto_mapping" | "base_model_name_or_path" | "inference_mode" | "peft_version" | "revision" | "task_type" => {
            Setting::Inert
        }
        // Each belongs to another key, which says whether it counts.
        "corda_config" | "eva_config" | "layers_pattern" | "loftq_config" | "lora_ga_config" | "megatron_core"
        | "qalora_group_size" | "runtime_config" => Setting::Inert,
        "peft_type" => Setting::Fixed("LORA"),
        "bias" => Setting::Fixed("none"),
        "init_lora_weights" => Setting::Start,
        _ => Setting::Empty,
    }
}

/// Whether `init_lora_weights` names a start that leaves the base weights as they are. PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA take what they
/// put into the factors out of the base.
fn is_start_that_keeps_the_base(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(_) => true,
        Value::String(name) => ["gaussian", "orthogonal", "eva"].contains(&name.to_lowercase().as_str()),
        _ => false,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(keys) => keys.is_empty(),
        _ => false,
    }
}

/// A JSON number, whole where the value is.
fn number(value: f32) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e9 {
        json!(value as i64)
    } else {
        json!(value)
    }
}
