//! The adapter's weights.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{AdaptableLayers, LoraConfig, LoraError, targets};
use crate::ops::Factors;

/// One adapted linear layer and where its factors lie in the flat vector.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Slot {
    /// Path of the module, for example `transformer_blocks.0.attn.to_q`.
    pub(super) module: String,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// A, row-major (rank, inputs).
    pub(super) a: Range<usize>,
    /// B, row-major (outputs, rank).
    pub(super) b: Range<usize>,
    /// Index of the fused layer, and its output columns there.
    fused: usize,
    columns: Range<usize>,
}

/// The tensors of an adapter, in the order of their names.
#[derive(Debug, PartialEq)]
pub(super) struct Slots {
    pub(super) rank: usize,
    pub(super) slots: Vec<Slot>,
    pub(super) parameters: usize,
}

impl Slots {
    pub(super) fn new(config: &LoraConfig, layers: &AdaptableLayers) -> Result<Self, LoraError> {
        config.check()?;
        let rank = config.rank;
        let mut slots = Vec::new();
        let mut parameters = 0;
        for module in targets::resolve(&config.target_modules, layers)? {
            let found = &layers.layers[&module];
            let a = parameters..parameters + rank * found.inputs;
            let b = a.end..a.end + found.outputs * rank;
            parameters = b.end;
            let (inputs, outputs) = (found.inputs, found.outputs);
            slots.push(Slot {
                module,
                inputs,
                outputs,
                a,
                b,
                fused: found.fused,
                columns: found.columns.clone(),
            });
        }
        Ok(Self {
            rank,
            slots,
            parameters,
        })
    }

    fn manifest(&self) -> Manifest {
        let mut tensors = 0;
        let mut hash = Sha256::new();
        for (name, [rows, columns], _) in self.tensors() {
            hash.update(format!("{name} {rows} {columns}\n"));
            tensors += 1;
        }
        Manifest {
            tensors,
            parameters: self.parameters,
            names_sha256: hash.finalize().into(),
        }
    }

    /// (tensor name without prefix, shape, range in the flat vector), in that order.
    pub(super) fn tensors(&self) -> impl Iterator<Item = (String, [usize; 2], Range<usize>)> + '_ {
        self.slots.iter().flat_map(|slot| {
            [
                (
                    format!("{}.lora_A.weight", slot.module),
                    [self.rank, slot.inputs],
                    slot.a.clone(),
                ),
                (
                    format!("{}.lora_B.weight", slot.module),
                    [slot.outputs, self.rank],
                    slot.b.clone(),
                ),
            ]
        })
    }
}

/// Which tensors an adapter holds: equal for two adapters exactly if names and shapes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Tensors: two per adapted layer.
    pub tensors: usize,
    /// Trained numbers.
    pub parameters: usize,
    /// SHA-256 over one line `name rows columns` per tensor, sorted by name, each ended by a line feed.
    pub names_sha256: [u8; 32],
}

impl Manifest {
    /// What a new adapter with these settings would hold, made without any weights.
    ///
    /// # Errors
    /// As [`LoraAdapter::init`].
    pub fn of(config: &LoraConfig, layers: &AdaptableLayers) -> Result<Self, LoraError> {
        config.check_trainable()?;
        Ok(Slots::new(config, layers)?.manifest())
    }
}

/// LoRA weights, float32, bound to the layers of a network.
///
/// The flat order is by module path (byte-wise), A before B, each row-major.
#[derive(Debug)]
pub struct LoraAdapter {
    config: LoraConfig,
    pub(super) slots: Arc<Slots>,
    pub(super) values: Vec<f32>,
    bound: BoundCache,
}

/// The adapter as one transformer last computed with it.
#[derive(Debug, Default)]
struct BoundCache(Mutex<Option<(u64, Arc<dyn Any + Send + Sync>)>>);

impl Clone for LoraAdapter {
    fn clone(&self) -> Self {
        Self {
            config: self.config.clone(),
            slots: Arc::clone(&self.slots),
            values: self.values.clone(),
            bound: BoundCache::default(),
        }
    }
}

impl PartialEq for LoraAdapter {
    fn eq(&self, other: &Self) -> bool {
        self.config == other.config && self.slots == other.slots && self.values == other.values
    }
}

impl LoraAdapter {
    /// Makes a fresh adapter that changes nothing yet: A Kaiming-uniform with a = sqrt(5) as in peft, that is uniform in
    /// +-1 / sqrt(inputs); B zero.
    ///
    /// Each module draws from its own ChaCha20 stream, keyed by `seed` and the module's path, so that it starts equal whatever
    /// other targets there are.
    ///
    /// # Errors
    /// [`LoraError::UnknownTarget`], [`LoraError::FixedTarget`], or [`LoraError::Setting`] for a value out of range or a
    /// dropout above 0.
    pub fn init(layers: &AdaptableLayers, config: &LoraConfig, seed: [u8; 32]) -> Result<Self, LoraError> {
        config.check_trainable()?;
        let mut adapter = Self::zeros(config, Slots::new(config, layers)?);
        for slot in &adapter.slots.slots {
            let digest = Sha256::digest(slot.module.as_bytes());
            let mut stream = [0; 8];
            stream.copy_from_slice(&digest[..8]);
            let mut random = ChaCha20Rng::from_seed(seed);
            random.set_stream(u64::from_le_bytes(stream));
            let bound = 1.0 / (slot.inputs as f32).sqrt();
            for value in &mut adapter.values[slot.a.clone()] {
                // 24 random bits, centred in their interval, so that the draw is symmetric about zero.
                let unit = ((random.next_u32() >> 8) as f32 + 0.5) / 16_777_216.0;
                *value = bound * (2.0 * unit - 1.0);
            }
        }
        Ok(adapter)
    }

