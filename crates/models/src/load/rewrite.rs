//! The weights of a folder written again, with some of the tensors changed.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::LoadError;
use super::formats::candle_dtype;
use super::weights::{Shard, Weights, read_header};

impl Weights {
    /// Writes the folder's weight files, and the JSON files beside them, to `out` under the same names. `change` is given a tensor's name and the
    /// tensor as it is stored, and gives what takes its place, of the same shape and format, or `None` for what stays as it is.
    ///
    /// # Errors
    /// What `change` says; [`LoadError::Write`].
    pub(crate) fn rewrite(
        &self,
        out: &Path,
        mut change: impl FnMut(&str, Tensor) -> Result<Option<Tensor>, LoadError>,
    ) -> Result<(), LoadError> {
        fs::create_dir_all(out).map_err(refused(out))?;
        for shard in &self.shards {
            let file = out.join(shard.file.file_name().unwrap_or_default());
            let create = File::create_new(&file).map_err(refused(&file))?;
            let mut to = BufWriter::new(create);
            self.rewrite_shard(shard, &mut to, &file, &mut change)?;
            to.flush().map_err(refused(&file))?;
        }
        for entry in fs::read_dir(&self.dir).map_err(refused(&self.dir))? {
            let from = entry.map_err(refused(&self.dir))?.path();
            if from.extension().is_some_and(|ending| ending == "json") {
                let to = out.join(from.file_name().unwrap_or_default());
                fs::copy(&from, &to).map_err(refused(&to))?;
            }
        }
        Ok(())
    }

    fn rewrite_shard(
        &self,
        shard: &Shard,
        to: &mut impl io::Write,
        file: &Path,
        change: &mut impl FnMut(&str, Tensor) -> Result<Option<Tensor>, LoadError>,
    ) -> Result<(), LoadError> {
        let (header_size, metadata) = read_header(&shard.file, &shard.map)?;
        let data_start = size_of::<u64>() + header_size;
        // Nothing that the header says changes.
        to.write_all(&shard.map[..data_start]).map_err(refused(file))?;
        for name in metadata.offset_keys() {
            let Some(info) = metadata.info(&name) else { continue };
            let (start, end) = info.data_offsets;
            let stored = &shard.map[data_start + start..data_start + end];
            // A format that candle does not know is nothing that anybody could change.
            let changed = match candle_dtype(info.dtype) {
                Some(dtype) => {
                    let tensor = Tensor::from_raw_buffer(stored, dtype, &info.shape, &Device::Cpu);
                    change(&name, tensor.map_err(|source| self.candle(source))?)?
                }
                None => None,
            };
            match changed {
                Some(tensor) => {
                    let bytes = to_bytes(&tensor).map_err(|source| self.candle(source))?;
                    to.write_all(&bytes)
                }
                None => to.write_all(stored),
            }
            .map_err(refused(file))?;
        }
        Ok(())
    }
}

/// A tensor's numbers as a file holds them: row-major, little-endian.
fn to_bytes(tensor: &Tensor) -> candle_core::Result<Vec<u8>> {
    let flat = tensor.flatten_all()?;
    Ok(match tensor.dtype() {
        DType::F32 => bytes_of(&flat.to_vec1::<f32>()?, |value| value.to_le_bytes()),
        DType::F64 => bytes_of(&flat.to_vec1::<f64>()?, |value| value.to_le_bytes()),
        DType::F16 => bytes_of(&flat.to_vec1::<half::f16>()?, |value| value.to_le_bytes()),
        DType::BF16 => bytes_of(&flat.to_vec1::<half::bf16>()?, |value| value.to_le_bytes()),
        other => candle_core::bail!("weights are not floating-point numbers but {other:?}"),
    })
}

fn bytes_of<T, const N: usize>(values: &[T], bytes: impl Fn(&T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(bytes).collect()
}

fn refused(file: &Path) -> impl Fn(io::Error) -> LoadError {
    let file = file.to_owned();
    move |source| LoadError::Write {
        file: file.clone(),
        source,
    }
}
