//! The conditioning of tasks, kept where the denoiser computes.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use gavel_core::ids::Digest;
use gavel_models::{
    ModelError,
    denoiser::{Conditioning, Denoiser, Encoding, Pipeline, Task},
};
use image::RgbImage;
use rayon::prelude::*;

/// What a task's conditioning depends on besides the pipeline.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    words: String,
    sources: Vec<Digest>,
    encoding: Encoding,
}

impl Key {
    fn new(task: &Task<'_>, encoding: Encoding) -> Self {
        Self {
            words: task.words.to_owned(),
            sources: task.sources.iter().map(pixels).collect(),
            encoding,
        }
    }
}

/// Names a picture by its size and pixels.
fn pixels(picture: &RgbImage) -> Digest {
    let mut bytes = Vec::with_capacity(picture.as_raw().len() + 2 * size_of::<u32>());
    bytes.extend_from_slice(&picture.width().to_le_bytes());
    bytes.extend_from_slice(&picture.height().to_le_bytes());
    bytes.extend_from_slice(picture.as_raw());
    Digest::of(&bytes)
}

/// Keeps the conditioning of the tasks seen last, on the denoiser's device. Each task is encoded by itself, so its
/// conditioning is the same whether or not it was cached and whatever stood beside it.
#[derive(Debug, Default)]
pub(super) struct ConditioningCache {
    entries: BTreeMap<Key, Entry>,
    /// Keys from the oldest to the newest.
    order: VecDeque<Key>,
    /// What all entries take.
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    conditioning: Arc<Conditioning>,
    /// Whether it was read from a file rather than made here.
    handed: bool,
}

impl Entry {
    fn bytes(&self) -> usize {
        bytes(&self.conditioning)
    }
}

/// Memory that the entries of a denoiser's cache may take together.
pub(super) fn bytes_max(denoiser: &dyn Denoiser) -> usize {
    match denoiser.device().is_cpu() {
        true => ConditioningCache::HOST_BYTES_MAX,
        false => ConditioningCache::DEVICE_BYTES_MAX,
    }
}

impl ConditioningCache {
    /// Memory that entries may take together. A prompt of FLUX.1-dev takes about 8 MiB, one of a small model next to nothing.
    const HOST_BYTES_MAX: usize = 4 << 30;
    /// The same on an accelerator, where the weights need the room.
    const DEVICE_BYTES_MAX: usize = 1 << 30;

    /// The conditioning of `tasks`, in their order.
    ///
    /// # Errors
    /// As [`Pipeline::condition`].
    pub(super) fn get(
        &mut self,
        pipeline: &dyn Pipeline,
        tasks: &[Task<'_>],
        encoding: Encoding,
    ) -> Result<Vec<Arc<Conditioning>>, ModelError> {
        let keys: Vec<Key> = tasks.iter().map(|task| Key::new(task, encoding)).collect();
        let one = |(key, task): (&Key, &Task<'_>)| match self.entries.get(key) {
            Some(entry) => Ok(entry.conditioning.clone()),
            None => pipeline.condition(task, &encoding).map(Arc::new),
        };
        let fetched: Result<Vec<Arc<Conditioning>>, ModelError> = match pipeline.denoiser().placement().is_host() {
            true => keys.par_iter().zip(tasks).map(one).collect(),
            false => keys.iter().zip(tasks).map(one).collect(),
        };
        let fetched = fetched?;
        let bytes_max = bytes_max(pipeline.denoiser());
        for (key, conditioning) in keys.into_iter().zip(&fetched) {
            let handed = self.entries.get(&key).is_some_and(|entry| entry.handed);
            let conditioning = conditioning.clone();
            self.insert(key, Entry { conditioning, handed }, bytes_max);
        }
        Ok(fetched)
    }

    /// Whether the conditioning of a task is kept.
    pub(super) fn contains(&self, task: &Task<'_>, encoding: Encoding) -> bool {
        self.entries.contains_key(&Key::new(task, encoding))
    }

    /// Keeps a task's conditioning that somebody else has made.
    pub(super) fn hand(&mut self, task: &Task<'_>, encoding: Encoding, conditioning: Conditioning, bytes_max: usize) {
        let entry = Entry {
            conditioning: Arc::new(conditioning),
            handed: true,
        };
        self.insert(Key::new(task, encoding), entry, bytes_max);
    }

    /// Forgets what others have made.
    pub(super) fn forget_handed(&mut self) {
        self.entries.retain(|_, entry| !entry.handed);
        self.order.retain(|key| self.entries.contains_key(key));
        self.bytes = self.entries.values().map(Entry::bytes).sum();
    }

    fn insert(&mut self, key: Key, entry: Entry, bytes_max: usize) {
        self.bytes += entry.bytes();
        match self.entries.insert(key.clone(), entry) {
            Some(known) => self.bytes -= known.bytes(),
            None => self.order.push_back(key),
        }
        while self.bytes > bytes_max
            && let Some(oldest) = self.order.pop_front()
        {
            if let Some(left) = self.entries.remove(&oldest) {
                self.bytes -= left.bytes();
            }
        }
    }
}

fn bytes(conditioning: &Conditioning) -> usize {
    let tensors = conditioning.iter();
    tensors
        .map(|(_, tensor)| tensor.elem_count() * tensor.dtype().size_in_bytes())
        .sum()
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;

    const ENCODING: Encoding = Encoding {
        max_sequence_length: 24,
        source_areas: None,
    };

    #[test]
    fn the_oldest_task_leaves_a_full_cache() {
        let mut cache = ConditioningCache::default();
        let mut conditioning = Conditioning::default();
        let tensor = Tensor::zeros(25, DType::F32, &Device::Cpu).unwrap();
        conditioning.insert("words", tensor);
        let conditioning = Arc::new(conditioning);
        let entry = |handed| Entry {
            conditioning: conditioning.clone(),
            handed,
        };
        let key = |index: usize| {
            let words = index.to_string();
            Key::new(
                &Task {
                    words: &words,
                    sources: &[],
                },
                ENCODING,
            )
        };
        for index in [0, 0, 1, 2] {
            cache.insert(key(index), entry(index == 2), 250);
        }
        assert_eq!((cache.entries.len(), cache.bytes), (2, 200));
        assert!(!cache.entries.contains_key(&key(0)));
        assert!(cache.entries.contains_key(&key(1)));
        cache.forget_handed();
        assert_eq!((cache.entries.len(), cache.order.len(), cache.bytes), (1, 1, 100));
    }

    #[test]
    fn the_same_words_over_another_source_are_another_task() {
        let sources = [RgbImage::new(2, 3), RgbImage::new(3, 2)];
        let keys = sources.each_ref().map(|source| {
            let task = Task {
                words: "make it red",
                sources: std::slice::from_ref(source),
            };
            Key::new(&task, ENCODING)
        });
        assert_ne!(keys[0], keys[1]);
    }
}
