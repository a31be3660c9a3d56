//! The FLUX pipeline folder: text encoders, transformer, autoencoder, scheduler settings.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use image::RgbImage;

use super::transformer::FluxTransformer;
use crate::load::Placement;
use crate::{
    Family, LoadError, ModelError,
    denoiser::{
        Conditioning, Denoiser, Encoding, Grid, Pipeline, Task,
        model_index::check_model_index,
        packing::{grid, pack_latents, to_images, to_pixels, unpack_latents},
        scheduler::SchedulerConfig,
    },
    error::finite,
    text::{ClipTextEncoder, PromptTokenizer, T5Encoder},
    vae::AutoencoderKl,
};

/// Length of CLIP sequences when the tokenizer folder does not say.
const CLIP_LENGTH: usize = 77;

/// The parts of a pipeline and the classes that this implementation computes.
const PARTS: &[(&str, &[&str])] = &[
    ("transformer", &["FluxTransformer2DModel"]),
    ("vae", &["AutoencoderKL"]),
    ("text_encoder", &["CLIPTextModel"]),
    ("text_encoder_2", &["T5EncoderModel"]),
    ("scheduler", &["FlowMatchEulerDiscreteScheduler"]),
];

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
    pub fn load(dir: &Path, placement: &Placement) -> Result<Self, LoadError> {
        Ok(Self {
            clip_tokenizer: PromptTokenizer::load_clip(&dir.join("tokenizer"))?,
            t5_tokenizer: PromptTokenizer::load_t5(&dir.join("tokenizer_2"))?,
            clip: ClipTextEncoder::load(&dir.join("text_encoder"), placement)?,
            t5: T5Encoder::load(&dir.join("text_encoder_2"), placement)?,
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
    transformer: Arc<FluxTransformer>,
    text: FluxTextEncoders,
    vae: AutoencoderKl,
    scheduler: SchedulerConfig,
    device: Device,
}

impl FluxPipeline {
    /// Loads a whole pipeline folder.
    ///
    /// # Errors
    /// Any [`LoadError`]; [`LoadError::Unsupported`] when `model_index.json` names classes of another family.
    pub fn load(dir: &Path, placement: &Placement) -> Result<Self, LoadError> {
        check_classes(dir)?;
        Ok(Self {
            scheduler: SchedulerConfig::read(&dir.join("scheduler"))?,
            text: FluxTextEncoders::load(dir, placement.of_text_encoders())?,
            vae: AutoencoderKl::load(&dir.join("vae"), placement)?,
            transformer: Arc::new(FluxTransformer::load(&dir.join("transformer"), placement)?),
            device: placement.device().clone(),
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
        let pixels = to_pixels(images)?.to_device(&self.device)?;
        let (_, _, height, width) = pixels.dims4()?;
        self.grid(height, width)?;
        pack_latents(&self.vae.scale_latents(&self.vae.encode_mean(&pixels)?)?)
    }
}

impl Pipeline for FluxPipeline {
    fn denoiser(&self) -> &dyn Denoiser {
        self.transformer.as_ref()
    }

    fn shared_denoiser(&self) -> Arc<dyn Denoiser> {
        Arc::clone(&self.transformer) as Arc<dyn Denoiser>
    }

    fn condition(&self, task: &Task<'_>, encoding: &Encoding) -> Result<Conditioning, ModelError> {
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
        } = self.text.encode(&[task.words], encoding.max_sequence_length)?;
        finite(
            &prompt_embeds,
            "embedding of the second text encoder (text_encoder_2, T5)",
        )?;
        finite(
            &pooled_prompt_embeds,
            "embedding of the first text encoder (text_encoder, CLIP)",
        )?;
        Ok(Conditioning::from_iter([
            (super::PROMPT_EMBEDS, prompt_embeds.get(0)?.to_device(&self.device)?),
            (
                super::POOLED_PROMPT_EMBEDS,
                pooled_prompt_embeds.get(0)?.to_device(&self.device)?,
            ),
        ]))
    }

    fn grid(&self, height: usize, width: usize) -> Result<Grid, ModelError> {
        grid(self.vae.config().scale(), height, width)
    }

    fn sigmas(&self, steps: usize, grid: Grid) -> Result<Vec<f64>, ModelError> {
        self.scheduler.sigmas(steps, grid.tokens())
    }

    fn decode(&self, latents: &Tensor, grid: Grid) -> Result<Vec<RgbImage>, ModelError> {
        let latents = latents.to_device(&self.device)?;
        let latents = unpack_latents(&latents, grid, self.vae.config().latent_channels)?;
        to_images(&self.vae.decode(&self.vae.unscale_latents(&latents)?)?)
    }
}

/// Refuses a folder whose `model_index.json` names other classes than this pipeline computes.
pub(super) fn check_classes(dir: &Path) -> Result<(), LoadError> {
    check_model_index(dir, Family::Flux.pipeline_classes(), PARTS).map(drop)
}
