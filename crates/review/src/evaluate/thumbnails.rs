//! Small pictures, of which it is measured how far apart they are.

use gavel_eval::diversity;
use image::RgbImage;
use image::imageops::{self, FilterType};

use super::figures::mean;

/// Width and height to which pictures are scaled.
const SIDE: u32 = 64;

/// One subject's small pictures.
pub(super) struct Thumbnails<'a> {
    /// Of each prompt those of all subjects.
    pub(super) of_prompts: &'a [&'a [RgbImage]],
    pub(super) subject: usize,
    pub(super) samples: usize,
}

impl Thumbnails<'_> {
    /// How far apart pictures of different prompts are: the first ones, the second ones and so on, in the mean.
    pub(super) fn between_prompts(&self) -> Option<f64> {
        let of_sample = |sample| {
            let position = self.subject * self.samples + sample;
            let pictures = self
                .of_prompts
                .iter()
                .filter_map(|of_prompt| of_prompt.get(position).cloned());
            diversity(&pictures.collect::<Vec<_>>())
        };
        mean((0..self.samples).filter_map(of_sample))
    }

    /// How far apart the pictures of one prompt are, in the mean; `None` where each has one.
    pub(super) fn within_prompts(&self) -> Option<f64> {
        let first = self.subject * self.samples;
        let of_prompts = self.of_prompts.iter();
        mean(of_prompts.filter_map(|of_prompt| diversity(of_prompt.get(first..first + self.samples)?)))
    }
}

/// A picture as its diversity is measured.
pub(super) fn thumbnail(image: &RgbImage) -> RgbImage {
    match image.dimensions() {
        (SIDE, SIDE) => image.clone(),
        _ => imageops::resize(image, SIDE, SIDE, FilterType::Triangle),
    }
}
