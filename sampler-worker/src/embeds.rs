//! Text embeddings by prompt.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use gavel_models::{ModelError, flux::pipeline::FluxPipeline};
use rayon::prelude::*;

/// Both encoders' output for one prompt, float32.
#[derive(Debug)]
pub(crate) struct Embeds {
    /// T5, (text_tokens, joint).
    pub(crate) prompt: Vec<f32>,
    pub(crate) text_tokens: usize,
    pub(crate) joint: usize,
    /// CLIP, (pooled,).
    pub(crate) pooled: Vec<f32>,
}

/// Keeps the embeddings of the prompts seen last. Each prompt is encoded by itself, so its embedding is the same whether or
/// not it was cached and whatever stood beside it.
#[derive(Debug, Default)]
pub(crate) struct EmbedCache {
    entries: BTreeMap<(String, usize), Arc<Embeds>>,
    /// Keys from the oldest to the newest.
    order: VecDeque<(String, usize)>,
}

impl EmbedCache {
    /// Prompts kept; 512 prompts of FLUX.1-dev take about 4 GiB, of a small model next to nothing.
    const ENTRIES_MAX: usize = 512;

    /// The embeddings of `prompts`, in their order.
    pub(crate) fn get(
        &mut self,
        pipeline: &FluxPipeline,
        prompts: &[&str],
        max_sequence_length: usize,
    ) -> Result<Vec<Arc<Embeds>>, ModelError> {
        let fetched: Vec<Arc<Embeds>> = prompts
            .par_iter()
            .map(
                |prompt| match self.entries.get(&((*prompt).to_owned(), max_sequence_length)) {
                    Some(embeds) => Ok(embeds.clone()),
                    None => encode(pipeline, prompt, max_sequence_length).map(Arc::new),
                },
            )
            .collect::<Result<_, _>>()?;
        for (prompt, embeds) in prompts.iter().zip(&fetched) {
            self.insert(((*prompt).to_owned(), max_sequence_length), embeds.clone());
        }
        Ok(fetched)
    }

    fn insert(&mut self, key: (String, usize), embeds: Arc<Embeds>) {
        if self.entries.insert(key.clone(), embeds).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > Self::ENTRIES_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.entries.remove(&oldest);
            }
        }
    }
}

fn encode(pipeline: &FluxPipeline, prompt: &str, max_sequence_length: usize) -> Result<Embeds, ModelError> {
    let embeds = pipeline.encode_prompts(&[prompt], max_sequence_length)?;
    let (_, text_tokens, joint) = embeds.prompt_embeds.dims3()?;
    let values = |tensor: &candle_core::Tensor| tensor.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1();
    Ok(Embeds {
        prompt: values(&embeds.prompt_embeds)?,
        text_tokens,
        joint,
        pooled: values(&embeds.pooled_prompt_embeds)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_prompt_leaves_a_full_cache() {
        let mut cache = EmbedCache::default();
        let embeds = Arc::new(Embeds {
            prompt: vec![],
            text_tokens: 0,
            joint: 0,
            pooled: vec![],
        });
        for index in 0..=EmbedCache::ENTRIES_MAX {
            cache.insert((index.to_string(), 24), embeds.clone());
        }
        assert_eq!(cache.entries.len(), EmbedCache::ENTRIES_MAX);
        assert!(!cache.entries.contains_key(&("0".to_owned(), 24)));
        assert!(cache.entries.contains_key(&("1".to_owned(), 24)));
    }
}
