//! A safetensors file of float32 numbers with text metadata, as bytes that depend on the content alone.
//!
//! The safetensors crate keeps metadata in a hash map, so the same content can give other bytes in another process. Blobs are
//! named by their hash; therefore trajectories, gradients and optimizer states are written here, in the order of their names.

use std::{collections::BTreeMap, fmt::Write as _};

use safetensors::{Dtype, SafeTensors};

/// Tensors by name, and metadata by key.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TensorFile {
    /// The `__metadata__` section.
    pub metadata: BTreeMap<String, String>,
    /// The tensors.
    pub tensors: BTreeMap<String, HostTensor>,
}

/// A float32 tensor in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Extent per axis.
    pub shape: Vec<usize>,
    /// As many values as the product of `shape`.
    pub values: Vec<f32>,
}

/// A blob or file is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum TensorFileError {
    /// The bytes are no safetensors file, or fewer than its header announces.
    #[error("not a complete safetensors file")]
    Header(#[from] safetensors::SafeTensorError),
    /// The file has another format, or another version of it.
    #[error("metadata `format` is {}, expected `{expected}`", found.as_ref().map_or("absent".to_owned(), |found| format!("`{found}`")))]
    Format {
        /// The format that was asked for.
        expected: &'static str,
        /// The format that the file names.
        found: Option<String>,
    },
    /// A tensor is absent.
    #[error("has no tensor `{name}`")]
    Missing {
        /// Its name.
        name: String,
    },
    /// A tensor that the format does not know.
    #[error("has a tensor `{name}`, which this format does not have")]
    Unknown {
        /// Its name.
        name: String,
    },
    /// A tensor is not stored as the format says.
    #[error("tensor `{name}` is stored as {dtype}, expected {expected}")]
    Dtype {
        /// Its name.
        name: String,
        /// The types that the format has.
        expected: &'static str,
        /// The stored type.
        dtype: String,
    },
    /// A tensor has another shape than the rest of the file implies.
    #[error("tensor `{name}` has shape {found:?}, expected {expected}")]
    Shape {
        /// Its name.
        name: String,
        /// The expected shape, in words.
        expected: String,
        /// The stored shape.
        found: Vec<usize>,
    },
    /// A metadata value is absent or does not parse.
    #[error("metadata `{key}` is {}", found.as_ref().map_or("absent".to_owned(), |found| format!("`{found}`, which is not {expected}")))]
    Metadata {
        /// Its key.
        key: &'static str,
        /// What it should be, in words.
        expected: &'static str,
        /// The stored text.
        found: Option<String>,
    },
}

impl gavel_core::Hint for TensorFileError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Header(_) => "the file is damaged, or is not a safetensors file: write it again",
            Self::Format { .. } => "check which file is meant; docs/formats.md lists the formats",
            Self::Missing { .. }
            | Self::Unknown { .. }
            | Self::Dtype { .. }
            | Self::Shape { .. }
            | Self::Metadata { .. } => {
                "the file was not written by this version of Gavel; docs/formats.md lists its content"
            }
        };
        Some(hint.to_owned())
    }
}

impl TensorFile {
    /// Adds a tensor. `values` holds as many numbers as `shape` implies.
    pub fn insert(&mut self, name: &str, shape: &[usize], values: Vec<f32>) {
        debug_assert_eq!(shape.iter().product::<usize>(), values.len(), "{name}");
        self.tensors.insert(
            name.to_owned(),
            HostTensor {
                shape: shape.to_vec(),
                values,
            },
        );
    }

    /// Takes a tensor out, so that what is left over can be refused.
    ///
    /// # Errors
    /// [`TensorFileError::Missing`].
    pub fn take(&mut self, name: &str) -> Result<HostTensor, TensorFileError> {
        self.tensors
            .remove(name)
            .ok_or_else(|| TensorFileError::Missing { name: name.to_owned() })
    }

    /// Reads a metadata value; `expected` says in words what it should be.
    ///
    /// # Errors
    /// [`TensorFileError::Metadata`].
    pub fn parse<T: std::str::FromStr>(&self, key: &'static str, expected: &'static str) -> Result<T, TensorFileError> {
        let found = self.metadata.get(key);
        let parsed = found.and_then(|text| text.parse().ok());
        parsed.ok_or_else(|| TensorFileError::Metadata {
            key,
            expected,
            found: found.cloned(),
        })
    }

    /// Refuses a file whose `format` is another.
    ///
    /// # Errors
    /// [`TensorFileError::Format`].
    pub fn expect_format(&self, expected: &'static str) -> Result<(), TensorFileError> {
        let found = self.metadata.get("format");
        match found {
            Some(found) if found == expected => Ok(()),
            _ => Err(TensorFileError::Format {
                expected,
                found: found.cloned(),
            }),
        }
    }

