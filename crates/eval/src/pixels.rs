//! Which palette colour each pixel has, and what shape a colour's pixels form.

use image::RgbImage;

use crate::EvalError;
use crate::vocabulary::{Background, Colour, Shape};

/// Width and height of the pictures that the rules are made for.
pub(crate) const SIDE: usize = 64;
/// Pixels that a colour must cover to count as shown.
pub(crate) const SHOWN_PIXELS: usize = 60;

/// Pixels that a connected part of a colour must have to be counted.
const PIECE_PIXELS: usize = 40;

/// The six object colours, then the four backgrounds, as `models/train/scenes/scene.py` paints them.
const PALETTE: [[i32; 3]; 10] = [
    [220, 40, 40],
    [40, 170, 60],
    [50, 80, 220],
    [240, 210, 40],
    [150, 60, 190],
    [245, 135, 30],
    [15, 15, 15],
    [245, 245, 245],
    [128, 128, 128],
    [250, 170, 200],
];
/// Squared distance in RGB from which a pixel counts as none of the palette.
pub(crate) const FAR_SQUARED: i32 = 60 * 60;
/// Like neighbours (of eight) that a pixel needs, else it is a speck.
const LIKE_NEIGHBOURS: usize = 3;

/// A place in the palette.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Class(u8);

impl From<Colour> for Class {
    fn from(colour: Colour) -> Self {
        Self(colour as u8)
    }
}

impl From<Background> for Class {
    fn from(background: Background) -> Self {
        Self(Colour::ALL.len() as u8 + background as u8)
    }
}

/// The palette colour of each pixel, row by row; `None` at blurred edges and specks.
pub(crate) struct ColourMap(Vec<Option<Class>>);

impl ColourMap {
    /// Reads a picture for an evaluator.
    ///
    /// # Errors
    /// [`EvalError::Size`].
    pub(crate) fn read(evaluator: &'static str, image: &RgbImage) -> Result<Self, EvalError> {
        let (width, height) = image.dimensions();
        if (width as usize, height as usize) != (SIDE, SIDE) {
            return Err(EvalError::Size {
                evaluator,
                width,
                height,
                expected: SIDE as u32,
            });
        }
        let nearest: Vec<_> = image.pixels().map(|pixel| nearest(pixel.0)).collect();
        Ok(Self(without_specks(&nearest)))
    }

    /// The commonest colour along the picture's border; the corners count twice. `None` when the border has no palette colour.
    pub(crate) fn border_colour(&self) -> Option<Class> {
        let rows = self.0[..SIDE].iter().chain(&self.0[SIDE * (SIDE - 1)..]);
        let columns = (0..SIDE).flat_map(|y| [&self.0[y * SIDE], &self.0[y * SIDE + SIDE - 1]]);
        let mut counts = [0usize; PALETTE.len()];
        for class in rows.chain(columns).copied().flatten() {
            counts[usize::from(class.0)] += 1;
        }
        // Among equals the first in palette order wins, as in numpy's argmax.
        let (class, count) = counts.iter().enumerate().rev().max_by_key(|(_, count)| **count)?;
        (*count > 0).then_some(Class(class as u8))
    }

    /// The colour of a pixel.
    pub(crate) fn at(&self, x: usize, y: usize) -> Option<Class> {
        self.0[y * SIDE + x]
    }

    /// The pixels of a colour.
    pub(crate) fn mask(&self, class: Class) -> Mask {
        let at = |index: usize| (index % SIDE, index / SIDE);
        Mask(
            (0..self.0.len())
                .filter(|&index| self.0[index] == Some(class))
                .map(at)
                .collect(),
        )
    }
}

/// Squared distance of two colours in RGB.
pub(crate) fn distance_squared(a: [i32; 3], b: [i32; 3]) -> i32 {
    let square = |channel: usize| (a[channel] - b[channel]) * (a[channel] - b[channel]);
    square(0) + square(1) + square(2)
}

fn nearest(pixel: [u8; 3]) -> Option<Class> {
    let (class, distance) = PALETTE
        .iter()
        .map(|colour| distance_squared(pixel.map(i32::from), *colour))
        .enumerate()
        .min_by_key(|(_, distance)| *distance)?;
    (distance < FAR_SQUARED).then_some(Class(class as u8))
}

fn without_specks(classes: &[Option<Class>]) -> Vec<Option<Class>> {
    let alike = |index: usize| {
        let (x, y) = (index % SIDE, index / SIDE);
        let mut count = 0;
        for near_y in y.saturating_sub(1)..=(y + 1).min(SIDE - 1) {
            for near_x in x.saturating_sub(1)..=(x + 1).min(SIDE - 1) {
                let near = near_y * SIDE + near_x;
                count += usize::from(near != index && classes[near] == classes[index]);
            }
        }
        count
    };
    (0..classes.len())
        .map(|index| classes[index].filter(|_| alike(index) >= LIKE_NEIGHBOURS))
        .collect()
}

