//! The file of a task's conditioning, `gavel.conditioning.v1`: what the denoiser reads instead of the task.
//!
//! A run stores one for each task that it samples. Trajectories name it, trainers read it once for all candidates of a prompt,
//! and a sampler that is handed it need not encode the task. Its numbers are those of the encoders, bit for bit.

use std::collections::BTreeMap;
use std::sync::Arc;

use gavel_core::ids::Digest;
use gavel_models::Family;

use crate::trajectory::metadata::{FAMILY, parse_family, parse_sources, write_sources};
use crate::trajectory::{HostConditioning, TrajectoryMetadata};
use crate::{TensorFile, TensorFileError};

/// Value of the metadata key `format`.
pub const FORMAT: &str = "gavel.conditioning.v1";

/// What a denoiser is conditioned on for one task, and what it was made of and by.
#[derive(Debug, Clone, PartialEq)]
pub struct ConditioningFile {
    /// The family of the model.
    pub family: Family,
    /// Fingerprint of the folders that the conditioning is made with ([`crate::Sampler::encoders`]).
    pub encoders: Digest,
    /// The words.
    pub prompt: String,
    /// Hashes of the pictures that are edited, in their order; empty where none is.
    pub sources: Vec<Digest>,
    /// The tensors, by the names that the family gives them; float32 numbers without a batch dimension.
    pub tensors: Arc<HostConditioning>,
}

impl ConditioningFile {
    /// The file's bytes: equal content gives equal bytes. A tensor that was computed in bfloat16 is stored so
    /// ([`TensorFile::to_narrow_bytes`]).
    pub fn to_safetensors(&self) -> Vec<u8> {
        let mut metadata = BTreeMap::from([
            ("format".to_owned(), FORMAT.to_owned()),
            (FAMILY.to_owned(), self.family.name().to_owned()),
            ("encoders".to_owned(), self.encoders.to_string()),
            ("prompt".to_owned(), self.prompt.clone()),
        ]);
        metadata.extend(write_sources(&self.sources));
        let file = TensorFile {
            metadata,
            tensors: self.tensors.as_ref().clone(),
        };
        file.to_narrow_bytes()
    }

    /// Reads a conditioning file. Whether the tensors are what a denoiser reads, that denoiser says.
    ///
    /// # Errors
    /// [`TensorFileError`] naming the tensor or metadata key.
    pub fn from_safetensors(bytes: &[u8]) -> Result<Self, TensorFileError> {
        let file = TensorFile::from_narrow_bytes(bytes)?;
        file.expect_format(FORMAT)?;
        Ok(Self {
            family: parse_family(&file)?,
            encoders: file.parse("encoders", "a SHA-256")?,
            prompt: file.parse("prompt", "a text")?,
            sources: parse_sources(&file)?,
            tensors: Arc::new(file.tensors),
        })
    }

    /// Checks that this is what a trajectory was conditioned on: of the same family, words and source pictures.
    ///
    /// # Errors
    /// What differs, in words.
    pub fn check_for(&self, trajectory: &TrajectoryMetadata) -> Result<(), String> {
        let found = (self.family.name(), self.prompt.as_str(), &self.sources);
        let expected = (
            trajectory.family.name(),
            trajectory.prompt.as_str(),
            &trajectory.sources,
        );
        match found == expected {
            true => Ok(()),
            false => Err(format!(
                "the conditioning is of (family, prompt, sources) {found:?}, its trajectory of {expected:?}"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HostTensor;

    fn example() -> ConditioningFile {
        let tensor = |values: Vec<f32>| HostTensor {
            shape: vec![values.len() / 2, 2],
            values,
        };
        let tensors = [
            ("states".to_owned(), tensor(vec![0.5, -2.0, 1.0, 0.0])),
            ("latents".to_owned(), tensor(vec![0.1, 0.2])),
        ];
        ConditioningFile {
            family: Family::ALL[0],
            encoders: Digest([7; 32]),
            prompt: "a \"red\" circle\non blue, è".into(),
            sources: vec![Digest([2; 32]), Digest([3; 32])],
            tensors: Arc::new(tensors.into()),
        }
    }

    #[test]
    fn a_conditioning_survives_its_file() {
        let mut conditioning = example();
        for sources in [conditioning.sources.clone(), Vec::new()] {
            conditioning.sources = sources;
            let bytes = conditioning.to_safetensors();
            let read = ConditioningFile::from_safetensors(&bytes).unwrap();
            assert_eq!(read, conditioning);
            assert_eq!(read.to_safetensors(), bytes);
        }
    }

    #[test]
    fn broken_files_are_refused_by_name() {
        let check = |change: fn(&mut TensorFile), expected: &str| {
            let mut file = TensorFile::from_narrow_bytes(&example().to_safetensors()).unwrap();
            change(&mut file);
            let error = ConditioningFile::from_safetensors(&file.to_narrow_bytes()).unwrap_err();
            assert_eq!(error.to_string(), expected);
        };
        check(
            |file| drop(file.metadata.insert("format".into(), "gavel.trajectory.v3".into())),
            "metadata `format` is `gavel.trajectory.v3`, expected `gavel.conditioning.v1`",
        );
        check(
            |file| drop(file.metadata.remove("prompt")),
            "metadata `prompt` is absent",
        );
        check(
            |file| drop(file.metadata.insert("encoders".into(), "t5".into())),
            "metadata `encoders` is `t5`, which is not a SHA-256",
        );
        check(
            |file| drop(file.metadata.insert("family".into(), "none".into())),
            "metadata `family` is `none`, which is not a model family of this version",
        );
        check(
            |file| drop(file.metadata.insert("sources".into(), "a.png".into())),
            "metadata `sources` is `a.png`, which is not SHA-256 sums with commas between them",
        );
        let half = example().to_safetensors();
        assert!(matches!(
            ConditioningFile::from_safetensors(&half[..half.len() / 2]),
            Err(TensorFileError::Header(_))
        ));
    }
}
