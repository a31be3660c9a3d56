//! What is asked for, and what the rules see in the source picture.

use image::RgbImage;

use super::{Instruction, NAME};
use crate::pixels::{Class, ColourMap, Mask, SHOWN_PIXELS, SIDE};
use crate::vocabulary::{Background, Colour};
use crate::{EvalError, Task};

/// Pixels by which the box around an edited object is larger than it on each side.
const BOX_MARGIN: usize = 4;
/// Half the side of the box around the place where an object is added.
const PLACE_HALF: usize = 16;

/// An instruction with its source picture.
pub(super) struct Asked<'a> {
    pub(super) instruction: Instruction,
    pub(super) source: &'a RgbImage,
    pub(super) map: ColourMap,
    /// The source's background: the commonest background colour, and its pixels.
    pub(super) background: Class,
    pub(super) ground: Mask,
    /// What the instruction does not touch; never empty, and none of its parts is.
    pub(super) untouched: Vec<Mask>,
}

impl<'a> Asked<'a> {
    /// Reads the task's instruction and its one source.
    ///
    /// # Errors
    /// As [`crate::Evaluator::check`].
    pub(super) fn read(task: &Task<'a>) -> Result<Self, EvalError> {
        let instruction: Instruction = task.words.parse()?;
        let prompt = || task.words.to_owned();
        let [source] = task.sources else {
            return Err(EvalError::Sources {
                prompt: prompt(),
                evaluator: NAME,
                found: task.sources.len(),
            });
        };
        let map = ColourMap::read(NAME, source).map_err(|error| error.of_the_source(task.words))?;
        let unusable = |problem: String| EvalError::Source {
            prompt: prompt(),
            problem,
        };
        let (background, ground) = background(&map).ok_or_else(|| unusable("shows no background".to_owned()))?;
        if let Some(named) = instruction.named().map(|object| object.colour)
            && map.mask(named.into()).count() < SHOWN_PIXELS
        {
            return Err(unusable(format!("shows no {} object", named.word())));
        }
        let untouched = untouched(instruction, &map, background);
        if untouched.is_empty() || untouched.iter().any(|part| part.count() == 0) {
            return Err(unusable(
                "leaves nothing by which to tell whether the rest is kept".to_owned(),
            ));
        }
        Ok(Self {
            instruction,
            source,
            map,
            background,
            ground,
            untouched,
        })
    }

    /// The source's pixels of an object's colour.
    pub(super) fn object(&self, colour: Colour) -> Mask {
        self.map.mask(colour.into())
    }
}

/// The commonest background colour, the first in palette order among equals; `None` without any.
fn background(map: &ColourMap) -> Option<(Class, Mask)> {
    let masks = Background::ALL.map(|colour| (Class::from(colour), map.mask(colour.into())));
    let largest = masks.into_iter().rev().max_by_key(|(_, mask)| mask.count())?;
    (largest.1.count() > 0).then_some(largest)
}

/// Each object that is not named, without its edge, which mixes with the background; and unless it is to change, the background
/// outside the edit's box.
fn untouched(instruction: Instruction, map: &ColourMap, background: Class) -> Vec<Mask> {
    let named = instruction.named().map(|object| object.colour);
    let mut parts: Vec<Mask> = Colour::ALL
        .into_iter()
        .filter(|colour| Some(*colour) != named)
        .map(|colour| (Class::from(colour), map.mask(colour.into())))
        .filter(|(_, mask)| mask.count() >= SHOWN_PIXELS)
        .map(|(class, mask)| mask.only(|x, y| is_interior(map, class, x, y)))
        .collect();
    let within: Option<Box<dyn Fn(usize, usize) -> bool>> = match instruction {
        Instruction::Background { .. } => None,
        Instruction::Add { place, .. } => {
            let (centre_x, centre_y) = place.centre();
            let near = |at: usize, centre: usize| (centre - PLACE_HALF..centre + PLACE_HALF).contains(&at);
            Some(Box::new(move |x, y| near(x, centre_x) && near(y, centre_y)))
        }
        Instruction::Recolour { object, .. } | Instruction::Remove { object } | Instruction::Replace { object, .. } => {
            let mask = map.mask(object.colour.into());
            let [columns, rows] = [bounds(&mask, |pixel| pixel.0), bounds(&mask, |pixel| pixel.1)];
            Some(Box::new(move |x, y| columns.contains(&x) && rows.contains(&y)))
        }
    };
    if let Some(is_within) = within {
        parts.push(map.mask(background).only(|x, y| !is_within(x, y)));
    }
    parts
}

/// Whether the eight neighbours of a pixel are of its colour; never at the picture's border.
fn is_interior(map: &ColourMap, class: Class, x: usize, y: usize) -> bool {
    let inside = 1..SIDE - 1;
    inside.contains(&x)
        && inside.contains(&y)
        && (y - 1..=y + 1).all(|near_y| (x - 1..=x + 1).all(|near_x| map.at(near_x, near_y) == Some(class)))
}

/// From the lowest to the highest coordinate of a mask's pixels, grown by the margin.
fn bounds(mask: &Mask, coordinate: impl Fn(&(usize, usize)) -> usize) -> std::ops::RangeInclusive<usize> {
    let (low, high) = mask
        .pixels()
        .iter()
        .map(coordinate)
        .fold((usize::MAX, 0), |(low, high), at| (low.min(at), high.max(at)));
    low.saturating_sub(BOX_MARGIN)..=high + BOX_MARGIN
}
