//! The FLUX pipeline folder: text encoders, transformer, autoencoder, scheduler settings.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use image::RgbImage;
use serde::Deserialize;
use serde_json::Value;

use super::transformer::FluxTransformer;
use crate::{
    LoadError, ModelError,
    denoiser::{Conditioning, Denoiser, Grid, Pipeline, Task},
    load::{read_config, read_json},
    text::{ClipTextEncoder, PromptTokenizer, T5Encoder},
    vae::{AutoencoderConfig, AutoencoderKl},
};

/// Length of CLIP sequences when the tokenizer folder does not say.
const CLIP_LENGTH: usize = 77;

/// Latent pixels per token, in each direction.
const PATCH: usize = 2;

/// The parts of a pipeline and the classes that this implementation computes.
const PARTS: [(&str, &str); 5] = [
    ("transformer", "FluxTransformer2DModel"),
    ("vae", "AutoencoderKL"),
    ("text_encoder", "CLIPTextModel"),
    ("text_encoder_2", "T5EncoderModel"),
    ("scheduler", "FlowMatchEulerDiscreteScheduler"),
];

/// The part of `scheduler_config.json` that a sigma schedule needs, under diffusers' names.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct SchedulerConfig {
    /// Constant shift of the schedule.
    #[serde(default = "one")]
    pub shift: f64,
    /// Whether the shift depends on the number of image tokens.
    #[serde(default)]
    pub use_dynamic_shifting: bool,
    /// Dynamic shift at `base_image_seq_len` tokens.
    #[serde(default = "base_shift")]
    pub base_shift: f64,
    /// Dynamic shift at `max_image_seq_len` tokens.
    #[serde(default = "max_shift")]
    pub max_shift: f64,
    /// Image tokens of the smallest images.
    #[serde(default = "base_image_seq_len")]
    pub base_image_seq_len: usize,
    /// Image tokens of the largest images.
    #[serde(default = "max_image_seq_len")]
    pub max_image_seq_len: usize,
    /// Timesteps that the range of sigmas is divided into.
    #[serde(default = "num_train_timesteps")]
    pub num_train_timesteps: usize,
}

fn one() -> f64 {
    1.0
}

fn base_shift() -> f64 {
    0.5
}

fn max_shift() -> f64 {
    1.15
}

fn base_image_seq_len() -> usize {
    256
}

fn max_image_seq_len() -> usize {
    4096
}

fn num_train_timesteps() -> usize {
    1000
}

/// The conditioning of a batch of prompts.
#[derive(Debug, Clone)]
pub struct PromptEmbeds {
    /// T5's states (batch, max_sequence_length, joint width), float32.
    pub prompt_embeds: Tensor,
    /// CLIP's pooled states (batch, width), float32.
    pub pooled_prompt_embeds: Tensor,
}

/// The text encoders of a pipeline, with their tokenizers.
#[derive(Debug)]
pub struct FluxTextEncoders {
    clip: ClipTextEncoder,
    clip_tokenizer: PromptTokenizer,
    t5: T5Encoder,
    t5_tokenizer: PromptTokenizer,
}

impl FluxTextEncoders {
    /// Loads `text_encoder`, `text_encoder_2`, `tokenizer` and `tokenizer_2` of a pipeline folder.
    ///
    /// # Errors
    /// Any [`LoadError`].
    pub fn load(dir: &Path, device: &Device, dtype: DType) -> Result<Self, LoadError> {
        Ok(Self {
            clip_tokenizer: PromptTokenizer::load_clip(&dir.join("tokenizer"))?,
            t5_tokenizer: PromptTokenizer::load_t5(&dir.join("tokenizer_2"))?,
            clip: ClipTextEncoder::load(&dir.join("text_encoder"), device, dtype)?,
            t5: T5Encoder::load(&dir.join("text_encoder_2"), device, dtype)?,
        })
    }

    /// Embeds prompts as FluxPipeline does: CLIP padded to its length, T5 to `max_sequence_length`, nothing masked.
    ///
    /// # Shapes
    /// See [`PromptEmbeds`].
    ///
    /// # Errors
    /// [`ModelError::Value`] for no prompts or a length without room for text.
    pub fn encode(&self, prompts: &[&str], max_sequence_length: usize) -> Result<PromptEmbeds, ModelError> {
        let clip_length = self
            .clip_tokenizer
            .model_max_length()
            .unwrap_or(CLIP_LENGTH)
            .min(self.clip.max_positions());
        let tokens = |tokenizer: &PromptTokenizer, length: usize| -> Result<Vec<Vec<u32>>, ModelError> {
            prompts.iter().map(|prompt| tokenizer.encode(prompt, length)).collect()
        };
        let prompt_embeds = self.t5.encode(&tokens(&self.t5_tokenizer, max_sequence_length)?)?;
        let pooled_prompt_embeds = self.clip.pooled(&tokens(&self.clip_tokenizer, clip_length)?)?;
        Ok(PromptEmbeds {
            prompt_embeds: prompt_embeds.to_dtype(DType::F32)?,
            pooled_prompt_embeds: pooled_prompt_embeds.to_dtype(DType::F32)?,
        })
    }
}

