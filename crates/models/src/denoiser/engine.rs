//! What every family's denoiser does around its network: cut a batch into chunks, bring the adapter to the device once, keep
//! the tapes, add up the gradients.

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::Tensor;

use super::loader::{AdaptableLinear, BoundAdapter};
use super::{ActivationMemory, Conditioning, Input, Tape};
use crate::ModelError;
use crate::lora::{AdaptableLayers, LoraAdapter, LoraGradients};
use crate::ops::Backend;

/// A family's network on one backend.
pub(crate) trait Network<B: Backend>: Send + Sync {
    /// What a forward keeps for its backward.
    type Tape: Send + 'static;

    /// Every layer that an adapter can bind to.
    fn linears(&self) -> Vec<&AdaptableLinear<B>>;

    /// Token rows of one sample.
    fn tokens(&self, input: &Input<'_>) -> Result<usize, ModelError>;

    /// Predicts the velocity, (batch * tokens, channels), of an input that was checked. Returns a tape if `memory` asks for one.
    fn forward(
        &self,
        backend: &B,
        adapter: Option<&BoundAdapter<B>>,
        input: &Input<'_>,
        memory: Option<ActivationMemory>,
    ) -> Result<(B::Array, Option<Self::Tape>), ModelError>;

    /// Adds the gradient of sum(velocity * grad) to `gradients`; `grad` has the shape of what [`Self::forward`] returned.
    fn vjp(
        &self,
        backend: &B,
        adapter: &BoundAdapter<B>,
        tape: Self::Tape,
        grad: B::Array,
        gradients: &mut B::Gradients,
    ) -> Result<(), ModelError>;
}

/// A network on whatever backend it was loaded for.
pub(crate) trait Compute: Send + Sync {
    fn layers(&self) -> &AdaptableLayers;

    /// See [`super::Denoiser::velocity`]; the input was checked.
    fn velocity(&self, adapter: Option<&LoraAdapter>, input: &Input<'_>) -> Result<Tensor, ModelError>;

    /// See [`super::Denoiser::velocity_for_vjp`]; the input was checked.
    fn velocity_for_vjp(
        &self,
        adapter: &LoraAdapter,
        input: &Input<'_>,
        memory: ActivationMemory,
    ) -> Result<(Tensor, Tape), ModelError>;

    /// See [`super::Denoiser::vjp`].
    fn vjp(&self, adapter: &LoraAdapter, tape: Tape, grad: &Tensor, into: &mut LoraGradients)
    -> Result<(), ModelError>;
}

/// A network and the backend that it computes on.
pub(crate) struct Engine<B, N> {
    backend: B,
    network: N,
    layers: AdaptableLayers,
    /// Tells this instance's tapes and adapted weights from another's.
    id: u64,
}

/// The samples of each chunk of a batch, and what its forward kept.
type ChunkTapes<T> = Vec<(Range<usize>, T)>;

/// What an engine keeps in a [`Tape`].
struct KeptChunks<T> {
    engine: u64,
    chunks: ChunkTapes<T>,
}

impl<B: Backend, N: Network<B>> Engine<B, N> {
    pub(crate) fn new(backend: B, network: N, layers: AdaptableLayers) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        Self {
            backend,
            network,
            layers,
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// The adapter's weights where the network computes, made once per version of the adapter.
    fn bind(&self, adapter: &LoraAdapter) -> Result<Arc<BoundAdapter<B>>, ModelError> {
        if !adapter.fits(&self.layers) {
            let problem = "was made for a transformer of another architecture".to_owned();
            return Err(ModelError::Value {
                input: "adapter",
                problem,
            });
        }
        adapter.bound(self.id, || {
            BoundAdapter::new(&self.backend, self.network.linears(), &adapter.factors())
        })
    }
}

impl<B: Backend, N: Network<B>> Compute for Engine<B, N> {
    fn layers(&self) -> &AdaptableLayers {
        &self.layers
    }

    fn velocity(&self, adapter: Option<&LoraAdapter>, input: &Input<'_>) -> Result<Tensor, ModelError> {
        Ok(self.forward(adapter, input, None)?.0)
    }

    fn velocity_for_vjp(
        &self,
        adapter: &LoraAdapter,
        input: &Input<'_>,
        memory: ActivationMemory,
    ) -> Result<(Tensor, Tape), ModelError> {
        let (velocity, chunks) = self.forward(Some(adapter), input, Some(memory))?;
        let tape = Tape {
            shape: velocity.dims3()?,
            kept: Box::new(KeptChunks {
                engine: self.id,
                chunks,
            }),
        };
        Ok((velocity, tape))
    }

