//! Adapters of other trainers: one weight file without settings beside it.
//!
//! What diffusers' `load_lora_weights` makes of the names is what is read here, with two differences: a file of which no tensor
//! belongs to the transformer is an error, and names that say nothing of alpha where their trainer keeps it apart are refused.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use super::files::{DIFFUSERS_METADATA, DIFFUSERS_PREFIX, PEFT_PREFIX, to_f32, twice};
use super::{AdaptableLayers, LoraAdapter, LoraConfig, LoraError, original};

/// ai-toolkit, ComfyUI.
const COMFY_PREFIX: &str = "diffusion_model.";
/// kohya's sd-scripts and musubi-tuner, which write each dot of a path as `_`.
const KOHYA_PREFIX: &str = "lora_unet_";

/// How the names of factor A and of factor B end, form by form.
const FACTOR_ENDS: [(&str, &str); 4] = [
    (".lora_A.weight", ".lora_B.weight"),
    (".lora_A.default.weight", ".lora_B.default.weight"),
    (".lora_down.weight", ".lora_up.weight"),
    (".lora.down.weight", ".lora.up.weight"),
];
/// The form whose alpha stands in peft's `adapter_config.json` alone.
const PEFT_ENDS: (&str, &str) = FACTOR_ENDS[0];
const ALPHA_END: &str = ".alpha";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    A,
    B,
    Alpha,
}

/// What a file holds for one module.
#[derive(Default)]
struct Parts<'a> {
    a: Option<(String, TensorView<'a>)>,
    b: Option<(String, TensorView<'a>)>,
    alpha: Option<(String, f32)>,
}

impl LoraAdapter {
    /// Reads one weight file of any trainer; rank, alpha and targets come from the file.
    ///
    /// Names may start with `transformer.` (diffusers), `diffusion_model.` (ai-toolkit, ComfyUI), `lora_unet_` (kohya), or nothing, name layers as
    /// diffusers does or as FLUX's original code, and end in
    /// `lora_A.weight`, `lora_A.default.weight`, `lora_down.weight` or `lora.down.weight` and their counterparts. Alpha comes from
    /// the header `lora_adapter_metadata` or from `.alpha` tensors; without either it equals the rank.
    ///
    /// # Errors
    /// [`LoraError::Foreign`] when no tensor belongs to this transformer; [`LoraError::AlphaUnknown`] for peft's own names, whose
    /// alpha is in a file that is not there; otherwise as [`Self::load`].
    pub fn import(file: &Path, layers: &AdaptableLayers) -> Result<Self, LoraError> {
        let bytes = fs::read(file).map_err(|source| LoraError::Io {
            file: file.to_owned(),
            action: "read",
            source,
        })?;
        let origin = file.display().to_string();
        let damaged = |source| LoraError::Safetensors {
            origin: origin.clone(),
            source,
        };
        let weights = SafeTensors::deserialize(&bytes).map_err(damaged)?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
        let settings = header
            .metadata()
            .as_ref()
            .and_then(|metadata| metadata.get(DIFFUSERS_METADATA));

        let modules = sort(&origin, &weights, layers)?;
        let config = match settings {
            Some(settings) => from_header(file, settings, &modules)?,
            None => from_tensors(&origin, &modules)?,
        };
        check_alphas(&origin, &modules, &config)?;
        let mut factors = BTreeMap::new();
        for (module, parts) in modules {
            for (end, factor) in [(PEFT_ENDS.0, parts.a), (PEFT_ENDS.1, parts.b)] {
                factors.extend(factor.map(|factor| (format!("{module}{end}"), factor)));
            }
        }
        Self::of_tensors(&origin, factors, &config, layers)
    }
}

/// The tensors of a file by module.
fn sort<'a>(
    origin: &str,
    weights: &SafeTensors<'a>,
    layers: &AdaptableLayers,
) -> Result<BTreeMap<String, Parts<'a>>, LoraError> {
    let mut known: BTreeMap<String, Vec<&str>> = layers.paths().map(|path| (path.to_owned(), vec![path])).collect();
    known.extend(original::names(layers));
    let flattened: BTreeMap<String, &Vec<&str>> = known
        .iter()
        .map(|(name, paths)| (name.replace('.', "_"), paths))
        .collect();
    let mut modules: BTreeMap<String, Parts> = BTreeMap::new();
    let mut foreign = Vec::new();
    for (name, view) in weights.tensors() {
        let Some((path, part)) = split(&name) else {
            foreign.push(name);
            continue;
        };
        let found = match path.strip_prefix(KOHYA_PREFIX) {
            Some(flat) => flattened.get(flat).copied(),
            None => {
                let prefixes = [DIFFUSERS_PREFIX, COMFY_PREFIX, PEFT_PREFIX];
                let bare = prefixes.iter().find_map(|prefix| path.strip_prefix(prefix));
                known.get(bare.unwrap_or(path))
            }
        };
        let Some(found) = found else {
            foreign.push(name);
            continue;
        };
        let views = match part {
            Part::B => rows_of(origin, &name, &view, found, layers)?,
            Part::A | Part::Alpha => vec![view; found.len()],
        };
        for (module, view) in found.iter().zip(views) {
            let parts = modules.entry((*module).to_owned()).or_default();
            put(origin, parts, part, name.clone(), view)?;
        }
    }
    foreign.sort();
    if modules.is_empty() {
        return Err(LoraError::Foreign {
            origin: origin.to_owned(),
            names: foreign,
        });
    }
    if !foreign.is_empty() {
        return Err(LoraError::Unused {
            origin: origin.to_owned(),
            names: foreign,
        });
    }
    Ok(modules)
}

