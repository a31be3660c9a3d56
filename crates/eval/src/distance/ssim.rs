//! Structural similarity around each pixel.

use image::RgbImage;

/// Pixels from a window's centre to its edge: the window is 11 x 11.
const RADIUS: usize = 5;
const WINDOW: usize = 2 * RADIUS + 1;
/// Standard deviation, in pixels, of the window's weights.
const SIGMA: f64 = 1.5;
/// (0.01 * 255)^2 and (0.03 * 255)^2.
const C1: f64 = 6.5025;
const C2: f64 = 58.5225;

/// The similarity of each pixel's surroundings, the mean of the three channels; `None` where the window reaches over the border.
///
/// # Source
/// Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, "Image quality assessment: from error visibility to structural similarity",
/// 2004, with the authors' window and constants: scikit-image's `structural_similarity(gaussian_weights=True, sigma=1.5,
/// use_sample_covariance=False, data_range=255, channel_axis=2)`.
pub(super) fn map(before: &RgbImage, after: &RgbImage) -> Vec<Option<f32>> {
    let (width, height) = (before.width() as usize, before.height() as usize);
    let mut map = vec![None; width * height];
    if width < WINDOW || height < WINDOW {
        return map;
    }
    let weights = weights();
    // Weighted sums down each column, of the five products that the statistics are made of.
    let mut columns = vec![[0.0_f64; 5]; width];
    for y in RADIUS..height - RADIUS {
        let mut row = vec![0.0_f64; width];
        for channel in 0..3 {
            columns.fill([0.0; 5]);
            for (offset, weight) in weights.iter().enumerate() {
                let line = (y + offset - RADIUS) * width * 3;
                for (x, sums) in columns.iter_mut().enumerate() {
                    let at = line + 3 * x + channel;
                    let (a, b) = (f64::from(before.as_raw()[at]), f64::from(after.as_raw()[at]));
                    for (sum, product) in sums.iter_mut().zip([a, b, a * a, b * b, a * b]) {
                        *sum += weight * product;
                    }
                }
            }
            for x in RADIUS..width - RADIUS {
                row[x] += similarity(&weights, &columns[x - RADIUS..=x + RADIUS]);
            }
        }
        for x in RADIUS..width - RADIUS {
            map[y * width + x] = Some((row[x] / 3.0) as f32);
        }
    }
    map
}

/// A Gaussian of the window's width whose sum is 1.
fn weights() -> [f64; WINDOW] {
    let mut weights = [0.0; WINDOW];
    for (offset, weight) in weights.iter_mut().enumerate() {
        let distance = offset as f64 - RADIUS as f64;
        *weight = libm::exp(-0.5 * distance * distance / (SIGMA * SIGMA));
    }
    let sum: f64 = weights.iter().sum();
    weights.map(|weight| weight / sum)
}

fn similarity(weights: &[f64; WINDOW], columns: &[[f64; 5]]) -> f64 {
    let mut sums = [0.0; 5];
    for (weight, column) in weights.iter().zip(columns) {
        for (sum, value) in sums.iter_mut().zip(column) {
            *sum += weight * value;
        }
    }
    let [a, b, aa, bb, ab] = sums;
    let (variance_a, variance_b, covariance) = (aa - a * a, bb - b * b, ab - a * b);
    ((2.0 * a * b + C1) * (2.0 * covariance + C2)) / ((a * a + b * b + C1) * (variance_a + variance_b + C2))
}