    fn vjp(
        &self,
        adapter: &LoraAdapter,
        tape: Tape,
        grad: &Tensor,
        into: &mut LoraGradients,
    ) -> Result<(), ModelError> {
        let parameters = adapter.parameter_count();
        tape.check_gradient(grad)?;
        if into.parameter_count() != parameters {
            let problem = format!("has {} values, the adapter {parameters}", into.parameter_count());
            return Err(ModelError::Value {
                input: "gradients",
                problem,
            });
        }
        let kept = self.kept(tape.kept)?;
        let bound = self.bind(adapter)?;
        let sums = self.backend.each_chunk(kept, |backend, (samples, tape)| {
            let grad = grad.narrow(0, samples.start, samples.len())?.flatten(0, 1)?;
            let mut gradients = backend.gradients(parameters);
            self.network
                .vjp(backend, &bound, tape, backend.array(&grad)?, &mut gradients)?;
            Ok(gradients)
        })?;
        into.accumulate(self.backend.total(sums)?)?;
        Ok(())
    }
}

impl<B: Backend, N: Network<B>> Engine<B, N> {
    /// The velocity, and for each chunk of the batch its samples and the tape, if `memory` asks for tapes.
    fn forward(
        &self,
        adapter: Option<&LoraAdapter>,
        input: &Input<'_>,
        memory: Option<ActivationMemory>,
    ) -> Result<(Tensor, ChunkTapes<N::Tape>), ModelError> {
        let bound = adapter.map(|adapter| self.bind(adapter)).transpose()?;
        let batch = input.latents.dim(0)?;
        let chunks = self.backend.chunks(batch, self.network.tokens(input)?);
        let results = self.backend.each_chunk(chunks, |backend, samples| {
            let chunk = Chunk::new(input, &samples)?;
            let (velocity, tape) = self
                .network
                .forward(backend, bound.as_deref(), &chunk.input(input), memory)?;
            Ok((samples, backend.tensor(velocity)?, tape))
        })?;
        let mut velocities = Vec::with_capacity(results.len());
        let mut tapes = Vec::with_capacity(results.len());
        for (samples, velocity, tape) in results {
            velocities.push(velocity);
            tapes.extend(tape.map(|tape| (samples, tape)));
        }
        let velocity = match velocities.as_slice() {
            [velocity] => velocity.clone(),
            velocities => Tensor::cat(velocities, 0)?,
        };
        Ok((velocity.reshape((batch, input.grid.tokens(), ()))?, tapes))
    }

    fn kept(&self, kept: Box<dyn Any + Send>) -> Result<ChunkTapes<N::Tape>, ModelError> {
        match kept.downcast::<KeptChunks<N::Tape>>() {
            Ok(kept) if kept.engine == self.id => Ok(kept.chunks),
            _ => Err(ModelError::Value {
                input: "tape",
                problem: "comes from another transformer".to_owned(),
            }),
        }
    }
}

impl Tape {
    fn check_gradient(&self, grad: &Tensor) -> Result<(), ModelError> {
        let (batch, tokens, channels) = self.shape;
        if grad.dims() == [batch, tokens, channels] {
            return Ok(());
        }
        Err(ModelError::Shape {
            input: "grad_velocity",
            expected: format!("the velocity's ({batch}, {tokens}, {channels})"),
            found: grad.dims().to_vec(),
        })
    }
}

/// The part of an input that belongs to a range of samples.
struct Chunk {
    samples: Range<usize>,
    latents: Tensor,
    conditioning: Conditioning,
}

impl Chunk {
    fn new(input: &Input<'_>, samples: &Range<usize>) -> Result<Self, ModelError> {
        let part = |tensor: &Tensor| Ok(tensor.narrow(0, samples.start, samples.len())?);
        Ok(Self {
            samples: samples.clone(),
            latents: part(input.latents)?,
            conditioning: input.conditioning.map(part)?,
        })
    }

    fn input<'a>(&'a self, whole: &Input<'a>) -> Input<'a> {
        Input {
            latents: &self.latents,
            conditioning: &self.conditioning,
            sigma: &whole.sigma[self.samples.clone()],
            ..*whole
        }
    }
}
