//! The Qwen-Image pipeline folders: text encoder, transformer, autoencoder, scheduler settings.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use image::RgbImage;

use super::folder::Kind;
use super::transformer::QwenImageTransformer;
use super::{PROMPT_EMBEDS, prompt, source_latents, sources};
use crate::denoiser::packing::{grid, pack_latents, to_images, to_pixels, unpack_latents};
use crate::denoiser::scheduler::SchedulerConfig;
use crate::denoiser::{Conditioning, Denoiser, Encoding, Grid, Pipeline, Task};
use crate::error::finite;
use crate::load::Placement;
use crate::text::load_qwen2;
use crate::vae::AutoencoderKlQwenImage;
use crate::vlm::VlmEncoder;
use crate::{Family, LoadError, ModelError};

/// A Qwen-Image or Qwen-Image-Edit pipeline, frozen.
#[derive(Debug)]
pub struct QwenImagePipeline {
    kind: Kind,
    transformer: Arc<QwenImageTransformer>,
    text: VlmEncoder,
    vae: AutoencoderKlQwenImage,
    scheduler: SchedulerConfig,
    device: Device,
}

impl QwenImagePipeline {
    /// Loads a whole pipeline folder.
    ///
    /// # Errors
    /// Any [`LoadError`]; [`LoadError::Unsupported`] when `model_index.json` names classes of another family.
    pub fn load(family: Family, dir: &Path, placement: &Placement) -> Result<Self, LoadError> {
        let kind = Kind::of(family, dir)?;
        let processor = dir.join("processor");
        let sees = kind != Kind::TextToImage;
        Ok(Self {
            kind,
            scheduler: SchedulerConfig::read(&dir.join("scheduler"))?,
            text: VlmEncoder::load(
                &dir.join("text_encoder"),
                sees.then_some(processor.as_path()),
                load_qwen2(&kind.tokenizer_dirs(dir))?,
                placement.of_text_encoders(),
            )?,
            vae: AutoencoderKlQwenImage::load(&dir.join("vae"), placement)?,
            transformer: Arc::new(QwenImageTransformer::load(family, &dir.join("transformer"), placement)?),
            device: placement.device().clone(),
        })
    }

    /// The whole text of a task, in whose words no control token is found.
    fn prompt(&self, words: &str, pictures: &[RgbImage]) -> Result<String, ModelError> {
        let words = self.text.tokenizer().guarded(words)?;
        Ok(prompt::text(self.kind, &words, pictures.len()))
    }

    /// The token ids that the text encoder reads of a task whose source pictures have the size that it reads.
    ///
    /// # Errors
    /// [`ModelError::Value`] for a picture that is too elongated.
    pub fn input_ids(&self, words: &str, pictures: &[RgbImage]) -> Result<Vec<u32>, ModelError> {
        self.text.input_ids(&self.prompt(words, pictures)?, pictures)
    }

    /// The states of such a task behind the prefix that all tasks have.
    ///
    /// # Shapes
    /// Returns (tokens, joint width) float32.
    ///
    /// # Errors
    /// As [`Self::input_ids`].
    pub fn encode_prompt(&self, words: &str, pictures: &[RgbImage]) -> Result<Tensor, ModelError> {
        let states = self.text.states(&self.prompt(words, pictures)?, pictures)?;
        let prefix = prompt::prefix_tokens(self.kind);
        let tokens = states.dim(0)?;
        let Some(kept) = tokens.checked_sub(prefix).filter(|kept| *kept > 0) else {
            return Err(ModelError::Value {
                input: "tokenizer",
                problem: format!("makes {tokens} tokens of a prompt; this family's has at least {prefix}"),
            });
        };
        let states = states.narrow(0, prefix, kept)?.to_dtype(DType::F32)?.contiguous()?;
        finite(&states, "embedding of the text encoder (text_encoder)")?;
        Ok(states)
    }

    /// Refuses a length without room: from words alone the first `length` states are kept, as in diffusers; an edit cuts nothing, for
    /// the pictures stand before the words, and words of more tokens are refused.
    fn check_length(&self, words: &str, length: usize) -> Result<(), ModelError> {
        let problem = if self.kind == Kind::TextToImage {
            (length == 0).then(|| "0 leaves no room for a prompt".to_owned())
        } else {
            let tokens = self.text.tokenizer().encode_words(words)?.len();
            (tokens > length)
                .then(|| format!("{length} is less than the {tokens} tokens of the prompt, and an edit's is not cut"))
        };
        match problem {
            None => Ok(()),
            Some(problem) => Err(ModelError::Value {
                input: "max_sequence_length",
                problem,
            }),
        }
    }

    /// Packed latents of a source picture.
    ///
    /// # Shapes
    /// Returns (rows, columns, 4 * latent channels) float32.
    ///
    /// # Errors
    /// [`ModelError::Value`] for sides that do not divide into tokens.
    pub fn encode_source(&self, picture: &RgbImage) -> Result<Tensor, ModelError> {
        let grid = self.grid(picture.height() as usize, picture.width() as usize)?;
        let pixels = to_pixels(std::slice::from_ref(picture))?.to_device(&self.device)?;
        let packed = pack_latents(&self.vae.encode(&pixels)?)?;
        finite(&packed, "latents of the source picture (vae)")?;
        Ok(packed.reshape((grid.height, grid.width, ()))?)
    }
}

impl Pipeline for QwenImagePipeline {
    fn denoiser(&self) -> &dyn Denoiser {
        self.transformer.as_ref()
    }

    fn shared_denoiser(&self) -> Arc<dyn Denoiser> {
        Arc::clone(&self.transformer) as Arc<dyn Denoiser>
    }

    fn condition(&self, task: &Task<'_>, encoding: &Encoding) -> Result<Conditioning, ModelError> {
        sources::check_count(self.kind, task.sources.len())?;
        self.check_length(task.words, encoding.max_sequence_length)?;
        let areas = encoding.source_areas.unwrap_or_else(|| sources::own_areas(self.kind));
        let resized = |area: usize| -> Result<Vec<RgbImage>, ModelError> {
            let pictures = task.sources.iter();
            pictures.map(|picture| sources::at_area(picture, area)).collect()
        };
        let read = resized(areas.text)?;
        let mut states = self.encode_prompt(task.words, &read)?;
        if self.kind == Kind::TextToImage {
            states = states.narrow(0, 0, states.dim(0)?.min(encoding.max_sequence_length))?;
        }
        let mut conditioning = Conditioning::new();
        conditioning.insert(PROMPT_EMBEDS, states.to_device(&self.device)?);
        let encoded = if areas.latents == areas.text {
            read
        } else {
            resized(areas.latents)?
        };
        for (index, picture) in encoded.iter().enumerate() {
            conditioning.insert(source_latents(index), self.encode_source(picture)?);
        }
        Ok(conditioning)
    }

    fn grid(&self, height: usize, width: usize) -> Result<Grid, ModelError> {
        grid(self.vae.config().scale(), height, width)
    }

    fn output_size(&self, pictures: &[RgbImage], area: usize) -> Option<(usize, usize)> {
        pictures.last().map(|last| sources::dimensions(area, last))
    }

    fn sigmas(&self, steps: usize, grid: Grid) -> Result<Vec<f64>, ModelError> {
        self.scheduler.sigmas(steps, grid.tokens())
    }

    fn decode(&self, latents: &Tensor, grid: Grid) -> Result<Vec<RgbImage>, ModelError> {
        let latents = unpack_latents(&latents.to_device(&self.device)?, grid, self.vae.config().z_dim)?;
        to_images(&self.vae.decode(&latents)?)
    }
}