/// The pixels (x, y) of one colour, row by row.
pub(crate) struct Mask(Vec<(usize, usize)>);

impl Mask {
    /// The pixels in order.
    pub(crate) fn pixels(&self) -> &[(usize, usize)] {
        &self.0
    }

    /// Those of the pixels that `keep` (x, y).
    pub(crate) fn only(mut self, keep: impl Fn(usize, usize) -> bool) -> Self {
        self.0.retain(|&(x, y)| keep(x, y));
        self
    }

    /// How many pixels there are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The parts that are connected by their pixels' sides, but for those that are too small to count.
    pub(crate) fn pieces(&self) -> Vec<Self> {
        let mut open = [false; SIDE * SIDE];
        for &(x, y) in &self.0 {
            open[y * SIDE + x] = true;
        }
        let mut pieces = Vec::new();
        for &first in &self.0 {
            let mut reached = Vec::new();
            let mut next = vec![first];
            while let Some((x, y)) = next.pop() {
                if !std::mem::replace(&mut open[y * SIDE + x], false) {
                    continue;
                }
                reached.push((x, y));
                let across = [x.checked_sub(1), Some(x + 1)].map(|x| x.map(|x| (x, y)));
                let along = [y.checked_sub(1), Some(y + 1)].map(|y| y.map(|y| (x, y)));
                let beside = across.into_iter().chain(along).flatten();
                next.extend(beside.filter(|&(x, y)| x < SIDE && y < SIDE));
            }
            if reached.len() >= PIECE_PIXELS {
                reached.sort_unstable_by_key(|&(x, y)| (y, x));
                pieces.push(Self(reached));
            }
        }
        pieces
    }

    /// Mean (x, y) of the pixels.
    pub(crate) fn centre(&self) -> Option<(f64, f64)> {
        let n = self.0.len() as f64;
        let (x, y) = self
            .0
            .iter()
            .fold((0, 0), |sum, pixel| (sum.0 + pixel.0, sum.1 + pixel.1));
        (!self.0.is_empty()).then(|| (x as f64 / n, y as f64 / n))
    }

    /// Names the shape from the fill of the bounding box and from how its rows widen. The box leaves out the outermost hundredth
    /// of the pixels on each side, so that a stray pixel does not stretch it.
    pub(crate) fn shape(&self) -> Option<Shape> {
        if self.count() < SHOWN_PIXELS {
            return None;
        }
        let mut xs: Vec<usize> = self.0.iter().map(|pixel| pixel.0).collect();
        xs.sort_unstable();
        let ys: Vec<usize> = self.0.iter().map(|pixel| pixel.1).collect();
        let [(x0, x1), (y0, y1)] = [xs, ys].map(|sorted| (percentile(&sorted, 0.01), percentile(&sorted, 0.99)));
        let elongation = (y1 - y0 + 1.0) / (x1 - x0 + 1.0);
        if !(0.6 < elongation && elongation < 1.6) {
            return None;
        }
        let (left, right, top, bottom) = (x0 as usize, x1 as usize, y0 as usize, y1 as usize);
        let mut rows = vec![0usize; bottom - top + 1];
        for &(x, y) in &self.0 {
            if (left..=right).contains(&x) && (top..=bottom).contains(&y) {
                rows[y - top] += 1;
            }
        }
        let fill = rows.iter().sum::<usize>() as f64 / (rows.len() * (right - left + 1)) as f64;
        let quarter = (rows.len() / 4).max(1);
        let mean = |rows: &[usize]| rows.iter().sum::<usize>() as f64 / rows.len() as f64;
        let taper = mean(&rows[..quarter]) / mean(&rows[rows.len() - quarter..]).max(1.0);
        if fill > 0.90 {
            Some(Shape::Square)
        } else if taper < 0.55 && fill < 0.70 {
            Some(Shape::Triangle)
        } else if fill > 0.68 && 0.6 < taper && taper < 1.6 {
            Some(Shape::Circle)
        } else {
            None
        }
    }
}

/// The quantile `q` of ascending values, interpolated linearly in the same order of operations as numpy's `percentile`: the
/// result is cut to a whole pixel, where the last bit decides.
fn percentile(sorted: &[usize], q: f64) -> f64 {
    let place = (sorted.len() - 1) as f64 * q;
    let below = place.floor();
    let fraction = place - below;
    let a = sorted[below as usize] as f64;
    let b = sorted[(below as usize + 1).min(sorted.len() - 1)] as f64;
    if fraction >= 0.5 {
        b - (b - a) * (1.0 - fraction)
    } else {
        a + (b - a) * fraction
    }
}
