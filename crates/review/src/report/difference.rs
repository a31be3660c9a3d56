//! What an edit changed, as a picture.

use std::io::Cursor;

use image::imageops::{self, FilterType};
use image::{ImageError, ImageFormat, Rgb, RgbImage};

/// How often a difference is taken, so that a slight one is seen.
pub(super) const AMPLIFICATION: u8 = 4;

/// The distance of each channel between source and edited picture, amplified, as PNG: black where nothing changed. A source of
/// another size is scaled to the edited picture's first, as the model saw it.
///
/// # Errors
/// The picture cannot be encoded.
pub(super) fn png(source: &RgbImage, edited: &RgbImage) -> Result<Vec<u8>, ImageError> {
    let mut encoded = Cursor::new(Vec::new());
    difference(source, edited).write_to(&mut encoded, ImageFormat::Png)?;
    Ok(encoded.into_inner())
}

fn difference(source: &RgbImage, edited: &RgbImage) -> RgbImage {
    let (width, height) = edited.dimensions();
    let scaled;
    let source = if source.dimensions() == (width, height) {
        source
    } else {
        scaled = imageops::resize(source, width, height, FilterType::Triangle);
        &scaled
    };
    RgbImage::from_fn(width, height, |x, y| {
        let [before, after] = [source, edited].map(|picture| picture.get_pixel(x, y).0);
        let channel = |at: usize| before[at].abs_diff(after[at]).saturating_mul(AMPLIFICATION);
        Rgb([channel(0), channel(1), channel(2)])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_amplified_up_to_white_and_black_where_nothing_changed() {
        let source = RgbImage::from_fn(2, 1, |x, _| if x == 0 { Rgb([9, 100, 200]) } else { Rgb([7, 7, 7]) });
        let edited = RgbImage::from_fn(2, 1, |x, _| if x == 0 { Rgb([12, 90, 0]) } else { Rgb([7, 7, 7]) });
        let difference = difference(&source, &edited);
        assert_eq!(difference.get_pixel(0, 0), &Rgb([12, 40, 255]));
        assert_eq!(difference.get_pixel(1, 0), &Rgb([0, 0, 0]));
    }

    #[test]
    fn a_source_of_another_size_is_compared_at_the_edited_pictures_size() {
        let source = RgbImage::from_pixel(8, 4, Rgb([50, 50, 50]));
        let edited = RgbImage::from_pixel(4, 4, Rgb([60, 50, 50]));
        let encoded = png(&source, &edited).unwrap();
        let difference = image::load_from_memory(&encoded).unwrap().to_rgb8();
        assert_eq!(difference, RgbImage::from_pixel(4, 4, Rgb([40, 0, 0])));
    }
}
