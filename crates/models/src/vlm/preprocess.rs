//! From images to patches, as transformers' `Qwen2VLImageProcessor` does it.

use std::path::Path;

use image::RgbImage;
use serde::Deserialize;

use super::config::VisionConfig;
use crate::{
    LoadError, ModelError,
    load::read_config,
    resize::{Filter, resize},
};

/// Pillow's number for the bicubic filter.
const BICUBIC: u32 = 3;
/// The most elongated image that is taken.
const ASPECT_RATIO_MAX: f64 = 200.0;

/// Patches of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grid {
    /// Rows of patches.
    pub(super) height: usize,
    /// Columns of patches.
    pub(super) width: usize,
    /// Side of the square of patches that becomes one token.
    pub(super) merge: usize,
}

impl Grid {
    /// Tokens that the language model sees.
    pub(super) fn merged_tokens(&self) -> usize {
        self.merged_height() * self.merged_width()
    }

    pub(super) fn merged_height(&self) -> usize {
        self.height / self.merge
    }

    pub(super) fn merged_width(&self) -> usize {
        self.width / self.merge
    }
}

#[derive(Debug, Deserialize)]
struct Settings {
    #[serde(default = "mean")]
    image_mean: [f32; 3],
    #[serde(default = "std")]
    image_std: [f32; 3],
    #[serde(default = "rescale_factor")]
    rescale_factor: f32,
    #[serde(default = "yes")]
    do_resize: bool,
    #[serde(default = "yes")]
    do_rescale: bool,
    #[serde(default = "yes")]
    do_normalize: bool,
    min_pixels: Option<usize>,
    max_pixels: Option<usize>,
    size: Option<Size>,
    #[serde(default = "bicubic")]
    resample: u32,
}

#[derive(Debug, Deserialize)]
struct Size {
    shortest_edge: Option<usize>,
    longest_edge: Option<usize>,
}

fn mean() -> [f32; 3] {
    [0.481_454_66, 0.457_827_5, 0.408_210_73]
}

fn std() -> [f32; 3] {
    [0.268_629_54, 0.261_302_6, 0.275_777_1]
}

fn rescale_factor() -> f32 {
    1.0 / 255.0
}

fn yes() -> bool {
    true
}

fn bicubic() -> u32 {
    BICUBIC
}

/// transformers 5 nests the settings in `processor_config.json`; earlier releases write that file without them.
#[derive(Debug, Deserialize)]
struct ProcessorFile {
    image_processor: Option<Settings>,
}

/// The image processor of a model folder.
#[derive(Debug)]
pub(super) struct ImageProcessor {
    settings: Settings,
    min_pixels: usize,
    max_pixels: usize,
    patch: usize,
    merge: usize,
}

impl ImageProcessor {
    /// Reads processor_config.json or, where that says nothing of images, preprocessor_config.json: the order of transformers 5, which matters
    /// for a folder with both.
    pub(super) fn load(dir: &Path, vision: &VisionConfig) -> Result<Self, LoadError> {
        let nested = dir.join("processor_config.json");
        let flat = dir.join("preprocessor_config.json");
        let in_nested = match nested.is_file() {
            true => read_config::<ProcessorFile>(&nested)?.image_processor,
            false => None,
        };
        let (file, settings) = match in_nested {
            Some(settings) => (nested, settings),
            None => {
                let settings = read_config(&flat)?;
                (flat, settings)
            }
        };
        if settings.do_resize && settings.resample != BICUBIC {
            return Err(LoadError::Unsupported {
                file,
                key: "resample".to_owned(),
                found: settings.resample.to_string(),
                expected: format!("{BICUBIC}, bicubic"),
            });
        }
        let size = settings.size.as_ref();
        let min_pixels = settings
            .min_pixels
            .or(size.and_then(|size| size.shortest_edge))
            .unwrap_or(56 * 56);
        let max_pixels = settings
            .max_pixels
            .or(size.and_then(|size| size.longest_edge))
            .unwrap_or(28 * 28 * 1280);
        Ok(Self {
            settings,
            min_pixels,
            max_pixels,
            patch: vision.patch_size,
            merge: vision.spatial_merge_size,
        })
    }

