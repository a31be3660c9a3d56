//! What the operations would have a GPU do, counted on shapes alone.
//!
//! candle 0.11.1's rules: which calls are views, which copy what is not contiguous, how many kernels a call launches.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Layout, Result, Shape, Tensor};

use super::kernels::Operation;
use super::{Calls, Function};
use crate::ops::Kernels;

/// One kernel.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    pub(crate) name: &'static str,
    pub(crate) dtype: DType,
    /// Of what it writes.
    pub(crate) shape: Vec<usize>,
    /// Whether everything that it reads is contiguous.
    pub(crate) contiguous: bool,
    /// Read and written, each element once.
    pub(crate) bytes: u64,
}

/// The kernels so far, in their order, and the memory that tensors have.
#[derive(Debug, Clone, Default)]
pub(crate) struct Record {
    kernels: Arc<Mutex<Vec<Kernel>>>,
    uploads: Arc<Uploads>,
    memory: Arc<Memory>,
}

/// What went from the process's memory to the device.
#[derive(Debug, Default)]
struct Uploads {
    count: AtomicU64,
    bytes: AtomicU64,
}

/// Bytes of the tensors that live, and the most that lived at a time since somebody asked.
#[derive(Debug, Default)]
struct Memory {
    live: AtomicU64,
    most: AtomicU64,
}

/// The memory of a tensor, which its views share.
#[derive(Debug)]
struct Allocation {
    bytes: u64,
    memory: Arc<Memory>,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        self.memory.live.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Kernels and the bytes that they move.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) kernels: i64,
    pub(crate) bytes: i64,
}

impl Cost {
    pub(crate) fn plus(self, other: Self, times: i64) -> Self {
        Self {
            kernels: self.kernels + times * other.kernels,
            bytes: self.bytes + times * other.bytes,
        }
    }
}

impl Record {
    fn note(&self, kernel: Kernel) {
        self.kernels.lock().unwrap_or_else(PoisonError::into_inner).push(kernel);
    }

    fn allocate(&self, shape: &Shape, dtype: DType) -> Arc<Allocation> {
        let bytes = (shape.elem_count() * dtype.size_in_bytes()) as u64;
        let live = self.memory.live.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.memory.most.fetch_max(live, Ordering::Relaxed);
        Arc::new(Allocation {
            bytes,
            memory: Arc::clone(&self.memory),
        })
    }