/// A FLUX text-to-image pipeline, frozen.
///
/// Its parts load separately too: [`FluxTransformer::load`], [`FluxTextEncoders::load`], [`AutoencoderKl::load`], each from
/// its folder.
#[derive(Debug)]
pub struct FluxPipeline {
    transformer: FluxTransformer,
    text: FluxTextEncoders,
    vae: AutoencoderKl,
    device: Device,
}

impl FluxPipeline {
    /// Loads a whole pipeline folder.
    ///
    /// # Errors
    /// Any [`LoadError`]; [`LoadError::Unsupported`] when `model_index.json` names classes of another family.
    pub fn load(dir: &Path, device: &Device, dtype: DType) -> Result<Self, LoadError> {
        check_model_index(dir)?;
        read_config::<SchedulerConfig>(&dir.join("scheduler").join("scheduler_config.json"))?;
        Ok(Self {
            text: FluxTextEncoders::load(dir, device, dtype)?,
            vae: AutoencoderKl::load(&dir.join("vae"), device, dtype)?,
            transformer: FluxTransformer::load(&dir.join("transformer"), device, dtype)?,
            device: device.clone(),
        })
    }

    /// Encodes images of one size to packed latents: mean, shifted and scaled.
    ///
    /// # Shapes
    /// Returns (images, tokens, 4 * latent channels) float32.
    ///
    /// # Errors
    /// [`ModelError::Value`] for no images, images of several sizes, or a size that is not divisible.
    pub fn encode_images(&self, images: &[RgbImage]) -> Result<Tensor, ModelError> {
        let Some(first) = images.first() else {
            return Err(ModelError::Value {
                input: "images",
                problem: "is empty".to_owned(),
            });
        };
        if images.iter().any(|image| image.dimensions() != first.dimensions()) {
            let problem = "all images of a call must have one size".to_owned();
            return Err(ModelError::Value {
                input: "images",
                problem,
            });
        }
        let (width, height) = (first.width() as usize, first.height() as usize);
        self.grid(height, width)?;
        let pixels: Vec<f32> = images
            .iter()
            .flat_map(|image| {
                let bytes = image.as_raw();
                (0..3).flat_map(move |channel| {
                    bytes
                        .iter()
                        .skip(channel)
                        .step_by(3)
                        .map(|byte| f32::from(*byte) / 127.5 - 1.0)
                })
            })
            .collect();
        let pixels = Tensor::from_vec(pixels, (images.len(), 3, height, width), &self.device)?;
        pack_latents(&self.vae.scale_latents(&self.vae.encode_mean(&pixels)?)?)
    }
}

impl Pipeline for FluxPipeline {
    fn denoiser(&self) -> &dyn Denoiser {
        &self.transformer
    }

    fn condition(&self, task: &Task<'_>, max_sequence_length: usize) -> Result<Conditioning, ModelError> {
        if !task.sources.is_empty() {
            let problem = "this family makes pictures from words alone and takes no source picture".to_owned();
            return Err(ModelError::Value {
                input: "sources",
                problem,
            });
        }
        let PromptEmbeds {
            prompt_embeds,
            pooled_prompt_embeds,
        } = self.text.encode(&[task.words], max_sequence_length)?;
        Ok(Conditioning::from_iter([
            (super::PROMPT_EMBEDS, prompt_embeds.get(0)?),
            (super::POOLED_PROMPT_EMBEDS, pooled_prompt_embeds.get(0)?),
        ]))
    }

    fn grid(&self, height: usize, width: usize) -> Result<Grid, ModelError> {
        grid(self.vae.config(), height, width)
    }

    fn decode(&self, latents: &Tensor, grid: Grid) -> Result<Vec<RgbImage>, ModelError> {
        let latents = latents.to_device(&self.device)?;
        let latents = unpack_latents(&latents, grid, self.vae.config().latent_channels)?;
        let images = self
            .vae
            .decode(&self.vae.unscale_latents(&latents)?)?
            .to_device(&Device::Cpu)?;
        let (count, channels, height, width) = images.dims4()?;
        if channels != 3 {
            let problem = format!("decodes to {channels} channels, images have 3");
            return Err(ModelError::Value { input: "vae", problem });
        }
        (0..count)
            .map(|index| to_image(&images.get(index)?, height, width))
            .collect()
    }
}

