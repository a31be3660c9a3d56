//! The vision tower's settings.

use serde::Deserialize;
use serde_json::Value;

use super::{Family, Refused, RopeParameters, TextConfig, part};
use crate::layers::Activation;
use crate::load::{size, sizes};

/// The vision tower.
#[derive(Debug, Deserialize)]
pub(in crate::vlm) struct VisionConfig {
    #[serde(deserialize_with = "size")]
    pub(in crate::vlm) depth: usize,
    #[serde(deserialize_with = "size")]
    pub(in crate::vlm) hidden_size: usize,
    #[serde(deserialize_with = "size")]
    pub(in crate::vlm) intermediate_size: usize,
    #[serde(deserialize_with = "size")]
    pub(in crate::vlm) num_heads: usize,
    #[serde(default = "rgb", deserialize_with = "size")]
    in_channels: usize,
    /// The older name of the same number. The text encoders of Qwen-Image's folders have both.
    #[serde(default = "rgb", deserialize_with = "size")]
    in_chans: usize,
    #[serde(deserialize_with = "size")]
    pub(in crate::vlm) patch_size: usize,
    #[serde(deserialize_with = "size")]
    pub(in crate::vlm) spatial_merge_size: usize,
    #[serde(deserialize_with = "size")]
    pub(in crate::vlm) temporal_patch_size: usize,
    #[serde(deserialize_with = "size")]
    pub(in crate::vlm) out_hidden_size: usize,
    pub(in crate::vlm) hidden_act: Activation,
    rope_parameters: Option<RopeParameters>,
    #[serde(skip)]
    pub(in crate::vlm) kind: VisionKind,
}

/// What only one architecture's tower has.
#[derive(Debug)]
pub(in crate::vlm) enum VisionKind {
    /// Qwen2.5-VL.
    Windowed(WindowConfig),
    /// Qwen3-VL.
    Deepstack(DeepstackConfig),
}

/// Blocks that attend within windows, but for those in the list.
#[derive(Debug, Default, Deserialize)]
pub(in crate::vlm) struct WindowConfig {
    #[serde(deserialize_with = "size")]
    pub(in crate::vlm) window_size: usize,
    #[serde(deserialize_with = "sizes")]
    pub(in crate::vlm) fullatt_block_indexes: Vec<usize>,
}

/// A learned position table, and blocks whose output goes to the first layers of the language model.
#[derive(Debug, Deserialize)]
pub(in crate::vlm) struct DeepstackConfig {
    #[serde(deserialize_with = "size")]
    pub(in crate::vlm) num_position_embeddings: usize,
    #[serde(deserialize_with = "sizes")]
    pub(in crate::vlm) deepstack_visual_indexes: Vec<usize>,
}

impl Default for VisionKind {
    fn default() -> Self {
        Self::Windowed(WindowConfig::default())
    }
}

fn rgb() -> usize {
    3
}

impl DeepstackConfig {
    /// Side of the square that the position table is.
    pub(in crate::vlm) fn side(&self) -> usize {
        self.num_position_embeddings.isqrt()
    }
}

impl VisionConfig {
    pub(super) fn read(value: &Value, family: Family) -> Result<Self, (String, serde_json::Error)> {
        const KEY: &str = "vision_config";
        let mut config: Self = part(KEY, value)?;
        config.kind = match family {
            Family::Qwen2_5Vl => VisionKind::Windowed(part(KEY, value)?),
            Family::Qwen3Vl => VisionKind::Deepstack(part(KEY, value)?),
        };
        Ok(config)
    }

    pub(in crate::vlm) fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }

    /// Width of the square of patches that becomes one token.
    pub(in crate::vlm) fn merged_width(&self) -> usize {
        self.hidden_size * self.spatial_merge_size * self.spatial_merge_size
    }

    pub(in crate::vlm) fn rope_theta(&self) -> f32 {
        const DEFAULT: f64 = 1e4;
        self.rope_parameters
            .as_ref()
            .and_then(|rope| rope.rope_theta)
            .unwrap_or(DEFAULT) as f32
    }

    pub(super) fn check(&self, text: &TextConfig) -> Result<(), Refused> {
        let refuse = |key: &str, found: String, expected: &str| {
            Err(Refused::new(format!("vision_config.{key}"), found, expected))
        };
        for (key, channels) in [("in_channels", self.in_channels), ("in_chans", self.in_chans)] {
            if channels != rgb() {
                return refuse(key, channels.to_string(), "3");
            }
        }
        for (key, size) in [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
        ] {
            if size == 0 {
                return refuse(key, size.to_string(), "at least 1");
            }
        }
        if self.num_heads == 0 || !self.hidden_size.is_multiple_of(self.num_heads) {
            return refuse("num_heads", self.num_heads.to_string(), "a divisor of the width");
        }
        if !self.head_dim().is_multiple_of(4) {
            let found = format!("{} for width {}", self.num_heads, self.hidden_size);
            return refuse("num_heads", found, "a head dimension that is a multiple of 4");
        }
        let merged = self.patch_size * self.spatial_merge_size;
        if merged == 0 || self.temporal_patch_size == 0 {
            let found = format!("{} in blocks of {}", self.patch_size, self.spatial_merge_size);
            return refuse("patch_size", found, "positive sizes");
        }
        if self.out_hidden_size != text.hidden_size {
            let expected = format!("the language model's width, {}", text.hidden_size);
            return refuse("out_hidden_size", self.out_hidden_size.to_string(), &expected);
        }
        match &self.kind {
            VisionKind::Windowed(windows) if windows.window_size < merged => refuse(
                "window_size",
                windows.window_size.to_string(),
                "at least one merged patch",
            ),
            VisionKind::Windowed(_) => Ok(()),
            VisionKind::Deepstack(deepstack) => {
                let (positions, levels) = (deepstack.num_position_embeddings, &deepstack.deepstack_visual_indexes);
                if positions == 0 || deepstack.side() * deepstack.side() != positions {
                    return refuse("num_position_embeddings", positions.to_string(), "a square number");
                }
                let ascending = levels.windows(2).all(|pair| pair[0] < pair[1]);
                let inside = levels.iter().all(|level| *level < self.depth);
                if !ascending || !inside || levels.len() > text.num_hidden_layers {
                    let expected = format!(
                        "ascending numbers below {}, at most as many as the language model has layers",
                        self.depth
                    );
                    return refuse("deepstack_visual_indexes", format!("{levels:?}"), &expected);
                }
                Ok(())
            }
        }
    }
}
