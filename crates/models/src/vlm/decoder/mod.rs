//! The language model.

mod layer;
mod past;

use candle_core::{DType, Tensor};
use candle_nn::kv_cache::KvCache;

use super::{
    Seen,
    config::TextConfig,
    positions::{PromptPositions, RotaryPositions},
    source::Source,
};
use crate::{LoadError, ModelError, layers::RmsNorm, ops::candle::Calls};
use layer::Layer;
use past::KeysAndValues;
pub(super) use past::Past;

/// Tokens by which a cache grows; a longer answer costs a copy.
const CACHE_STEP: usize = 512;

/// A decoder-only transformer with grouped-query attention and multimodal rotary positions.
#[derive(Debug)]
pub(super) struct Decoder<T: Calls = Tensor> {
    embedding: T,
    /// What the layers compute in.
    dtype: DType,
    layers: Vec<Layer<T>>,
    norm: RmsNorm<T>,
    positions: RotaryPositions,
    place: T::Place,
}

/// A prompt with images in it, or a stretch of one.
pub(super) struct Prompt<'a, T = Tensor> {
    /// Token ids, with one image token per merged patch.
    pub(super) ids: &'a [u32],
    pub(super) image_token: u32,
    /// In the order of their tokens.
    pub(super) images: &'a [&'a Seen<T>],
}

/// Keys and values of every token so far, so that the next one is computed alone.
pub(super) struct Cache {
    layers: Vec<KvCache>,
    /// Rotary position of the next token.
    next_position: usize,
}

/// Which states of a stretch are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    All,
    Last,
    Nothing,
}

impl<T: Calls> Decoder<T> {
    pub(super) fn load(source: &impl Source<Array = T>, name: &str, config: &TextConfig) -> Result<Self, LoadError> {
        let width = config.hidden_size;
        Ok(Self {
            embedding: source.matrix(&format!("{name}.embed_tokens.weight"), &[config.vocab_size, width])?,
            dtype: source.dtype(),
            layers: (0..config.num_hidden_layers)
                .map(|i| Layer::load(source, &format!("{name}.layers.{i}"), config))
                .collect::<Result<_, _>>()?,
            norm: source.rms_norm(&format!("{name}.norm"), width, config.rms_norm_eps)?,
            positions: RotaryPositions::new(config, source.kernels()),
            place: source.place(),
        })
    }

    /// The token embedding (vocabulary, width), as it is kept.
    pub(super) fn embedding(&self) -> &T {
        &self.embedding
    }

    /// The normalised final state (1, width) of the last token of a prompt that goes on from `past`.
    pub(super) fn last_state(&self, prompt: &Prompt<T>, past: Option<&Past<T>>) -> Result<T, ModelError> {
        let (states, _) = self.run(prompt, past, Wanted::Last, |layer, own| match past {
            Some(past) => past.joined(layer, &own),
            None => Ok(own),
        })?;
        self.norm.forward(&states)
    }

