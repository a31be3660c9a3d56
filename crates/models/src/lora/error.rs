//! What can be wrong with an adapter.

use std::{io, path::PathBuf};

use gavel_core::Hint;

/// An adapter cannot be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum LoraError {
    /// A setting has a value outside its range.
    #[error("`{setting}` {problem}")]
    Setting {
        /// Name of the field of [`super::LoraConfig`].
        setting: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A target matches no linear layer.
    #[error("target `{target}` matches no linear layer of this transformer{}", nearest.as_ref().map(|n| format!("; the nearest is `{n}`")).unwrap_or_default())]
    UnknownTarget {
        /// As configured.
        target: String,
        /// The most similar name that would match.
        nearest: Option<String>,
    },
    /// A target matches a layer that cannot take an adapter.
    #[error("target `{target}` matches `{module}`, which cannot take an adapter")]
    FixedTarget {
        /// As configured.
        target: String,
        /// Path of the layer.
        module: String,
    },
    /// A device failed while it held the gradient.
    #[error("the gradient cannot be read from its device")]
    Device(#[from] candle_core::Error),
    /// A file cannot be read or written.
    #[error("{file}: cannot {action}")]
    Io {
        /// The file or folder.
        file: PathBuf,
        /// `read` or `write`.
        action: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// `adapter_config.json` is not JSON.
    #[error("{file}: not JSON")]
    Json {
        /// The file.
        file: PathBuf,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// `adapter_config.json` asks for something that Gavel does not compute.
    #[error("{file}: `{key}` is {found}, which is not supported")]
    Unsupported {
        /// The file.
        file: PathBuf,
        /// The key.
        key: String,
        /// Its value, as JSON.
        found: String,
    },
    /// The adapter began with something that was taken out of the base weights, and so belongs to another base.
    #[error("{file}: `init_lora_weights` is {found}: its base weights are not those of the model")]
    ChangedBase {
        /// The file.
        file: PathBuf,
        /// Its value, as JSON.
        found: String,
    },
    /// A folder without settings holds no weight file, or several.
    #[error("{dir}: holds no adapter: no `adapter_config.json`, and {} weight files", found.len())]
    NoAdapter {
        /// The folder.
        dir: PathBuf,
        /// Its weight files.
        found: Vec<String>,
    },
    /// Two tensors are the same one.
    #[error("{origin}: `{first}` and `{second}` are the same tensor under two names")]
    Twice {
        /// The file, or where the bytes came from.
        origin: String,
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
    /// A tensor holds a number that is none.
    #[error("{origin}: tensor `{name}` holds NaN or infinity")]
    NotFinite {
        /// The file, or where the bytes came from.
        origin: String,
        /// The tensor.
        name: String,
    },
    /// The weights are not a whole safetensors file.
    #[error("{origin}: not a complete safetensors file")]
    Safetensors {
        /// The file, or where the bytes came from.
        origin: String,
        /// What the parser said.
        #[source]
        source: safetensors::SafeTensorError,
    },
    /// A tensor that the targets imply is absent.
    #[error("{origin}: has no tensor `{name}`{}", instead.as_ref().map(|held| format!(", but one called `{held}`")).unwrap_or_default())]
    Missing {
        /// The file, or where the bytes came from.
        origin: String,
        /// The tensor, without prefix.
        name: String,
        /// One that the file holds, and that no target asks for.
        instead: Option<String>,
    },
    /// The file holds tensors that no target asks for.
    #[error("{origin}: holds {} tensors that no target of this transformer uses, the first is `{}`", names.len(), names.first().map_or("", String::as_str))]
    Unused {
        /// The file, or where the bytes came from.
        origin: String,
        /// All of them, sorted.
        names: Vec<String>,
    },
    /// The file holds no tensor that belongs to this transformer.
    #[error("{origin}: none of its {} tensors adapts a layer of this transformer{}", names.len(), names.first().map(|name| format!("; the first is `{name}`")).unwrap_or_default())]
    Foreign {
        /// The file.
        origin: String,
        /// All of its tensors, sorted.
        names: Vec<String>,
    },
    /// The names are peft's, whose alpha is in another file.
    #[error(
        "{origin}: nothing in it says alpha, and `{name}` is a name of peft, which keeps alpha in `adapter_config.json`"
    )]
    AlphaUnknown {
        /// The file.
        origin: String,
        /// The first such tensor.
        name: String,
    },
    /// A module has another alpha than the others, or than the file's header says.
    #[error("{origin}: `{name}` is {found}, the rest of the adapter has {expected}")]
    Alpha {
        /// The file.
        origin: String,
        /// The alpha.
        name: String,
        /// What the header or the first module says.
        expected: f32,
        /// Its value.
        found: f32,
    },
    /// A tensor has another rank than the configuration says.
    #[error("{origin}: tensor `{name}` has rank {found}, the configuration says {expected}")]
    Rank {
        /// The file, or where the bytes came from.
        origin: String,
        /// The tensor.
        name: String,
        /// `r` of the configuration.
        expected: usize,
        /// Rank of the tensor.
        found: usize,
    },
    /// An adapter was made with other settings than those that are asked for.
    #[error("`lora.{setting}`: {needed} asked for, the adapter has {found}")]
    OtherSettings {
        /// Name of the field of [`super::LoraConfig`].
        setting: &'static str,
        /// What is asked for.
        needed: String,
        /// What the adapter has.
        found: String,
    },
    /// A tensor does not fit the layer that it adapts.
    #[error("{origin}: tensor `{name}` has shape {found:?}, this transformer needs {expected:?}")]
    Shape {
        /// The file, or where the bytes came from.
        origin: String,
        /// The tensor.
        name: String,
        /// What the layer implies.
        expected: Vec<usize>,
        /// What the file holds.
        found: Vec<usize>,
    },
    /// A tensor is stored in a type that is not a float.
    #[error("{origin}: tensor `{name}` is stored as {dtype}")]
    Dtype {
        /// The file, or where the bytes came from.
        origin: String,
        /// The tensor.
        name: String,
        /// Name of the type.
        dtype: String,
    },
    /// A flat vector has the wrong number of values.
    #[error("{found} values given, the adapter has {expected} parameters")]
    Count {
        /// Parameters of the adapter.
        expected: usize,
        /// Values given.
        found: usize,
    },
}

/// Whether a tensor's layer is called as in the code that FLUX was published with, where one layer is several of diffusers'.
fn are_original(names: &[String]) -> bool {
    let blocks = ["double_blocks", "single_blocks"];
    names.iter().any(|name| blocks.iter().any(|block| name.contains(block)))
}

impl Hint for LoraError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Setting { .. } | Self::Device(_) | Self::Json { .. } | Self::Io { .. } => return None,
            Self::UnknownTarget { .. } => {
                "name a module path or the end of one, for example `attn.to_q` or `ff.net.0.proj`"
            }
            Self::FixedTarget { .. } => {
                "leave out the layers that modulate and those that embed timestep, guidance and pooled prompt; attention, \
                 feed-forward, and the projections into and out of the blocks can be adapted"
            }
            Self::ChangedBase { .. } => {
                "let peft write it as a plain adapter: save_pretrained(DIR, path_initial_model_for_weight_conversion=START)"
            }
            Self::NoAdapter { .. } => {
                "give the folder that peft wrote, with adapter_config.json and adapter_model.safetensors, or one .safetensors file"
            }
            Self::Twice { .. } => "keep one of the two: the file was put together from two",
            Self::NotFinite { .. } => "its training failed, or the file is damaged: take an earlier one",
            Self::Missing { instead: Some(_), .. } => {
                "a name may start with `base_model.model.` or with `transformer.`, or with neither; rename the tensors"
            }
            Self::Unsupported { .. } => "use a plain LoRA adapter: one rank, one alpha, a list of targets, no bias",
            Self::Safetensors { .. } => "the file is incomplete or damaged: copy it again",
            Self::Shape { .. } => "check that the adapter was trained for this transformer",
            Self::Foreign { names, .. } | Self::Unused { names, .. } if are_original(names) => {
                "these layers of FLUX's original code cannot take an adapter here, modulations among them: train without them"
            }
            Self::Missing { .. } | Self::Unused { .. } | Self::Rank { .. } => {
                "check that adapter_config.json and the weights belong together"
            }
            Self::Foreign { .. } => {
                "names should be those of diffusers, ai-toolkit or kohya; check that the adapter was trained for this transformer"
            }
            Self::OtherSettings {
                setting: "target_modules",
                ..
            } => {
                "set `lora.target_modules` to the layers that the adapter adapts: the end of a path means all that end so"
            }
            Self::OtherSettings { .. } => "set the key to what the adapter has, or start from another adapter",
            Self::AlphaUnknown { .. } => "put adapter_config.json beside it, and give the folder that holds both",
            Self::Alpha { .. } => "use an adapter with one alpha for all layers",
            Self::Dtype { .. } => "store the adapter as float32, float16 or bfloat16",
            Self::Count { .. } => "check that both sides use the same adapter settings",
        };
        Some(hint.to_owned())
    }
}
