//! The weights of one component folder.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use candle_core::{DType, Device, Tensor};
use gavel_core::spec::Quantization;
use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::{SafeTensorError, SafeTensors, tensor::Metadata};
use serde::Deserialize;

use super::formats::{candle_dtype, widen};
use super::{LoadError, Placement, read_config};
use crate::ops::cpu::matmul::Packed;
use crate::ops::cpu::weights::pack_frozen;
use crate::ops::fp8::Fp8Matrix;
use crate::ops::nf4::Nf4Matrix;
use crate::ops::{FrozenWeight, Kernels};

/// File stems under which transformers and diffusers store weights.
pub(super) const STEMS: [&str; 2] = ["model", "diffusion_pytorch_model"];

/// The weights of one component folder, memory-mapped.
///
/// Reads `model.safetensors`, `diffusion_pytorch_model.safetensors`, or a sharded model through its `*.index.json`. Each
/// tensor that is taken is remembered, so that [`Weights::finish`] can refuse a file that holds more than was used.
#[derive(Debug)]
pub struct Weights {
    pub(super) dir: PathBuf,
    /// The weight file, or the index of a sharded model.
    file: PathBuf,
    placement: Placement,
    pub(super) shards: Vec<Shard>,
    pub(super) entries: BTreeMap<String, Entry>,
    taken: Mutex<BTreeSet<String>>,
}

#[derive(Debug)]
pub(super) struct Shard {
    pub(super) file: PathBuf,
    pub(super) map: Mmap,
}

