//! Reading candle tensors as slices.

use std::ops::{Deref, Range};

use candle_core::{CpuStorage, DType, Storage, Tensor};

use crate::ModelError;

/// The memory of a float32 CPU tensor, held for reading.
pub(crate) struct Values<G> {
    storage: G,
    range: Range<usize>,
}

impl<G: Deref<Target = Storage>> Values<G> {
    /// The elements, in row-major order.
    pub(crate) fn slice(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            _ => unreachable!("checked when the view was made"),
        }
    }
}

/// Views a contiguous float32 CPU tensor as a slice.
///
/// # Errors
/// [`ModelError::Candle`] when the tensor is none.
pub(crate) fn values(tensor: &Tensor) -> Result<Values<impl Deref<Target = Storage>>, ModelError> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else {
        return Err(candle_core::Error::RequiresContiguous { op: "view" }.bt().into());
    };
    check_f32(&storage)?;
    Ok(Values {
        storage,
        range: start..end,
    })
}

/// The memory of a float32 CPU matrix whose rows may be a column range of a wider matrix.
pub(crate) struct Matrix<G> {
    storage: G,
    range: Range<usize>,
    /// Distance between rows.
    pub(crate) stride: usize,
}

impl<G: Deref<Target = Storage>> Matrix<G> {
    /// The elements from the first to the last; row `i` starts at `i * stride`.
    pub(crate) fn slice(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            _ => unreachable!("checked when the view was made"),
        }
    }
}

/// Views a (rows, columns) tensor with contiguous rows.
///
/// # Errors
/// [`ModelError::Candle`] when the tensor is none.
pub(crate) fn matrix(tensor: &Tensor) -> Result<Matrix<impl Deref<Target = Storage>>, ModelError> {
    let (rows, columns) = tensor.dims2()?;
    let (storage, layout) = tensor.storage_and_layout();
    check_f32(&storage)?;
    let &[stride, 1] = layout.stride() else {
        return Err(candle_core::Error::RequiresContiguous { op: "view" }.bt().into());
    };
    let start = layout.start_offset();
    let end = start + rows.saturating_sub(1) * stride + columns;
    Ok(Matrix {
        storage,
        range: start..end,
        stride,
    })
}

fn check_f32(storage: &Storage) -> Result<(), ModelError> {
    match storage {
        Storage::Cpu(CpuStorage::F32(_)) => Ok(()),
        other => Err(candle_core::Error::UnexpectedDType {
            msg: "a float32 kernel was given another type",
            expected: DType::F32,
            got: other.dtype(),
        }
        .bt()
        .into()),
    }
}
