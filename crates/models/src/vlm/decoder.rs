//! The language model.

use candle_core::{Device, Tensor};
use candle_nn::kv_cache::KvCache;

use super::{
    Seen,
    config::TextConfig,
    positions::{PromptPositions, RotaryPositions},
};
use crate::{
    LoadError, ModelError, Weights,
    layers::{Activation, Attention, Bias, Linear, Mask, RmsNorm, Rotary, attention, gated},
};

/// Tokens by which a cache grows; a longer answer costs a copy.
const CACHE_STEP: usize = 512;

/// A decoder-only transformer with grouped-query attention and multimodal rotary positions.
#[derive(Debug)]
pub(super) struct Decoder {
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: RmsNorm,
    positions: RotaryPositions,
    device: Device,
}

#[derive(Debug)]
struct Layer {
    input_norm: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    head_norms: Option<HeadNorms>,
    post_norm: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
    activation: Activation,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

/// Norms of each head's query and key, before the rotation.
#[derive(Debug)]
struct HeadNorms {
    q: RmsNorm,
    k: RmsNorm,
}

/// A prompt with images in it.
pub(super) struct Prompt<'a> {
    /// Token ids, with one image token per merged patch.
    pub(super) ids: &'a [u32],
    pub(super) image_token: u32,
    /// In the order of their tokens.
    pub(super) images: &'a [&'a Seen],
}

/// Keys and values of every token so far, so that the next one is computed alone.
pub(super) struct Cache {
    layers: Vec<KvCache>,
    /// Rotary position of the next token.
    next_position: usize,
}

impl Decoder {
    pub(super) fn load(weights: &Weights, name: &str, config: &TextConfig) -> Result<Self, LoadError> {
        let width = config.hidden_size;
        Ok(Self {
            embedding: weights.get(&format!("{name}.embed_tokens.weight"), &[config.vocab_size, width])?,
            layers: (0..config.num_hidden_layers)
                .map(|i| Layer::load(weights, &format!("{name}.layers.{i}"), config))
                .collect::<Result<_, _>>()?,
            norm: RmsNorm::load(weights, &format!("{name}.norm"), width, config.rms_norm_eps)?,
            positions: RotaryPositions::new(config, weights.kernels()),
            device: weights.placement().device().clone(),
        })
    }

    /// The token embedding (vocabulary, width).
    pub(super) fn embedding(&self) -> &Tensor {
        &self.embedding
    }

    /// The normalised final state (1, width) of the last token.
    pub(super) fn last_state(&self, prompt: &Prompt) -> Result<Tensor, ModelError> {
        self.read(prompt, None).map(|(state, _)| state)
    }

    /// The normalised final states (tokens, width) of a prompt.
    pub(super) fn states(&self, prompt: &Prompt) -> Result<Tensor, ModelError> {
        let (states, _) = self.run(prompt, None, 0)?;
        self.norm.forward(&states)
    }

    /// As [`Self::last_state`], with a cache to go on from.
    pub(super) fn start(&self, prompt: &Prompt) -> Result<(Tensor, Cache), ModelError> {
        let capacity = prompt.ids.len() + CACHE_STEP;
        let mut layers: Vec<KvCache> = self.layers.iter().map(|_| KvCache::new(0, capacity)).collect();
        let (state, next_position) = self.read(prompt, Some(&mut layers))?;
        Ok((state, Cache { layers, next_position }))
    }

    /// The normalised final state (1, width) of one more token.
    pub(super) fn step(&self, token: u32, cache: &mut Cache) -> Result<Tensor, ModelError> {
        let mut x = self.embedding.index_select(&Tensor::new(&[token], &self.device)?, 0)?;
        let rotary = self.positions.table(&[[cache.next_position; 3]], &self.device)?;
        for (layer, cache) in self.layers.iter().zip(&mut cache.layers) {
            x = layer.forward(&x, 0, &rotary, Some(cache))?;
        }
        cache.next_position += 1;
        self.norm.forward(&x)
    }

