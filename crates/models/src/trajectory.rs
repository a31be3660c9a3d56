//! A sampled trajectory: everything that a trainer needs of a candidate, so that it needs no text encoder.
//!
//! docs/formats.md describes the file. The sampler writes it, the trainer reads it; both meet here.

use gavel_core::{ids::Digest, rpo::Sde};

use crate::tensor_file::{TensorFile, TensorFileError};

/// Value of the metadata key `format`.
pub const FORMAT: &str = "gavel.trajectory.v1";

const BASE: &str = "base";

/// One candidate's way from noise to image. Rows are row-major; `tokens` and `channels` are those of packed latents.
#[derive(Debug, Clone, PartialEq)]
pub struct Trajectory {
    /// How it came about.
    pub metadata: TrajectoryMetadata,
    /// Extents of the tensors.
    pub extents: Extents,
    /// x_0 .. x_T, (steps + 1, tokens, channels).
    pub latents: Vec<f32>,
    /// Log-probability of each transition, mean over the latent's dimensions, (steps,); 0 where no noise was added.
    pub log_probs: Vec<f32>,
    /// Noise levels, (steps + 1,), from 1 to 0.
    pub sigmas: Vec<f32>,
    /// The policy's velocity at each state, (steps, tokens, channels).
    pub velocities: Vec<f32>,
    /// T5's token embeddings of the prompt, (text_tokens, joint).
    pub prompt_embeds: Vec<f32>,
    /// CLIP's pooled embedding of the prompt, (pooled,).
    pub pooled_prompt_embeds: Vec<f32>,
}

/// Extents of a trajectory's tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extents {
    /// Number of sampling steps T.
    pub steps: usize,
    /// Packed latent tokens.
    pub tokens: usize,
    /// Channels per token.
    pub channels: usize,
    /// Text tokens.
    pub text_tokens: usize,
    /// Width of a text token's embedding.
    pub joint: usize,
    /// Width of the pooled embedding.
    pub pooled: usize,
}

impl Extents {
    /// Values in one latent.
    pub fn latent_size(&self) -> usize {
        self.tokens * self.channels
    }
}

/// How a trajectory came about.
#[derive(Debug, Clone, PartialEq)]
pub struct TrajectoryMetadata {
    /// Fingerprint of the transformer's folder ([`crate::load::fingerprint`]).
    pub model: Digest,
    /// The adapter's file, `None` for the base policy.
    pub adapter: Option<Digest>,
    /// The caption.
    pub prompt: String,
    /// `run.seed`.
    pub seed: u64,
    /// Optimizer step, part of the noise keys.
    pub step: u32,
    /// The prompt's place in its step.
    pub prompt_index: u32,
    /// The candidate's place among its prompt's.
    pub candidate: u8,
    /// Which stochastic sampler.
    pub sde: Sde,
    /// Its noise scale.
    pub eta: f64,
    /// Steps with noise, counted from the first.
    pub noise_steps: usize,
    /// Timestep shift of the sigma schedule.
    pub shift: f64,
    /// Guidance embedding; `None` for a transformer that takes none.
    pub guidance_scale: Option<f64>,
    /// Image width in pixels.
    pub width: usize,
    /// Image height in pixels.
    pub height: usize,
    /// Rows of packed latent tokens.
    pub height_tokens: usize,
    /// Columns of packed latent tokens.
    pub width_tokens: usize,
}

impl Trajectory {
    /// x_i, (tokens, channels); `index` from 0 to `steps`.
    pub fn latent(&self, index: usize) -> &[f32] {
        let size = self.extents.latent_size();
        &self.latents[index * size..(index + 1) * size]
    }

    /// The velocity at x_i, (tokens, channels); `index` below `steps`.
    pub fn velocity(&self, index: usize) -> &[f32] {
        let size = self.extents.latent_size();
        &self.velocities[index * size..(index + 1) * size]
    }

    /// The file's bytes: equal trajectories give equal bytes.
    pub fn to_safetensors(&self) -> Vec<u8> {
        let Extents {
            steps,
            tokens,
            channels,
            text_tokens,
            joint,
            pooled,
        } = self.extents;
        let mut file = TensorFile {
            metadata: self.metadata.to_map(),
            ..TensorFile::default()
        };
        file.insert("latents", &[steps + 1, tokens, channels], self.latents.clone());
        file.insert("log_probs", &[steps], self.log_probs.clone());
        file.insert("sigmas", &[steps + 1], self.sigmas.clone());
        file.insert("velocities", &[steps, tokens, channels], self.velocities.clone());
        file.insert("prompt_embeds", &[text_tokens, joint], self.prompt_embeds.clone());
        file.insert("pooled_prompt_embeds", &[pooled], self.pooled_prompt_embeds.clone());
        file.to_bytes()
    }

