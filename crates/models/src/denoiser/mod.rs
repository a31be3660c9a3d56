//! The seam between a diffusion family and everything that samples from it or trains it.
//!
//! A [`Denoiser`] is what a trainer needs, a [`Pipeline`] is what a sampler needs on top. A family implements both, and
//! [`crate::Family`] chooses among the families; nobody else names one.

pub(crate) mod block;
#[cfg(test)]
pub(crate) mod budget;
pub(crate) mod cache;
pub(crate) mod check;
mod conditioning;
pub(crate) mod embedding;
pub(crate) mod engine;
pub(crate) mod loader;
pub(crate) mod model_index;
pub mod packing;
pub mod scheduler;

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use image::RgbImage;

pub use conditioning::Conditioning;

use crate::load::{Placement, WeightCounts};
use crate::lora::{AdaptableLayers, LoraAdapter, LoraConfig, LoraError, LoraGradients, Manifest};
use crate::{Family, ModelError};

/// Packed latent tokens of a picture, in rows and columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Grid {
    /// Rows of tokens.
    pub height: usize,
    /// Columns of tokens.
    pub width: usize,
}

impl Grid {
    /// Tokens of the picture.
    pub fn tokens(self) -> usize {
        self.height * self.width
    }
}

/// What a forward pass reads.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// Packed latents (batch, `grid.tokens()`, latent channels), float32, on the denoiser's device.
    pub latents: &'a Tensor,
    /// Stacked conditioning of the same batch.
    pub conditioning: &'a Conditioning,
    /// Noise level of each sample (batch,), in (0, 1]; diffusers' timestep / 1000.
    pub sigma: &'a [f32],
    /// Guidance scale. A denoiser that [takes guidance](Denoiser::takes_guidance) needs it; any other ignores it.
    pub guidance: Option<f32>,
    /// How the tokens lie in the picture.
    pub grid: Grid,
}

/// What a forward keeps for its backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActivationMemory {
    /// What each block's backward reads: fastest.
    KeepAll,
    /// The input of each block, which runs forward again in its backward: about a third more work. The gradients are the same,
    /// bit for bit.
    Checkpoint,
}

/// What [`Denoiser::velocity_for_vjp`] leaves for [`Denoiser::vjp`].
pub struct Tape {
    /// Shape of the velocity.
    pub(crate) shape: (usize, usize, usize),
    /// What the family's network kept.
    pub(crate) kept: Box<dyn Any + Send>,
}

impl std::fmt::Debug for Tape {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter
            .debug_struct("Tape")
            .field("velocity_shape", &self.shape)
            .finish_non_exhaustive()
    }
}

/// A frozen diffusion transformer that takes LoRA and gives the gradient of LoRA.
///
/// A sample's result depends neither on the other samples of its batch nor on the number of threads, so that the policy ratio
/// of a trainer that has not stepped yet is exactly 1.
pub trait Denoiser: Send + Sync {
    /// The family that it belongs to.
    fn family(&self) -> Family;

    /// Where it computes.
    fn placement(&self) -> &Placement;

    /// The device on which it reads its input and leaves its velocity.
    fn device(&self) -> &Device {
        self.placement().device()
    }

    /// The linear layers that an adapter binds to.
    fn layers(&self) -> &AdaptableLayers;

    /// Channels of a packed latent token.
    fn latent_channels(&self) -> usize;

    /// Whether the guidance scale is an input of the network.
    fn takes_guidance(&self) -> bool;

    /// Checks the conditioning of one task, given as shapes by name without a batch dimension.
    ///
    /// # Errors
    /// [`ModelError`] naming the tensor that is missing, misshapen, or not read by this network.
    fn check_conditioning(&self, shapes: &BTreeMap<String, Vec<usize>>) -> Result<(), ModelError>;

    /// Predicts the velocity of each sample. `adapter: None` is the base.
    ///
    /// # Shapes
    /// See [`Input`]; returns (batch, tokens, channels) float32 on the denoiser's device.
    ///
    /// # Errors
    /// [`ModelError`] when an input does not fit the network, or the adapter belongs to another architecture.
    fn velocity(&self, adapter: Option<&LoraAdapter>, input: &Input<'_>) -> Result<Tensor, ModelError>;

    /// Classifier-free guidance: the velocity that leads away from the negative prompt, from the velocities under the prompt and
    /// under the negative prompt.
    ///
    /// # Shapes
    /// Both (batch, tokens, channels); so is the result.
    ///
    /// # Errors
    /// [`ModelError::Candle`].
    ///
    /// # Source
    /// diffusers 0.42, `true_cfg_scale` of the FLUX pipeline; families that guide otherwise override it.
    fn guided(&self, prompt: &Tensor, negative: &Tensor, scale: f32) -> Result<Tensor, ModelError> {
        let difference = (prompt - negative)?;
        let scale = Tensor::new(scale, difference.device())?;
        Ok((negative + difference.broadcast_mul(&scale)?)?)
    }

    /// Predicts the same velocity and keeps what the backward needs.
    ///
    /// # Shapes
    /// As [`Self::velocity`].
    ///
    /// # Errors
    /// As [`Self::velocity`].
    fn velocity_for_vjp(
        &self,
        adapter: &LoraAdapter,
        input: &Input<'_>,
        memory: ActivationMemory,
    ) -> Result<(Tensor, Tape), ModelError>;

    /// Adds the gradient of sum(velocity * `grad`) with respect to the adapter's weights to `into`.
    ///
    /// `adapter` must hold the weights that the forward ran with. Samples are summed in an order that depends on the sizes only.
    ///
    /// # Shapes
    /// `grad` has the velocity's shape.
    ///
    /// # Errors
    /// [`ModelError::Shape`] when `grad` does not fit, [`ModelError::Value`] when `into` or the tape belong to another adapter or
    /// denoiser.
    fn vjp(&self, adapter: &LoraAdapter, tape: Tape, grad: &Tensor, into: &mut LoraGradients)
    -> Result<(), ModelError>;
}

/// What a picture is made from: the words, and the source pictures where the family edits.
#[derive(Debug, Clone, Copy)]
pub struct Task<'a> {
    /// The prompt.
    pub words: &'a str,
    /// The pictures to edit; empty for a family that makes pictures from words alone.
    pub sources: &'a [RgbImage],
}

