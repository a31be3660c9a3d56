//! What candle's kernels leave out, each in one pass over memory: float32 within, whatever the tensors are kept in.
//!
//! `cuda/kernels.cu` has them for GPUs, `host` for the CPU. The tests compile the same text in CUDA C for the CPU and hold one against
//! the other.

#[cfg(feature = "cuda")]
mod gpu;
mod host;
mod operation;
mod product;
mod rows;
#[cfg(test)]
mod tests;

use candle_core::backend::BackendStorage as _;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Storage, Tensor, bail};
#[cfg(feature = "cuda")]
pub(super) use gpu::wide_product;
pub(crate) use operation::{Operation, Then, Window};
pub(crate) use product::add_product;

/// An operation with all but its first input.
struct Call<'a> {
    operation: Operation,
    others: &'a [&'a Tensor],
}

impl Call<'_> {
    fn check<S>(&self, inputs: &[(&S, &Layout)], dtype: fn(&S) -> DType) -> Result<()> {
        let described: Vec<_> = inputs
            .iter()
            .map(|(storage, layout)| (*layout, dtype(storage)))
            .collect();
        self.operation.check(&described)
    }
}

impl CustomOp1 for Call<'_> {
    fn name(&self) -> &'static str {
        self.operation.name()
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let guards: Vec<_> = self.others.iter().map(|other| other.storage_and_layout()).collect();
        let mut inputs = vec![(storage, layout)];
        for (other, layout) in &guards {
            let Storage::Cpu(other) = &**other else {
                bail!("an input of {} is not on the CPU", self.operation.name());
            };
            inputs.push((other, layout));
        }
        self.check(&inputs, CpuStorage::dtype)?;
        let values = inputs
            .iter()
            .map(|(storage, layout)| host::wide(self.operation, storage, layout))
            .collect::<Result<Vec<_>>>()?;
        let result = host::compute(self.operation, &values, layout.dims(), storage.dtype());
        let kept = host::kept(result, self.operation.dtype(storage.dtype()))?;
        Ok((kept, self.operation.dims(layout.dims()).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        storage: &candle_core::CudaStorage,
        layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let guards: Vec<_> = self.others.iter().map(|other| other.storage_and_layout()).collect();
        let mut inputs = vec![(storage, layout)];
        for (other, layout) in &guards {
            let Storage::Cuda(other) = &**other else {
                bail!("an input of {} is not on the GPU", self.operation.name());
            };
            inputs.push((other, layout));
        }
        self.check(&inputs, candle_core::CudaStorage::dtype)?;
        let result = gpu::launch(self.operation, &inputs)?;
        Ok((result, self.operation.dims(layout.dims()).into()))
    }
}