    /// The final state of a prompt's last token, and the rotary position behind it.
    fn read(&self, prompt: &Prompt, caches: Option<&mut [KvCache]>) -> Result<(Tensor, usize), ModelError> {
        let (states, next) = self.run(prompt, caches, prompt.ids.len().saturating_sub(1))?;
        let state = states.narrow(0, states.dims()[0] - 1, 1)?.contiguous()?;
        Ok((self.norm.forward(&state)?, next))
    }

    /// The states after the last layer from token `from` on, and the rotary position behind the prompt.
    fn run(
        &self,
        prompt: &Prompt,
        mut caches: Option<&mut [KvCache]>,
        from: usize,
    ) -> Result<(Tensor, usize), ModelError> {
        if prompt.ids.is_empty() {
            return Err(ModelError::Value {
                input: "messages",
                problem: "make an empty prompt".to_owned(),
            });
        }
        let grids = prompt.images.iter().map(|image| image.grid);
        let PromptPositions { positions, next } = PromptPositions::of(prompt.ids, prompt.image_token, grids)?;
        let rotary = self.positions.table(&positions, &self.device)?;
        let mut x = self.embed(prompt)?;
        for (i, layer) in self.layers.iter().enumerate() {
            // Nobody reads the last layer's output at the tokens before.
            let first = if i + 1 == self.layers.len() { from } else { 0 };
            let cache = caches.as_mut().map(|caches| &mut caches[i]);
            x = layer.forward(&x, first, &rotary, cache)?;
            if let Some(addition) = self.deepstack(prompt, i)? {
                x = (x + addition.narrow(0, first, prompt.ids.len() - first)?)?;
            }
        }
        Ok((x, next))
    }

    /// Embeddings of the tokens; an image's features take the positions of its tokens.
    fn embed(&self, prompt: &Prompt) -> Result<Tensor, ModelError> {
        let text = |ids: &[u32]| Ok(self.embedding.index_select(&Tensor::new(ids, &self.device)?, 0)?);
        pieces(prompt, text, |image| Ok(image.features.tokens.clone()))
    }

    /// What the images add to the states after layer `index`; nothing to the text's.
    fn deepstack(&self, prompt: &Prompt, index: usize) -> Result<Option<Tensor>, ModelError> {
        if prompt
            .images
            .iter()
            .all(|image| image.features.deepstack.len() <= index)
        {
            return Ok(None);
        }
        let (width, dtype) = (self.embedding.dims()[1], self.embedding.dtype());
        let zeros = |count: usize| Ok(Tensor::zeros((count, width), dtype, &self.device)?);
        pieces(
            prompt,
            |ids| zeros(ids.len()),
            |image| match image.features.deepstack.get(index) {
                Some(features) => Ok(features.clone()),
                None => zeros(image.grid.merged_tokens()),
            },
        )
        .map(Some)
    }
}

/// Joins rows for each run of text tokens and for each image, in the prompt's order.
fn pieces(
    prompt: &Prompt,
    text: impl Fn(&[u32]) -> Result<Tensor, ModelError>,
    image: impl Fn(&Seen) -> Result<Tensor, ModelError>,
) -> Result<Tensor, ModelError> {
    let mut rows = Vec::with_capacity(2 * prompt.images.len() + 1);
    let mut images = prompt.images.iter();
    let mut rest = prompt.ids;
    while let Some(&id) = rest.first() {
        if id == prompt.image_token {
            let Some(seen) = images.next() else {
                return Err(ModelError::Value {
                    input: "images",
                    problem: "the prompt has more image tokens than images".to_owned(),
                });
            };
            rows.push(image(seen)?);
            rest = rest.get(seen.grid.merged_tokens()..).unwrap_or_default();
        } else {
            let count = rest
                .iter()
                .position(|id| *id == prompt.image_token)
                .unwrap_or(rest.len());
            let (run, after) = rest.split_at(count);
            rows.push(text(run)?);
            rest = after;
        }
    }
    Ok(Tensor::cat(&rows, 0)?)
}

