//! What is kept of the tokens before.

use crate::ModelError;
use crate::ops::candle::Calls;

/// Keys and values of a stretch of a prompt, with those of the stretches before it. Nobody writes to them: any number of prompts may go on from
/// them, and each joins them with its own.
pub(in crate::vlm) struct Past<'a, T> {
    pub(super) before: Option<&'a Past<'a, T>>,
    /// Of each layer the stretch's keys and values (tokens, kv_heads * head_dim).
    pub(super) layers: Vec<KeysAndValues<T>>,
    /// Tokens of all stretches.
    pub(super) tokens: usize,
    /// Rotary position of the next token.
    pub(super) next_position: usize,
}

/// Keys and values of some tokens in one layer.
#[derive(Debug, Clone)]
pub(super) struct KeysAndValues<T> {
    pub(super) k: T,
    pub(super) v: T,
}

impl<T: Calls> Past<'_, T> {
    /// The keys and values of a layer, from the first token to those of a stretch that follows.
    pub(super) fn joined(&self, layer: usize, own: &KeysAndValues<T>) -> Result<KeysAndValues<T>, ModelError> {
        let (mut keys, mut values) = (vec![own.k.clone()], vec![own.v.clone()]);
        let mut stretch = Some(self);
        while let Some(past) = stretch {
            keys.push(past.layers[layer].k.clone());
            values.push(past.layers[layer].v.clone());
            stretch = past.before;
        }
        keys.reverse();
        values.reverse();
        Ok(KeysAndValues {
            k: T::cat(&keys, 0)?,
            v: T::cat(&values, 0)?,
        })
    }
}
