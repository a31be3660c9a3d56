//! Trajectory files: `gavel.trajectory.v3`, which names its conditioning; `gavel.trajectory.v2`, which holds it and so stands by
//! itself; and `gavel.trajectory.v1`, which the first runs hold.

use std::sync::Arc;

use gavel_core::ids::Digest;
use gavel_models::Family;

use super::metadata::{CONDITIONING, FAMILY, parse_family};
use super::{Extents, HostConditioning, Trajectory, TrajectoryMetadata};
use crate::{HostTensor, TensorFile, TensorFileError};

/// Value of the metadata key `format` in the files of runs.
pub const FORMAT: &str = "gavel.trajectory.v3";

/// The same in files that hold their conditioning.
const FORMAT_V2: &str = "gavel.trajectory.v2";

/// There, conditioning tensors have this before the name that their family gives them.
const PREFIX: &str = "conditioning.";

/// The format before files named their family.
const FORMAT_V1: &str = "gavel.trajectory.v1";

/// What the first format left unsaid: there was one family, and its two conditioning tensors were part of the format. This
/// is the only place outside `gavel-models` that knows a family's tensors by name, so that files of before still open.
const V1_FAMILY: &str = "flux";
const V1_PROMPT_EMBEDS: &str = "prompt_embeds";
const V1_POOLED_PROMPT_EMBEDS: &str = "pooled_prompt_embeds";

impl Trajectory {
    /// The file's bytes: equal trajectories give equal bytes. The file names its conditioning where
    /// [`TrajectoryMetadata::conditioning`] does, and holds it otherwise.
    pub fn to_safetensors(&self) -> Vec<u8> {
        match self.metadata.conditioning {
            Some(_) => self.file(FORMAT).to_bytes(),
            None => self.to_safetensors_v2(),
        }
    }

    /// The bytes of a file that holds the conditioning.
    fn to_safetensors_v2(&self) -> Vec<u8> {
        let mut file = self.file(FORMAT_V2);
        file.metadata.remove(CONDITIONING);
        for (name, tensor) in self.conditioning.iter() {
            file.tensors.insert(format!("{PREFIX}{name}"), tensor.clone());
        }
        file.to_bytes()
    }

    /// The file's bytes in whichever format gives them this hash. With it, work that was recorded in files of before is done
    /// again and compared byte for byte. `None` where no format does: it is another trajectory.
    pub fn to_safetensors_of(&self, digest: Digest) -> Option<Vec<u8>> {
        let formats = [
            Some(self.to_safetensors()),
            Some(self.to_safetensors_v2()),
            self.to_safetensors_v1(),
        ];
        formats.into_iter().flatten().find(|bytes| Digest::of(bytes) == digest)
    }

    /// The bytes in the first format; `None` where that format cannot say what this trajectory is.
    pub(super) fn to_safetensors_v1(&self) -> Option<Vec<u8>> {
        let names: Vec<&str> = self.conditioning.keys().map(String::as_str).collect();
        if self.metadata.family.name() != V1_FAMILY || names != [V1_POOLED_PROMPT_EMBEDS, V1_PROMPT_EMBEDS] {
            return None;
        }
        let mut file = self.file(FORMAT_V1);
        file.metadata.remove(FAMILY);
        file.metadata.remove(CONDITIONING);
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

    /// Reads a trajectory file of any format; all extents must agree with each other. Whether the conditioning is what a denoiser
    /// reads, that denoiser says; of a file that only names it there is none before [`Trajectory::with_conditioning`].
    ///
    /// # Errors
    /// [`TensorFileError`] naming the tensor or metadata key.
    pub fn from_safetensors(bytes: &[u8]) -> Result<Self, TensorFileError> {
        let mut file = TensorFile::from_bytes(bytes)?;
        let mut named = None;
        let (family, conditioning) = match file.metadata.get("format").map(String::as_str) {
            Some(FORMAT_V1) => conditioning_v1(&mut file)?,
            Some(FORMAT_V2) => conditioning_v2(&mut file)?,
            _ => {
                file.expect_format(FORMAT)?;
                named = Some(file.parse(CONDITIONING, "a SHA-256")?);
                (parse_family(&file)?, HostConditioning::new())
            }
        };
        let metadata = TrajectoryMetadata {
            conditioning: named,
            ..TrajectoryMetadata::from_file(&file, family)?
        };
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

/// Takes the conditioning of a file that holds it and names its family.
fn conditioning_v2(file: &mut TensorFile) -> Result<(Family, HostConditioning), TensorFileError> {
    let family = parse_family(file)?;
    let names: Vec<String> = file.tensors.keys().cloned().collect();
    let mut conditioning = HostConditioning::new();
    for stored in names {
        if let Some(name) = stored.strip_prefix(PREFIX) {
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
