//! What can be wrong with a model folder.

use std::{io, path::PathBuf};

use super::weights::STEMS;
use gavel_core::Hint;
use safetensors::SafeTensorError;

/// A model folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The folder does not exist, or is a file.
    #[error("{dir}: no such folder")]
    FolderMissing {
        /// The folder asked for.
        dir: PathBuf,
    },
    /// A file that every folder of this kind has does not exist.
    #[error("{file}: no such file")]
    FileMissing {
        /// The file asked for.
        file: PathBuf,
    },
    /// The folder holds no weights in a layout that is known.
    #[error("{dir}: holds no weights{} (looked for {looked_for})", found.as_ref().map(|found| format!(" under their usual name, but `{found}`")).unwrap_or_default())]
    NoWeights {
        /// The component folder.
        dir: PathBuf,
        /// File names that were tried.
        looked_for: String,
        /// A weight file under another name, such as a variant's.
        found: Option<String>,
    },
    /// The operating system refused a file.
    #[error("{file}: cannot read")]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The operating system refused to write a file.
    #[error("{file}: cannot write")]
    Write {
        /// The file, or the folder.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A weight file is shorter (or longer) than its header says.
    #[error("{file}: {size} bytes, which is not what its header announces")]
    Truncated {
        /// The weight file.
        file: PathBuf,
        /// Bytes on disk.
        size: u64,
    },
    /// A weight file is a git-lfs pointer, not the weights.
    #[error("{file}: is a git-lfs pointer, not the weights")]
    LfsPointer {
        /// The weight file.
        file: PathBuf,
    },
    /// A weight file does not start with a safetensors header.
    #[error("{file}: not a safetensors file")]
    Header {
        /// The weight file.
        file: PathBuf,
        /// What the parser said.
        #[source]
        source: SafeTensorError,
    },
    /// The index of a sharded model names a file that does not exist.
    #[error("{index}: names the shard `{shard}`, which does not exist")]
    ShardMissing {
        /// The `*.index.json` file.
        index: PathBuf,
        /// The shard's file name.
        shard: String,
    },
    /// The index of a sharded model assigns a tensor to a file that lacks it.
    #[error("{index}: places `{name}` in `{shard}`, which does not hold it")]
    ShardLacksTensor {
        /// The `*.index.json` file.
        index: PathBuf,
        /// The shard's file name.
        shard: String,
        /// The tensor.
        name: String,
    },
    /// A tensor that the architecture needs is absent.
    #[error("{file}: has no tensor `{name}`{}", nearest.as_ref().map(|n| format!("; the nearest is `{n}`")).unwrap_or_default())]
    TensorMissing {
        /// The weight file, or the index of a sharded model.
        file: PathBuf,
        /// The tensor.
        name: String,
        /// The most similar name in the file.
        nearest: Option<String>,
    },
    /// A tensor has another shape than the architecture gives it.
    #[error("{file}: tensor `{name}` has shape {found:?}, this architecture needs {expected:?}")]
    Shape {
        /// The weight file.
        file: PathBuf,
        /// The tensor.
        name: String,
        /// What the configuration implies.
        expected: Vec<usize>,
        /// What the file holds.
        found: Vec<usize>,
    },
    /// A tensor is stored in a type that candle does not compute in.
    #[error("{file}: tensor `{name}` is stored as {dtype}, which is not supported")]
    Dtype {
        /// The weight file.
        file: PathBuf,
        /// The tensor.
        name: String,
        /// The type's name in the safetensors header.
        dtype: String,
    },
    /// The file holds tensors that the architecture does not read.
    #[error("{file}: holds {} tensors that this architecture does not use: {}", names.len(), shortened(names))]
    Unused {
        /// The weight file, or the index of a sharded model.
        file: PathBuf,
        /// All of their names, sorted.
        names: Vec<String>,
    },
    /// A JSON file lacks a key or holds a value of another type.
    #[error("{file}: bad configuration at `{key}`")]
    Config {
        /// The JSON file.
        file: PathBuf,
        /// Path of the key, `.` for the whole file.
        key: String,
        /// What the parser said; it names a missing key.
        #[source]
        source: serde_json::Error,
    },
    /// A configuration value is one that this implementation does not compute.
    #[error("{file}: `{key}` is {found}, this implementation needs {expected}")]
    Unsupported {
        /// The JSON file.
        file: PathBuf,
        /// Path of the key.
        key: String,
        /// Its value, as JSON.
        found: String,
        /// What is supported, in words.
        expected: String,
    },
    /// A tokenizer folder lacks the files that define the tokenizer.
    #[error("{dir}: holds no tokenizer (looked for {looked_for})")]
    TokenizerMissing {
        /// The tokenizer folder.
        dir: PathBuf,
        /// File names that were tried.
        looked_for: &'static str,
    },
    /// A tokenizer folder holds only a SentencePiece model, which is not read.
    #[error("{dir}: holds `spiece.model` but no `tokenizer.json`")]
    SentencePieceOnly {
        /// The tokenizer folder.
        dir: PathBuf,
    },
    /// A tokenizer file is broken.
    #[error("{file}: {problem}")]
    Tokenizer {
        /// The tokenizer file.
        file: PathBuf,
        /// What the parser said.
        problem: String,
    },
    /// The folder holds no chat template.
    #[error(
        "{dir}: holds no chat template (looked for chat_template.jinja, chat_template.json and `chat_template` in tokenizer_config.json)"
    )]
    ChatTemplateMissing {
        /// The model folder.
        dir: PathBuf,
    },
    /// The chat template does not parse.
    #[error("{file}: the chat template does not parse")]
    ChatTemplate {
        /// The file that holds the template.
        file: PathBuf,
        /// What the parser said.
        #[source]
        source: minijinja::Error,
    },
    /// A tensor could not be brought to the device.
    #[error("{dir}: tensor operation")]
    Candle {
        /// The component folder.
        dir: PathBuf,
        /// What candle said.
        #[source]
        source: candle_core::Error,
    },
}