    /// The patch grid of an image.
    pub(super) fn grid(&self, image: &RgbImage) -> Result<Grid, ModelError> {
        let (height, width) = (image.height() as usize, image.width() as usize);
        let factor = self.patch * self.merge;
        let refused = |problem: String| {
            Err(ModelError::Value {
                input: "images",
                problem,
            })
        };
        if height == 0 || width == 0 {
            return refused(format!("an image has {width} x {height} pixels"));
        }
        if height.max(width) as f64 / height.min(width) as f64 > ASPECT_RATIO_MAX {
            return refused(format!(
                "an image of {width} x {height} pixels is too elongated, the most is 1:{ASPECT_RATIO_MAX}"
            ));
        }
        let (height, width) = if self.settings.do_resize {
            smart_resize(height, width, factor, self.min_pixels, self.max_pixels)
        } else {
            (height, width)
        };
        if height == 0 || width == 0 || height % factor != 0 || width % factor != 0 {
            return refused(format!(
                "an image of {width} x {height} pixels does not divide into blocks of {factor}"
            ));
        }
        Ok(Grid {
            height: height / self.patch,
            width: width / self.patch,
            merge: self.merge,
        })
    }

    /// Patches (patches, 3 * patch * patch), row-major, in the order in which they are merged: block by block.
    pub(super) fn patches(&self, image: &RgbImage) -> Result<(Vec<f32>, Grid), ModelError> {
        let grid = self.grid(image)?;
        let (height, width) = (grid.height * self.patch, grid.width * self.patch);
        let resized;
        let pixels = if (image.height() as usize, image.width() as usize) == (height, width) {
            image.as_raw()
        } else {
            resized = resize(image, height, width, Filter::Bicubic);
            &resized
        };
        let settings = &self.settings;
        let scale = if settings.do_rescale {
            settings.rescale_factor
        } else {
            1.0
        };
        let (mean, std) = if settings.do_normalize {
            (settings.image_mean, settings.image_std)
        } else {
            ([0.0; 3], [1.0; 3])
        };
        let mut patches = Vec::with_capacity(3 * height * width);
        for (row, column) in merge_order(grid) {
            for channel in 0..3 {
                for y in row * self.patch..(row + 1) * self.patch {
                    for x in column * self.patch..(column + 1) * self.patch {
                        let value = f32::from(pixels[(y * width + x) * 3 + channel]) * scale;
                        patches.push((value - mean[channel]) / std[channel]);
                    }
                }
            }
        }
        Ok((patches, grid))
    }
}

/// (row, column) of each patch, in the order in which patches are merged.
pub(super) fn merge_order(grid: Grid) -> impl Iterator<Item = (usize, usize)> {
    let merge = grid.merge;
    (0..grid.merged_height()).flat_map(move |block_row| {
        (0..grid.merged_width()).flat_map(move |block_column| {
            (0..merge * merge).map(move |i| (block_row * merge + i / merge, block_column * merge + i % merge))
        })
    })
}

/// The size to which an image is resized: multiples of `factor`, within the pixel limits, about the same aspect ratio.
///
/// # Source
/// transformers `smart_resize`.
fn smart_resize(height: usize, width: usize, factor: usize, min_pixels: usize, max_pixels: usize) -> (usize, usize) {
    let (h, w, f) = (height as f64, width as f64, factor as f64);
    let (nearest_h, nearest_w) = ((h / f).round_ties_even() * f, (w / f).round_ties_even() * f);
    let (new_h, new_w) = if nearest_h * nearest_w > max_pixels as f64 {
        let beta = (h * w / max_pixels as f64).sqrt();
        (f.max((h / beta / f).floor() * f), f.max((w / beta / f).floor() * f))
    } else if nearest_h * nearest_w < min_pixels as f64 {
        let beta = (min_pixels as f64 / (h * w)).sqrt();
        ((h * beta / f).ceil() * f, (w * beta / f).ceil() * f)
    } else {
        (nearest_h, nearest_w)
    };
    (new_h as usize, new_w as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_smart_resize() {
        // Expected values: transformers' function with the same arguments.
        assert_eq!(smart_resize(64, 64, 16, 1024, 65_536), (64, 64));
        assert_eq!(smart_resize(40, 72, 16, 1024, 65_536), (32, 64));
        assert_eq!(smart_resize(10, 10, 16, 1024, 65_536), (32, 32));
        assert_eq!(smart_resize(1000, 501, 28, 3136, 90_000), (420, 196));
        assert_eq!(smart_resize(1000, 500, 28, 3136, 100_352), (448, 224));
    }

    #[test]
    fn patches_are_ordered_block_by_block() {
        let grid = Grid {
            height: 2,
            width: 4,
            merge: 2,
        };
        let order: Vec<_> = merge_order(grid).collect();
        assert_eq!(order, [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 3), (1, 2), (1, 3)]);
    }
}
