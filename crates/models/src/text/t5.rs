//! T5's encoder.

use std::path::Path;

use candle_core::{DType, Tensor};
use serde::Deserialize;

use super::stacked;
use crate::{
    LoadError, ModelError, Weights,
    layers::{Activation, Attention, Bias, Linear, Mask, RmsNorm, attention, gated},
    load::{Placement, WeightCounts, read_config, require_positive, size},
};

#[derive(Debug, Deserialize)]
struct Config {
    #[serde(deserialize_with = "size")]
    vocab_size: usize,
    #[serde(deserialize_with = "size")]
    d_model: usize,
    #[serde(deserialize_with = "size")]
    d_kv: usize,
    #[serde(deserialize_with = "size")]
    d_ff: usize,
    #[serde(deserialize_with = "size")]
    num_layers: usize,
    #[serde(deserialize_with = "size")]
    num_heads: usize,
    #[serde(default = "buckets", deserialize_with = "size")]
    relative_attention_num_buckets: usize,
    #[serde(default = "max_distance", deserialize_with = "size")]
    relative_attention_max_distance: usize,
    #[serde(default = "layer_norm_epsilon")]
    layer_norm_epsilon: f64,
    #[serde(default = "feed_forward_proj")]
    feed_forward_proj: String,
}

impl Config {
    fn check(&self, file: &Path) -> Result<(), LoadError> {
        let (buckets, distance) = (
            self.relative_attention_num_buckets,
            self.relative_attention_max_distance,
        );
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("d_model", self.d_model),
            ("d_kv", self.d_kv),
            ("d_ff", self.d_ff),
            ("num_layers", self.num_layers),
            ("num_heads", self.num_heads),
        ];
        require_positive(file, &sizes)?;
        let refuse = |key: &str, found: usize, expected: String| {
            Err(LoadError::Unsupported {
                file: file.to_owned(),
                key: key.to_owned(),
                found: found.to_string(),
                expected,
            })
        };
        if buckets < 4 || !buckets.is_multiple_of(4) {
            return refuse("relative_attention_num_buckets", buckets, "a multiple of 4".to_owned());
        }
        if distance <= buckets / 4 {
            let expected = format!("more than a quarter of the {buckets} buckets");
            return refuse("relative_attention_max_distance", distance, expected);
        }
        Ok(())
    }
}

fn buckets() -> usize {
    32
}

fn max_distance() -> usize {
    128
}

fn layer_norm_epsilon() -> f64 {
    1e-6
}

fn feed_forward_proj() -> String {
    "relu".to_owned()
}

/// T5's encoder, frozen.
///
/// No token is masked, padding included, as the pipelines that use it pass no attention mask.
///
/// # Source
/// transformers `T5EncoderModel`.
#[derive(Debug)]
pub struct T5Encoder {
    /// In the dtype of its file, on the CPU.
    embedding: Tensor,
    layers: Vec<Layer>,
    final_norm: RmsNorm,
    /// (buckets, heads): the first layer's table, which all layers use.
    relative_bias: Tensor,
    max_distance: usize,
    heads: usize,
    placement: Placement,
}

#[derive(Debug)]
struct Layer {
    attention_norm: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    ff_norm: RmsNorm,
    feed_forward: FeedForward,
}

#[derive(Debug)]
struct FeedForward {
    activation: Activation,
    wi: Linear,
    /// The ungated half, in gated variants.
    wi_up: Option<Linear>,
    wo: Linear,
}

impl T5Encoder {
    /// Loads a `text_encoder_2` folder. Every linear layer is quantized where the placement says so.
    ///
    /// # Errors
    /// Any [`LoadError`].
    pub fn load(dir: &Path, placement: &Placement) -> Result<Self, LoadError> {
        let weights = Weights::open(dir, placement)?;
        let config_file = dir.join("config.json");
        let config: Config = read_config(&config_file)?;
        config.check(&config_file)?;
        let (activation, is_gated) = match config.feed_forward_proj.as_str() {
            "gated-gelu" => (Activation::GeluTanh, true),
            "gated-silu" => (Activation::Silu, true),
            "relu" => (Activation::Relu, false),
            "gelu" => (Activation::Gelu, false),
            found => {
                return Err(LoadError::Unsupported {
                    file: config_file,
                    key: "feed_forward_proj".to_owned(),
                    found: format!("`{found}`"),
                    expected: "gated-gelu, gated-silu, relu or gelu".to_owned(),
                });
            }
        };
        let (width, inner) = (config.d_model, config.num_heads * config.d_kv);
        let norm = |name: &str| RmsNorm::load(&weights, name, width, config.layer_norm_epsilon);
        let layers = (0..config.num_layers)
            .map(|i| {
                let path = format!("encoder.block.{i}.layer");
                let linear = |name: &str, inputs, outputs| {
                    Linear::load(&weights, &format!("{path}.{name}"), inputs, outputs, Bias::None)
                };
                let feed_forward = FeedForward {
                    activation,
                    wi: linear(
                        if is_gated {
                            "1.DenseReluDense.wi_0"
                        } else {
                            "1.DenseReluDense.wi"
                        },
                        width,
                        config.d_ff,
                    )?,
                    wi_up: if is_gated {
                        Some(linear("1.DenseReluDense.wi_1", width, config.d_ff)?)
                    } else {
                        None
                    },
                    wo: linear("1.DenseReluDense.wo", config.d_ff, width)?,
                };
                Ok(Layer {
                    attention_norm: norm(&format!("{path}.0.layer_norm"))?,
                    q: linear("0.SelfAttention.q", width, inner)?,
                    k: linear("0.SelfAttention.k", width, inner)?,
                    v: linear("0.SelfAttention.v", width, inner)?,
                    o: linear("0.SelfAttention.o", inner, width)?,
                    ff_norm: norm(&format!("{path}.1.layer_norm"))?,
                    feed_forward,
                })
            })
            .collect::<Result<_, LoadError>>()?;
        let shared = if weights.contains("shared.weight") {
            "shared.weight"
        } else {
            "encoder.embed_tokens.weight"
        };
        let encoder = Self {
            embedding: weights.matrix(shared, &[config.vocab_size, width])?,
            layers,
            final_norm: norm("encoder.final_layer_norm")?,
            relative_bias: weights.get(
                "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
                &[config.relative_attention_num_buckets, config.num_heads],
            )?,
            max_distance: config.relative_attention_max_distance,
            heads: config.num_heads,
            placement: weights.placement().clone(),
        };
        // A full T5 checkpoint holds the decoder too.
        weights.finish(&["decoder.", "lm_head.", "encoder.embed_tokens."])?;
        Ok(encoder)
    }

