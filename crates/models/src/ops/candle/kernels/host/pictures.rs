//! Norms of pictures, and the patches of a convolution. Sums are float64: a group of a large picture has millions of values.

use super::super::operation::{CHANNELS, PART, Then, Window};
use super::layers::silu;

/// The smallest length that a pixel is divided by.
const LENGTH_MIN: f32 = 1e-12;

/// Of each part of a group the mean and the sum of the squares of what is off it.
pub(super) fn part_moments(group: &[f32]) -> Vec<f32> {
    let parts = group.chunks(PART);
    parts
        .flat_map(|part| {
            let mean = part.iter().copied().map(f64::from).sum::<f64>() / part.len() as f64;
            let squares: f64 = part.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum();
            [mean as f32, squares as f32]
        })
        .collect()
}

/// Mean, and 1 / sqrt(variance + epsilon), of a group of a size, of its parts.
pub(super) fn joined_moments(parts: &[f32], epsilon: f32, size: usize) -> [f32; 2] {
    let parts = || {
        let sizes = (0..size).step_by(PART).map(|first| PART.min(size - first) as f64);
        let moments = parts
            .chunks_exact(2)
            .map(|part| (f64::from(part[0]), f64::from(part[1])));
        moments.zip(sizes)
    };
    let mean = parts().map(|((mean, _), size)| mean * size).sum::<f64>() / size as f64;
    let squares: f64 = parts()
        .map(|((own, squares), size)| squares + (own - mean).powi(2) * size)
        .sum();
    [
        mean as f32,
        (squares / size as f64 + f64::from(epsilon)).sqrt().recip() as f32,
    ]
}

/// A row of pixels: a channel of a picture. The inputs are moments, weight and bias.
pub(super) fn group_norm(
    x: &[f32],
    row: usize,
    channels: usize,
    groups: usize,
    inputs: &[Vec<f32>],
    then: Then,
) -> Vec<f32> {
    let (picture, channel) = (row / channels, row % channels);
    let group = picture * groups + channel / (channels / groups);
    let (mean, inverse) = (inputs[0][2 * group], inputs[0][2 * group + 1]);
    let (factor, offset) = (inverse * inputs[1][channel], inputs[2][channel]);
    x.iter().map(|x| followed((x - mean) * factor + offset, then)).collect()
}

/// Of each pixel of a picture the sum of the squares of each part of its channels.
pub(super) fn pixel_squares(picture: &[f32], pixels: usize) -> Vec<f32> {
    let sum = |part: &[f32], pixel: usize| part[pixel..].iter().step_by(pixels).map(|x| x * x).sum();
    let parts = picture.chunks(CHANNELS * pixels);
    parts
        .flat_map(|part| (0..pixels).map(move |pixel| sum(part, pixel)))
        .collect()
}

/// A picture whose pixels have these sums of squares.
pub(super) fn channel_norm(picture: &[f32], squares: &[f32], gamma: &[f32], then: Then) -> Vec<f32> {
    let pixels = picture.len() / gamma.len();
    let root = (gamma.len() as f32).sqrt();
    let length = |pixel: usize| squares[pixel..].iter().step_by(pixels).sum::<f32>().sqrt();
    let factors: Vec<f32> = (0..pixels).map(|pixel| root / length(pixel).max(LENGTH_MIN)).collect();
    let channels = picture.chunks_exact(pixels).zip(gamma);
    channels
        .flat_map(|(x, gamma)| {
            let scaled = x.iter().zip(&factors);
            scaled.map(move |(x, factor)| followed(x * factor * gamma, then))
        })
        .collect()
}

/// What an element of a convolution's kernel meets at each place of the lines that are meant.
pub(super) fn patches(picture: &[f32], (height, width): (usize, usize), window: Window, row: usize) -> Vec<f32> {
    let Window {
        kernel, stride, scale, ..
    } = window;
    let (channel, down, right) = (row / (kernel * kernel), row / kernel % kernel, row % kernel);
    let plane = &picture[channel * height * width..][..height * width];
    let met = |place: usize, reach: usize, size: usize| {
        let at = (place * stride + reach).checked_sub(window.before)? / scale;
        (at < size).then_some(at)
    };
    let lines = window.first_line..window.first_line + window.lines;
    let places = lines.flat_map(|line| (0..window.columns).map(move |column| (line, column)));
    places
        .map(
            |(line, column)| match (met(line, down, height), met(column, right, width)) {
                (Some(y), Some(x)) => plane[y * width + x],
                _ => 0.0,
            },
        )
        .collect()
}

fn followed(x: f32, then: Then) -> f32 {
    match then {
        Then::Nothing => x,
        Then::Silu => silu(x),
    }
}
