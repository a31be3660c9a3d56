//! A part of a picture.

use image::RgbImage;

/// Some of a picture's pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region(Vec<bool>);

/// From this mean level of its channels on a mask's pixel is white.
const WHITE: u16 = 128;

impl Region {
    /// Whether each pixel is in it, row by row.
    pub fn new(pixels: Vec<bool>) -> Self {
        Self(pixels)
    }

    /// The white pixels of a mask: those whose channels have a mean of 128 or more.
    pub fn of_mask(mask: &RgbImage) -> Self {
        let is_white = |pixel: &image::Rgb<u8>| pixel.0.iter().map(|level| u16::from(*level)).sum::<u16>() >= 3 * WHITE;
        Self(mask.pixels().map(is_white).collect())
    }

    /// The other pixels.
    pub fn complement(&self) -> Self {
        Self(self.0.iter().map(|is_inside| !is_inside).collect())
    }

    /// Share of the picture's pixels, in [0, 1]; `None` for a picture without any.
    pub fn share(&self) -> Option<f64> {
        let inside = self.0.iter().filter(|is_inside| **is_inside).count();
        (!self.0.is_empty()).then(|| inside as f64 / self.0.len() as f64)
    }

    /// A picture of which these pixels alone are left: all others are mid-gray. `None` where none is left.
    pub fn of(&self, picture: &RgbImage) -> Option<RgbImage> {
        let mut alone = picture.clone();
        for (index, pixel) in alone.pixels_mut().enumerate() {
            if !self.has(index) {
                pixel.0 = [127; 3];
            }
        }
        self.0.contains(&true).then_some(alone)
    }

    /// Whether the pixel at `index`, row by row, is in it.
    pub(super) fn has(&self, index: usize) -> bool {
        self.0.get(index).copied().unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn a_mask_is_white_from_the_middle_on() {
        let mask = RgbImage::from_fn(
            4,
            1,
            |x, _| Rgb([[0; 3], [127; 3], [128; 3], [255, 255, 0]][x as usize]),
        );
        let region = Region::of_mask(&mask);
        assert_eq!(region, Region::new(vec![false, false, true, true]));
        assert_eq!(region.complement(), Region::new(vec![true, true, false, false]));
        assert_eq!(region.share(), Some(0.5));
        assert_eq!(Region::new(Vec::new()).share(), None);
        assert!(!region.has(4), "what is no pixel is in no region");
    }
}
