//! Pictures as the image processors of CLIP and SigLIP make them: resized, perhaps cut from the centre, normalised.

use std::path::Path;

use image::RgbImage;
use serde::Deserialize;

use super::config::unsupported;
use crate::load::read_config;
use crate::resize::{Filter, resize};
use crate::{LoadError, ModelError};

/// Pillow's numbers for the filters.
const BILINEAR: u32 = 2;
const BICUBIC: u32 = 3;
/// The side of a picture where a file says nothing.
const SIDE: usize = 224;
const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const CLIP_DEVIATION: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];
/// A picture may be resized to so many times the model's side before its centre is cut out.
const SPARE_MAX: usize = 4;
/// The largest side of a picture that is looked at.
const SIDE_MAX: usize = 4096;
/// Longer pictures would be resized to ever more pixels of which one square is used.
const ASPECT_RATIO_MAX: usize = 200;

/// How a picture of another shape becomes a square.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// Its shortest edge is resized, and the centre is cut out: CLIP's way.
    Cut,
    /// It is resized to the square, whatever its shape: SigLIP's way.
    Stretched,
}

/// `preprocessor_config.json`. What it leaves out is what transformers takes for the model's.
#[derive(Debug, Deserialize)]
struct Settings {
    image_mean: Option<[f32; 3]>,
    image_std: Option<[f32; 3]>,
    rescale_factor: Option<f32>,
    do_resize: Option<bool>,
    do_center_crop: Option<bool>,
    do_rescale: Option<bool>,
    do_normalize: Option<bool>,
    resample: Option<u32>,
    size: Option<Size>,
    crop_size: Option<Size>,
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
    mean: [f32; 3],
    deviation: [f32; 3],
    factor: f32,
    filter: Filter,
    fit: Fit,
    /// The shortest edge after resizing.
    shortest: usize,
    /// The side of the square that is looked at.
    side: usize,
}

impl PictureProcessor {
    /// Reads `preprocessor_config.json` of a model that sees pictures of `side` x `side`, or of whatever side the file says.
    pub(crate) fn load(dir: &Path, side: Option<usize>, fit: Fit) -> Result<Self, LoadError> {
        let file = dir.join("preprocessor_config.json");
        let settings: Settings = read_config(&file)?;
        let cuts = fit == Fit::Cut;
        for (key, does, must) in [
            ("do_resize", settings.do_resize, true),
            ("do_center_crop", settings.do_center_crop, cuts),
            ("do_rescale", settings.do_rescale, true),
            ("do_normalize", settings.do_normalize, true),
        ] {
            if let Some(does) = does
                && does != must
            {
                return unsupported(&file, key, does.to_string(), must.to_string());
            }
        }
        let filter = match settings.resample {
            None | Some(BICUBIC) => Filter::Bicubic,
            Some(BILINEAR) => Filter::Bilinear,
            Some(other) => {
                let expected = format!("{BICUBIC}, bicubic, or {BILINEAR}, bilinear");
                return unsupported(&file, "resample", other.to_string(), expected);
            }
        };
        let (shortest, side) = match fit {
            Fit::Cut => Self::cut(&file, &settings, side)?,
            Fit::Stretched => {
                let side = Self::stretched(&file, &settings, side)?;
                (side, side)
            }
        };
        let (mean, deviation) = match fit {
            Fit::Cut => (CLIP_MEAN, CLIP_DEVIATION),
            Fit::Stretched => ([0.5; 3], [0.5; 3]),
        };
        Ok(Self {
            mean: settings.image_mean.unwrap_or(mean),
            deviation: settings.image_std.unwrap_or(deviation),
            factor: settings.rescale_factor.unwrap_or(1.0 / 255.0),
            filter,
            fit,
            shortest,
            side,
        })
    }

