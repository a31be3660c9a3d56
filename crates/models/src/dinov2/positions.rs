//! Position embeddings for pictures of another size than that of training.

use candle_core::{DType, Result, Tensor};

/// The constant of the cubic filter.
const A: f64 = -0.75;

/// Position embeddings (1 + learnt * learnt, width) as (1 + side * side, width): the grid of patches interpolated by a cubic filter, the
/// class token's as it is.
///
/// # Source
/// PyTorch `interpolate(mode="bicubic", align_corners=False)`, in float32, which transformers applies there.
pub(super) fn resized(positions: &Tensor, learnt: usize, side: usize) -> Result<Tensor> {
    if learnt == side {
        return Ok(positions.clone());
    }
    let (device, dtype) = (positions.device(), positions.dtype());
    let (_, width) = positions.dims2()?;
    let rows = positions.to_dtype(DType::F32)?.to_vec2::<f32>()?;
    let (class, grid) = rows.split_at(1);
    let taps: Vec<[(usize, f64); 4]> = (0..side).map(|place| taps(place, learnt, side)).collect();
    let mut values = class.concat();
    values.reserve(side * side * width);
    for row in &taps {
        for column in &taps {
            let mut sum = vec![0.0_f64; width];
            for (y, row_weight) in row {
                for (x, column_weight) in column {
                    for (sum, value) in sum.iter_mut().zip(&grid[y * learnt + x]) {
                        *sum += row_weight * column_weight * f64::from(*value);
                    }
                }
            }
            values.extend(sum.iter().map(|value| *value as f32));
        }
    }
    Tensor::from_vec(values, (1 + side * side, width), device)?.to_dtype(dtype)
}

/// The four places of the learnt grid, and their weights, that make up a place of the new one.
fn taps(place: usize, learnt: usize, side: usize) -> [(usize, f64); 4] {
    let at = (place as f64 + 0.5) * learnt as f64 / side as f64 - 0.5;
    let (first, t) = (at.floor(), at - at.floor());
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    let weights = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
    std::array::from_fn(|tap| {
        let place = (first + tap as f64 - 1.0).clamp(0.0, learnt as f64 - 1.0);
        (place as usize, weights[tap])
    })
}
