//! A layer of the language model.

use super::past::KeysAndValues;
use crate::layers::{Activation, Attention, Bias, Linear, Mask, RmsNorm, Rotary, attention, gated};
use crate::ops::candle::Calls;
use crate::vlm::config::TextConfig;
use crate::vlm::source::Source;
use crate::{LoadError, ModelError};

/// Attention to the tokens before, and a gated network.
#[derive(Debug)]
pub(super) struct Layer<T> {
    pub(super) input_norm: RmsNorm<T>,
    q: Linear<T>,
    k: Linear<T>,
    v: Linear<T>,
    o: Linear<T>,
    head_norms: Option<HeadNorms<T>>,
    post_norm: RmsNorm<T>,
    gate: Linear<T>,
    up: Linear<T>,
    down: Linear<T>,
    activation: Activation,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

/// Norms of each head's query and key, before the rotation.
#[derive(Debug)]
struct HeadNorms<T> {
    q: RmsNorm<T>,
    k: RmsNorm<T>,
}

impl<T: Calls> Layer<T> {
    pub(super) fn load(source: &impl Source<Array = T>, name: &str, config: &TextConfig) -> Result<Self, LoadError> {
        let (width, inner, head_dim) = (config.hidden_size, config.intermediate_size, config.head_dim());
        let (queries, keys) = (config.num_attention_heads * head_dim, config.kv_heads() * head_dim);
        let norm = |part: &str, width| source.rms_norm(&format!("{name}.{part}"), width, config.rms_norm_eps);
        let linear =
            |part: &str, inputs, outputs, bias| source.linear(&format!("{name}.{part}"), inputs, outputs, bias);
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

    /// Keys, turned to their positions, and values of tokens whose normalised states these are.
    pub(super) fn keys_and_values(&self, normed: &T, rotary: &Rotary<T>) -> Result<KeysAndValues<T>, ModelError> {
        let (mut k, v) = (self.k.forward(normed)?, self.v.forward(normed)?);
        if let Some(norms) = &self.head_norms {
            k = self.per_head(&norms.k, &k)?;
        }
        Ok(KeysAndValues {
            k: rotary.rotate(&k, 0)?,
            v,
        })
    }

    /// The output at the rows of `x` from `first` on, of `x` normalised and of the keys and values of all tokens up to the last of `x`. Every row
    /// sees those before it.
    pub(super) fn forward(
        &self,
        x: &T,
        normed: &T,
        first: usize,
        seen: &KeysAndValues<T>,
        rotary: &Rotary<T>,
    ) -> Result<T, ModelError> {
        let count = x.dims()[0] - first;
        let mut q = self.q.forward(&normed.narrow(0, first, count)?)?;
        if let Some(norms) = &self.head_norms {
            q = self.per_head(&norms.q, &q)?;
        }
        q = rotary.rotate(&q, first)?;
        let shape = Attention {
            heads: self.heads,
            kv_heads: self.kv_heads,
            scale: (self.head_dim as f64).sqrt().recip(),
            mask: Mask::Causal,
            bias: None,
            kernels: self.q.kernels(),
        };
        let mixed = attention(shape, &q, &seen.k, &seen.v)?;
        let x = x.narrow(0, first, count)?.plus(&self.o.forward(&mixed)?)?;
        let normed = self.post_norm.forward(&x)?;
        let hidden = gated(
            self.activation,
            self.gate.kernels(),
            &self.gate.forward(&normed)?,
            &self.up.forward(&normed)?,
        )?;
        Ok(x.plus(&self.down.forward(&hidden)?)?)
    }

    fn per_head(&self, norm: &RmsNorm<T>, x: &T) -> Result<T, ModelError> {
        let (rows, width) = (x.dims()[0], x.width());
        let heads = norm.forward(&x.reshape((rows * width / self.head_dim, self.head_dim))?)?;
        Ok(heads.reshape((rows, width))?)
    }
}
