//! Pictures as CLIP's image processor makes them: resized, cut from the centre, normalised.

use std::path::Path;

use image::RgbImage;
use serde::Deserialize;

use crate::load::read_config;
use crate::resize::{Filter, resize};
use crate::{LoadError, ModelError};

/// Pillow's number for the bicubic filter.
const BICUBIC: u32 = 3;
/// A picture may be resized to so many times the model's side before its centre is cut out.
const SPARE_MAX: usize = 4;
/// The largest side of a picture that is looked at.
const SIDE_MAX: usize = 4096;
/// Longer pictures would be resized to ever more pixels of which one square is used.
const ASPECT_RATIO_MAX: usize = 200;

#[derive(Debug, Deserialize)]
#[serde(default)]
struct Settings {
    image_mean: [f32; 3],
    image_std: [f32; 3],
    rescale_factor: f32,
    do_resize: bool,
    do_center_crop: bool,
    do_rescale: bool,
    do_normalize: bool,
    resample: u32,
    size: Size,
    crop_size: Size,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            image_mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            image_std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
            rescale_factor: 1.0 / 255.0,
            do_resize: true,
            do_center_crop: true,
            do_rescale: true,
            do_normalize: true,
            resample: BICUBIC,
            size: Size::Side(224),
            crop_size: Size::Side(224),
        }
    }
}

/// A size in any of the forms that releases of transformers wrote.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Size {
    Side(usize),
    ShortestEdge { shortest_edge: usize },
    Square { height: usize, width: usize },
}

impl Size {
    /// The one number that it says, where it says one.
    fn side(self) -> Option<usize> {
        match self {
            Self::Side(side) | Self::ShortestEdge { shortest_edge: side } => Some(side),
            Self::Square { height, width } => (height == width).then_some(height),
        }
    }
}

/// The image processor of a folder.
#[derive(Debug)]
pub(crate) struct PictureProcessor {
    settings: Settings,
    /// The shortest edge after resizing.
    shortest: usize,
    /// The square that is cut out.
    side: usize,
}

impl PictureProcessor {
    /// Reads `preprocessor_config.json` of a model that sees pictures of `side` x `side`, or of whatever side the file says.
    pub(crate) fn load(dir: &Path, side: Option<usize>) -> Result<Self, LoadError> {
        let file = dir.join("preprocessor_config.json");
        let settings: Settings = read_config(&file)?;
        let unsupported = |key: &str, found: String, expected: String| {
            Err(LoadError::Unsupported {
                file: file.clone(),
                key: key.to_owned(),
                found,
                expected,
            })
        };
        for (key, does) in [
            ("do_resize", settings.do_resize),
            ("do_center_crop", settings.do_center_crop),
            ("do_rescale", settings.do_rescale),
            ("do_normalize", settings.do_normalize),
        ] {
            if !does {
                return unsupported(key, does.to_string(), "true".to_owned());
            }
        }
        if settings.resample != BICUBIC {
            let expected = format!("{BICUBIC}, bicubic");
            return unsupported("resample", settings.resample.to_string(), expected);
        }
        let cut = settings.crop_size.side().filter(|cut| (1..=SIDE_MAX).contains(cut));
        let side = match (cut, side) {
            (Some(cut), None) => cut,
            (Some(cut), Some(side)) if cut == side => side,
            (_, side) => {
                let expected = match side {
                    Some(side) => format!("the side of the model's pictures, {side}"),
                    None => format!("one side of 1 to {SIDE_MAX}"),
                };
                return unsupported("crop_size", format!("{:?}", settings.crop_size), expected);
            }
        };
        let shortest = match settings.size {
            Size::Square { .. } => None,
            size => size.side(),
        };
        match shortest.filter(|shortest| (side..=SPARE_MAX * side).contains(shortest)) {
            Some(shortest) => Ok(Self {
                settings,
                shortest,
                side,
            }),
            None => {
                let expected = format!("a shortest edge of {side} to {}", SPARE_MAX * side);
                unsupported("size", format!("{:?}", settings.size), expected)
            }
        }
    }

    /// The side of a picture that is looked at.
    pub(crate) fn side(&self) -> usize {
        self.side
    }

