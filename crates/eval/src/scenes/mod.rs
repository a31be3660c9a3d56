//! The `scenes` evaluator: one or two flat shapes on a flat background, 64x64, checked by pixel rules.
//!
//! A port of `check` in `models/train/scenes/scene.py`, fact for fact; `tests/golden/scenes.py` made the pictures and answers that it is
//! held to.

mod caption;
mod pixels;

pub use caption::{Background, Colour, Object, Relation, Scene, Shape};

use image::RgbImage;
use pixels::ColourMap;

use crate::{EvalError, Evaluator, Fact, Facts};

pub(crate) const NAME: &str = "scenes";

/// Pixels that a colour must cover to count as shown.
const SHOWN_PIXELS: usize = 60;
/// Pixels that a colour nobody asked for may cover.
const STRAY_PIXELS: usize = 80;
/// Pixels between two objects' centres for a relation to hold.
const APART: f64 = 6.0;

/// Checks background, each object's colour and shape, the absence of other colours, and the relation.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scenes;

impl Evaluator for Scenes {
    fn name(&self) -> &'static str {
        NAME
    }

    fn check_prompt(&self, prompt: &str) -> Result<(), EvalError> {
        prompt.parse::<Scene>().map(drop)
    }

    fn evaluate(&self, prompt: &str, image: &RgbImage) -> Result<Facts, EvalError> {
        let scene: Scene = prompt.parse()?;
        let map = ColourMap::read(image)?;
        Ok(check(&map, &scene))
    }
}

fn check(map: &ColourMap, scene: &Scene) -> Facts {
    let fact = |name: &str, holds| Fact {
        name: name.to_owned(),
        holds,
    };
    let mut facts = vec![fact("background", map.border_colour() == Some(scene.background.into()))];
    let mut centres = Vec::new();
    for (index, object) in scene.objects.iter().enumerate() {
        let mask = map.mask(object.colour.into());
        facts.push(fact(&format!("colour{index}"), mask.count() >= SHOWN_PIXELS));
        facts.push(fact(&format!("shape{index}"), mask.shape() == Some(object.shape)));
        centres.push(mask.centre());
    }
    let stray = Colour::ALL
        .into_iter()
        .filter(|colour| scene.objects.iter().all(|object| object.colour != *colour))
        .any(|colour| map.mask(colour.into()).count() > STRAY_PIXELS);
    facts.push(fact("no_extra", !stray));
    if let Some(relation) = scene.relation {
        facts.push(fact("relation", related(relation, &centres)));
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