/// To how many pixels source pictures are resized, keeping their aspect ratio as far as the model's multiples allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceAreas {
    /// For the autoencoder, whose latents the denoiser reads; diffusers' `vae_image_size`.
    pub latents: usize,
    /// For the text encoder; diffusers' `condition_image_size`.
    pub text: usize,
}

/// How a task is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Encoding {
    /// Tokens of the encoded words; longer ones are cut or refused, as the family's pipeline does.
    pub max_sequence_length: usize,
    /// How source pictures are resized; `None` does as the folder's own pipeline does.
    pub source_areas: Option<SourceAreas>,
}

/// What only a sampler needs: a task in, pictures out.
pub trait Pipeline: Send + Sync {
    /// The denoiser between the two ends.
    fn denoiser(&self) -> &dyn Denoiser;

    /// The same, for somebody who computes with it beside this pipeline: its weights are in memory once.
    fn shared_denoiser(&self) -> Arc<dyn Denoiser>;

    /// Encodes a task.
    ///
    /// # Errors
    /// [`ModelError::Value`] for source pictures that the family does not take, or a length without room for text.
    fn condition(&self, task: &Task<'_>, encoding: &Encoding) -> Result<Conditioning, ModelError>;

    /// The latent tokens of a picture of `height` x `width` pixels.
    ///
    /// # Errors
    /// [`ModelError::Value`] when a side is no positive multiple of the pixels of a token.
    fn grid(&self, height: usize, width: usize) -> Result<Grid, ModelError>;

    /// Height and width of an edit of `sources`, about `area` pixels at the aspect ratio that the family's pipeline gives it. `None`
    /// for a family that edits nothing.
    fn output_size(&self, _sources: &[RgbImage], _area: usize) -> Option<(usize, usize)> {
        None
    }

    /// The noise levels of the folder's own scheduler for a picture of this grid, `steps` + 1 from 1 to 0.
    ///
    /// # Errors
    /// [`ModelError::Value`] for steps that the scheduler cannot do.
    fn sigmas(&self, steps: usize, grid: Grid) -> Result<Vec<f64>, ModelError>;

    /// Decodes latents to pictures.
    ///
    /// # Shapes
    /// `latents` is (batch, `grid.tokens()`, latent channels), float32.
    ///
    /// # Errors
    /// [`ModelError::Shape`] for latents of another size.
    fn decode(&self, latents: &Tensor, grid: Grid) -> Result<Vec<RgbImage>, ModelError>;
}

/// What a pipeline folder holds, by settings and headers alone: read in milliseconds, however large the weights are.
pub trait Inspection: std::fmt::Debug + Send + Sync {
    /// The linear layers that an adapter would bind to.
    fn layers(&self) -> &AdaptableLayers;

    /// The tensors that an adapter with these settings would have.
    ///
    /// # Errors
    /// As [`LoraAdapter::init`].
    fn bind(&self, config: &LoraConfig) -> Result<Manifest, LoraError> {
        Manifest::of(config, self.layers())
    }

    /// How many source pictures a task has.
    fn source_pictures(&self) -> RangeInclusive<usize>;

    /// The latent tokens of a picture of `height` x `width` pixels.
    ///
    /// # Errors
    /// [`ModelError::Value`] when a side is no positive multiple of the pixels of a token.
    fn grid(&self, height: usize, width: usize) -> Result<Grid, ModelError>;

    /// Tokens of the words as [`Encoding::max_sequence_length`] counts them, however many they are.
    ///
    /// # Errors
    /// [`ModelError::Tokenize`].
    fn tokens(&self, words: &str) -> Result<usize, ModelError>;

    /// Numbers in the denoiser's weights.
    fn denoiser_weights(&self) -> WeightCounts;

    /// Numbers in the weights of the text encoders.
    fn text_encoder_weights(&self) -> WeightCounts;

    /// Numbers in the weights of the autoencoder.
    fn autoencoder_weights(&self) -> WeightCounts;
}