    /// Reads a trajectory file; all extents must agree with each other.
    ///
    /// # Errors
    /// [`TensorFileError`] naming the tensor or metadata key.
    pub fn from_safetensors(bytes: &[u8]) -> Result<Self, TensorFileError> {
        let mut file = TensorFile::from_bytes(bytes)?;
        file.expect_format(FORMAT)?;
        let metadata = TrajectoryMetadata::from_file(&file)?;
        let tokens = metadata.height_tokens * metadata.width_tokens;

        let velocities = file.take("velocities")?;
        velocities.expect_shape("velocities", &[None, Some(tokens), None])?;
        let (steps, channels) = (velocities.shape[0], velocities.shape[2]);
        let latents = file.take("latents")?;
        latents.expect_shape("latents", &[Some(steps + 1), Some(tokens), Some(channels)])?;
        let log_probs = file.take("log_probs")?;
        log_probs.expect_shape("log_probs", &[Some(steps)])?;
        let sigmas = file.take("sigmas")?;
        sigmas.expect_shape("sigmas", &[Some(steps + 1)])?;
        let prompt_embeds = file.take("prompt_embeds")?;
        prompt_embeds.expect_shape("prompt_embeds", &[None, None])?;
        let pooled_prompt_embeds = file.take("pooled_prompt_embeds")?;
        pooled_prompt_embeds.expect_shape("pooled_prompt_embeds", &[None])?;
        file.expect_empty()?;
        if metadata.noise_steps > steps {
            let found = Some(metadata.noise_steps.to_string());
            return Err(TensorFileError::Metadata {
                key: "noise_steps",
                expected: "at most the number of steps",
                found,
            });
        }
        let extents = Extents {
            steps,
            tokens,
            channels,
            text_tokens: prompt_embeds.shape[0],
            joint: prompt_embeds.shape[1],
            pooled: pooled_prompt_embeds.shape[0],
        };
        Ok(Self {
            metadata,
            extents,
            latents: latents.values,
            log_probs: log_probs.values,
            sigmas: sigmas.values,
            velocities: velocities.values,
            prompt_embeds: prompt_embeds.values,
            pooled_prompt_embeds: pooled_prompt_embeds.values,
        })
    }
}

impl TrajectoryMetadata {
    fn to_map(&self) -> std::collections::BTreeMap<String, String> {
        let pairs = [
            ("format", FORMAT.to_owned()),
            ("model", self.model.to_string()),
            (
                "adapter",
                self.adapter.map_or(BASE.to_owned(), |adapter| adapter.to_string()),
            ),
            ("prompt", self.prompt.clone()),
            ("seed", self.seed.to_string()),
            ("step", self.step.to_string()),
            ("prompt_index", self.prompt_index.to_string()),
            ("candidate", self.candidate.to_string()),
            ("sde", sde_name(self.sde).to_owned()),
            ("eta", self.eta.to_string()),
            ("noise_steps", self.noise_steps.to_string()),
            ("shift", self.shift.to_string()),
            (
                "guidance_scale",
                self.guidance_scale.map_or("none".to_owned(), |scale| scale.to_string()),
            ),
            ("width", self.width.to_string()),
            ("height", self.height.to_string()),
            ("height_tokens", self.height_tokens.to_string()),
            ("width_tokens", self.width_tokens.to_string()),
        ];
        pairs.map(|(key, value)| (key.to_owned(), value)).into()
    }

    fn from_file(file: &TensorFile) -> Result<Self, TensorFileError> {
        const COUNT: &str = "a whole number";
        const NUMBER: &str = "a number";
        let adapter: String = file.parse("adapter", "a SHA-256 or `base`")?;
        let guidance: String = file.parse("guidance_scale", "a number or `none`")?;
        Ok(Self {
            model: file.parse("model", "a SHA-256")?,
            adapter: if adapter == BASE {
                None
            } else {
                Some(file.parse("adapter", "a SHA-256 or `base`")?)
            },
            prompt: file.parse("prompt", "a text")?,
            seed: file.parse("seed", COUNT)?,
            step: file.parse("step", COUNT)?,
            prompt_index: file.parse("prompt_index", COUNT)?,
            candidate: file.parse("candidate", COUNT)?,
            sde: parse_sde(file)?,
            eta: file.parse("eta", NUMBER)?,
            noise_steps: file.parse("noise_steps", COUNT)?,
            shift: file.parse("shift", NUMBER)?,
            guidance_scale: if guidance == "none" {
                None
            } else {
                Some(file.parse("guidance_scale", "a number or `none`")?)
            },
            width: file.parse("width", COUNT)?,
            height: file.parse("height", COUNT)?,
            height_tokens: file.parse("height_tokens", COUNT)?,
            width_tokens: file.parse("width_tokens", COUNT)?,
        })
    }
}

