//! Adapters for other programs: the same weights under the names, and in the number format, that each of them reads.

use std::collections::{BTreeMap, HashMap};

use gavel_core::spec;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::files::{self, diffusers_file, to_f32};
use super::fused::{Portion, put_together};
use super::names::{ALPHA_END, KOHYA_ENDS, KOHYA_RANK, PEFT_ENDS, PEFT_PREFIX, Part};
use super::{AdaptableLayers, LoraConfig, LoraError, names};

/// Whose names the files have.
#[derive(Debug, Clone, Copy)]
pub enum Layout<'a> {
    /// What [`super::folder_files`] gives: peft's files, and diffusers' beside them.
    Peft,
    /// diffusers' file alone.
    Diffusers,
    /// One file for ComfyUI and kohya's scripts, which name FLUX's layers as its original code does.
    Kohya {
        /// The network's layers: how wide a part of a fused layer is that has no adapter.
        layers: &'a AdaptableLayers,
        /// The file's name without its ending.
        name: &'a str,
    },
}

/// An adapter's files, name and bytes each, from the bytes of [`super::LoraAdapter::to_safetensors`]. In float32 all numbers stay as they are;
/// otherwise they are rounded to the nearest.
///
/// # Errors
/// [`LoraError::Safetensors`] for bytes that are no weight file; [`LoraError::Unused`] for a layer that the network does not have.
pub fn export_files(
    bytes: &[u8],
    config: &LoraConfig,
    layout: Layout<'_>,
    dtype: spec::Dtype,
) -> Result<Vec<(String, Vec<u8>)>, LoraError> {
    let named = |files: Vec<(&str, Vec<u8>)>| {
        files
            .into_iter()
            .map(|(name, bytes)| (name.to_owned(), bytes))
            .collect()
    };
    Ok(match layout {
        Layout::Peft => named(files::folder_files(&rounded(bytes, dtype)?, config)?.into()),
        Layout::Diffusers => {
            let file = diffusers_file(&rounded(bytes, dtype)?, &config.to_diffusers())?;
            named(vec![(files::DIFFUSERS_FILE, file)])
        }
        Layout::Kohya { layers, name } => {
            vec![(format!("{name}.safetensors"), kohya_file(bytes, config, layers, dtype)?)]
        }
    })
}

/// peft's weight file in another number format.
fn rounded(bytes: &[u8], dtype: spec::Dtype) -> Result<Vec<u8>, LoraError> {
    let tensors = read(bytes)?
        .into_iter()
        .map(|(name, (shape, values))| (name, shape, values));
    write(tensors, dtype, ("format", "pt"))
}

/// The one file with kohya's names. Several adapted layers that are one layer there have one A and one B: see [`put_together`]; alpha grows with
/// the rank, so that the scale stays.
fn kohya_file(
    bytes: &[u8],
    config: &LoraConfig,
    layers: &AdaptableLayers,
    dtype: spec::Dtype,
) -> Result<Vec<u8>, LoraError> {
    let tensors = read(bytes)?;
    let factor = |module: &str, end: &str| tensors.get(&format!("{PEFT_PREFIX}{module}{end}"));
    let pair = |module: &str| Some((factor(module, PEFT_ENDS.0)?, factor(module, PEFT_ENDS.1)?));
    let mut left: Vec<&str> = tensors
        .keys()
        .filter_map(|name| names::split(names::bare(name)))
        .filter_map(|(module, part)| (part == Part::A).then_some(module))
        .collect();
    let mut written = Vec::new();
    let own = layers.paths().map(|path| (path, vec![path.to_owned()]));
    let published = layers
        .published
        .iter()
        .map(|(name, paths)| (name.as_str(), paths.clone()));
    // The published names first: what has one is written under it.
    for (name, paths) in published.chain(own) {
        if !paths.iter().any(|path| left.contains(&path.as_str())) {
            continue;
        }
        left.retain(|module| !paths.iter().any(|path| path == module));
        let parts: Vec<Portion<'_>> = paths
            .iter()
            .map(|path| {
                let factors = pair(path).map(|((_, a), (_, b))| (a.as_slice(), b.as_slice()));
                (layers.layers[path].outputs, factors)
            })
            .collect();
        let inputs = layers.layers[&paths[0]].inputs;
        let outputs = parts.iter().map(|(outputs, _)| outputs).sum();
        let (a, b) = put_together(&parts, config.rank, inputs);
        let (rank, name) = (config.rank * paths.len(), names::kohya(name));
        written.push((format!("{name}{}", KOHYA_ENDS.0), vec![rank, inputs], a));
        written.push((format!("{name}{}", KOHYA_ENDS.1), vec![outputs, rank], b));
        written.push((
            format!("{name}{ALPHA_END}"),
            Vec::new(),
            vec![config.alpha * paths.len() as f32],
        ));
    }
    if !left.is_empty() {
        return Err(LoraError::Unused {
            origin: "the adapter".to_owned(),
            names: left.into_iter().map(str::to_owned).collect(),
        });
    }
    write(written, dtype, (KOHYA_RANK, &config.rank.to_string()))
}

/// Shape and values of each tensor.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn read(bytes: &[u8]) -> Result<Tensors, LoraError> {
    let origin = "the adapter";
    let file = SafeTensors::deserialize(bytes).map_err(damaged)?;
    let tensors = file.tensors().into_iter().map(|(name, view)| {
        let values = to_f32(origin, &name, &view)?;
        Ok((name, (view.shape().to_vec(), values)))
    });
    tensors.collect()
}

/// A safetensors file with one note in its header. A scalar stays float32: rounding it would change the scale.
fn write(
    tensors: impl IntoIterator<Item = (String, Vec<usize>, Vec<f32>)>,
    dtype: spec::Dtype,
    (key, note): (&str, &str),
) -> Result<Vec<u8>, LoraError> {
    let stored: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .map(|(name, shape, values)| {
            let dtype = if shape.is_empty() { spec::Dtype::F32 } else { dtype };
            let (dtype, data) = encoded(&values, dtype);
            (name, dtype, shape, data)
        })
        .collect();
    let views = stored
        .iter()
        .map(|(name, dtype, shape, data)| Ok((name, TensorView::new(*dtype, shape.clone(), data)?)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(damaged)?;
    // One note only: the map has no order, and the bytes must have one.
    let header = HashMap::from([(key.to_owned(), note.to_owned())]);
    safetensors::serialize(views, Some(header)).map_err(damaged)
}

fn encoded(values: &[f32], dtype: spec::Dtype) -> (Dtype, Vec<u8>) {
    let values = values.iter();
    match dtype {
        spec::Dtype::F32 => (Dtype::F32, values.flat_map(|value| value.to_le_bytes()).collect()),
        spec::Dtype::Bf16 => {
            let values = values.flat_map(|value| half::bf16::from_f32(*value).to_le_bytes());
            (Dtype::BF16, values.collect())
        }
        spec::Dtype::F16 => {
            let values = values.flat_map(|value| half::f16::from_f32(*value).to_le_bytes());
            (Dtype::F16, values.collect())
        }
    }
}

fn damaged(source: safetensors::SafeTensorError) -> LoraError {
    LoraError::Safetensors {
        origin: "the adapter".to_owned(),
        source,
    }
}