    /// The pixels of a picture: (3, side, side), row by row.
    ///
    /// # Source
    /// transformers `CLIPImageProcessor` on Pillow's pictures.
    pub(crate) fn pixels(&self, picture: &RgbImage) -> Result<Vec<f32>, ModelError> {
        let (height, width) = (picture.height() as usize, picture.width() as usize);
        let (short, long) = (height.min(width), height.max(width));
        if short == 0 || long / short >= ASPECT_RATIO_MAX {
            return Err(ModelError::Value {
                input: "pictures",
                problem: format!("a picture of {width} x {height} pixels has none, or is too elongated"),
            });
        }
        let longest = self.shortest * long / short;
        let (height, width) = match height <= width {
            true => (self.shortest, longest),
            false => (longest, self.shortest),
        };
        let resized;
        let pixels = if (picture.height() as usize, picture.width() as usize) == (height, width) {
            picture.as_raw()
        } else {
            resized = resize(picture, height, width, Filter::Bicubic);
            &resized
        };
        let side = self.side;
        let (top, left) = ((height - side) / 2, (width - side) / 2);
        let Settings {
            image_mean,
            image_std,
            rescale_factor,
            ..
        } = &self.settings;
        let mut cut = Vec::with_capacity(3 * side * side);
        for channel in 0..3 {
            for row in top..top + side {
                for column in left..left + side {
                    let value = f32::from(pixels[(row * width + column) * 3 + channel]) * rescale_factor;
                    cut.push((value - image_mean[channel]) / image_std[channel]);
                }
            }
        }
        Ok(cut)
    }
}

/// The patches of pixels (3, side, side): (patches, 3 * patch * patch), in reading order. Rows and columns beyond the last whole patch are
/// left out, as a convolution does.
pub(crate) fn patches(pixels: &[f32], side: usize, patch: usize) -> Vec<f32> {
    let across = side / patch;
    let mut patches = Vec::with_capacity(3 * (across * patch) * (across * patch));
    for row in 0..across {
        for column in 0..across {
            for channel in 0..3 {
                for y in row * patch..(row + 1) * patch {
                    let begin = (channel * side + y) * side + column * patch;
                    patches.extend(&pixels[begin..begin + patch]);
                }
            }
        }
    }
    patches
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use candle_core::{DType, Device};

    use super::*;

    fn folder(case: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/golden/clip")
            .join(case)
    }

    /// Pillow's picture is the same bit for bit; what follows are two operations in float32, of which each may round once.
    #[test]
    fn pixels_are_those_of_transformers() {
        for case in ["quick-gelu", "gelu-legacy-eos"] {
            let file = folder(case).join("expected.safetensors");
            let expected = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
            let processor = PictureProcessor::load(&folder(case), Some(24)).unwrap();
            let all = expected["pixels"].flatten_from(1).unwrap().to_vec2::<f32>().unwrap();
            assert_eq!(all.len(), 5);
            for (index, wanted) in all.iter().enumerate() {
                let picture = &expected[&format!("picture.{index}")];
                let (height, width, _) = picture.dims3().unwrap();
                let bytes = picture.to_dtype(DType::U8).unwrap().flatten_all().unwrap();
                let picture = RgbImage::from_raw(width as u32, height as u32, bytes.to_vec1().unwrap()).unwrap();
                let found = processor.pixels(&picture).unwrap();
                assert_eq!(found.len(), wanted.len());
                let error = found
                    .iter()
                    .zip(wanted)
                    .fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
                assert!(error < 2e-6, "{case}, picture {index}: {error}");
            }
        }
    }

    #[test]
    fn settings_that_are_not_followed_are_refused_and_pictures_without_end_too() {
        let root = tempfile::tempdir().unwrap();
        let load = |text: &str| {
            std::fs::write(root.path().join("preprocessor_config.json"), text).unwrap();
            PictureProcessor::load(root.path(), Some(24))
        };
        let sound = r#""crop_size": 24, "size": 24"#;
        let processor = load(&format!("{{{sound}}}")).unwrap();
        for (more, key) in [
            (r#", "do_resize": false"#, "do_resize"),
            (r#", "do_center_crop": false"#, "do_center_crop"),
            (r#", "resample": 2"#, "resample"),
        ] {
            let error = load(&format!("{{{sound}{more}}}")).unwrap_err();
            assert!(
                matches!(&error, LoadError::Unsupported { key: found, .. } if found == key),
                "{error}"
            );
        }
        for (text, key) in [
            (r#"{"crop_size": 32, "size": 32}"#, "crop_size"),
            (r#"{"crop_size": {"height": 24, "width": 25}, "size": 24}"#, "crop_size"),
            (r#"{"crop_size": 24, "size": 23}"#, "size"),
            (r#"{"crop_size": 24, "size": {"shortest_edge": 100000}}"#, "size"),
            (r#"{"crop_size": 24, "size": {"height": 24, "width": 24}}"#, "size"),
        ] {
            let error = load(text).unwrap_err();
            assert!(
                matches!(&error, LoadError::Unsupported { key: found, .. } if found == key),
                "{error}"
            );
        }
        for (width, height) in [(0, 0), (5, 0), (1, 200), (4_000, 20)] {
            assert!(processor.pixels(&RgbImage::new(width, height)).is_err());
        }
        assert_eq!(processor.pixels(&RgbImage::new(1, 199)).unwrap().len(), 3 * 24 * 24);
    }
}
