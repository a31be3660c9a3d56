//! How far apart the two pictures of a pair are.

use image::RgbImage;

/// Mean absolute difference of the RGB values, in [0, 1]; `None` for pictures of different sizes, or without a pixel.
///
/// The sum is one of integers, so the order in which pixels are added does not show.
pub(crate) fn difference(first: &RgbImage, second: &RgbImage) -> Option<f64> {
    if first.dimensions() != second.dimensions() || first.is_empty() {
        return None;
    }
    let values = first.iter().zip(second.iter());
    let sum: u64 = values.map(|(one, other)| u64::from(one.abs_diff(*other))).sum();
    Some(sum as f64 / (255.0 * first.len() as f64))
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn it_runs_from_alike_to_black_on_white() {
        let plain = |value| RgbImage::from_pixel(3, 2, Rgb([value; 3]));
        let mut half = plain(0);
        half.put_pixel(0, 0, Rgb([255, 0, 51]));
        assert_eq!(difference(&plain(7), &plain(7)), Some(0.0));
        assert_eq!(difference(&plain(0), &plain(255)), Some(1.0));
        assert_eq!(difference(&half, &plain(0)), Some(306.0 / (255.0 * 18.0)));
        assert_eq!(difference(&plain(0), &half), difference(&half, &plain(0)));
        assert_eq!(difference(&plain(0), &RgbImage::new(2, 3)), None);
        assert_eq!(difference(&RgbImage::new(0, 0), &RgbImage::new(0, 0)), None);
    }
}
