//! The settings of a Qwen-Image autoencoder.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::LoadError;
use crate::load::{read_config, size, sizes};

/// Most resolutions of an autoencoder; the published one has four.
const RESOLUTIONS_MAX: usize = 16;

/// The `config.json` of a Qwen-Image autoencoder, as diffusers writes it.
#[derive(Debug, Clone, Deserialize)]
pub struct AutoencoderKlQwenImageConfig {
    /// Channels at the finest resolution of a factor 1.
    #[serde(deserialize_with = "size")]
    pub base_dim: usize,
    /// Channels of the latents.
    #[serde(deserialize_with = "size")]
    pub z_dim: usize,
    /// Factor of `base_dim` at each resolution, the finest first.
    #[serde(deserialize_with = "sizes")]
    pub dim_mult: Vec<usize>,
    /// Residual blocks per resolution of the encoder; the decoder has one more.
    #[serde(deserialize_with = "size")]
    pub num_res_blocks: usize,
    /// Which changes of resolution also change the number of frames, the finest first; spelled as in the file. A single
    /// frame only passes these by, but their weights are in the file.
    pub temperal_downsample: Vec<bool>,
    /// Mean of each latent channel.
    pub latents_mean: Vec<f64>,
    /// Standard deviation of each latent channel.
    pub latents_std: Vec<f64>,
    #[serde(default)]
    attn_scales: Vec<f64>,
    #[serde(default = "rgb", deserialize_with = "size")]
    input_channels: usize,
}

fn rgb() -> usize {
    3
}

impl AutoencoderKlQwenImageConfig {
    /// Pixels per latent pixel, in each direction.
    pub fn scale(&self) -> usize {
        1 << self.temperal_downsample.len()
    }

    /// Channels at each resolution, the finest first.
    pub(super) fn widths(&self) -> Vec<usize> {
        self.dim_mult.iter().map(|factor| self.base_dim * factor).collect()
    }

    /// Reads `config.json` of an autoencoder's folder.
    ///
    /// # Errors
    /// [`LoadError::Unsupported`] for settings that are not computed or contradict each other, and those of [`read_config`].
    pub fn read(dir: &Path) -> Result<Self, LoadError> {
        let file = dir.join("config.json");
        let config: Self = read_config(&file)?;
        config.check(file)?;
        Ok(config)
    }

    fn check(&self, file: PathBuf) -> Result<(), LoadError> {
        let require = |holds: bool, key: &str, found: String, expected: &str| {
            if holds {
                return Ok(());
            }
            Err(LoadError::Unsupported {
                file: file.clone(),
                key: key.to_owned(),
                found,
                expected: expected.to_owned(),
            })
        };
        require(
            self.attn_scales.is_empty(),
            "attn_scales",
            format!("{:?}", self.attn_scales),
            "an empty list: attention at the coarsest resolution only",
        )?;
        require(
            self.input_channels == 3,
            "input_channels",
            self.input_channels.to_string(),
            "3, red, green and blue",
        )?;
        let resolutions = self.dim_mult.len();
        require(
            (1..=RESOLUTIONS_MAX).contains(&resolutions),
            "dim_mult",
            format!("a list of {resolutions}"),
            &format!("a list of 1 to {RESOLUTIONS_MAX}"),
        )?;
        let halves = |factor: &usize| {
            self.base_dim
                .checked_mul(*factor)
                .is_some_and(|width| width >= 2 && u32::try_from(width).is_ok())
        };
        require(
            self.dim_mult.iter().all(halves),
            "dim_mult",
            format!("{:?} with a `base_dim` of {}", self.dim_mult, self.base_dim),
            "factors that make at least 2 channels at each resolution, and no absurd number",
        )?;
        require(
            self.temperal_downsample.len() + 1 == resolutions,
            "temperal_downsample",
            format!("{:?}", self.temperal_downsample),
            &format!("a list of {}, one fewer than `dim_mult`", resolutions - 1),
        )?;
        require(self.num_res_blocks >= 1, "num_res_blocks", "0".to_owned(), "at least 1")?;
        require(
            self.z_dim >= 1 && u32::try_from(self.z_dim).is_ok(),
            "z_dim",
            self.z_dim.to_string(),
            "at least 1, and no absurd number",
        )?;
        for (key, figures) in [("latents_mean", &self.latents_mean), ("latents_std", &self.latents_std)] {
            require(
                figures.len() == self.z_dim,
                key,
                format!("a list of {}", figures.len()),
                &format!("a list of {}, the `z_dim`", self.z_dim),
            )?;
        }
        require(
            self.latents_std.iter().all(|deviation| *deviation > 0.0),
            "latents_std",
            format!("{:?}", self.latents_std),
            "positive numbers",
        )
    }
}
