//! Was the instruction carried out?

use super::Instruction;
use super::source::Asked;
use crate::pixels::{Class, ColourMap, Mask, SHOWN_PIXELS};
use crate::{Fact, Facts};

/// Pixels that an object's centre may be away from its place, in x and in y.
const NEAR: f64 = 8.0;

/// The facts of an instruction: what has to be gone, and what has to be there.
pub(super) fn facts(asked: &Asked<'_>, shown: &ColourMap) -> Facts {
    let facts = match asked.instruction {
        Instruction::Background { colour } => vec![
            Fact::new(
                "old background gone",
                at_most(shown, asked.background, &asked.ground, (1, 4)),
            ),
            Fact::new("new background", at_least(shown, colour.into(), &asked.ground, (3, 4))),
        ],
        Instruction::Add { object, place } => {
            let new = shown.mask(object.colour.into());
            let (x, y) = place.centre();
            vec![
                Fact::new("new object", new.count() >= SHOWN_PIXELS),
                Fact::new("place", is_centred(&new, Some((x as f64, y as f64)))),
                Fact::new("shape", new.shape() == Some(object.shape)),
            ]
        }
        Instruction::Remove { object } => {
            let named = asked.object(object.colour);
            vec![
                Fact::new("old colour gone", at_most(shown, object.colour.into(), &named, (1, 4))),
                Fact::new(
                    "background in its place",
                    at_least(shown, asked.background, &named, (3, 4)),
                ),
            ]
        }
        Instruction::Recolour { object, colour } => {
            let named = asked.object(object.colour);
            vec![
                Fact::new("old colour gone", at_most(shown, object.colour.into(), &named, (1, 4))),
                Fact::new("new colour", at_least(shown, colour.into(), &named, (1, 2))),
                Fact::new("shape", shown.mask(colour.into()).shape() == Some(object.shape)),
            ]
        }
        Instruction::Replace { object, new } => {
            let named = asked.object(object.colour);
            let found = shown.mask(new.colour.into());
            vec![
                Fact::new("old colour gone", at_most(shown, object.colour.into(), &named, (1, 4))),
                Fact::new("new object", is_centred(&found, named.centre())),
                Fact::new("shape", found.shape() == Some(new.shape)),
            ]
        }
    };
    Facts::new(facts)
}

/// Whether a colour covers at most a share (numerator, denominator) of a region.
fn at_most(shown: &ColourMap, class: Class, region: &Mask, share: (usize, usize)) -> bool {
    covered(shown, class, region) * share.1 <= region.count() * share.0
}

/// Whether a colour covers at least a share (numerator, denominator) of a region.
fn at_least(shown: &ColourMap, class: Class, region: &Mask, share: (usize, usize)) -> bool {
    covered(shown, class, region) * share.1 >= region.count() * share.0
}

fn covered(shown: &ColourMap, class: Class, region: &Mask) -> usize {
    let is_of_class = |&&(x, y): &&(usize, usize)| shown.at(x, y) == Some(class);
    region.pixels().iter().filter(is_of_class).count()
}

/// Whether there are enough pixels to show an object, and their centre is near a place.
fn is_centred(mask: &Mask, place: Option<(f64, f64)>) -> bool {
    let (Some((x, y)), Some(place)) = (mask.centre(), place) else {
        return false;
    };
    mask.count() >= SHOWN_PIXELS && (x - place.0).abs() <= NEAR && (y - place.1).abs() <= NEAR
}