    /// What a stretch of a prompt leaves to those that go on from it.
    pub(super) fn extended<'a>(
        &self,
        prompt: &Prompt<T>,
        past: Option<&'a Past<'a, T>>,
    ) -> Result<Past<'a, T>, ModelError> {
        let mut layers = Vec::with_capacity(self.layers.len());
        let (_, next_position) = self.run(prompt, past, Wanted::Nothing, |layer, own| {
            layers.push(own.clone());
            match past {
                Some(past) => past.joined(layer, &own),
                None => Ok(own),
            }
        })?;
        Ok(Past {
            before: past,
            layers,
            tokens: tokens_of(past) + prompt.ids.len(),
            next_position,
        })
    }

    /// The normalised final states (tokens, width) of a prompt.
    pub(super) fn states(&self, prompt: &Prompt<T>) -> Result<T, ModelError> {
        let (states, _) = self.run(prompt, None, Wanted::All, |_, own| Ok(own))?;
        self.norm.forward(&states)
    }

    /// The wanted states after the last layer, and the rotary position behind the prompt. `keep` is given the index of each layer with its keys
    /// and values of these tokens, and returns those of all tokens that are seen.
    fn run(
        &self,
        prompt: &Prompt<T>,
        past: Option<&Past<T>>,
        wanted: Wanted,
        mut keep: impl FnMut(usize, KeysAndValues<T>) -> Result<KeysAndValues<T>, ModelError>,
    ) -> Result<(T, usize), ModelError> {
        let count = prompt.ids.len();
        if count == 0 {
            return Err(ModelError::Value {
                input: "messages",
                problem: "make an empty prompt".to_owned(),
            });
        }
        let grids = prompt.images.iter().map(|image| image.grid);
        let from = past.map_or(0, |past| past.next_position);
        let PromptPositions { positions, next } = PromptPositions::of(prompt.ids, prompt.image_token, grids, from)?;
        let rotary = self.positions.table(&positions, &self.place)?;
        let mut x = self.embed(prompt)?;
        for (i, layer) in self.layers.iter().enumerate() {
            let normed = layer.input_norm.forward(&x)?;
            let all = keep(i, layer.keys_and_values(&normed, &rotary)?)?;
            let is_last = i + 1 == self.layers.len();
            // Nobody reads the last layer's output at the other tokens.
            let first = match wanted {
                Wanted::Nothing if is_last => break,
                Wanted::Last if is_last => count - 1,
                _ => 0,
            };
            x = layer.forward(&x, &normed, first, &all, &rotary)?;
            if let Some(addition) = self.deepstack(prompt, i)? {
                x = x.plus(&addition.narrow(0, first, count - first)?)?;
            }
        }
        Ok((x, next))
    }

    /// Embeddings of the tokens; an image's features take the positions of its tokens.
    fn embed(&self, prompt: &Prompt<T>) -> Result<T, ModelError> {
        pieces(prompt, |ids| self.words(ids), |image| Ok(image.features.tokens.clone()))
    }

    /// Embeddings of text tokens.
    fn words(&self, ids: &[u32]) -> Result<T, ModelError> {
        let words = self.embedding.rows(ids)?;
        Ok(match words.dtype() == self.dtype {
            true => words,
            false => words.to_dtype(self.dtype)?,
        })
    }

    /// What the images add to the states after layer `index`; nothing to the text's.
    fn deepstack(&self, prompt: &Prompt<T>, index: usize) -> Result<Option<T>, ModelError> {
        if prompt
            .images
            .iter()
            .all(|image| image.features.deepstack.len() <= index)
        {
            return Ok(None);
        }
        let width = self.embedding.dims()[1];
        let zeros = |count: usize| Ok(T::zeros((count, width), self.dtype, &self.place)?);
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

impl Decoder {
    /// As [`Self::last_state`], with a cache to go on from, token by token.
    pub(super) fn start(&self, prompt: &Prompt) -> Result<(Tensor, Cache), ModelError> {
        let capacity = prompt.ids.len() + CACHE_STEP;
        let mut layers: Vec<KvCache> = self.layers.iter().map(|_| KvCache::new(0, capacity)).collect();
        let (states, next_position) = self.run(prompt, None, Wanted::Last, |layer, own| {
            appended(&mut layers[layer], &own)
        })?;
        Ok((self.norm.forward(&states)?, Cache { layers, next_position }))
    }

    /// The normalised final state (1, width) of one more token.
    pub(super) fn step(&self, token: u32, cache: &mut Cache) -> Result<Tensor, ModelError> {
        let mut x = self.words(&[token])?;
        let rotary = self.positions.table(&[[cache.next_position; 3]], &self.place)?;
        for (layer, cache) in self.layers.iter().zip(&mut cache.layers) {
            let normed = layer.input_norm.forward(&x)?;
            let all = appended(cache, &layer.keys_and_values(&normed, &rotary)?)?;
            x = layer.forward(&x, &normed, 0, &all, &rotary)?;
        }
        cache.next_position += 1;
        self.norm.forward(&x)
    }
}

fn tokens_of<T>(past: Option<&Past<T>>) -> usize {
    past.map_or(0, |past| past.tokens)
}

/// Puts keys and values behind those that a cache holds, and returns all of them.
fn appended(cache: &mut KvCache, own: &KeysAndValues<Tensor>) -> Result<KeysAndValues<Tensor>, ModelError> {
    let (k, v) = cache.append(&own.k.contiguous()?, &own.v.contiguous()?)?;
    Ok(KeysAndValues { k, v })
}

/// Joins rows for each run of text tokens and for each image, in the prompt's order.
fn pieces<T: Calls>(
    prompt: &Prompt<T>,
    text: impl Fn(&[u32]) -> Result<T, ModelError>,
    image: impl Fn(&Seen<T>) -> Result<T, ModelError>,
) -> Result<T, ModelError> {
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
    Ok(T::cat(&rows, 0)?)
}
