//! Trajectory files: `gavel.trajectory.v2`, which is written, and `gavel.trajectory.v1`, which runs of before hold.

use std::sync::Arc;

use gavel_core::ids::Digest;
use gavel_models::Family;

use super::metadata::{FAMILY, parse_family};
use super::{Extents, HostConditioning, Trajectory, TrajectoryMetadata};
use crate::{HostTensor, TensorFile, TensorFileError};

/// Value of the metadata key `format` in files that are written now.
pub const FORMAT: &str = "gavel.trajectory.v2";

/// Conditioning tensors have this before the name that their family gives them.
const CONDITIONING: &str = "conditioning.";

/// The format before files named their family.
const FORMAT_V1: &str = "gavel.trajectory.v1";

/// What the first format left unsaid: there was one family, and its two conditioning tensors were part of the format. This
/// is the only place outside `gavel-models` that knows a family's tensors by name, so that files of before still open.
const V1_FAMILY: &str = "flux";
const V1_PROMPT_EMBEDS: &str = "prompt_embeds";
const V1_POOLED_PROMPT_EMBEDS: &str = "pooled_prompt_embeds";

impl Trajectory {
    /// The file's bytes: equal trajectories give equal bytes.
    pub fn to_safetensors(&self) -> Vec<u8> {
        let mut file = self.file(FORMAT);
        for (name, tensor) in self.conditioning.iter() {
            file.tensors.insert(format!("{CONDITIONING}{name}"), tensor.clone());
        }
        file.to_bytes()
    }

    /// The file's bytes in whichever format gives them this hash. With it, work that was recorded in files of before is done
    /// again and compared byte for byte. `None` where no format does: it is another trajectory.
    pub fn to_safetensors_of(&self, digest: Digest) -> Option<Vec<u8>> {
        let formats = [Some(self.to_safetensors()), self.to_safetensors_v1()];
        formats.into_iter().flatten().find(|bytes| Digest::of(bytes) == digest)
    }

    /// The bytes in the format before this one; `None` where that format cannot say what this trajectory is.
    pub(super) fn to_safetensors_v1(&self) -> Option<Vec<u8>> {
        let names: Vec<&str> = self.conditioning.keys().map(String::as_str).collect();
        if self.metadata.family.name() != V1_FAMILY || names != [V1_POOLED_PROMPT_EMBEDS, V1_PROMPT_EMBEDS] {
            return None;
        }
        let mut file = self.file(FORMAT_V1);
        file.metadata.remove(FAMILY);
        for (name, tensor) in self.conditioning.iter() {
            file.tensors.insert(name.clone(), tensor.clone());
        }
        Some(file.to_bytes())
    }

    /// Everything but the conditioning.
    fn file(&self, format: &str) -> TensorFile {
        let Extents {
            steps,
            tokens,
            channels,
        } = self.extents;
        let mut file = TensorFile {
            metadata: self.metadata.to_map(),
            ..TensorFile::default()
        };
        file.metadata.insert("format".into(), format.into());
        file.insert("latents", &[steps + 1, tokens, channels], self.latents.clone());
        file.insert("log_probs", &[steps], self.log_probs.clone());
        file.insert("sigmas", &[steps + 1], self.sigmas.clone());
        file.insert("velocities", &[steps, tokens, channels], self.velocities.clone());
        file
    }

    /// Reads a trajectory file of this format or the one before; all extents must agree with each other. Whether the
    /// conditioning is what a denoiser reads, that denoiser says.
    ///
    /// # Errors
    /// [`TensorFileError`] naming the tensor or metadata key.
    pub fn from_safetensors(bytes: &[u8]) -> Result<Self, TensorFileError> {
        let mut file = TensorFile::from_bytes(bytes)?;
        let (family, conditioning) = match file.metadata.get("format").map(String::as_str) {
            Some(FORMAT_V1) => conditioning_v1(&mut file)?,
            _ => conditioning(&mut file)?,
        };
        let metadata = TrajectoryMetadata::from_file(&file, family)?;
        let tokens = metadata.grid.tokens();

        let velocities = file.take("velocities")?;
        velocities.expect_shape("velocities", &[None, Some(tokens), None])?;
        let (steps, channels) = (velocities.shape[0], velocities.shape[2]);
        // A tensor without tokens may say that it has any number of steps.
        let states = steps.saturating_add(1);
        let latents = file.take("latents")?;
        latents.expect_shape("latents", &[Some(states), Some(tokens), Some(channels)])?;
        let log_probs = file.take("log_probs")?;
        log_probs.expect_shape("log_probs", &[Some(steps)])?;
        let sigmas = file.take("sigmas")?;
        sigmas.expect_shape("sigmas", &[Some(states)])?;
        file.expect_empty()?;
        if metadata.noise_steps > steps {
            let found = Some(metadata.noise_steps.to_string());
            return Err(TensorFileError::Metadata {
                key: "noise_steps",
                expected: "at most the number of steps",
                found,
            });
        }
        Ok(Self {
            metadata,
            extents: Extents {
                steps,
                tokens,
                channels,
            },
            latents: latents.values,
            log_probs: log_probs.values,
            sigmas: sigmas.values,
            velocities: velocities.values,
            conditioning: Arc::new(conditioning),
        })
    }
}

/// Takes the conditioning of a file that names its family.
fn conditioning(file: &mut TensorFile) -> Result<(Family, HostConditioning), TensorFileError> {
    file.expect_format(FORMAT)?;
    let family = parse_family(file)?;
    let names: Vec<String> = file.tensors.keys().cloned().collect();
    let mut conditioning = HostConditioning::new();
    for stored in names {
        if let Some(name) = stored.strip_prefix(CONDITIONING) {
            conditioning.insert(name.to_owned(), file.take(&stored)?);
        }
    }
    Ok((family, conditioning))
}

/// Takes the conditioning of a file of the first format.
fn conditioning_v1(file: &mut TensorFile) -> Result<(Family, HostConditioning), TensorFileError> {
    let family = Family::from_name(V1_FAMILY).map_err(|_| TensorFileError::Metadata {
        key: "format",
        expected: "of a model family of this version",
        found: Some(FORMAT_V1.to_owned()),
    })?;
    let mut take = |name: &str, axes: &[Option<usize>]| -> Result<(String, HostTensor), TensorFileError> {
        let tensor = file.take(name)?;
        tensor.expect_shape(name, axes)?;
        Ok((name.to_owned(), tensor))
    };
    let conditioning = [
        take(V1_PROMPT_EMBEDS, &[None, None])?,
        take(V1_POOLED_PROMPT_EMBEDS, &[None])?,
    ];
    Ok((family, conditioning.into()))
}
