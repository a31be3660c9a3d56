//! The language model's settings.

use serde::Deserialize;

use super::{Family, Refused, RopeParameters};
use crate::layers::{Activation, Bias};
use crate::load::{optional_size, size};

/// The language model.
#[derive(Debug, Deserialize)]
pub(in crate::vlm) struct TextConfig {
    #[serde(deserialize_with = "size")]
    pub(in crate::vlm) vocab_size: usize,
    #[serde(deserialize_with = "size")]
    pub(in crate::vlm) hidden_size: usize,
    #[serde(deserialize_with = "size")]
    pub(in crate::vlm) intermediate_size: usize,
    #[serde(deserialize_with = "size")]
    pub(in crate::vlm) num_hidden_layers: usize,
    #[serde(deserialize_with = "size")]
    pub(in crate::vlm) num_attention_heads: usize,
    #[serde(default, deserialize_with = "optional_size")]
    num_key_value_heads: Option<usize>,
    #[serde(default, deserialize_with = "optional_size")]
    head_dim: Option<usize>,
    pub(in crate::vlm) rms_norm_eps: f64,
    pub(in crate::vlm) hidden_act: Activation,
    attention_bias: Option<bool>,
    #[serde(default)]
    use_sliding_window: Option<bool>,
    rope_parameters: Option<RopeParameters>,
    rope_scaling: Option<RopeParameters>,
    rope_theta: Option<f64>,
    /// Stands outside of this part of the file.
    #[serde(skip)]
    pub(super) family: Family,
}

impl TextConfig {
    pub(in crate::vlm) fn kv_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    pub(in crate::vlm) fn head_dim(&self) -> usize {
        let even = self.hidden_size / self.num_attention_heads.max(1);
        match self.family {
            Family::Qwen2_5Vl => even,
            Family::Qwen3Vl => self.head_dim.unwrap_or(even),
        }
    }

    pub(in crate::vlm) fn rope_theta(&self) -> f32 {
        let default = match self.family {
            Family::Qwen2_5Vl => 1e6,
            Family::Qwen3Vl => 5e5,
        };
        let nested = self.rope().and_then(|rope| rope.rope_theta);
        nested.or(self.rope_theta).unwrap_or(default) as f32
    }

    /// For each rotary frequency the axis that it turns with: 0 temporal, 1 vertical, 2 horizontal.
    ///
    /// Qwen2.5-VL gives each axis a run of frequencies. Qwen3-VL deals them out in turn, so that each axis has high and low
    /// ones; what is left over turns with the temporal axis.
    pub(in crate::vlm) fn rotary_axes(&self) -> Vec<usize> {
        let section = self.mrope_section();
        match self.family {
            Family::Qwen2_5Vl => (0..3)
                .flat_map(|axis| std::iter::repeat_n(axis, section[axis]))
                .collect(),
            Family::Qwen3Vl => (0..self.head_dim() / 2)
                .map(|i| if i < 3 * section[i % 3] { i % 3 } else { 0 })
                .collect(),
        }
    }

    /// Whether queries, keys and values have a bias.
    pub(in crate::vlm) fn qkv_bias(&self) -> Bias {
        match self.family {
            Family::Qwen2_5Vl => Bias::Added,
            Family::Qwen3Vl => self.output_bias(),
        }
    }

    /// Whether the attention's output has a bias.
    pub(in crate::vlm) fn output_bias(&self) -> Bias {
        if self.family == Family::Qwen3Vl && self.attention_bias == Some(true) {
            Bias::Added
        } else {
            Bias::None
        }
    }

    /// Whether each head's query and key are normalised.
    pub(in crate::vlm) fn normalizes_heads(&self) -> bool {
        self.family == Family::Qwen3Vl
    }

    /// Frequencies that turn with the temporal, vertical and horizontal position.
    fn mrope_section(&self) -> &[usize] {
        let default = match self.family {
            Family::Qwen2_5Vl => &[16, 24, 24],
            Family::Qwen3Vl => &[24, 20, 20],
        };
        self.rope()
            .and_then(|rope| rope.mrope_section.as_deref())
            .unwrap_or(default)
    }

    fn rope(&self) -> Option<&RopeParameters> {
        self.rope_scaling.as_ref().or(self.rope_parameters.as_ref())
    }

    pub(super) fn check(&self) -> Result<(), Refused> {
        if self.use_sliding_window == Some(true) {
            return Err(Refused::new("use_sliding_window", true, "false"));
        }
        let rope_type = match self.rope() {
            Some(rope) => rope.kind()?,
            None => "default",
        };
        if !matches!(rope_type, "default" | "mrope") {
            let found = format!("`{rope_type}`");
            return Err(Refused::new("rope_parameters.rope_type", found, "default or mrope"));
        }
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
        ];
        if let Some((key, size)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return Err(Refused::new(key, size, "at least 1"));
        }
        let (heads, keys) = (self.num_attention_heads, self.kv_heads());
        let shares_the_width = self.family == Family::Qwen3Vl || self.hidden_size.is_multiple_of(heads);
        if heads == 0 || !shares_the_width || keys == 0 || !heads.is_multiple_of(keys) {
            let found = format!("{heads} with width {} and {keys} key heads", self.hidden_size);
            return Err(Refused::new(
                "num_attention_heads",
                found,
                "a divisor of the width and a multiple of the key heads",
            ));
        }
        let section = self.mrope_section();
        let half = self.head_dim() / 2;
        if half == 0 || !self.head_dim().is_multiple_of(2) {
            return Err(Refused::new("head_dim", self.head_dim(), "an even number"));
        }
        if section.len() != 3 || section.iter().try_fold(0, |sum: usize, n| sum.checked_add(*n)) != Some(half) {
            let expected = format!("three numbers that add to half of the head dimension, {half}");
            return Err(Refused::new("mrope_section", format!("{section:?}"), expected));
        }
        if self.num_hidden_layers == 0 {
            return Err(Refused::new("num_hidden_layers", 0, "at least 1"));
        }
        Ok(())
    }
}