/// Puts a tensor in its place among the parts of a module.
fn put<'a>(
    origin: &str,
    parts: &mut Parts<'a>,
    part: Part,
    name: String,
    view: TensorView<'a>,
) -> Result<(), LoraError> {
    let factor = match part {
        Part::A => &mut parts.a,
        Part::B => &mut parts.b,
        Part::Alpha => {
            if let Some((other, _)) = &parts.alpha {
                return Err(twice(origin, name, other.clone()));
            }
            let alpha = scalar(origin, &name, &view)?;
            parts.alpha = Some((name, alpha));
            return Ok(());
        }
    };
    if let Some((other, _)) = factor {
        return Err(twice(origin, name, other.clone()));
    }
    *factor = Some((name, view));
    Ok(())
}

/// The rows of a factor B that belong to each of the layers that are one layer in the file.
fn rows_of<'a>(
    origin: &str,
    name: &str,
    view: &TensorView<'a>,
    modules: &[&str],
    layers: &AdaptableLayers,
) -> Result<Vec<TensorView<'a>>, LoraError> {
    let outputs: Vec<usize> = modules.iter().map(|module| layers.layers[*module].outputs).collect();
    let &[rows, columns] = view.shape() else {
        // Told with the shape that is needed, where the adapter is filled.
        return Ok(vec![view.clone(); modules.len()]);
    };
    if modules.len() == 1 || rows == 0 {
        return Ok(vec![view.clone(); modules.len()]);
    }
    if outputs.iter().sum::<usize>() != rows {
        return Err(LoraError::Shape {
            origin: origin.to_owned(),
            name: name.to_owned(),
            expected: vec![outputs.iter().sum(), columns],
            found: view.shape().to_vec(),
        });
    }
    let row_bytes = view.data().len() / rows;
    let mut rest = view.data();
    let parts = outputs.iter().map(|outputs| {
        let (part, others) = rest.split_at(outputs * row_bytes);
        rest = others;
        TensorView::new(view.dtype(), vec![*outputs, columns], part).map_err(|source| LoraError::Safetensors {
            origin: origin.to_owned(),
            source,
        })
    });
    parts.collect()
}

