//! Heads that score a picture by CLIP's embedding of it, without any words.

use std::path::Path;

use candle_core::Tensor;

use crate::layers::{Bias, Linear};
use crate::load::Placement;
use crate::{LoadError, ModelError, Weights};

/// The linear layers of the larger head, by their names, with their outputs. Dropout lies between them in training, and nothing else.
const LAYERS: [(&str, usize); 5] = [
    ("layers.0", 1024),
    ("layers.2", 128),
    ("layers.4", 64),
    ("layers.6", 16),
    ("layers.7", 1),
];

/// LAION's aesthetic predictors: how much people like a picture, on a scale of 1 to 10, by CLIP's embedding of length 1.
///
/// # Source
/// `MLP` of improved-aesthetic-predictor, whose five linear layers follow each other without an activation; and the single linear layer
/// of aesthetic-predictor.
#[derive(Debug)]
pub struct AestheticHead {
    layers: Vec<Linear>,
    width: usize,
    placement: Placement,
}

impl AestheticHead {
    /// Loads `model.safetensors` of a folder, made for embeddings of `width` numbers.
    ///
    /// # Errors
    /// Any [`LoadError`].
    pub fn load(dir: &Path, width: usize, placement: &Placement) -> Result<Self, LoadError> {
        let weights = Weights::open(dir, placement)?;
        let layers = match weights.contains("weight") {
            true => {
                let (weight, bias) = (weights.get("weight", &[1, width])?, weights.get("bias", &[1])?);
                let layer = Linear::new(&weight, Some(bias), weights.kernels());
                vec![layer.map_err(|source| weights.candle(source))?]
            }
            false => {
                let mut inputs = width;
                let mut layers = Vec::with_capacity(LAYERS.len());
                for (name, outputs) in LAYERS {
                    layers.push(Linear::load(&weights, name, inputs, outputs, Bias::Added)?);
                    inputs = outputs;
                }
                layers
            }
        };
        weights.finish(&[])?;
        Ok(Self {
            layers,
            width,
            placement: placement.clone(),
        })
    }

    /// The score of a picture with this embedding, which [`Clip::picture_embedding`](super::Clip::picture_embedding) gives.
    ///
    /// # Errors
    /// [`ModelError::Shape`] for an embedding of another width, [`ModelError::NotFinite`].
    pub fn score(&self, embedding: &[f64]) -> Result<f64, ModelError> {
        if embedding.len() != self.width {
            return Err(ModelError::Shape {
                input: "embedding",
                found: vec![embedding.len()],
                expected: format!("({},)", self.width),
            });
        }
        let values: Vec<f32> = embedding.iter().map(|value| *value as f32).collect();
        let mut state = Tensor::from_vec(values, (1, embedding.len()), self.placement.device())?
            .to_dtype(self.placement.dtype())?;
        for layer in &self.layers {
            state = layer.forward(&state)?;
        }
        let score = state
            .flatten_all()?
            .to_dtype(candle_core::DType::F64)?
            .to_vec1::<f64>()?;
        match score.as_slice() {
            [score] if score.is_finite() => Ok(*score),
            _ => Err(ModelError::NotFinite {
                part: "aesthetic score",
            }),
        }
    }
}
