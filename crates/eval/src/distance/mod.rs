//! How far apart pictures are, in the measures of the field: mean absolute difference, PSNR and SSIM, over all pixels or over a
//! [`Region`] of them; and the [`diversity()`] of a set.
//!
//! `tests/golden/distance.py` made the pictures and figures, by scikit-image and numpy, that these are held to.

mod diversity;
mod region;
mod ssim;

pub use diversity::diversity;
pub use region::Region;

use image::RgbImage;
use serde::{Deserialize, Serialize};

/// From how many levels on, of 255, a channel's difference counts as a change: a tenth of its range. Noise of an autoencoder and of
/// JPEG files stays below.
pub const CHANGED_LEVELS: u8 = 26;

/// How far apart two pictures are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Distance {
    /// Pixels that were compared.
    pub pixels: usize,
    /// Mean absolute difference of the RGB values, in [0, 1].
    pub l1: f64,
    /// Mean squared difference of the RGB values, in [0, 1].
    pub mse: f64,
    /// Peak signal-to-noise ratio in dB, 10 log10(1 / mse); `None` where nothing differs, which would be infinite.
    pub psnr: Option<f64>,
    /// Structural similarity in [-1, 1], 1 where nothing differs; `None` where no pixel is five pixels away from the border.
    pub ssim: Option<f64>,
}

/// The difference of two pictures of one size, pixel by pixel.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Absolute differences of the channels.
    levels: RgbImage,
    /// Structural similarity around each pixel, row by row; nothing where the window does not fit.
    similarity: Vec<Option<f32>>,
}

impl Difference {
    /// Compares two pictures; `None` when their sizes differ.
    pub fn between(before: &RgbImage, after: &RgbImage) -> Option<Self> {
        if before.dimensions() != after.dimensions() {
            return None;
        }
        let (width, height) = before.dimensions();
        let levels = RgbImage::from_fn(width, height, |x, y| {
            let [before, after] = [before, after].map(|picture| picture.get_pixel(x, y).0);
            image::Rgb([0, 1, 2].map(|channel| before[channel].abs_diff(after[channel])))
        });
        Some(Self {
            levels,
            similarity: ssim::map(before, after),
        })
    }

    /// Over all pixels; `None` for a picture without any.
    pub fn whole(&self) -> Option<Distance> {
        self.over_pixels(|_| true)
    }

    /// Over the pixels of a region; `None` where it has none of them.
    pub fn over(&self, region: &Region) -> Option<Distance> {
        self.over_pixels(|index| region.has(index))
    }

    /// The pixels with a channel that differs by [`CHANGED_LEVELS`] or more.
    pub fn changed(&self) -> Region {
        let changed = |pixel: &image::Rgb<u8>| pixel.0.iter().any(|level| *level >= CHANGED_LEVELS);
        Region::new(self.levels.pixels().map(changed).collect())
    }

    fn over_pixels(&self, is_compared: impl Fn(usize) -> bool) -> Option<Distance> {
        let (mut pixels, mut absolute, mut squared) = (0_usize, 0_u64, 0_u64);
        let (mut windows, mut similarity) = (0_usize, 0.0_f64);
        for (index, (pixel, similar)) in self.levels.pixels().zip(&self.similarity).enumerate() {
            if !is_compared(index) {
                continue;
            }
            pixels += 1;
            for level in pixel.0.map(u64::from) {
                absolute += level;
                squared += level * level;
            }
            if let Some(similar) = similar {
                windows += 1;
                similarity += f64::from(*similar);
            }
        }
        if pixels == 0 {
            return None;
        }
        let values = (3 * pixels) as f64;
        let mse = squared as f64 / values / (255.0 * 255.0);
        Some(Distance {
            pixels,
            l1: absolute as f64 / values / 255.0,
            mse,
            psnr: (squared > 0).then(|| -10.0 * libm::log10(mse)),
            ssim: (windows > 0).then(|| similarity / windows as f64),
        })
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    fn flat(level: u8) -> RgbImage {
        RgbImage::from_pixel(16, 12, Rgb([level; 3]))
    }

    #[test]
    fn a_picture_is_at_no_distance_from_itself() {
        let same = Difference::between(&flat(90), &flat(90)).unwrap().whole().unwrap();
        assert_eq!((same.pixels, same.l1, same.mse, same.psnr), (192, 0.0, 0.0, None));
        assert!((same.ssim.unwrap() - 1.0).abs() < 1e-6);
    }

    #[test]
    fn a_constant_difference_has_the_figures_that_one_computes_by_hand() {
        let distance = Difference::between(&flat(0), &flat(51)).unwrap().whole().unwrap();
        assert!((distance.l1 - 0.2).abs() < 1e-12 && (distance.mse - 0.04).abs() < 1e-12);
        assert!((distance.psnr.unwrap() - 13.979_400_086_72).abs() < 1e-9);
        // Two flat pictures: (2ab + c1) / (a^2 + b^2 + c1) with c1 = (0.01 * 255)^2.
        let c1 = 2.55_f64 * 2.55;
        assert!((distance.ssim.unwrap() - c1 / (51.0 * 51.0 + c1)).abs() < 1e-6);
    }

    #[test]
    fn inside_and_outside_of_a_region_are_measured_apart() {
        let before = flat(100);
        let mut after = before.clone();
        for y in 0..12 {
            for x in 0..4 {
                after.put_pixel(x, y, Rgb([100, 150, 100]));
            }
        }
        let difference = Difference::between(&before, &after).unwrap();
        let changed = difference.changed();
        assert_eq!(changed.share(), Some(0.25));
        let (inside, outside) = (
            difference.over(&changed).unwrap(),
            difference.over(&changed.complement()).unwrap(),
        );
        assert_eq!((inside.pixels, outside.pixels, outside.l1), (48, 144, 0.0));
        assert!((inside.l1 - 50.0 / 3.0 / 255.0).abs() < 1e-12);
        assert_eq!(inside.ssim, None, "no window of the four left columns fits");
        assert!(outside.ssim.unwrap() < 1.0, "windows reach over the region's edge");
        assert_eq!(difference.over(&Region::new(vec![false; 192])), None);
    }

    #[test]
    fn only_pictures_of_one_size_are_compared() {
        assert!(Difference::between(&flat(0), &RgbImage::new(12, 16)).is_none());
        let nothing = Difference::between(&RgbImage::new(0, 0), &RgbImage::new(0, 0));
        assert_eq!(nothing.and_then(|nothing| nothing.whole()), None);
        let small = RgbImage::new(10, 40);
        assert_eq!(Difference::between(&small, &small).unwrap().whole().unwrap().ssim, None);
    }
}
