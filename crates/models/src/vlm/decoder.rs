//! The language model.

use candle_core::{Device, Tensor};

use super::{
    config::TextConfig,
    preprocess::Grid,
    vision::{inverse_frequencies, rotary_table},
};
use crate::{
    LoadError, ModelError, Weights,
    layers::{Activation, Attention, Bias, Linear, Mask, RmsNorm, Rotary, attention, gated},
};

/// A decoder-only transformer with grouped-query attention and multimodal rotary positions.
#[derive(Debug)]
pub(super) struct Decoder {
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: RmsNorm,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    frequencies: Vec<f32>,
    /// For each frequency the axis that it turns with: 0 temporal, 1 vertical, 2 horizontal.
    axes: Vec<usize>,
    device: Device,
}

#[derive(Debug)]
struct Layer {
    input_norm: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    post_norm: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
    activation: Activation,
}

impl Decoder {
    pub(super) fn load(weights: &Weights, name: &str, config: &TextConfig, device: &Device) -> Result<Self, LoadError> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let keys = config.kv_heads() * config.head_dim();
        let norm = |path: &str| RmsNorm::load(weights, path, width, config.rms_norm_eps);
        let layers = (0..config.num_hidden_layers)
            .map(|i| {
                let path = format!("{name}.layers.{i}");
                let linear = |part: &str, inputs, outputs, bias| {
                    Linear::load(weights, &format!("{path}.{part}"), inputs, outputs, bias)
                };
                Ok(Layer {
                    input_norm: norm(&format!("{path}.input_layernorm"))?,
                    q: linear("self_attn.q_proj", width, width, Bias::Added)?,
                    k: linear("self_attn.k_proj", width, keys, Bias::Added)?,
                    v: linear("self_attn.v_proj", width, keys, Bias::Added)?,
                    o: linear("self_attn.o_proj", width, width, Bias::None)?,
                    post_norm: norm(&format!("{path}.post_attention_layernorm"))?,
                    gate: linear("mlp.gate_proj", width, inner, Bias::None)?,
                    up: linear("mlp.up_proj", width, inner, Bias::None)?,
                    down: linear("mlp.down_proj", inner, width, Bias::None)?,
                    activation: config.hidden_act,
                })
            })
            .collect::<Result<_, LoadError>>()?;
        let axes = config.mrope_section().iter().enumerate();
        Ok(Self {
            embedding: weights.get(&format!("{name}.embed_tokens.weight"), &[config.vocab_size, width])?,
            layers,
            norm: norm(&format!("{name}.norm"))?,
            heads: config.num_attention_heads,
            kv_heads: config.kv_heads(),
            head_dim: config.head_dim(),
            frequencies: inverse_frequencies(config.rope_theta(), config.head_dim()),
            axes: axes
                .flat_map(|(axis, count)| std::iter::repeat_n(axis, *count))
                .collect(),
            device: device.clone(),
        })
    }

    /// The token embedding (vocabulary, width).
    pub(super) fn embedding(&self) -> &Tensor {
        &self.embedding
    }

    /// The normalised final state (1, width) of the last token; `features` take the places of the image tokens.
    pub(super) fn last_state(
        &self,
        ids: &[u32],
        image_token: u32,
        features: &[&Tensor],
        grids: &[Grid],
    ) -> Result<Tensor, ModelError> {
        if ids.is_empty() {
            return Err(ModelError::Value {
                input: "messages",
                problem: "make an empty prompt".to_owned(),
            });
        }
        let rotary = self.rotary(ids, image_token, grids)?;
        let mut x = self.embed(ids, image_token, features)?;
        let last = ids.len() - 1;
        for (i, layer) in self.layers.iter().enumerate() {
            // Nobody reads the last layer's output at the other tokens.
            let queries = if i + 1 == self.layers.len() { last } else { 0 };
            x = self.layer(layer, &x, queries, &rotary)?;
        }
        let state = x.narrow(0, x.dims()[0] - 1, 1)?.contiguous()?;
        self.norm.forward(&state)
    }

    /// One layer's output at the tokens from `first` on.
    fn layer(&self, layer: &Layer, x: &Tensor, first: usize, rotary: &Rotary) -> Result<Tensor, ModelError> {
        let normed = layer.input_norm.forward(x)?;
        let count = x.dims()[0] - first;
        let shape = Attention {
            heads: self.heads,
            kv_heads: self.kv_heads,
            scale: (self.head_dim as f64).sqrt().recip(),
            mask: Mask::Causal,
            rotary: Some(rotary),
            bias: None,
        };
        let q = layer.q.forward(&normed.narrow(0, first, count)?)?;
        let mixed = attention(shape, &q, &layer.k.forward(&normed)?, &layer.v.forward(&normed)?)?;
        let x = (x.narrow(0, first, count)? + layer.o.forward(&mixed)?)?;
        let normed = layer.post_norm.forward(&x)?;
        let hidden = gated(
            layer.activation,
            &layer.gate.forward(&normed)?,
            &layer.up.forward(&normed)?,
        )?;
        Ok((x + layer.down.forward(&hidden)?)?)
    }

    fn embed(&self, ids: &[u32], image_token: u32, features: &[&Tensor]) -> Result<Tensor, ModelError> {
        let mut pieces = Vec::with_capacity(2 * features.len() + 1);
        let mut features = features.iter();
        let mut rest = ids;
        while let Some(&id) = rest.first() {
            if id == image_token {
                let Some(feature) = features.next() else {
                    let problem = "the prompt has more image tokens than images".to_owned();
                    return Err(ModelError::Value {
                        input: "images",
                        problem,
                    });
                };
                pieces.push((*feature).clone());
                rest = rest.get(feature.dims()[0]..).unwrap_or_default();
            } else {
                let count = rest.iter().position(|id| *id == image_token).unwrap_or(rest.len());
                let (text, after) = rest.split_at(count);
                pieces.push(self.embedding.index_select(&Tensor::new(text, &self.device)?, 0)?);
                rest = after;
            }
        }
        Ok(Tensor::cat(&pieces, 0)?)
    }

    /// Text tokens have one position on all axes; the tokens of an image share the temporal one and count rows and columns;
    /// the text after it goes on behind the larger side.
    fn rotary(&self, ids: &[u32], image_token: u32, grids: &[Grid]) -> Result<Rotary, ModelError> {
        let mut positions: Vec<[usize; 3]> = Vec::with_capacity(ids.len());
        let mut grids = grids.iter();
        let mut next = 0;
        while positions.len() < ids.len() {
            if ids[positions.len()] != image_token {
                positions.push([next; 3]);
                next += 1;
                continue;
            }
            let Some(grid) = grids.next() else {
                let problem = "the prompt has more image tokens than images".to_owned();
                return Err(ModelError::Value {
                    input: "images",
                    problem,
                });
            };
            let (height, width) = (grid.merged_height(), grid.merged_width());
            positions.extend((0..height * width).map(|token| [next, next + token / width, next + token % width]));
            next += height.max(width);
        }
        let angles: Vec<f32> = positions
            .iter()
            .flat_map(|position| {
                self.frequencies
                    .iter()
                    .zip(&self.axes)
                    .map(|(frequency, axis)| position[*axis] as f32 * frequency)
            })
            .collect();
        rotary_table(&angles, positions.len(), &self.device)
    }
}
