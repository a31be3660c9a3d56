//! The `scenes` evaluator: one or two flat shapes, or two to four of one kind, on a flat background, 64x64, checked by pixel rules.
//!
//! A port of `check` in `models/train/scenes/scene.py`, fact for fact; `tests/golden/scenes.py` and `tests/golden/counts.py` made the
//! pictures and answers that it is held to.

mod caption;

pub use caption::{Relation, Scene};

use image::RgbImage;

use crate::pixels::{ColourMap, SHOWN_PIXELS, SIDE};
use crate::vocabulary::Colour;
use crate::{Answer, EvalError, Evaluator, Fact, Facts, Task};

pub(crate) const NAME: &str = "scenes";

/// Pixels that a colour nobody asked for may cover.
const STRAY_PIXELS: usize = 80;
/// Pixels between two objects' centres for a relation to hold.
const APART: f64 = 6.0;

/// Checks background, each object's colour and shape, the count, the absence of other colours, and the relation.
///
/// Where the caption says a number, `count` asks for as many connected pieces of the colour, and `shape0` that most of them have the shape.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scenes;

impl Evaluator for Scenes {
    fn name(&self) -> &'static str {
        NAME
    }

    fn side(&self) -> u32 {
        SIDE as u32
    }

    fn check(&self, task: &Task<'_>) -> Result<(), EvalError> {
        task.words.parse::<Scene>().map(drop)
    }

    fn evaluate(&self, task: &Task<'_>, image: &RgbImage) -> Result<Answer, EvalError> {
        let scene: Scene = task.words.parse()?;
        let map = ColourMap::read(NAME, image)?;
        Ok(Answer {
            facts: check(&map, &scene),
            preservation: None,
        })
    }
}

fn check(map: &ColourMap, scene: &Scene) -> Facts {
    let mut facts = vec![Fact::new(
        "background",
        map.border_colour() == Some(scene.background.into()),
    )];
    let mut centres = Vec::new();
    for (index, object) in scene.objects.iter().enumerate() {
        let mask = map.mask(object.colour.into());
        facts.push(Fact::new(&format!("colour{index}"), mask.count() >= SHOWN_PIXELS));
        let shape = |holds| Fact::new(&format!("shape{index}"), holds);
        if scene.count > 1 {
            let pieces = mask.pieces();
            let shaped = pieces.iter().filter(|piece| piece.shape() == Some(object.shape));
            facts.push(shape(2 * shaped.count() > pieces.len()));
            facts.push(Fact::new("count", pieces.len() == scene.count));
        } else {
            facts.push(shape(mask.shape() == Some(object.shape)));
        }
        centres.push(mask.centre());
    }
    let stray = Colour::ALL
        .into_iter()
        .filter(|colour| scene.objects.iter().all(|object| object.colour != *colour))
        .any(|colour| map.mask(colour.into()).count() > STRAY_PIXELS);
    facts.push(Fact::new("no_extra", !stray));
    if let Some(relation) = scene.relation {
        facts.push(Fact::new("relation", related(relation, &centres)));
    }
    Facts::new(facts)
}

fn related(relation: Relation, centres: &[Option<(f64, f64)>]) -> bool {
    let [Some(first), Some(second)] = centres else {
        return false;
    };
    match relation {
        Relation::LeftOf => first.0 < second.0 - APART,
        Relation::Above => first.1 < second.1 - APART,
    }
}