impl Shard {
    /// Says that a range of bytes has been read: the pages need not stay in memory beside the tensor that was made of them.
    fn release(&self, range: &Range<usize>) {
        #[cfg(unix)]
        {
            // SAFETY: the mapping is of a file and never written; a page that is read again comes from the file again.
            let released = unsafe {
                self.map
                    .unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
            };
            // Advice that is not taken costs memory only.
            drop(released);
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

/// Where a tensor lies.
#[derive(Debug)]
pub(super) struct Entry {
    shard: usize,
    dtype: safetensors::Dtype,
    pub(super) shape: Vec<usize>,
    /// Byte range within the mapped file.
    range: Range<usize>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    /// Maps the weights of `dir`; [`Weights::get`] gives them as `placement` says.
    ///
    /// # Errors
    /// A missing folder or file, a truncated or damaged file, an index that does not fit its shards: each its own
    /// variant of [`LoadError`].
    pub fn open(dir: &Path, placement: &Placement) -> Result<Self, LoadError> {
        if !dir.is_dir() {
            return Err(LoadError::FolderMissing { dir: dir.to_owned() });
        }
        let mut weights = Self {
            dir: dir.to_owned(),
            file: dir.to_owned(),
            placement: placement.clone(),
            shards: Vec::new(),
            entries: BTreeMap::new(),
            taken: Mutex::default(),
        };
        for stem in STEMS {
            let single = dir.join(format!("{stem}.safetensors"));
            if single.is_file() {
                weights.file.clone_from(&single);
                weights.map_shard(&single)?;
                return Ok(weights);
            }
            let index = dir.join(format!("{stem}.safetensors.index.json"));
            if index.is_file() {
                weights.file.clone_from(&index);
                weights.map_index(&index)?;
                return Ok(weights);
            }
        }
        let looked_for = STEMS
            .map(|stem| format!("{stem}.safetensors, {stem}.safetensors.index.json"))
            .join(", ");
        Err(LoadError::NoWeights {
            dir: dir.to_owned(),
            looked_for,
            found: other_weights(dir),
        })
    }

    /// Where and as what the tensors are given.
    pub(crate) fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The kernels of the layers that these weights are for.
    pub(crate) fn kernels(&self) -> Kernels {
        self.placement.kernels()
    }

    /// Takes the tensor `name`, which must have `shape`, in the dtype and on the device given to [`Weights::open`].
    ///
    /// # Errors
    /// [`LoadError::TensorMissing`] with the nearest name, [`LoadError::Shape`], [`LoadError::Dtype`].
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        match self.get_optional(name, shape)? {
            Some(tensor) => Ok(tensor),
            None => Err(self.missing(name)),
        }
    }

    /// Takes the tensor `name` if the folder has it; as [`Weights::get`].
    ///
    /// # Errors
    /// [`LoadError::Shape`], [`LoadError::Dtype`].
    pub fn get_optional(&self, name: &str, shape: &[usize]) -> Result<Option<Tensor>, LoadError> {
        let Some((entry, dtype)) = self.find(name, shape)? else {
            return Ok(None);
        };
        let tensor = self.read(name, entry, dtype, shape, self.placement.dtype())?;
        self.placed(&tensor).map(Some)
    }

    /// Takes a matrix as [`Weights::get`] does, in the dtype of its file where that is narrower; see [`Placement::kept`].
    ///
    /// # Errors
    /// As [`Weights::get`].
    pub(crate) fn matrix(&self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        let Some((entry, dtype)) = self.find(name, shape)? else {
            return Err(self.missing(name));
        };
        self.placed(&self.read(name, entry, dtype, shape, self.kept(dtype))?)
    }

    /// The dtype in which a matrix that has this one in its file is kept.
    fn kept(&self, dtype: DType) -> DType {
        match (self.placement.kept(), dtype) {
            (Some(_), DType::BF16 | DType::F16) => dtype,
            (Some(kept), _) => kept,
            (None, _) => self.placement.dtype(),
        }
    }

    /// Takes the weight (outputs, inputs) of a linear layer as [`Weights::quantizable`] does, packed for the CPU's kernels. What is not quantized is
    /// packed while it is read, and so is in memory once: the head of a language model is as large as many of its layers.
    ///
    /// # Errors
    /// As [`Weights::get`].
    pub(crate) fn packed(&self, name: &str, shape: &[usize; 2]) -> Result<Packed, LoadError> {
        let Some((entry, dtype)) = self.find(name, shape)? else {
            return Err(self.missing(name));
        };
        let is_float = matches!(dtype, DType::F32 | DType::BF16 | DType::F16);
        if self.placement.quantization().is_some() || !is_float {
            return pack_frozen(&self.quantizable(name, shape)?).map_err(|source| self.candle(source));
        }
        let (shard, [rows, columns]) = (&self.shards[entry.shard], *shape);
        let row_bytes = entry.range.len() / rows.max(1);
        let read = |rows: Range<usize>, to: &mut [f32]| {
            let start = entry.range.start;
            let range = start + rows.start * row_bytes..start + rows.end * row_bytes;
            widen(&shard.map[range.clone()], dtype, to);
            shard.release(&range);
        };
        let weight = match self.kept(dtype) {
            DType::BF16 => Packed::of_rows::<bf16>((rows, columns), read),
            DType::F16 => Packed::of_rows::<f16>((rows, columns), read),
            _ => Packed::of_rows::<f32>((rows, columns), read),
        };
        self.take(name);
        Ok(weight)
    }

    /// Takes the weight (outputs, inputs) of a linear layer as [`Weights::matrix`] does, or quantized where the placement says so: rounded here,
    /// tensor by tensor, from what the file has. In 4 bits, of which two share a byte, one with an odd number of inputs stays as it is.
    ///
    /// # Errors
    /// As [`Weights::get`].
    pub(crate) fn quantizable(&self, name: &str, shape: &[usize; 2]) -> Result<FrozenWeight, LoadError> {
        let quantization = match self.placement.quantization() {
            Some(Quantization::Nf4) if !shape[1].is_multiple_of(2) => None,
            quantization => quantization,
        };
        let Some(quantization) = quantization else {
            return self.matrix(name, shape).map(FrozenWeight::Whole);
        };
        let Some((entry, dtype)) = self.find(name, shape)? else {
            return Err(self.missing(name));
        };
        let (shard, [rows, columns]) = (&self.shards[entry.shard], *shape);
        let numbers = &shard.map[entry.range.clone()];
        let row_bytes = numbers.len() / rows.max(1);
        let read = |row: usize, to: &mut [f32]| widen(&numbers[row * row_bytes..][..row_bytes], dtype, to);
        let weight = match quantization {
            Quantization::Fp8 => FrozenWeight::Fp8(Fp8Matrix::of_rows(rows, columns, read)),
            Quantization::Nf4 => FrozenWeight::Nf4(Nf4Matrix::of_rows(rows, columns, read)),
        };
        shard.release(&entry.range);
        self.take(name);
        Ok(weight)
    }

    fn placed(&self, tensor: &Tensor) -> Result<Tensor, LoadError> {
        let placed = tensor.to_device(self.placement.device());
        placed.map_err(|source| self.candle(source))
    }

    /// Reads a tensor to this process's memory.
    fn read(
        &self,
        name: &str,
        entry: &Entry,
        dtype: DType,
        shape: &[usize],
        wanted: DType,
    ) -> Result<Tensor, LoadError> {
        let shard = &self.shards[entry.shard];
        let tensor = Tensor::from_raw_buffer(&shard.map[entry.range.clone()], dtype, shape, &Device::Cpu)
            .and_then(|tensor| tensor.to_dtype(wanted))
            .map_err(|source| self.candle(source))?;
        shard.release(&entry.range);
        self.take(name);
        Ok(tensor)
    }

    fn take(&self, name: &str) {
        self.taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned());
    }

    /// Takes the tensor as [`Weights::get`] does, without reading it.
    ///
    /// # Errors
    /// As [`Weights::get`].
    pub fn check(&self, name: &str, shape: &[usize]) -> Result<(), LoadError> {
        match self.find(name, shape)? {
            Some(_) => {
                self.take(name);
                Ok(())
            }
            None => Err(self.missing(name)),
        }
    }

    /// Where the tensor `name`, which must have `shape`, lies, and its type.
    fn find(&self, name: &str, shape: &[usize]) -> Result<Option<(&Entry, DType)>, LoadError> {
        let Some(entry) = self.entries.get(name) else {
            return Ok(None);
        };
        let shard = &self.shards[entry.shard];
        if entry.shape != shape {
            return Err(LoadError::Shape {
                file: shard.file.clone(),
                name: name.to_owned(),
                expected: shape.to_vec(),
                found: entry.shape.clone(),
            });
        }
        match candle_dtype(entry.dtype) {
            Some(dtype) => Ok(Some((entry, dtype))),
            None => Err(LoadError::Dtype {
                file: shard.file.clone(),
                name: name.to_owned(),
                dtype: format!("{:?}", entry.dtype),
            }),
        }
    }

    fn missing(&self, name: &str) -> LoadError {
        LoadError::TensorMissing {
            file: self.file.clone(),
            name: name.to_owned(),
            nearest: self.nearest(name),
        }
    }

    /// Says whether the folder has a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// Refuses tensors that were never taken, except those whose name starts with one of `ignored`.
    ///
    /// # Errors
    /// [`LoadError::Unused`]: the file belongs to another architecture, or part of it would silently have no effect.
    pub fn finish(self, ignored: &[&str]) -> Result<(), LoadError> {
        let taken = self.taken.into_inner().unwrap_or_else(PoisonError::into_inner);
        let names: Vec<String> = self
            .entries
            .into_keys()
            .filter(|name| !taken.contains(name) && !ignored.iter().any(|prefix| name.starts_with(prefix)))
            .collect();
        if names.is_empty() {
            Ok(())
        } else {
            Err(LoadError::Unused { file: self.file, names })
        }
    }

    /// Wraps what candle said while a tensor of this folder was prepared.
    pub(crate) fn candle(&self, source: candle_core::Error) -> LoadError {
        LoadError::Candle {
            dir: self.dir.clone(),
            source,
        }
    }

    fn map_index(&mut self, index_file: &Path) -> Result<(), LoadError> {
        let index: Index = read_config(index_file)?;
        let shards: BTreeSet<&String> = index.weight_map.values().collect();
        for shard in shards {
            let file = self.dir.join(shard);
            if !file.is_file() {
                return Err(LoadError::ShardMissing {
                    index: index_file.to_owned(),
                    shard: shard.clone(),
                });
            }
            self.map_shard(&file)?;
        }
        for (name, shard) in &index.weight_map {
            let file = self.dir.join(shard);
            let held = self
                .entries
                .get(name)
                .is_some_and(|entry| self.shards[entry.shard].file == file);
            if !held {
                return Err(LoadError::ShardLacksTensor {
                    index: index_file.to_owned(),
                    shard: shard.clone(),
                    name: name.clone(),
                });
            }
        }
        Ok(())
    }

    fn map_shard(&mut self, file: &Path) -> Result<(), LoadError> {
        let map = map_file(file)?;
        let (header_size, metadata) = read_header(file, &map)?;
        let data_start = size_of::<u64>() + header_size;
        for (name, info) in metadata.tensors() {
            let (start, end) = info.data_offsets;
            let entry = Entry {
                shard: self.shards.len(),
                dtype: info.dtype,
                shape: info.shape.clone(),
                range: data_start + start..data_start + end,
            };
            self.entries.insert(name, entry);
        }
        self.shards.push(Shard {
            file: file.to_owned(),
            map,
        });
        Ok(())
    }

    /// The most similar tensor name, if one is similar at all.
    fn nearest(&self, name: &str) -> Option<String> {
        const SIMILAR: f64 = 0.6;
        self.entries
            .keys()
            .map(|candidate| (strsim::normalized_levenshtein(name, candidate), candidate))
            .filter(|(similarity, _)| *similarity >= SIMILAR)
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, candidate)| candidate.clone())
    }
}