/// The path in front of a name's end, and what the end says.
fn split(name: &str) -> Option<(&str, Part)> {
    if let Some(path) = name.strip_suffix(ALPHA_END) {
        return Some((path, Part::Alpha));
    }
    FACTOR_ENDS.iter().find_map(|(a, b)| {
        let a = name.strip_suffix(a).map(|path| (path, Part::A));
        a.or_else(|| name.strip_suffix(b).map(|path| (path, Part::B)))
    })
}

fn scalar(origin: &str, name: &str, view: &TensorView) -> Result<f32, LoraError> {
    match to_f32(origin, name, view)?.as_slice() {
        [alpha] => Ok(*alpha),
        _ => Err(LoraError::Shape {
            origin: origin.to_owned(),
            name: name.to_owned(),
            expected: vec![1],
            found: view.shape().to_vec(),
        }),
    }
}

/// The settings of diffusers' header; where it names no targets, the modules of the file are they.
fn from_header(file: &Path, settings: &str, modules: &BTreeMap<String, Parts>) -> Result<LoraConfig, LoraError> {
    let fail = |source| LoraError::Json {
        file: file.to_owned(),
        source,
    };
    let settings: BTreeMap<String, Value> = serde_json::from_str(settings).map_err(fail)?;
    let mut peft: serde_json::Map<String, Value> = settings
        .into_iter()
        .map(|(key, value)| (key.strip_prefix(DIFFUSERS_PREFIX).unwrap_or(&key).to_owned(), value))
        .collect();
    peft.entry("target_modules")
        .or_insert_with(|| json!(modules.keys().collect::<Vec<_>>()));
    LoraConfig::from_peft(file, &Value::Object(peft).to_string())
}

/// The settings that the tensors tell.
fn from_tensors(origin: &str, modules: &BTreeMap<String, Parts>) -> Result<LoraConfig, LoraError> {
    let factors = modules
        .iter()
        .filter_map(|(module, parts)| Some((module, parts.a.as_ref()?)));
    let rank = factors.clone().find_map(|(_, (_, view))| view.shape().first().copied());
    let alpha = modules.values().find_map(|parts| parts.alpha.as_ref());
    let config = LoraConfig {
        rank: rank.unwrap_or(0),
        alpha: alpha.map_or(rank.unwrap_or(0) as f32, |(_, alpha)| *alpha),
        dropout: 0.0,
        target_modules: modules.keys().cloned().collect(),
    };
    match factors
        .map(|(module, (name, _))| (module, name))
        .find(|(module, name)| keeps_alpha_apart(module, name))
    {
        Some((_, name)) if alpha.is_none() => Err(LoraError::AlphaUnknown {
            origin: origin.to_owned(),
            name: name.clone(),
        }),
        _ => Ok(config),
    }
}

/// Whether the trainer that names a factor so writes alpha to another file: peft, whose prefix may have been cut off.
fn keeps_alpha_apart(module: &str, name: &str) -> bool {
    name.starts_with(PEFT_PREFIX) || name.strip_suffix(PEFT_ENDS.0) == Some(module)
}

/// Refuses a module with another alpha than the settings say: an adapter has one.
fn check_alphas(origin: &str, modules: &BTreeMap<String, Parts>, config: &LoraConfig) -> Result<(), LoraError> {
    let alphas: Vec<&(String, f32)> = modules.values().filter_map(|parts| parts.alpha.as_ref()).collect();
    if let Some((name, found)) = alphas.iter().find(|(_, alpha)| *alpha != config.alpha) {
        return Err(LoraError::Alpha {
            origin: origin.to_owned(),
            name: name.clone(),
            expected: config.alpha,
            found: *found,
        });
    }
    let without = modules.iter().find(|(_, parts)| parts.alpha.is_none());
    match without {
        Some((module, _)) if !alphas.is_empty() => Err(LoraError::Missing {
            origin: origin.to_owned(),
            name: format!("{module}{ALPHA_END}"),
            instead: None,
        }),
        _ => Ok(()),
    }
}
