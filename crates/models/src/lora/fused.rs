//! Several layers as one, as the code that a family was published with holds them.
//!
//! Such a layer has one A and one B. Where its parts were adapted each for itself, its A is theirs one below the other, and its B has theirs on
//! its diagonal: kohya's scripts, ComfyUI and diffusers compute with that as with any other, and diffusers takes it apart again.

use std::borrow::Cow;
use std::ops::Range;

use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::LoraError;
use super::files::to_f32;

/// A stored factor: its name in the file, and its numbers.
#[derive(Debug, Clone)]
pub(super) struct Factor<'a> {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Row-major.
    pub(super) data: Cow<'a, [u8]>,
}

impl<'a> Factor<'a> {
    pub(super) fn of_view(name: String, view: &TensorView<'a>) -> Self {
        Self {
            name,
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            data: Cow::Borrowed(view.data()),
        }
    }

    /// The same numbers as a tensor of a file.
    pub(super) fn view(&self, origin: &str) -> Result<TensorView<'_>, LoraError> {
        TensorView::new(self.dtype, self.shape.clone(), &self.data).map_err(|source| LoraError::Safetensors {
            origin: origin.to_owned(),
            source,
        })
    }

    /// Rows and columns, of a matrix with any.
    fn extent(&self) -> Option<(usize, usize)> {
        match *self.shape.as_slice() {
            [rows, columns] if rows > 0 && columns > 0 => Some((rows, columns)),
            _ => None,
        }
    }

    /// A part of a matrix.
    fn block(&self, rows: Range<usize>, columns: Range<usize>) -> Self {
        let (all_rows, all_columns) = self.extent().unwrap_or((1, 1));
        let width = self.data.len() / (all_rows * all_columns);
        let cells = |row: usize| (row * all_columns + columns.start) * width..(row * all_columns + columns.end) * width;
        Self {
            name: self.name.clone(),
            dtype: self.dtype,
            shape: vec![rows.len(), columns.len()],
            data: Cow::Owned(rows.flat_map(|row| self.data[cells(row)].iter().copied()).collect()),
        }
    }

    fn is_zero(&self, origin: &str) -> Result<bool, LoraError> {
        let values = to_f32(origin, &self.name, &self.view(origin)?)?;
        Ok(values.iter().all(|value| *value == 0.0))
    }
}

/// The factors of one layer.
pub(super) type Pair<'a> = (Factor<'a>, Factor<'a>);

/// The factors of the layers that a fused one is, which have `outputs` rows each: its A with each one's rows of its B, or, where its parts were
/// adapted each for itself, their own, and `None` for those that were not adapted. `rank` is the adapter's where anything tells it.
///
/// # Errors
/// [`LoraError::Shape`] when B has another number of rows.
pub(super) fn take_apart<'a>(
    origin: &str,
    (a, b): Pair<'a>,
    outputs: &[usize],
    rank: Option<usize>,
) -> Result<TakenApart<'a>, LoraError> {
    let (Some((a_rows, inputs)), Some((b_rows, columns))) = (a.extent(), b.extent()) else {
        // Told with the shape that is needed, where the adapter is filled.
        let whole = vec![(a, b); outputs.len()];
        return Ok(TakenApart::Shared(whole));
    };
    let total: usize = outputs.iter().sum();
    if total != b_rows {
        return Err(LoraError::Shape {
            origin: origin.to_owned(),
            name: b.name.clone(),
            expected: vec![total, columns],
            found: b.shape.clone(),
        });
    }
    let starts = outputs.iter().scan(0, |end, outputs| {
        let start = *end;
        *end += outputs;
        Some(start..*end)
    });
    let rows: Vec<Range<usize>> = starts.collect();
    let parts = outputs.len();
    let diagonal = columns == a_rows
        && columns % parts == 0
        && rank.is_none_or(|rank| rank * parts == columns)
        && is_diagonal(origin, &b, &rows, columns / parts)?
        // Of nothing but zeros nobody can tell.
        && (rank.is_some() || !b.is_zero(origin)?);
    if !diagonal {
        let share = |rows: Range<usize>| (a.clone(), b.block(rows, 0..columns));
        return Ok(TakenApart::Shared(rows.into_iter().map(share).collect()));
    }
    let rank = columns / parts;
    let mut apart = Vec::new();
    for (index, rows) in rows.into_iter().enumerate() {
        let own = index * rank..(index + 1) * rank;
        let pair = (a.block(own.clone(), 0..inputs), b.block(rows, own));
        let adapted = !(pair.0.is_zero(origin)? && pair.1.is_zero(origin)?);
        apart.push(adapted.then_some(pair));
    }
    Ok(TakenApart::Apart(apart))
}

/// What the parts of a fused layer have.
pub(super) enum TakenApart<'a> {
    /// One A for all.
    Shared(Vec<Pair<'a>>),
    /// Their own, a part of the fused layer's rank each.
    Apart(Vec<Option<Pair<'a>>>),
}

/// Whether B is zero wherever a part would read another part's A.
fn is_diagonal(origin: &str, b: &Factor, rows: &[Range<usize>], rank: usize) -> Result<bool, LoraError> {
    let columns = rank * rows.len();
    for (index, rows) in rows.iter().enumerate() {
        let (before, after) = (0..index * rank, (index + 1) * rank..columns);
        if !(b.block(rows.clone(), before).is_zero(origin)? && b.block(rows.clone(), after).is_zero(origin)?) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// One of the layers that are put together: its outputs, and its factors A and B; `None` where it is not adapted.
pub(super) type Portion<'a> = (usize, Option<(&'a [f32], &'a [f32])>);

/// The factors of the layer that several are: the opposite of [`take_apart`]. One that is not adapted has zeros.
///
/// # Shapes
/// A (parts x `rank`, `inputs`), B (sum of outputs, parts x `rank`), both row-major.
pub(super) fn put_together(parts: &[Portion<'_>], rank: usize, inputs: usize) -> (Vec<f32>, Vec<f32>) {
    let columns = rank * parts.len();
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for (index, (outputs, factors)) in parts.iter().enumerate() {
        match factors {
            Some((own, _)) => a.extend_from_slice(own),
            None => a.resize(a.len() + rank * inputs, 0.0),
        }
        for row in 0..*outputs {
            let start = b.len() + index * rank;
            b.resize(b.len() + columns, 0.0);
            if let Some((_, own)) = factors {
                b[start..start + rank].copy_from_slice(&own[row * rank..(row + 1) * rank]);
            }
        }
    }
    (a, b)
}