    fn upload(&self, bytes: usize) {
        self.uploads.count.fetch_add(1, Ordering::Relaxed);
        self.uploads.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// How often something went from the process's memory to the device since the last time, and how many bytes.
    pub(crate) fn take_uploads(&self) -> (u64, u64) {
        let Uploads { count, bytes } = &*self.uploads;
        (count.swap(0, Ordering::Relaxed), bytes.swap(0, Ordering::Relaxed))
    }

    /// Bytes of the tensors that live.
    pub(crate) fn live(&self) -> i64 {
        self.memory.live.load(Ordering::Relaxed) as i64
    }

    /// The most bytes that tensors had at a time since the last time.
    pub(crate) fn take_most(&self) -> i64 {
        self.memory
            .most
            .swap(self.memory.live.load(Ordering::Relaxed), Ordering::Relaxed) as i64
    }

    /// What was recorded since the last time.
    pub(crate) fn take(&self) -> Vec<Kernel> {
        std::mem::take(&mut *self.kernels.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub(crate) fn cost(kernels: &[Kernel]) -> Cost {
    Cost {
        kernels: kernels.len() as i64,
        bytes: kernels.iter().map(|kernel| kernel.bytes as i64).sum(),
    }
}

/// The cost of each kind and shape of kernel, the dearest first, as text.
pub(crate) fn by_name(kernels: &[Kernel]) -> String {
    let mut sums: BTreeMap<String, Cost> = BTreeMap::new();
    for kernel in kernels {
        let strided = if kernel.contiguous { "" } else { " strided" };
        let name = format!("{} {:?} {:?}{strided}", kernel.name, kernel.dtype, kernel.shape);
        let sum = sums.entry(name).or_default();
        *sum = sum.plus(cost(std::slice::from_ref(kernel)), 1);
    }
    let mut lines: Vec<(String, Cost)> = sums.into_iter().collect();
    lines.sort_by_key(|(_, cost)| -cost.bytes);
    let line = |(name, cost): &(String, Cost)| {
        format!(
            "{:6} kernels {:9.3} GB  {name}\n",
            cost.kernels,
            cost.bytes as f64 / 1e9
        )
    };
    lines.iter().map(line).collect()
}

/// A tensor without values.
#[derive(Debug, Clone)]
pub(crate) struct Counted {
    layout: Layout,
    dtype: DType,
    record: Record,
    #[expect(dead_code, reason = "frees its bytes when the last view of them goes")]
    allocation: Arc<Allocation>,
}

impl Counted {
    /// One that is there without a kernel, as a weight is.
    pub(crate) fn new(shape: impl Into<Shape>, dtype: DType, record: &Record) -> Self {
        let shape = shape.into();
        Self {
            allocation: record.allocate(&shape, dtype),
            layout: Layout::contiguous(shape),
            dtype,
            record: record.clone(),
        }
    }

    fn made(&self, shape: impl Into<Shape>, dtype: DType) -> Self {
        Self::new(shape, dtype, &self.record)
    }

    fn view(&self, layout: Layout) -> Self {
        Self { layout, ..self.clone() }
    }

    /// Bytes of the elements that are there; those that a size was expanded by are read from the cache.
    fn bytes(&self) -> u64 {
        let sizes = self.layout.dims().iter().zip(self.layout.stride());
        let elements: usize = sizes.filter(|(_, stride)| **stride > 0).map(|(size, _)| size).product();
        (elements * self.dtype.size_in_bytes()) as u64
    }

    /// A kernel that reads `inputs` and makes a tensor.
    fn kernel(name: &'static str, inputs: &[&Self], shape: impl Into<Shape>, dtype: DType) -> Self {
        let output = inputs[0].made(shape, dtype);
        output.record.note(Kernel {
            name,
            dtype,
            shape: output.dims().to_vec(),
            contiguous: inputs.iter().all(|input| input.layout.is_contiguous()),
            bytes: output.bytes() + inputs.iter().map(|input| input.bytes()).sum::<u64>(),
        });
        output
    }

    fn elementwise(&self, name: &'static str) -> Result<Self> {
        Ok(Self::kernel(name, &[self], self.dims(), self.dtype))
    }

    fn binary(&self, name: &'static str, other: &Self) -> Result<Self> {
        if self.dtype != other.dtype {
            candle_core::bail!("{name} of {:?} and {:?}", self.dtype, other.dtype);
        }
        let rank = self.dims().len().max(other.dims().len());
        let padded = |dims: &[usize]| [vec![1; rank - dims.len()], dims.to_vec()].concat();
        let (a, b) = (padded(self.dims()), padded(other.dims()));
        let mut shape = Vec::with_capacity(rank);
        for (a, b) in a.iter().zip(&b) {
            if a != b && *a != 1 && *b != 1 {
                candle_core::bail!("{name} of {:?} and {:?}", self.dims(), other.dims());
            }
            shape.push(*a.max(b));
        }
        Ok(Self::kernel(name, &[self, other], shape, self.dtype))
    }
}

impl Calls for Counted {
    type Place = Record;

    fn upload(values: &[f32], shape: impl Into<Shape>, place: &Record) -> Result<Self> {
        place.upload(size_of_val(values));
        Ok(Self::new(shape, DType::F32, place))
    }

    fn take(tensor: &Tensor, place: &Record) -> Result<Self> {
        let taken = Self::new(tensor.dims(), tensor.dtype(), place);
        Ok(taken.view(tensor.layout().clone()))
    }

    fn give(self) -> Result<Tensor> {
        Tensor::zeros(self.dims(), self.dtype, &Device::Cpu)
    }

    fn zeros(shape: impl Into<Shape>, dtype: DType, place: &Record) -> Result<Self> {
        let one = Self::new(Vec::new(), dtype, place);
        Ok(Self::kernel("zeros", &[&one], shape, dtype))
    }

    fn place(&self) -> Record {
        self.record.clone()
    }

    fn fuses(&self, _kernels: Kernels) -> bool {
        false
    }

    fn tensor(&self) -> Result<&Tensor> {
        candle_core::bail!("a tensor without values")
    }

    fn of(_tensor: Tensor) -> Result<Self> {
        candle_core::bail!("a tensor with values")
    }

    fn dims(&self) -> &[usize] {
        self.layout.dims()
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn narrow(&self, dim: usize, start: usize, length: usize) -> Result<Self> {
        Ok(self.view(self.layout.narrow(dim, start, length)?))
    }

    fn transpose(&self, a: usize, b: usize) -> Result<Self> {
        Ok(self.view(self.layout.transpose(a, b)?))
    }

    fn reshape(&self, shape: impl Into<Shape>) -> Result<Self> {
        let shape = shape.into();
        if shape.elem_count() != self.layout.shape().elem_count() {
            candle_core::bail!("reshape of {:?} to {shape:?}", self.dims());
        }
        let whole = self.contiguous()?;
        Ok(whole.view(Layout::contiguous(shape)))
    }

    fn contiguous(&self) -> Result<Self> {
        if self.layout.is_contiguous() {
            return Ok(self.clone());
        }
        self.elementwise("copy")
    }

    fn to_dtype(&self, dtype: DType) -> Result<Self> {
        if self.dtype == dtype {
            return Ok(self.clone());
        }
        Ok(Self::kernel("cast", &[self], self.dims(), dtype))
    }

    fn cat(parts: &[Self], dim: usize) -> Result<Self> {
        let [first, others @ ..] = parts else {
            candle_core::bail!("nothing to join");
        };
        if others.is_empty() {
            return Ok(first.clone());
        }
        for part in parts {
            Self::kernel("join", &[part], part.dims(), part.dtype);
        }
        let mut shape = first.dims().to_vec();
        shape[dim] = parts.iter().map(|part| part.dims()[dim]).sum();
        Ok(first.made(shape, first.dtype))
    }

    fn matmul(&self, other: &Self) -> Result<Self> {
        let (mut shape, rank) = (self.dims().to_vec(), self.dims().len());
        let fits = other.dims().len() == rank
            && shape[..rank - 2] == other.dims()[..rank - 2]
            && shape[rank - 1] == other.dims()[rank - 2]
            && self.dtype == other.dtype;
        if !fits {
            candle_core::bail!("product of {:?} and {:?}", self.dims(), other.dims());
        }
        shape[rank - 1] = other.dims()[rank - 1];
        Ok(Self::kernel("product", &[self, other], shape, self.dtype))
    }

    fn plus(&self, other: &Self) -> Result<Self> {
        self.binary("plus", other)
    }

    fn affine(&self, _factor: f64, _offset: f64) -> Result<Self> {
        self.elementwise("affine")
    }

    fn times(&self, other: &Self) -> Result<Self> {
        self.binary("times", other)
    }

    fn each(&self, function: Function) -> Result<Self> {
        self.elementwise(match function {
            Function::Silu => "silu",
            Function::Gelu | Function::GeluTanh => "gelu",
            Function::Sigmoid => "sigmoid",
            Function::Relu => "relu",
        })
    }

    fn rows(&self, indices: &[u32]) -> Result<Self> {
        self.record.upload(4 * indices.len());
        let some = self.narrow(0, 0, indices.len().min(self.dims()[0]))?;
        let shape = [&[indices.len()], &self.dims()[1..]].concat();
        Ok(Self::kernel("rows", &[&some], shape, self.dtype))
    }

    fn wide_product(&self, other: &Self) -> Result<Self> {
        let (&[batch, m, k], &[other_batch, n, other_k]) = (self.dims(), other.dims()) else {
            candle_core::bail!("product of {:?} and {:?}", self.dims(), other.dims());
        };
        if (batch, k) != (other_batch, other_k) || !self.layout.is_contiguous() || !other.layout.is_contiguous() {
            candle_core::bail!("product of {:?} and {:?}", self.layout, other.layout);
        }
        Ok(Self::kernel("wide product", &[self, other], (batch, m, n), DType::F32))
    }

    fn fused(&self, operation: Operation, others: &[&Self]) -> Result<Self> {
        let inputs = [&[self], others].concat();
        let described: Vec<_> = inputs.iter().map(|input| (&input.layout, input.dtype)).collect();
        operation.check(&described)?;
        Ok(Self::kernel(
            operation.name(),
            &inputs,
            operation.dims(self.dims()),
            operation.dtype(self.dtype),
        ))
    }
}