    /// Refuses tensors that nobody took.
    ///
    /// # Errors
    /// [`TensorFileError::Unknown`].
    pub fn expect_empty(&self) -> Result<(), TensorFileError> {
        match self.tensors.keys().next() {
            Some(name) => Err(TensorFileError::Unknown { name: name.clone() }),
            None => Ok(()),
        }
    }

    /// The file's bytes: equal content gives equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.write(|_| Stored::Float32)
    }

    /// The same with each tensor as bfloat16 whose numbers all are bfloat16 numbers, so that nothing is rounded: half the bytes
    /// of what was computed in bfloat16.
    pub fn to_narrow_bytes(&self) -> Vec<u8> {
        self.write(Stored::narrowest)
    }

    fn write(&self, stored: impl Fn(&HostTensor) -> Stored) -> Vec<u8> {
        const ALIGNMENT: usize = 8;
        let tensors: Vec<_> = self
            .tensors
            .iter()
            .map(|(name, tensor)| (name, tensor, stored(tensor)))
            .collect();
        let mut header = String::from("{");
        let metadata =
            serde_json::Value::from_iter(self.metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        // Writing to a String cannot fail.
        let _ = write!(header, r#""__metadata__":{metadata}"#);
        let mut start = 0;
        for (name, tensor, stored) in &tensors {
            let end = start + tensor.values.len() * stored.size();
            let dtype = stored.name();
            let name = serde_json::Value::from(name.as_str());
            let _ = write!(
                header,
                r#",{name}:{{"dtype":"{dtype}","shape":{:?},"data_offsets":[{start},{end}]}}"#,
                tensor.shape
            );
            start = end;
        }
        header.push('}');
        while !header.len().is_multiple_of(ALIGNMENT) {
            header.push(' ');
        }
        let mut bytes = Vec::with_capacity(size_of::<u64>() + header.len() + start);
        bytes.extend_from_slice(&(header.len() as u64).to_le_bytes());
        bytes.extend_from_slice(header.as_bytes());
        for (_, tensor, stored) in tensors {
            match stored {
                Stored::Float32 => bytes.extend(tensor.values.iter().flat_map(|value| value.to_le_bytes())),
                Stored::Bfloat16 => {
                    bytes.extend(tensor.values.iter().flat_map(|value| upper_half(*value).to_le_bytes()))
                }
            }
        }
        bytes
    }

    /// Reads a file of float32 tensors.
    ///
    /// # Errors
    /// [`TensorFileError::Header`] and [`TensorFileError::Dtype`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TensorFileError> {
        Self::read(bytes, "F32", |dtype, data| match dtype {
            Dtype::F32 => Some(float32(data)),
            _ => None,
        })
    }

    /// Reads a file of tensors that are stored as float32 or bfloat16.
    ///
    /// # Errors
    /// As [`TensorFile::from_bytes`].
    pub fn from_narrow_bytes(bytes: &[u8]) -> Result<Self, TensorFileError> {
        Self::read(bytes, "F32 or BF16", |dtype, data| match dtype {
            Dtype::F32 => Some(float32(data)),
            Dtype::BF16 => Some(bfloat16(data)),
            _ => None,
        })
    }

    fn read(
        bytes: &[u8],
        expected: &'static str,
        numbers: impl Fn(Dtype, &[u8]) -> Option<Vec<f32>>,
    ) -> Result<Self, TensorFileError> {
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let mut file = Self {
            metadata: header
                .metadata()
                .iter()
                .flatten()
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            tensors: BTreeMap::new(),
        };
        for (name, view) in SafeTensors::deserialize(bytes)?.tensors() {
            let Some(values) = numbers(view.dtype(), view.data()) else {
                return Err(TensorFileError::Dtype {
                    name,
                    expected,
                    dtype: format!("{:?}", view.dtype()),
                });
            };
            file.tensors.insert(
                name,
                HostTensor {
                    shape: view.shape().to_vec(),
                    values,
                },
            );
        }
        Ok(file)
    }
}

/// How a tensor's numbers lie in the file.
#[derive(Debug, Clone, Copy)]
enum Stored {
    Float32,
    Bfloat16,
}

impl Stored {
    /// The narrowest form that says every number of the tensor.
    fn narrowest(tensor: &HostTensor) -> Self {
        let is_bfloat16 = |value: &f32| value.to_bits() << 16 == 0;
        match tensor.values.iter().all(is_bfloat16) {
            true => Self::Bfloat16,
            false => Self::Float32,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Float32 => "F32",
            Self::Bfloat16 => "BF16",
        }
    }

