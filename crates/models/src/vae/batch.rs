//! The images of a batch, each computed on its own.

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use crate::{ModelError, load::Placement};

/// Computes each sample of `batch` where `placement` says, and stacks the results in float32; where threads may share the work, samples run in parallel.
///
/// # Shapes
/// `batch` is (batch, `channels`, height, width); `compute` takes and returns tensors with a batch of one.
///
/// # Errors
/// [`ModelError::Shape`], naming `input`, for another number of channels or an empty batch; those of `compute`.
pub(super) fn each(
    batch: &Tensor,
    input: &'static str,
    channels: usize,
    placement: &Placement,
    compute: impl Fn(&Tensor) -> Result<Tensor, ModelError> + Sync,
) -> Result<Tensor, ModelError> {
    let count = match *batch.dims() {
        [count, found, _, _] if found == channels && count > 0 => count,
        _ => {
            let expected = format!("(batch, {channels}, height, width) with at least one sample");
            return Err(ModelError::Shape {
                input,
                expected,
                found: batch.dims().to_vec(),
            });
        }
    };
    let batch = batch
        .to_device(placement.device())?
        .to_dtype(placement.dtype())?
        .contiguous()?;
    let one = |index: usize| compute(&batch.narrow(0, index, 1)?);
    let outputs: Result<Vec<Tensor>, ModelError> = if placement.is_host() {
        (0..count).into_par_iter().map(one).collect()
    } else {
        (0..count).map(one).collect()
    };
    Ok(Tensor::cat(&outputs?, 0)?.to_dtype(DType::F32)?)
}
