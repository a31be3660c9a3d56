//! Adapters on disk.
//!
//! peft looks for keys that start with `base_model.model.`; diffusers' pipelines take such keys for those of another
//! trainer and fail on them, and look for `transformer.` instead. No single file serves both, so a folder holds two weight
//! files: `adapter_model.safetensors` beside `adapter_config.json` for `PeftModel.from_pretrained(transformer, DIR)`, and
//! `pytorch_lora_weights.safetensors`, which `pipe.load_lora_weights(DIR)` prefers and whose header carries the settings.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::{fs, io};

use gavel_core::text;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::adapter::Slots;
use super::names::{DIFFUSERS_METADATA, DIFFUSERS_PREFIX, PEFT_PREFIX};
use super::{AdaptableLayers, LoraAdapter, LoraConfig, LoraError};

/// File names of the two layouts.
const CONFIG_FILE: &str = "adapter_config.json";
const PEFT_FILE: &str = "adapter_model.safetensors";
pub(super) const DIFFUSERS_FILE: &str = "pytorch_lora_weights.safetensors";

/// A safetensors file of `values`, with equal bytes for equal input.
pub(super) fn serialize(slots: &Slots, values: &[f32], prefix: &str) -> Result<Vec<u8>, LoraError> {
    let tensors: Vec<(String, [usize; 2], Vec<u8>)> = slots
        .tensors()
        .map(|(name, shape, range)| {
            let bytes = values[range].iter().flat_map(|value| value.to_le_bytes()).collect();
            (format!("{prefix}{name}"), shape, bytes)
        })
        .collect();
    let fail = |source| LoraError::Safetensors {
        origin: "the adapter".to_owned(),
        source,
    };
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| Ok((name.as_str(), TensorView::new(Dtype::F32, shape.to_vec(), bytes)?)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(fail)?;
    // One entry only: the map has no order, and the bytes must have one.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(metadata)).map_err(fail)
}

/// The values of a tensor as float32.
pub(super) fn to_f32(origin: &str, name: &str, view: &TensorView) -> Result<Vec<f32>, LoraError> {
    let data = view.data();
    Ok(match view.dtype() {
        Dtype::F32 => data
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            .collect(),
        Dtype::F16 => data
            .chunks_exact(2)
            .map(|bytes| half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32())
            .collect(),
        Dtype::BF16 => data
            .chunks_exact(2)
            .map(|bytes| half::bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32())
            .collect(),
        other => {
            return Err(LoraError::Dtype {
                origin: origin.to_owned(),
                name: name.to_owned(),
                dtype: format!("{other:?}"),
            });
        }
    })
}

impl LoraAdapter {
    /// Reads an adapter from where people keep one: a folder, as [`Self::load`] does, or one weight file, as [`Self::import`] does.
    ///
    /// # Errors
    /// As these.
    pub fn open(place: &Path, layers: &AdaptableLayers) -> Result<Self, LoraError> {
        match place.is_file() {
            true => Self::import(place, layers),
            false => Self::load(place, layers),
        }
    }

    /// Reads `adapter_config.json` and `adapter_model.safetensors` from a folder, or, where there are no such settings, the one weight file
    /// that it holds.
    ///
    /// Keys may start with peft's `base_model.model.`, diffusers' `transformer.`, or neither.
    ///
    /// # Errors
    /// A target without a layer, a tensor that no target asks for, a missing tensor, another rank or shape, a damaged file, or settings that change the
    /// arithmetic (DoRA, rsLoRA, per-module ranks) or the base (PiSSA): each its own [`LoraError`].
    pub fn load(dir: &Path, layers: &AdaptableLayers) -> Result<Self, LoraError> {
        let config_file = dir.join(CONFIG_FILE);
        let text = match text::of(fs::read(&config_file)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && dir.is_dir() => {
                return Self::import(&only_weight_file(dir)?, layers);
            }
            Err(source) => {
                return Err(LoraError::Io {
                    file: config_file,
                    action: "read",
                    source,
                });
            }
        };
        let config = LoraConfig::from_peft(&config_file, &text)?;
        let file = dir.join(PEFT_FILE);
        let bytes = fs::read(&file).map_err(|source| LoraError::Io {
            file: file.clone(),
            action: "read",
            source,
        })?;
        Self::parse(&file.display().to_string(), &bytes, &config, layers)
    }

    /// Reads the bytes of [`Self::to_safetensors`], or of any PEFT weight file with these settings.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_safetensors(bytes: &[u8], config: &LoraConfig, layers: &AdaptableLayers) -> Result<Self, LoraError> {
        Self::parse("adapter bytes", bytes, config, layers)
    }

    fn parse(origin: &str, bytes: &[u8], config: &LoraConfig, layers: &AdaptableLayers) -> Result<Self, LoraError> {
        let file = SafeTensors::deserialize(bytes).map_err(|source| LoraError::Safetensors {
            origin: origin.to_owned(),
            source,
        })?;
        let mut found: BTreeMap<String, (String, TensorView)> = BTreeMap::new();
        for (name, view) in file.tensors() {
            let bare = [PEFT_PREFIX, DIFFUSERS_PREFIX]
                .iter()
                .find_map(|prefix| name.strip_prefix(prefix));
            let bare = bare.unwrap_or(&name).to_owned();
            if let Some((other, _)) = found.get(&bare) {
                return Err(twice(origin, name, other.clone()));
            }
            found.insert(bare, (name, view));
        }
        Self::of_tensors(origin, found, config, layers)
    }

    /// Fills an adapter with tensors, given as (name in the file, values) by peft's name without prefix.
    pub(super) fn of_tensors(
        origin: &str,
        mut found: BTreeMap<String, (String, TensorView)>,
        config: &LoraConfig,
        layers: &AdaptableLayers,
    ) -> Result<Self, LoraError> {
        // Every name and shape, before anything of the size that the settings say is made.
        let slots = Slots::new(config, layers)?;
        let mut parts = Vec::new();
        let mut missing = None;
        for (name, shape, range) in slots.tensors() {
            match found.remove(&name) {
                Some((full_name, view)) if view.shape() == shape => parts.push((full_name, view, range)),
                Some((full_name, view)) => {
                    return Err(misfit(origin, (&name, full_name), config.rank, (shape, view.shape())));
                }
                None => missing = missing.or(Some(name)),
            }
        }
        let mut names: Vec<String> = found.into_values().map(|(name, _)| name).collect();
        names.sort();
        if let Some(name) = missing {
            return Err(LoraError::Missing {
                origin: origin.to_owned(),
                instead: names
                    .iter()
                    .find(|held| held.contains(&name))
                    .or(names.first())
                    .cloned(),
                name,
            });
        }
        if !names.is_empty() {
            return Err(LoraError::Unused {
                origin: origin.to_owned(),
                names,
            });
        }
        let mut adapter = Self::zeros(config, slots);
        for (name, view, range) in parts {
            let values = to_f32(origin, &name, &view)?;
            if !values.iter().all(|value| value.is_finite()) {
                return Err(LoraError::NotFinite {
                    origin: origin.to_owned(),
                    name,
                });
            }
            adapter.values[range].copy_from_slice(&values);
        }
        Ok(adapter)
    }

    /// The PEFT weight file, with equal bytes for equal weights.
    ///
    /// # Errors
    /// [`LoraError::Safetensors`] when the file cannot be laid out.
    pub fn to_safetensors(&self) -> Result<Vec<u8>, LoraError> {
        serialize(&self.slots, &self.values, PEFT_PREFIX)
    }

    /// Writes a folder that `PeftModel.from_pretrained(transformer, DIR)` and `pipe.load_lora_weights(DIR)` load unchanged.
    ///
    /// # Errors
    /// [`LoraError::Io`] when the folder cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), LoraError> {
        write_folder(&self.to_safetensors()?, self.config(), dir)
    }
}

