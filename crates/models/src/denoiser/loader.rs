//! Layers by name: what a family's network is read from, and which of its layers take an adapter.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Display;

use candle_core::Tensor;

use crate::layers::RmsNorm;
use crate::load::WeightCounts;
use crate::lora::AdaptableLayers;
use crate::ops::{Backend, Factors, FrozenWeight};
use crate::{LoadError, ModelError, Weights};

/// Whether a linear layer's weight is kept in fewer bits where a placement says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precision {
    /// It is not: the layers before the first block and after the last one, which are small, and whose errors every block would carry on.
    Whole,
    /// It is: the layers of blocks, which hold nearly all of a network's numbers.
    Quantizable,
}

/// What becomes of the layers of a network while it is walked.
///
/// Every backend reads the weights. [`Headers`] only checks that they are there, so that an adapter can be bound to a folder
/// without loading it, by the walk that loads it.
pub(crate) trait LayerSource {
    /// A frozen linear layer.
    type Projection;
    /// RMS norm weights of queries and keys.
    type HeadNorm;
    /// A frozen RMS norm of an input.
    type RmsNorm;

    /// Takes the linear layers (path, outputs), which read the same input, as one.
    fn linear(
        &self,
        weights: &Weights,
        inputs: usize,
        parts: &[(String, usize)],
        precision: Precision,
    ) -> Result<Self::Projection, LoadError>;

    /// Takes the query and key norm of these paths, each (head_dim,).
    fn head_norm(&self, weights: &Weights, paths: [&str; 2], head_dim: usize) -> Result<Self::HeadNorm, LoadError>;

    /// Takes the RMS norm of this path over `width` columns.
    fn rms_norm(&self, weights: &Weights, path: &str, width: usize) -> Result<Self::RmsNorm, LoadError>;
}

/// Epsilon of the RMS norms of inputs.
const RMS_NORM_EPSILON: f64 = 1e-6;

impl<B: Backend> LayerSource for B {
    type Projection = <B as Backend>::Projection;
    type HeadNorm = <B as Backend>::HeadNorm;
    type RmsNorm = RmsNorm;

    fn linear(
        &self,
        weights: &Weights,
        inputs: usize,
        parts: &[(String, usize)],
        precision: Precision,
    ) -> Result<Self::Projection, LoadError> {
        let (mut matrices, mut biases) = (Vec::with_capacity(parts.len()), Vec::with_capacity(parts.len()));
        for (path, outputs) in parts {
            let (name, shape) = (format!("{path}.weight"), [*outputs, inputs]);
            matrices.push(match precision {
                Precision::Whole => FrozenWeight::Whole(weights.matrix(&name, &shape)?),
                Precision::Quantizable => weights.quantizable(&name, &shape)?,
            });
            biases.push(weights.get(&format!("{path}.bias"), &[*outputs])?);
        }
        let weight = FrozenWeight::join(matrices).map_err(|source| weights.candle(source))?;
        let bias = Tensor::cat(&biases, 0).map_err(|source| weights.candle(source))?;
        self.projection(&weight, &bias).map_err(|error| failed(weights, error))
    }

    fn head_norm(&self, weights: &Weights, paths: [&str; 2], head_dim: usize) -> Result<Self::HeadNorm, LoadError> {
        let weight = |path: &str| weights.get(&format!("{path}.weight"), &[head_dim]);
        let [query, key] = paths;
        Backend::head_norm(self, &weight(query)?, &weight(key)?).map_err(|error| failed(weights, error))
    }

    fn rms_norm(&self, weights: &Weights, path: &str, width: usize) -> Result<RmsNorm, LoadError> {
        RmsNorm::load(weights, path, width, RMS_NORM_EPSILON)
    }
}

fn failed(weights: &Weights, error: ModelError) -> LoadError {
    weights.candle(match error {
        ModelError::Candle(source) => source,
        other => candle_core::Error::Msg(other.to_string()),
    })
}

/// Names and shapes alone.
#[derive(Debug, Default)]
pub(crate) struct Headers {
    /// The weights that may be quantized.
    quantizable: Cell<WeightCounts>,
}

impl Headers {
    /// What was walked through, of a folder's weights.
    pub(crate) fn counts(&self, weights: &Weights) -> WeightCounts {
        let quantizable = self.quantizable.get();
        quantizable + WeightCounts::whole(weights.parameters().saturating_sub(quantizable.quantizable))
    }
}

impl LayerSource for Headers {
    type Projection = ();
    type HeadNorm = ();
    type RmsNorm = ();

    fn linear(
        &self,
        weights: &Weights,
        inputs: usize,
        parts: &[(String, usize)],
        precision: Precision,
    ) -> Result<(), LoadError> {
        for (path, outputs) in parts {
            weights.check(&format!("{path}.weight"), &[*outputs, inputs])?;
            weights.check(&format!("{path}.bias"), &[*outputs])?;
            if precision == Precision::Quantizable {
                let before = self.quantizable.get();
                self.quantizable.set(before + WeightCounts::matrix(*outputs, inputs));
            }
        }
        Ok(())
    }

    fn head_norm(&self, weights: &Weights, paths: [&str; 2], head_dim: usize) -> Result<(), LoadError> {
        paths
            .into_iter()
            .try_for_each(|path| weights.check(&format!("{path}.weight"), &[head_dim]))
    }