/// The latent tokens of a picture of `height` x `width` pixels.
pub(super) fn grid(vae: &AutoencoderConfig, height: usize, width: usize) -> Result<Grid, ModelError> {
    let token = vae.scale() * PATCH;
    if height == 0 || width == 0 || !height.is_multiple_of(token) || !width.is_multiple_of(token) {
        return Err(ModelError::Value {
            input: "image size",
            problem: format!("{height}x{width} pixels; both sides must be positive multiples of {token}"),
        });
    }
    Ok(Grid {
        height: height / token,
        width: width / token,
    })
}

/// Packs latents as FluxPipeline does.
///
/// # Shapes
/// (batch, channels, height, width) to (batch, height / 2 * width / 2, 4 * channels).
///
/// # Errors
/// [`ModelError::Shape`] when a side is odd.
pub fn pack_latents(latents: &Tensor) -> Result<Tensor, ModelError> {
    let &[batch, channels, height, width] = latents.dims() else {
        return Err(ModelError::Shape {
            input: "latents",
            expected: "(batch, channels, height, width)".to_owned(),
            found: latents.dims().to_vec(),
        });
    };
    let (rows, columns) = (height / PATCH, width / PATCH);
    if !height.is_multiple_of(PATCH) || !width.is_multiple_of(PATCH) {
        let expected = "(batch, channels, height, width) with even sides".to_owned();
        return Err(ModelError::Shape {
            input: "latents",
            expected,
            found: latents.dims().to_vec(),
        });
    }
    let patches = latents
        .reshape(vec![batch, channels, rows, PATCH, columns, PATCH])?
        .permute(vec![0, 2, 4, 1, 3, 5])?;
    Ok(patches
        .contiguous()?
        .reshape((batch, rows * columns, channels * PATCH * PATCH))?)
}

/// Undoes [`pack_latents`].
///
/// # Shapes
/// (batch, grid tokens, 4 * `channels`) to (batch, `channels`, 2 * grid height, 2 * grid width).
///
/// # Errors
/// [`ModelError::Shape`] when the tokens are not those of `grid`, of 4 * `channels` each.
pub fn unpack_latents(packed: &Tensor, grid: Grid, channels: usize) -> Result<Tensor, ModelError> {
    let (tokens, depth) = (grid.tokens(), channels * PATCH * PATCH);
    match packed.dims() {
        &[batch, found_tokens, found_depth] if found_tokens == tokens && found_depth == depth => {
            let patches = packed
                .reshape(vec![batch, grid.height, grid.width, channels, PATCH, PATCH])?
                .permute(vec![0, 3, 1, 4, 2, 5])?;
            Ok(patches
                .contiguous()?
                .reshape((batch, channels, grid.height * PATCH, grid.width * PATCH))?)
        }
        found => Err(ModelError::Shape {
            input: "latents",
            expected: format!("(batch, {tokens}, {depth})"),
            found: found.to_vec(),
        }),
    }
}

/// A decoded image (3, height, width), about [-1, 1], as 8-bit pixels, rounded as diffusers' `VaeImageProcessor` does.
fn to_image(pixels: &Tensor, height: usize, width: usize) -> Result<RgbImage, ModelError> {
    let values = pixels.flatten_all()?.to_vec1::<f32>()?;
    let plane = height * width;
    let byte = |value: f32| ((value / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
    let bytes: Vec<u8> = (0..plane)
        .flat_map(|pixel| [values[pixel], values[plane + pixel], values[2 * plane + pixel]].map(byte))
        .collect();
    RgbImage::from_raw(width as u32, height as u32, bytes).ok_or_else(|| ModelError::Shape {
        input: "decoded image",
        expected: format!("(3, {height}, {width})"),
        found: pixels.dims().to_vec(),
    })
}

/// Refuses a folder whose `model_index.json` names other classes than this pipeline computes.
pub(super) fn check_model_index(dir: &Path) -> Result<(), LoadError> {
    if !dir.is_dir() {
        return Err(LoadError::FolderMissing { dir: dir.to_owned() });
    }
    let file = dir.join("model_index.json");
    let index = read_json(&file)?;
    let check = |key: &str, found: &Value, expected: &str| {
        if found.as_str() == Some(expected) {
            return Ok(());
        }
        Err(LoadError::Unsupported {
            file: file.clone(),
            key: key.to_owned(),
            found: found.to_string(),
            expected: format!("`{expected}`"),
        })
    };
    check("_class_name", &index["_class_name"], "FluxPipeline")?;
    for (part, class) in PARTS {
        check(part, &index[part][1], class)?;
    }
    Ok(())
}