/// The index of a variant's shards, or else a weight file, that a folder holds under a name that is not looked for.
fn other_weights(dir: &Path) -> Option<String> {
    let entries = std::fs::read_dir(dir).ok()?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let (mut indices, mut files): (Vec<String>, Vec<String>) = names
        .filter(|name| name.contains(".safetensors"))
        .partition(|name| name.ends_with(".json"));
    indices.sort();
    files.sort();
    indices.into_iter().chain(files).next()
}

fn map_file(file: &Path) -> Result<Mmap, LoadError> {
    let refused = |source| LoadError::Read {
        file: file.to_owned(),
        source,
    };
    let opened = File::open(file).map_err(refused)?;
    let size = opened.metadata().map_err(refused)?.len();
    if size < size_of::<u64>() as u64 {
        return Err(LoadError::Truncated {
            file: file.to_owned(),
            size,
        });
    }
    // SAFETY: the map is only read. Model files are replaced by renaming, not rewritten in place, while a process uses
    // them; a writer that does otherwise gives wrong numbers or SIGBUS, as with every reader of mapped weights.
    unsafe { Mmap::map(&opened) }.map_err(refused)
}

pub(super) fn read_header(file: &Path, map: &Mmap) -> Result<(usize, Metadata), LoadError> {
    SafeTensors::read_metadata(map).map_err(|source| {
        let file = file.to_owned();
        if map.starts_with(b"version https://git-lfs") {
            return LoadError::LfsPointer { file };
        }
        match source {
            SafeTensorError::HeaderTooSmall
            | SafeTensorError::InvalidHeaderLength
            | SafeTensorError::MetadataIncompleteBuffer => LoadError::Truncated {
                file,
                size: map.len() as u64,
            },
            source => LoadError::Header { file, source },
        }
    })
}