    /// An adapter of zeros, to be filled.
    pub(super) fn zeros(config: &LoraConfig, slots: Slots) -> Self {
        let values = vec![0.0; slots.parameters];
        Self {
            config: config.clone(),
            slots: Arc::new(slots),
            values,
            bound: BoundCache::default(),
        }
    }

    /// The same weights under the settings of a run, which say the same in other words at most: targets that mean the same layers, and an alpha
    /// that differs by a rounding.
    ///
    /// # Errors
    /// [`LoraError::OtherSettings`] where rank, alpha or the adapted layers differ; otherwise as [`Self::init`].
    pub fn with_settings(&self, config: &LoraConfig, layers: &AdaptableLayers) -> Result<Self, LoraError> {
        config.check_trainable()?;
        let other = |setting, needed: String, found: String| LoraError::OtherSettings { setting, needed, found };
        let found = &self.config;
        if config.rank != found.rank {
            return Err(other("rank", config.rank.to_string(), found.rank.to_string()));
        }
        if !config.has_alpha(found.alpha) {
            return Err(other("alpha", config.alpha.to_string(), found.alpha.to_string()));
        }
        let slots = Slots::new(config, layers)?;
        let modules = |slots: &Slots| {
            slots
                .slots
                .iter()
                .map(|slot| slot.module.clone())
                .collect::<BTreeSet<_>>()
        };
        let (needed, held) = (modules(&slots), modules(&self.slots));
        if needed != held {
            let only = |some: &BTreeSet<String>, others: &BTreeSet<String>| match some.difference(others).next() {
                Some(first) => format!("{} layers, `{first}` among them", some.len()),
                None => format!("{} layers and no other", some.len()),
            };
            return Err(other("target_modules", only(&needed, &held), only(&held, &needed)));
        }
        let mut adapter = Self::zeros(config, slots);
        adapter.values.copy_from_slice(&self.values);
        Ok(adapter)
    }

    /// The settings it was made with.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// Paths of the adapted modules, sorted.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.slots.slots.iter().map(|slot| slot.module.as_str())
    }

    /// Each tensor's PEFT name without prefix (`<module>.lora_A.weight`), its shape, and its range in the flat order.
    pub fn tensors(&self) -> impl Iterator<Item = (String, [usize; 2], Range<usize>)> + '_ {
        self.slots.tensors()
    }

    /// Trained numbers.
    pub fn parameter_count(&self) -> usize {
        self.slots.parameters
    }

    /// Names and shapes, hashed.
    pub fn manifest(&self) -> Manifest {
        self.slots.manifest()
    }

    /// All weights in the flat order.
    pub fn flatten(&self) -> Vec<f32> {
        self.values.clone()
    }

    /// Replaces all weights.
    ///
    /// # Errors
    /// [`LoraError::Count`] when `flat` has another length than [`Self::parameter_count`].
    pub fn unflatten(&mut self, flat: &[f32]) -> Result<(), LoraError> {
        if flat.len() != self.values.len() {
            return Err(LoraError::Count {
                expected: self.values.len(),
                found: flat.len(),
            });
        }
        self.values.copy_from_slice(flat);
        self.bound = BoundCache::default();
        Ok(())
    }

    /// Whether the adapter was made for these layers, or for others that are the same where it adapts them.
    pub(crate) fn fits(&self, layers: &AdaptableLayers) -> bool {
        self.slots.slots.iter().all(|slot| {
            layers.layers.get(&slot.module).is_some_and(|layer| {
                (layer.inputs, layer.outputs, layer.fused, &layer.columns)
                    == (slot.inputs, slot.outputs, slot.fused, &slot.columns)
            })
        })
    }

    /// The factors by fused layer, each layer's in the order of its columns.
    pub(crate) fn factors(&self) -> BTreeMap<usize, Vec<Factors<'_>>> {
        let mut layers: BTreeMap<usize, Vec<Factors>> = BTreeMap::new();
        for slot in &self.slots.slots {
            layers.entry(slot.fused).or_default().push(Factors {
                columns: slot.columns.clone(),
                rank: self.slots.rank,
                scale: self.config.scale(),
                a: &self.values[slot.a.clone()],
                b: &self.values[slot.b.clone()],
                a_offset: slot.a.start,
                b_offset: slot.b.start,
            });
        }
        layers
            .values_mut()
            .for_each(|parts| parts.sort_by_key(|part| part.columns.start));
        layers
    }

    /// What `make` made of this version of the weights for the transformer `owner`, made once.
    pub(crate) fn bound<T: Any + Send + Sync, E>(
        &self,
        owner: u64,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        let mut cache = self.bound.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((cached_owner, bound)) = &*cache
            && *cached_owner == owner
            && let Ok(bound) = Arc::clone(bound).downcast::<T>()
        {
            return Ok(bound);
        }
        let bound = Arc::new(make()?);
        *cache = Some((owner, bound.clone()));
        Ok(bound)
    }
}