    /// The numbers in the weights of a `text_encoder_2` folder, by headers alone.
    ///
    /// # Errors
    /// As [`Weights::open`].
    pub(crate) fn inspect(dir: &Path) -> Result<WeightCounts, LoadError> {
        let weights = Weights::open(dir, &Placement::cpu())?;
        Ok(weights.counts(|name| name.starts_with("encoder.block.") && !name.contains("relative_attention_bias")))
    }

    /// The final states of sequences of one length.
    ///
    /// # Shapes
    /// Returns (sequences, tokens, hidden_size).
    ///
    /// # Errors
    /// [`ModelError::Value`] for an empty list or sequences of several lengths.
    pub fn encode(&self, sequences: &[Vec<u32>]) -> Result<Tensor, ModelError> {
        let length = sequences.first().map_or(0, Vec::len);
        if sequences.iter().any(|ids| ids.len() != length) || length == 0 {
            let problem = "all sequences of a call must have one length, and at least one token".to_owned();
            return Err(ModelError::Value {
                input: "prompts",
                problem,
            });
        }
        let bias = self.position_bias(length)?;
        stacked(sequences, self.placement.is_host(), |ids| self.encode_one(ids, &bias))
    }

    fn encode_one(&self, ids: &[u32], bias: &Tensor) -> Result<Tensor, ModelError> {
        let taken = Tensor::new(ids, self.placement.device())?;
        let mut x = self
            .embedding
            .index_select(&taken, 0)?
            .to_dtype(self.placement.dtype())?;
        let rows = 0..ids.len();
        let shape = Attention {
            heads: self.heads,
            kv_heads: self.heads,
            scale: 1.0,
            mask: Mask::Segments(std::slice::from_ref(&rows)),
            bias: Some(bias),
            kernels: self.placement.kernels(),
        };
        for layer in &self.layers {
            let normed = layer.attention_norm.forward(&x)?;
            let (q, k, v) = (
                layer.q.forward(&normed)?,
                layer.k.forward(&normed)?,
                layer.v.forward(&normed)?,
            );
            x = (x + layer.o.forward(&attention(shape, &q, &k, &v)?)?)?;
            let normed = layer.ff_norm.forward(&x)?;
            x = (x + layer.feed_forward.forward(&normed)?)?;
        }
        self.final_norm.forward(&x)
    }

    /// Learned bias (heads, length, length) of each head for each distance of key from query.
    fn position_bias(&self, length: usize) -> Result<Tensor, ModelError> {
        let buckets = self.relative_bias.dims()[0];
        let indices: Vec<u32> = (0..length)
            .flat_map(|query| (0..length).map(move |key| (query, key)))
            .map(|(query, key)| relative_bucket(query, key, buckets, self.max_distance))
            .collect();
        // Turned before it is looked up in, and not the far larger result after it.
        let table = self.relative_bias.to_dtype(DType::F32)?.t()?.contiguous()?;
        let bias = table.index_select(&Tensor::new(indices, self.placement.device())?, 1)?;
        Ok(bias.reshape((self.heads, length, length))?)
    }
}

impl FeedForward {
    fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let hidden = self.wi.forward(x)?;
        let hidden = match &self.wi_up {
            Some(up) => gated(self.activation, self.wi.kernels(), &hidden, &up.forward(x)?)?,
            None => self.activation.forward(self.wi.kernels(), &hidden)?,
        };
        self.wo.forward(&hidden)
    }
}

/// The bucket of a distance: half of the buckets for each direction, of those half for exact small distances and half
/// growing in logarithmic steps up to `max_distance`.
fn relative_bucket(query: usize, key: usize, buckets: usize, max_distance: usize) -> u32 {
    let half = buckets / 2;
    let direction = if key > query { half } else { 0 };
    let distance = key.abs_diff(query);
    let exact = half / 2;
    let bucket = if distance < exact {
        distance
    } else {
        let ratio = (distance as f32 / exact as f32).ln() / (max_distance as f32 / exact as f32).ln();
        (exact + (ratio * (half - exact) as f32) as usize).min(half - 1)
    };
    (direction + bucket) as u32
}
