//! Was the rest left alone?

use image::RgbImage;

use super::source::Asked;
use crate::pixels::{FAR_SQUARED, Mask, distance_squared};

/// The mean over the parts that the instruction does not touch of the share of their pixels that are kept: a second object of 300
/// pixels weighs as much as a background of 3,000. A pixel is kept while it is closer to the source's than the distance at which a
/// colour stops being itself. `edited` has the source's size.
pub(super) fn kept(asked: &Asked<'_>, edited: &RgbImage) -> f64 {
    let share = |part: &Mask| {
        let is_kept = |&&(x, y): &&(usize, usize)| {
            let [before, after] =
                [asked.source, edited].map(|picture| picture.get_pixel(x as u32, y as u32).0.map(i32::from));
            distance_squared(before, after) < FAR_SQUARED
        };
        part.pixels().iter().filter(is_kept).count() as f64 / part.count() as f64
    };
    asked.untouched.iter().map(share).sum::<f64>() / asked.untouched.len() as f64
}
