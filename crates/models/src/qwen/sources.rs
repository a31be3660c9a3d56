//! Source pictures at the sizes that autoencoder and text encoder read.

use image::RgbImage;

use super::folder::Kind;
use crate::ModelError;
use crate::denoiser::SourceAreas;
use crate::resize::{Filter, resize};

/// Sides are multiples of so many pixels.
const MULTIPLE: f64 = 32.0;

/// The sizes of the pipelines themselves.
pub(super) fn own_areas(kind: Kind) -> SourceAreas {
    const LATENTS: usize = 1024 * 1024;
    let text = match kind {
        Kind::TextToImage | Kind::Edit => LATENTS,
        Kind::EditPlus => 384 * 384,
    };
    SourceAreas { latents: LATENTS, text }
}

/// Refuses another number of source pictures than the pipeline takes.
///
/// # Errors
/// [`ModelError::Value`].
pub(super) fn check_count(kind: Kind, found: usize) -> Result<(), ModelError> {
    let taken = kind.source_pictures();
    if taken.contains(&found) {
        return Ok(());
    }
    let expected = match kind {
        Kind::TextToImage => "this pipeline makes pictures from words alone and takes none".to_owned(),
        Kind::Edit => "this pipeline edits exactly one".to_owned(),
        Kind::EditPlus => format!("this pipeline edits {} to {}", taken.start(), taken.end()),
    };
    Err(ModelError::Value {
        input: "sources",
        problem: format!("{found} pictures were given; {expected}"),
    })
}

/// Height and width of about `area` pixels at the aspect ratio of a picture.
///
/// # Source
/// diffusers 0.42 `calculate_dimensions`.
pub(super) fn dimensions(area: usize, picture: &RgbImage) -> (usize, usize) {
    let ratio = f64::from(picture.width()) / f64::from(picture.height());
    let width = (area as f64 * ratio).sqrt();
    let height = width / ratio;
    let side = |side: f64| ((side / MULTIPLE).round_ties_even() * MULTIPLE).max(MULTIPLE) as usize;
    (side(height), side(width))
}

/// The picture at about `area` pixels.
///
/// # Errors
/// [`ModelError::Value`] for a picture without pixels.
pub(super) fn at_area(picture: &RgbImage, area: usize) -> Result<RgbImage, ModelError> {
    if picture.width() == 0 || picture.height() == 0 {
        return Err(ModelError::Value {
            input: "sources",
            problem: "one has no pixels".to_owned(),
        });
    }
    let (height, width) = dimensions(area, picture);
    let pixels = resize(picture, height, width, Filter::Lanczos);
    RgbImage::from_raw(width as u32, height as u32, pixels).ok_or_else(|| ModelError::Value {
        input: "sources",
        problem: format!("one cannot be resized to {width} x {height}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sizes are diffusers' own for these pictures.
    #[test]
    fn sizes_follow_calculate_dimensions() {
        for ((width, height), area, expected) in [
            ((1024, 1024), 1024 * 1024, (1024, 1024)),
            ((1920, 1080), 1024 * 1024, (768, 1376)),
            ((1920, 1080), 384 * 384, (288, 512)),
            ((640, 480), 1024 * 1024, (896, 1184)),
            ((640, 480), 384 * 384, (320, 448)),
            ((64, 64), 64 * 64, (64, 64)),
        ] {
            assert_eq!(
                dimensions(area, &RgbImage::new(width, height)),
                expected,
                "{width}x{height} at {area}"
            );
        }
    }

    #[test]
    fn another_number_of_pictures_is_refused_in_words() {
        assert!(check_count(Kind::EditPlus, 3).is_ok());
        for (kind, found, told) in [
            (Kind::TextToImage, 1, "takes none"),
            (Kind::Edit, 0, "exactly one"),
            (Kind::Edit, 2, "exactly one"),
            (Kind::EditPlus, 4, "edits 1 to 3"),
        ] {
            let error = check_count(kind, found).unwrap_err().to_string();
            assert!(error.contains(told) && error.contains(&found.to_string()), "{error}");
        }
    }
}