fn sde_name(sde: Sde) -> &'static str {
    match sde {
        Sde::Dance => "dance",
        Sde::Flow => "flow",
    }
}

fn parse_sde(file: &TensorFile) -> Result<Sde, TensorFileError> {
    let found: Option<&String> = file.metadata.get("sde");
    let known = [Sde::Dance, Sde::Flow]
        .into_iter()
        .find(|sde| found.is_some_and(|name| name == sde_name(*sde)));
    known.ok_or_else(|| TensorFileError::Metadata {
        key: "sde",
        expected: "`dance` or `flow`",
        found: found.cloned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Trajectory {
        let extents = Extents {
            steps: 2,
            tokens: 6,
            channels: 4,
            text_tokens: 3,
            joint: 5,
            pooled: 7,
        };
        let values = |count: usize| (0..count).map(|i| i as f32 * 0.25 - 1.0).collect::<Vec<f32>>();
        Trajectory {
            metadata: TrajectoryMetadata {
                model: Digest([7; 32]),
                adapter: None,
                prompt: "a \"red\" circle\non blue, è".into(),
                seed: u64::MAX,
                step: 3,
                prompt_index: 5,
                candidate: 1,
                sde: Sde::Dance,
                eta: 0.3,
                noise_steps: 1,
                shift: 3.0,
                guidance_scale: Some(3.5),
                width: 48,
                height: 32,
                height_tokens: 2,
                width_tokens: 3,
            },
            extents,
            latents: values(3 * 24),
            log_probs: vec![-0.5, 0.0],
            sigmas: vec![1.0, 0.75, 0.0],
            velocities: values(2 * 24),
            prompt_embeds: values(15),
            pooled_prompt_embeds: values(7),
        }
    }

    #[test]
    fn a_trajectory_survives_its_file() {
        let mut trajectory = example();
        let bytes = trajectory.to_safetensors();
        assert_eq!(Trajectory::from_safetensors(&bytes).unwrap(), trajectory);
        assert_eq!(Trajectory::from_safetensors(&bytes).unwrap().to_safetensors(), bytes);
        trajectory.metadata.adapter = Some(Digest([1; 32]));
        trajectory.metadata.guidance_scale = None;
        trajectory.metadata.sde = Sde::Flow;
        assert_eq!(
            Trajectory::from_safetensors(&trajectory.to_safetensors()).unwrap(),
            trajectory
        );
    }

    #[test]
    fn broken_files_are_refused_by_name() {
        let check = |change: fn(&mut TensorFile), expected: &str| {
            let mut file = TensorFile::from_bytes(&example().to_safetensors()).unwrap();
            change(&mut file);
            assert_eq!(
                Trajectory::from_safetensors(&file.to_bytes()).unwrap_err().to_string(),
                expected
            );
        };
        check(
            |file| file.insert("sigmas", &[2], vec![1.0, 0.0]),
            "tensor `sigmas` has shape [2], expected [3]",
        );
        check(|file| drop(file.take("velocities")), "has no tensor `velocities`");
        check(
            |file| file.insert("extra", &[1], vec![0.0]),
            "has a tensor `extra`, which this format does not have",
        );
        check(|file| drop(file.metadata.remove("eta")), "metadata `eta` is absent");
        check(
            |file| drop(file.metadata.insert("model".into(), "tiny".into())),
            "metadata `model` is `tiny`, which is not a SHA-256",
        );
        check(
            |file| drop(file.metadata.insert("format".into(), "gavel.gradient.v1".into())),
            "metadata `format` is `gavel.gradient.v1`, expected `gavel.trajectory.v1`",
        );
        check(
            |file| drop(file.metadata.insert("noise_steps".into(), "9".into())),
            "metadata `noise_steps` is `9`, which is not at most the number of steps",
        );
    }
}