    fn rms_norm(&self, weights: &Weights, path: &str, width: usize) -> Result<(), LoadError> {
        weights.check(&format!("{path}.weight"), &[width])
    }
}

/// Linear layers that read the same input and are computed as one; each of them can take an adapter.
pub(crate) struct AdaptableLinear<S: LayerSource> {
    /// Index of the fused layer among the [`AdaptableLayers`].
    pub(crate) index: usize,
    pub(crate) projection: S::Projection,
}

/// Takes layers by their names below a path, and keeps the list of those that take an adapter.
pub(crate) struct Loader<'a, S> {
    source: &'a S,
    weights: &'a Weights,
    layers: &'a mut AdaptableLayers,
    path: String,
    precision: Precision,
}

impl<'a, S: LayerSource> Loader<'a, S> {
    /// Starts at the root of a component folder.
    pub(crate) fn new(source: &'a S, weights: &'a Weights, layers: &'a mut AdaptableLayers) -> Self {
        Self {
            source,
            weights,
            layers,
            path: String::new(),
            precision: Precision::Whole,
        }
    }

    /// The loader of what lies below `name`.
    pub(crate) fn pp(&mut self, name: impl Display) -> Loader<'_, S> {
        let path = self.join(name);
        Loader {
            source: self.source,
            weights: self.weights,
            layers: self.layers,
            path,
            precision: self.precision,
        }
    }

    /// The loader of a block of a list of blocks.
    pub(crate) fn block(&mut self, list: &str, index: usize) -> Loader<'_, S> {
        Loader {
            precision: Precision::Quantizable,
            ..self.pp(format_args!("{list}.{index}"))
        }
    }

    fn join(&self, name: impl Display) -> String {
        if self.path.is_empty() {
            name.to_string()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    /// Takes a linear layer that can take an adapter.
    pub(crate) fn linear(
        &mut self,
        name: &str,
        inputs: usize,
        outputs: usize,
    ) -> Result<AdaptableLinear<S>, LoadError> {
        self.fused_linear(&[name], inputs, outputs)
    }

    /// Takes linear layers of equal shape that read the same input, as one.
    pub(crate) fn fused_linear(
        &mut self,
        names: &[&str],
        inputs: usize,
        outputs: usize,
    ) -> Result<AdaptableLinear<S>, LoadError> {
        let parts: Vec<(String, usize)> = names.iter().map(|name| (self.join(name), outputs)).collect();
        let projection = self.source.linear(self.weights, inputs, &parts, self.precision)?;
        let index = self.layers.add(inputs, parts);
        Ok(AdaptableLinear { index, projection })
    }

    /// Takes a linear layer that cannot take an adapter.
    pub(crate) fn fixed_linear(
        &mut self,
        name: &str,
        inputs: usize,
        outputs: usize,
    ) -> Result<S::Projection, LoadError> {
        let path = self.join(name);
        let parts = [(path.clone(), outputs)];
        let projection = self.source.linear(self.weights, inputs, &parts, self.precision)?;
        self.layers.add_fixed(path);
        Ok(projection)
    }

    /// Takes the norms of queries and keys.
    pub(crate) fn head_norm(&mut self, query: &str, key: &str, head_dim: usize) -> Result<S::HeadNorm, LoadError> {
        let (query, key) = (self.join(query), self.join(key));
        self.source.head_norm(self.weights, [&query, &key], head_dim)
    }

    /// Takes the RMS norm of an input.
    pub(crate) fn rms_norm(&mut self, name: &str, width: usize) -> Result<S::RmsNorm, LoadError> {
        self.source.rms_norm(self.weights, &self.join(name), width)
    }
}

/// An adapter brought to a device.
pub(crate) struct BoundAdapter<B: Backend> {
    /// One entry per fused layer.
    layers: Vec<Option<B::Adapted>>,
}

impl<B: Backend> BoundAdapter<B> {
    /// Brings the factors, by fused layer, to where `linears` compute.
    pub(crate) fn new<'a>(
        backend: &B,
        linears: impl IntoIterator<Item = &'a AdaptableLinear<B>>,
        factors: &BTreeMap<usize, Vec<Factors>>,
    ) -> Result<Self, ModelError> {
        let mut layers = Vec::new();
        for linear in linears {
            if let Some(factors) = factors.get(&linear.index) {
                if layers.len() <= linear.index {
                    layers.resize_with(linear.index + 1, || None);
                }
                layers[linear.index] = Some(backend.adapt(&linear.projection, factors)?);
            }
        }
        Ok(Self { layers })
    }

    /// The layer with its adapter, if it has one.
    pub(crate) fn get(&self, linear: &AdaptableLinear<B>) -> Option<&B::Adapted> {
        self.layers.get(linear.index).and_then(Option::as_ref)
    }

    /// The first of a network's stages, in the order in which they run, that has an adapter; their number if none has.
    pub(crate) fn first_stage(&self, stages: &[Vec<&AdaptableLinear<B>>]) -> usize {
        stages
            .iter()
            .position(|linears| linears.iter().any(|linear| self.get(linear).is_some()))
            .unwrap_or(stages.len())
    }
}