impl Layer {
    fn load(weights: &Weights, name: &str, config: &TextConfig) -> Result<Self, LoadError> {
        let (width, inner, head_dim) = (config.hidden_size, config.intermediate_size, config.head_dim());
        let (queries, keys) = (config.num_attention_heads * head_dim, config.kv_heads() * head_dim);
        let norm = |part: &str, width| RmsNorm::load(weights, &format!("{name}.{part}"), width, config.rms_norm_eps);
        let linear =
            |part: &str, inputs, outputs, bias| Linear::load(weights, &format!("{name}.{part}"), inputs, outputs, bias);
        let head_norms = if config.normalizes_heads() {
            Some(HeadNorms {
                q: norm("self_attn.q_norm", head_dim)?,
                k: norm("self_attn.k_norm", head_dim)?,
            })
        } else {
            None
        };
        Ok(Self {
            input_norm: norm("input_layernorm", width)?,
            q: linear("self_attn.q_proj", width, queries, config.qkv_bias())?,
            k: linear("self_attn.k_proj", width, keys, config.qkv_bias())?,
            v: linear("self_attn.v_proj", width, keys, config.qkv_bias())?,
            o: linear("self_attn.o_proj", queries, width, config.output_bias())?,
            head_norms,
            post_norm: norm("post_attention_layernorm", width)?,
            gate: linear("mlp.gate_proj", width, inner, Bias::None)?,
            up: linear("mlp.up_proj", width, inner, Bias::None)?,
            down: linear("mlp.down_proj", inner, width, Bias::None)?,
            activation: config.hidden_act,
            heads: config.num_attention_heads,
            kv_heads: config.kv_heads(),
            head_dim,
        })
    }

    /// The output at the rows of `x` from `first` on; every row sees those before it, the cached ones first of all.
    fn forward(
        &self,
        x: &Tensor,
        first: usize,
        rotary: &Rotary,
        cache: Option<&mut KvCache>,
    ) -> Result<Tensor, ModelError> {
        let normed = self.input_norm.forward(x)?;
        let count = x.dims()[0] - first;
        let mut q = self.q.forward(&normed.narrow(0, first, count)?)?;
        let (mut k, mut v) = (self.k.forward(&normed)?, self.v.forward(&normed)?);
        if let Some(norms) = &self.head_norms {
            q = self.per_head(&norms.q, &q)?;
            k = self.per_head(&norms.k, &k)?;
        }
        q = rotary.rotate(&q, first)?;
        k = rotary.rotate(&k, 0)?;
        if let Some(cache) = cache {
            (k, v) = cache.append(&k.contiguous()?, &v.contiguous()?)?;
        }
        let shape = Attention {
            heads: self.heads,
            kv_heads: self.kv_heads,
            scale: (self.head_dim as f64).sqrt().recip(),
            mask: Mask::Causal,
            bias: None,
            kernels: self.q.kernels(),
        };
        let mixed = attention(shape, &q, &k, &v)?;
        let x = (x.narrow(0, first, count)? + self.o.forward(&mixed)?)?;
        let normed = self.post_norm.forward(&x)?;
        let hidden = gated(
            self.activation,
            self.gate.kernels(),
            &self.gate.forward(&normed)?,
            &self.up.forward(&normed)?,
        )?;
        Ok((x + self.down.forward(&hidden)?)?)
    }

    fn per_head(&self, norm: &RmsNorm, x: &Tensor) -> Result<Tensor, ModelError> {
        let (rows, width) = x.dims2()?;
        let heads = norm.forward(&x.reshape((rows * width / self.head_dim, self.head_dim))?)?;
        Ok(heads.reshape((rows, width))?)
    }
}