    /// Bytes of a number.
    fn size(self) -> usize {
        match self {
            Self::Float32 => size_of::<f32>(),
            Self::Bfloat16 => size_of::<u16>(),
        }
    }
}

/// A bfloat16 number is the upper half of a float32 number whose lower half is zero.
fn upper_half(value: f32) -> u16 {
    (value.to_bits() >> 16) as u16
}

fn float32(data: &[u8]) -> Vec<f32> {
    let numbers = data.as_chunks().0.iter();
    numbers.map(|number| f32::from_le_bytes(*number)).collect()
}

fn bfloat16(data: &[u8]) -> Vec<f32> {
    let numbers = data.as_chunks().0.iter();
    numbers
        .map(|number| f32::from_bits(u32::from(u16::from_le_bytes(*number)) << 16))
        .collect()
}

impl HostTensor {
    /// Refuses another shape; `None` in `expected` stands for any extent.
    ///
    /// # Errors
    /// [`TensorFileError::Shape`].
    pub fn expect_shape(&self, name: &str, expected: &[Option<usize>]) -> Result<(), TensorFileError> {
        let fits = self.shape.len() == expected.len()
            && self
                .shape
                .iter()
                .zip(expected)
                .all(|(found, expected)| expected.is_none_or(|extent| extent == *found));
        if fits {
            return Ok(());
        }
        let axes: Vec<String> = expected
            .iter()
            .map(|extent| extent.map_or("any".to_owned(), |extent| extent.to_string()))
            .collect();
        Err(TensorFileError::Shape {
            name: name.to_owned(),
            expected: format!("[{}]", axes.join(", ")),
            found: self.shape.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> TensorFile {
        let mut file = TensorFile::default();
        file.metadata.insert("format".into(), "example \"v1\"".into());
        file.metadata.insert("a".into(), "b".into());
        file.insert("z", &[2, 2], vec![1.0, -2.5, f32::MIN_POSITIVE, 0.0]);
        file.insert("a", &[1], vec![3.0]);
        file.insert("none", &[0, 4], vec![]);
        file
    }

    #[test]
    fn content_survives_and_bytes_depend_on_content_alone() {
        let file = example();
        let bytes = file.to_bytes();
        let read = TensorFile::from_bytes(&bytes).unwrap();
        assert_eq!(read, file);
        assert_eq!(read.to_bytes(), bytes);
    }

    #[test]
    fn numbers_are_stored_as_bfloat16_only_where_every_bit_of_them_survives() {
        let mut file = example();
        // The number next to 1 in float32 is none in bfloat16.
        file.insert("wide", &[2], vec![1.0, 1.0_f32.next_up()]);
        file.insert("odd", &[3], vec![-0.0, f32::INFINITY, f32::from_bits(0x7fc1_0000)]);
        let bytes = file.to_narrow_bytes();
        let header = SafeTensors::deserialize(&bytes).unwrap();
        let dtype = |name| header.tensor(name).unwrap().dtype();
        assert_eq!(
            (dtype("a"), dtype("wide"), dtype("odd")),
            (Dtype::BF16, Dtype::F32, Dtype::BF16)
        );
        let read = TensorFile::from_narrow_bytes(&bytes).unwrap();
        assert_eq!(read.metadata, file.metadata);
        let bits = |file: &TensorFile| -> Vec<(String, Vec<usize>, Vec<u32>)> {
            let tensors = file.tensors.iter();
            tensors
                .map(|(name, tensor)| {
                    let bits = tensor.values.iter().map(|value| value.to_bits()).collect();
                    (name.clone(), tensor.shape.clone(), bits)
                })
                .collect()
        };
        assert_eq!(bits(&read), bits(&file));
        assert_eq!(read.to_narrow_bytes(), bytes);

        file.tensors.retain(|name, _| name == "a");
        let error = TensorFile::from_bytes(&file.to_narrow_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "tensor `a` is stored as BF16, expected F32");
    }

    #[test]
    fn truncated_bytes_are_refused() {
        let bytes = example().to_bytes();
        for end in [0, 7, 20, bytes.len() - 1] {
            assert!(
                matches!(TensorFile::from_bytes(&bytes[..end]), Err(TensorFileError::Header(_))),
                "cut at {end}"
            );
        }
    }

    #[test]
    fn another_shape_is_named() {
        let error = example().tensors["z"].expect_shape("z", &[Some(3), None]).unwrap_err();
        assert_eq!(error.to_string(), "tensor `z` has shape [2, 2], expected [3, any]");
    }
}