/// As [`LoraAdapter::save`], from the bytes of [`LoraAdapter::to_safetensors`]: needs no transformer, so a program that only
/// stores adapters need not load a large model.
///
/// # Errors
/// [`LoraError::Safetensors`] for bytes that are no weight file, [`LoraError::Io`] when the folder cannot be written.
pub fn write_folder(bytes: &[u8], config: &LoraConfig, dir: &Path) -> Result<(), LoraError> {
    write_files(folder_files(bytes, config)?, dir)
}

/// Writes files, given as name and bytes, to a folder that is made where there is none.
///
/// # Errors
/// [`LoraError::Io`].
pub fn write_files<N: AsRef<Path>>(files: impl IntoIterator<Item = (N, Vec<u8>)>, dir: &Path) -> Result<(), LoraError> {
    let written = |file: &Path, result: io::Result<()>| {
        result.map_err(|source| LoraError::Io {
            file: file.to_owned(),
            action: "write",
            source,
        })
    };
    written(dir, fs::create_dir_all(dir))?;
    for (name, bytes) in files {
        let file = dir.join(name);
        written(&file, fs::write(&file, bytes))?;
    }
    Ok(())
}

/// What [`write_folder`] writes: each file's name and bytes.
///
/// # Errors
/// [`LoraError::Safetensors`] for bytes that are no weight file.
pub fn folder_files(bytes: &[u8], config: &LoraConfig) -> Result<[(&'static str, Vec<u8>); 3], LoraError> {
    let settings = format!("{:#}\n", config.to_peft());
    Ok([
        (CONFIG_FILE, settings.into_bytes()),
        (PEFT_FILE, bytes.to_vec()),
        (DIFFUSERS_FILE, diffusers_file(bytes, &config.to_diffusers())?),
    ])
}

/// The same as versions before wrote it: the file for diffusers had a shorter header.
///
/// # Errors
/// As [`folder_files`].
pub fn folder_files_before(bytes: &[u8], config: &LoraConfig) -> Result<[(&'static str, Vec<u8>); 3], LoraError> {
    let [settings, peft, (name, _)] = folder_files(bytes, config)?;
    Ok([
        settings,
        peft,
        (name, diffusers_file(bytes, &config.to_diffusers_before())?),
    ])
}

/// The weight file that diffusers' `load_lora_weights` reads, from peft's; the header says alpha.
pub(super) fn diffusers_file(bytes: &[u8], header: &Value) -> Result<Vec<u8>, LoraError> {
    let fail = |source| LoraError::Safetensors {
        origin: "the adapter".to_owned(),
        source,
    };
    let peft = SafeTensors::deserialize(bytes).map_err(fail)?;
    let tensors = peft.tensors().into_iter().map(|(name, view)| {
        let bare = name.strip_prefix(PEFT_PREFIX).unwrap_or(&name);
        (format!("{DIFFUSERS_PREFIX}{bare}"), view)
    });
    let metadata = HashMap::from([(DIFFUSERS_METADATA.to_owned(), header.to_string())]);
    safetensors::serialize(tensors, Some(metadata)).map_err(fail)
}

/// The weight file of a folder without settings: diffusers' own, or the only one.
fn only_weight_file(dir: &Path) -> Result<PathBuf, LoraError> {
    let unreadable = |source| LoraError::Io {
        file: dir.to_owned(),
        action: "read",
        source,
    };
    let files = fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .map_err(unreadable);
    let mut files: Vec<PathBuf> = files?;
    files.retain(|file| file.extension().is_some_and(|ending| ending == "safetensors"));
    files.sort();
    let of_diffusers = files.iter().find(|file| file.ends_with(DIFFUSERS_FILE));
    match (of_diffusers, files.as_slice()) {
        (Some(file), _) | (None, [file]) => Ok(file.clone()),
        _ => Err(LoraError::NoAdapter {
            dir: dir.to_owned(),
            found: files.iter().map(|file| file.display().to_string()).collect(),
        }),
    }
}

/// The error of one tensor under two names.
pub(super) fn twice(origin: &str, one: String, other: String) -> LoraError {
    let (first, second) = if one < other { (one, other) } else { (other, one) };
    LoraError::Twice {
        origin: origin.to_owned(),
        first,
        second,
    }
}

/// Tells a wrong rank from a wrong layer.
fn misfit(
    origin: &str,
    (bare, name): (&str, String),
    rank: usize,
    (expected, found): ([usize; 2], &[usize]),
) -> LoraError {
    let (rank_axis, other_axis) = if bare.ends_with("lora_A.weight") {
        (0, 1)
    } else {
        (1, 0)
    };
    if found.len() == 2 && found[other_axis] == expected[other_axis] {
        LoraError::Rank {
            origin: origin.to_owned(),
            name,
            expected: rank,
            found: found[rank_axis],
        }
    } else {
        LoraError::Shape {
            origin: origin.to_owned(),
            name,
            expected: expected.to_vec(),
            found: found.to_vec(),
        }
    }
}