impl Hint for LoadError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::FolderMissing { .. } | Self::FileMissing { .. } => {
                "check the path; a model folder is an unmodified Hugging Face snapshot, with every file of the repository"
            }
            Self::NoWeights { found: Some(found), .. } => {
                let stem = STEMS.iter().find(|stem| found.starts_with(*stem)).unwrap_or(&STEMS[0]);
                return Some(match found.ends_with(".index.json") || found.contains("-of-") {
                    true => format!(
                        "Gavel reads no variants: fetch the shards without a variant, or give the index the name {stem}.safetensors.index.json"
                    ),
                    false => format!(
                        "Gavel reads no variants: rename the file, or link it: ln -s {found} {stem}.safetensors"
                    ),
                });
            }
            Self::NoWeights { .. } => {
                "download the safetensors files of this component; PyTorch .bin files are not read"
            }
            Self::Truncated { .. } | Self::Header { .. } => {
                "the download is incomplete or damaged: fetch this file again"
            }
            Self::LfsPointer { .. } => "run `git lfs pull` in the model repository",
            Self::ShardMissing { .. } | Self::ShardLacksTensor { .. } => {
                "fetch all shards of one revision, together with the index"
            }
            Self::TensorMissing { .. } | Self::Shape { .. } | Self::Unused { .. } => {
                "check that config.json and the weights belong to the same model, and that the model is of this family"
            }
            Self::Config { .. } => "compare the file with the one in the model's repository",
            Self::Unsupported { .. } | Self::Dtype { .. } => {
                "use a model of the supported family, without quantization"
            }
            Self::TokenizerMissing { .. } => "copy the tokenizer files of the model's repository into this folder",
            Self::SentencePieceOnly { .. } => {
                "add `tokenizer.json`; transformers writes it: `AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)`"
            }
            Self::ChatTemplateMissing { .. } => "copy `chat_template.json` of the model's repository into this folder",
            Self::Read { source, .. } => return gavel_core::text::remedy(source),
            Self::Write { .. } => "choose a new folder that this user may write to, and see whether its disk is full",
            Self::Tokenizer { .. } | Self::ChatTemplate { .. } | Self::Candle { .. } => {
                return None;
            }
        };
        Some(hint.to_owned())
    }
}

fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut text = names
        .iter()
        .take(SHOWN)
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > SHOWN {
        text.push_str(", ...");
    }
    text
}
