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

use super::files::{to_f32, twice};
use super::fused::{Factor, Pair, TakenApart, take_apart};
use super::names::{self, ALPHA_END, DIFFUSERS_METADATA, DIFFUSERS_PREFIX, KOHYA_RANK, PEFT_ENDS, PEFT_PREFIX, Part};
use super::{AdaptableLayers, LoraAdapter, LoraConfig, LoraError};

/// What a file holds for one layer, which may be several of the network's.
#[derive(Default)]
struct Parts<'a> {
    a: Option<Factor<'a>>,
    b: Option<Factor<'a>>,
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
        let note = |key| header.metadata().as_ref().and_then(|metadata| metadata.get(key));

        let stored = sort(&origin, &weights, layers)?;
        let rank = note(KOHYA_RANK).and_then(|rank| rank.parse().ok());
        let modules = by_module(&origin, stored, layers, rank)?;
        let config = match note(DIFFUSERS_METADATA) {
            Some(settings) => from_header(file, settings, &modules)?,
            None => from_tensors(&origin, &modules)?,
        };
        check_alphas(&origin, &modules, &config)?;
        let mut factors = BTreeMap::new();
        for (module, parts) in &modules {
            for (end, factor) in [(PEFT_ENDS.0, &parts.a), (PEFT_ENDS.1, &parts.b)] {
                if let Some(factor) = factor {
                    factors.insert(format!("{module}{end}"), (factor.name.clone(), factor.view(&origin)?));
                }
            }
        }
        Self::of_tensors(&origin, factors, &config, layers)
    }
}

/// The tensors of a file by the layers of the network that its layers are.
fn sort<'a>(
    origin: &str,
    weights: &SafeTensors<'a>,
    layers: &AdaptableLayers,
) -> Result<BTreeMap<Vec<String>, Parts<'a>>, LoraError> {
    let mut known: BTreeMap<String, Vec<String>> = layers
        .paths()
        .map(|path| (path.to_owned(), vec![path.to_owned()]))
        .collect();
    known.extend(layers.published.clone());
    let of_kohya: BTreeMap<String, &Vec<String>> =
        known.iter().map(|(name, paths)| (names::kohya(name), paths)).collect();
    let mut stored: BTreeMap<Vec<String>, Parts> = BTreeMap::new();
    let mut foreign = Vec::new();
    for (name, view) in weights.tensors() {
        let found = names::split(&name).and_then(|(path, part)| {
            let paths = match names::is_kohya(path) {
                true => of_kohya.get(path).copied(),
                false => known.get(names::bare(path)),
            };
            Some((paths?, part))
        });
        match found {
            Some((paths, part)) => put(origin, stored.entry(paths.clone()).or_default(), part, name, &view)?,
            None => foreign.push(name),
        }
    }
    foreign.sort();
    if stored.is_empty() {
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
    Ok(stored)
}

/// Puts a tensor in its place among the parts of a layer.
fn put<'a>(
    origin: &str,
    parts: &mut Parts<'a>,
    part: Part,
    name: String,
    view: &TensorView<'a>,
) -> Result<(), LoraError> {
    let factor = match part {
        Part::A => &mut parts.a,
        Part::B => &mut parts.b,
        Part::Alpha => {
            if let Some((other, _)) = &parts.alpha {
                return Err(twice(origin, name, other.clone()));
            }
            let alpha = scalar(origin, &name, view)?;
            parts.alpha = Some((name, alpha));
            return Ok(());
        }
    };
    if let Some(other) = factor {
        return Err(twice(origin, name, other.name.clone()));
    }
    *factor = Some(Factor::of_view(name, view));
    Ok(())
}

/// The tensors of a file by the network's own layers.
fn by_module<'a>(
    origin: &str,
    stored: BTreeMap<Vec<String>, Parts<'a>>,
    layers: &AdaptableLayers,
    noted_rank: Option<usize>,
) -> Result<BTreeMap<String, Parts<'a>>, LoraError> {
    let single = stored
        .iter()
        .find_map(|(paths, parts)| (paths.len() == 1).then_some(parts.a.as_ref())?);
    let rank = noted_rank.or_else(|| single?.shape.first().copied());
    let mut modules: BTreeMap<String, Parts> = BTreeMap::new();
    for (paths, parts) in stored {
        for (path, parts) in of_each(origin, &paths, parts, layers, rank)? {
            let before = modules.entry(path).or_default();
            for (before, now) in [(&mut before.a, parts.a), (&mut before.b, parts.b)] {
                match (before.as_ref(), now) {
                    (Some(before), Some(now)) => return Err(twice(origin, now.name, before.name.clone())),
                    (None, Some(now)) => *before = Some(now),
                    (_, None) => {}
                }
            }
            match (&before.alpha, parts.alpha) {
                (Some((before, _)), Some((now, _))) => return Err(twice(origin, now, before.clone())),
                (None, now) => before.alpha = now,
                (_, None) => {}
            }
        }
    }
    Ok(modules)
}

/// What each of the network's layers has that one layer of the file is.
fn of_each<'a>(
    origin: &str,
    paths: &[String],
    parts: Parts<'a>,
    layers: &AdaptableLayers,
    rank: Option<usize>,
) -> Result<Vec<(String, Parts<'a>)>, LoraError> {
    let Parts { a, b, alpha } = parts;
    let (a, b) = match (paths, a, b) {
        ([_, _, ..], Some(a), Some(b)) => (a, b),
        // One layer is itself; of a factor that is not there, it is told where the adapter is filled.
        (_, a, b) => {
            let same = |path: &String| {
                let (a, b, alpha) = (a.clone(), b.clone(), alpha.clone());
                (path.clone(), Parts { a, b, alpha })
            };
            return Ok(paths.iter().map(same).collect());
        }
    };
    let outputs: Vec<usize> = paths.iter().map(|path| layers.layers[path].outputs).collect();
    let (pairs, divisor) = match take_apart(origin, (a, b), &outputs, rank)? {
        TakenApart::Shared(pairs) => (pairs.into_iter().map(Some).collect(), 1),
        // A part of the rank goes with a part of alpha: their ratio is the scale.
        TakenApart::Apart(pairs) => (pairs, paths.len()),
    };
    let each = paths.iter().zip(pairs).filter_map(|(path, pair): (_, Option<Pair>)| {
        let (a, b) = pair?;
        let alpha = alpha.clone().map(|(name, alpha)| (name, alpha / divisor as f32));
        let (a, b) = (Some(a), Some(b));
        Some((path.clone(), Parts { a, b, alpha }))
    });
    Ok(each.collect())
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
    let rank = factors.clone().find_map(|(_, factor)| factor.shape.first().copied());
    let alpha = modules.values().find_map(|parts| parts.alpha.as_ref());
    let config = LoraConfig {
        rank: rank.unwrap_or(0),
        alpha: alpha.map_or(rank.unwrap_or(0) as f32, |(_, alpha)| *alpha),
        dropout: 0.0,
        target_modules: modules.keys().cloned().collect(),
    };
    match factors
        .map(|(module, factor)| (module, &factor.name))
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
    if let Some((name, found)) = alphas.iter().find(|(_, alpha)| !config.has_alpha(*alpha)) {
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
