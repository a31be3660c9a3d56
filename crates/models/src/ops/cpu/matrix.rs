//! The matrices of the CPU backend.

use std::ops::{Deref, Range};
use std::sync::Arc;

use candle_core::{DType, Device, Storage, Tensor};

use crate::ModelError;
use crate::layers::{Values, values};

/// A row-major float32 matrix. Its clones, and ranges of its rows, share the values.
#[derive(Debug, Clone)]
pub(crate) struct Matrix {
    rows: usize,
    columns: usize,
    values: Stored,
}

#[derive(Debug, Clone)]
enum Stored {
    /// Made by a kernel; the matrix begins at `first`.
    Shared { values: Arc<Vec<f32>>, first: usize },
    /// Given as a contiguous tensor, which is read where it lies.
    Tensor(Tensor),
}

impl Matrix {
    /// A matrix of `values.len() / columns` rows.
    pub(super) fn new(values: Vec<f32>, columns: usize) -> Self {
        Self {
            rows: values.len() / columns.max(1),
            columns,
            values: Stored::Shared {
                values: Arc::new(values),
                first: 0,
            },
        }
    }

    /// The matrix of a (rows, columns) tensor. Float32 on the CPU is not copied.
    pub(super) fn of(tensor: &Tensor) -> Result<Self, ModelError> {
        let (rows, columns) = tensor.dims2()?;
        let tensor = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.contiguous()?;
        Ok(Self {
            rows,
            columns,
            values: Stored::Tensor(tensor),
        })
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// A range of rows.
    pub(super) fn row_range(&self, rows: Range<usize>) -> Result<Self, ModelError> {
        let values = match &self.values {
            Stored::Shared { values, first } => Stored::Shared {
                values: Arc::clone(values),
                first: first + rows.start * self.columns,
            },
            Stored::Tensor(tensor) => Stored::Tensor(tensor.narrow(0, rows.start, rows.len())?),
        };
        Ok(Self {
            rows: rows.len(),
            columns: self.columns,
            values,
        })
    }

    /// Opens the values for reading.
    pub(super) fn read(&self) -> Result<Reading<'_, impl Deref<Target = Storage>>, ModelError> {
        let guard = match &self.values {
            Stored::Shared { values, first } => Guard::Slice(&values[*first..first + self.rows * self.columns]),
            Stored::Tensor(tensor) => Guard::Tensor(values(tensor)?),
        };
        Ok(Reading {
            columns: self.columns,
            guard,
        })
    }

    /// The values, without a copy where nobody shares them.
    pub(super) fn into_values(self) -> Result<Vec<f32>, ModelError> {
        let count = self.rows * self.columns;
        match self.values {
            Stored::Shared { values, first } => match Arc::try_unwrap(values) {
                Ok(values) if first == 0 && values.len() == count => Ok(values),
                Ok(values) => Ok(values[first..first + count].to_vec()),
                Err(shared) => Ok(shared[first..first + count].to_vec()),
            },
            Stored::Tensor(tensor) => Ok(values(&tensor)?.slice().to_vec()),
        }
    }

    /// The matrix as a (rows, columns) tensor, without a copy where nobody shares its values.
    pub(super) fn into_tensor(self) -> Result<Tensor, ModelError> {
        let shape = (self.rows, self.columns);
        match self.values {
            Stored::Tensor(tensor) => Ok(tensor),
            Stored::Shared { .. } => Ok(Tensor::from_vec(self.into_values()?, shape, &Device::Cpu)?),
        }
    }
}

/// A matrix that is being read; dereferences to its values.
pub(super) struct Reading<'a, G> {
    columns: usize,
    guard: Guard<'a, G>,
}

enum Guard<'a, G> {
    Slice(&'a [f32]),
    Tensor(Values<G>),
}

impl<G: Deref<Target = Storage>> Deref for Reading<'_, G> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.guard {
            Guard::Slice(values) => values,
            Guard::Tensor(values) => values.slice(),
        }
    }
}

impl<G: Deref<Target = Storage>> Reading<'_, G> {
    /// The same as a value that kernels pass around.
    pub(super) fn view(&self) -> View<'_> {
        View {
            columns: self.columns,
            data: self,
        }
    }

    /// The values of a range of rows.
    pub(super) fn row_slice(&self, rows: Range<usize>) -> &[f32] {
        &self[rows.start * self.columns..rows.end * self.columns]
    }
}

/// The values of a matrix and its width.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) columns: usize,
    pub(super) data: &'a [f32],
}
