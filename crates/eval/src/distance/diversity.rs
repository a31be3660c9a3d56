//! How far apart the pictures of a set are.

use image::RgbImage;

/// The mean absolute difference of the RGB values, in [0, 1], over all pairs of the pictures: 0 where all are alike. `None` for fewer
/// than two pictures, and for pictures of different sizes.
pub fn diversity(pictures: &[RgbImage]) -> Option<f64> {
    let (first, others) = pictures.split_first()?;
    if others.is_empty() || others.iter().any(|other| other.dimensions() != first.dimensions()) {
        return None;
    }
    let values = first.as_raw().len();
    // The sum of |a - b| over all pairs of a place's levels: between two neighbouring levels lie as many pairs as there are pictures
    // on one side times those on the other. So the work grows with the pictures, not with their pairs.
    let mut sum = 0_u128;
    for place in 0..values {
        let mut counts = [0_u64; 256];
        for picture in pictures {
            counts[usize::from(picture.as_raw()[place])] += 1;
        }
        let mut below = 0;
        for count in &counts[..255] {
            below += count;
            sum += u128::from(below) * u128::from(pictures.len() as u64 - below);
        }
    }
    let pairs = pictures.len() as f64 * (pictures.len() - 1) as f64 / 2.0;
    (values > 0).then(|| sum as f64 / pairs / values as f64 / 255.0)
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    fn flat(levels: [u8; 3]) -> RgbImage {
        RgbImage::from_pixel(2, 2, Rgb(levels))
    }

    #[test]
    fn it_is_the_mean_over_all_pairs() {
        let pictures = [flat([0, 0, 0]), flat([255, 0, 0]), flat([0, 51, 0])];
        // |d| of the pairs: 255, 51, 306 levels over three channels.
        let expected = (255.0 + 51.0 + 306.0) / 3.0 / 3.0 / 255.0;
        assert!((diversity(&pictures).unwrap() - expected).abs() < 1e-12);
        assert_eq!(diversity(&[flat([9; 3]), flat([9; 3])]), Some(0.0));
    }

    #[test]
    fn fewer_than_two_pictures_or_different_sizes_have_none() {
        assert_eq!(diversity(&[]), None);
        assert_eq!(diversity(&[flat([0; 3])]), None);
        assert_eq!(diversity(&[flat([0; 3]), RgbImage::new(3, 2)]), None);
        assert_eq!(diversity(&[RgbImage::new(0, 0), RgbImage::new(0, 0)]), None);
    }
}