    /// The shortest edge after resizing, and the side of what is cut out.
    fn cut(file: &Path, settings: &Settings, side: Option<usize>) -> Result<(usize, usize), LoadError> {
        let crop_size = settings.crop_size.unwrap_or(Size::Side(SIDE));
        let cut = crop_size.side().filter(|cut| (1..=SIDE_MAX).contains(cut));
        let side = match (cut, side) {
            (Some(cut), None) => cut,
            (Some(cut), Some(side)) if cut == side => side,
            (_, side) => return unsupported(file, "crop_size", format!("{crop_size:?}"), expected_side(side)),
        };
        let size = settings.size.unwrap_or(Size::Side(SIDE));
        let shortest = match size {
            Size::Square { .. } => None,
            size => size.side(),
        };
        match shortest.filter(|shortest| (side..=SPARE_MAX * side).contains(shortest)) {
            Some(shortest) => Ok((shortest, side)),
            None => {
                let expected = format!("a shortest edge of {side} to {}", SPARE_MAX * side);
                unsupported(file, "size", format!("{size:?}"), expected)
            }
        }
    }

    /// The side of the square that pictures are resized to.
    fn stretched(file: &Path, settings: &Settings, side: Option<usize>) -> Result<usize, LoadError> {
        let size = settings.size.unwrap_or(Size::Side(SIDE));
        let found = match size {
            Size::ShortestEdge { .. } => None,
            size => size.side().filter(|found| (1..=SIDE_MAX).contains(found)),
        };
        match found.filter(|found| side.is_none_or(|side| side == *found)) {
            Some(side) => Ok(side),
            None => unsupported(file, "size", format!("{size:?}"), expected_side(side)),
        }
    }

    /// The side of a picture that is looked at.
    pub(crate) fn side(&self) -> usize {
        self.side
    }

    /// The pixels of a picture: (3, side, side), row by row.
    ///
    /// # Source
    /// transformers `CLIPImageProcessor` and `SiglipImageProcessor` on Pillow's pictures.
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
        let (height, width) = match (self.fit, height <= width) {
            (Fit::Stretched, _) => (self.side, self.side),
            (Fit::Cut, true) => (self.shortest, longest),
            (Fit::Cut, false) => (longest, self.shortest),
        };
        let resized;
        let pixels = if (picture.height() as usize, picture.width() as usize) == (height, width) {
            picture.as_raw()
        } else {
            resized = resize(picture, height, width, self.filter);
            &resized
        };
        let side = self.side;
        let (top, left) = ((height - side) / 2, (width - side) / 2);
        let mut cut = Vec::with_capacity(3 * side * side);
        for channel in 0..3 {
            for row in top..top + side {
                for column in left..left + side {
                    let value = f32::from(pixels[(row * width + column) * 3 + channel]) * self.factor;
                    cut.push((value - self.mean[channel]) / self.deviation[channel]);
                }
            }
        }
        Ok(cut)
    }
}

fn expected_side(side: Option<usize>) -> String {
    match side {
        Some(side) => format!("the side of the model's pictures, {side}"),
        None => format!("one side of 1 to {SIDE_MAX}"),
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
            .join("../../tests/golden")
            .join(case)
    }

    /// Pillow's picture is the same bit for bit; what follows are two operations in float32, of which each may round once.
    #[test]
    fn pixels_are_those_of_transformers() {
        for (case, fit) in [
            ("clip/quick-gelu", Fit::Cut),
            ("clip/gelu-legacy-eos", Fit::Cut),
            ("siglip/siglip", Fit::Stretched),
            ("siglip/siglip2", Fit::Stretched),
        ] {
            let file = folder(case).join("expected.safetensors");
            let expected = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
            let processor = PictureProcessor::load(&folder(case), Some(24), fit).unwrap();
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
            PictureProcessor::load(root.path(), Some(24), Fit::Cut)
        };
        let sound = r#""crop_size": 24, "size": 24"#;
        let processor = load(&format!("{{{sound}}}")).unwrap();
        for (more, key) in [
            (r#", "do_resize": false"#, "do_resize"),
            (r#", "do_center_crop": false"#, "do_center_crop"),
            (r#", "resample": 1"#, "resample"),
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
