//! Captions such as `a red circle left of a blue square on a white background`, or `three red circles on a white background`.

use std::str::FromStr;

use crate::EvalError;
use crate::vocabulary::{Background, Object, background, end, literal, object, objects};

/// How the first object lies to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// `left of`.
    LeftOf,
    /// `above`.
    Above,
}

/// The numbers above one, from two on.
const NUMBERS: [&str; 3] = ["two", "three", "four"];

/// What a caption says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scene {
    /// One object, or two with a relation.
    pub objects: Vec<Object>,
    /// `Some` exactly when there are two objects.
    pub relation: Option<Relation>,
    /// How many of the object there are; above 1 only where there is one object without a relation.
    pub count: usize,
    /// The background.
    pub background: Background,
}

impl FromStr for Scene {
    type Err = EvalError;

    /// Reads `a COLOUR SHAPE [left of|above a COLOUR SHAPE] on a BACKGROUND background`, and
    /// `two|three|four COLOUR SHAPEs on a BACKGROUND background`.
    fn from_str(text: &str) -> Result<Self, EvalError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        scene(&mut words.as_slice()).map_err(|problem| EvalError::Prompt {
            prompt: text.to_owned(),
            problem,
        })
    }
}

fn scene(words: &mut &[&str]) -> Result<Scene, String> {
    let number = words
        .first()
        .and_then(|first| NUMBERS.iter().position(|word| word == first));
    if let Some(number) = number {
        *words = &words[1..];
        return Ok(Scene {
            objects: vec![objects(words)?],
            relation: None,
            count: number + 2,
            background: on_background(words)?,
        });
    }
    let mut objects = vec![object(words)?];
    let relation = match *words {
        ["left", "of", rest @ ..] => Some((Relation::LeftOf, rest)),
        ["above", rest @ ..] => Some((Relation::Above, rest)),
        _ => None,
    };
    let relation = match relation {
        Some((relation, rest)) => {
            *words = rest;
            objects.push(object(words)?);
            Some(relation)
        }
        None => None,
    };
    Ok(Scene {
        objects,
        relation,
        count: 1,
        background: on_background(words)?,
    })
}

/// Reads `on a BACKGROUND background`, after which nothing stands.
fn on_background(words: &mut &[&str]) -> Result<Background, String> {
    literal(words, &["on"])?;
    literal(words, &["a", "an"])?;
    let background = background(words)?;
    literal(words, &["background"])?;
    end(words)?;
    Ok(background)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::{Colour, Shape};

    #[test]
    fn both_kinds_of_caption_are_read() {
        let one: Scene = "a green triangle on a gray background".parse().unwrap();
        assert_eq!(
            one.objects,
            [Object {
                colour: Colour::Green,
                shape: Shape::Triangle
            }]
        );
        assert_eq!((one.relation, one.count, one.background), (None, 1, Background::Gray));
        let two: Scene = "an orange square above a blue circle on a pink background"
            .parse()
            .unwrap();
        assert_eq!(two.relation, Some(Relation::Above));
        assert_eq!(
            two.objects[1],
            Object {
                colour: Colour::Blue,
                shape: Shape::Circle
            }
        );
    }

    #[test]
    fn numbers_of_one_object_are_read() {
        for (word, count) in [("two", 2), ("three", 3), ("four", 4)] {
            let scene: Scene = format!("{word} blue squares on a pink background").parse().unwrap();
            let squares = Object {
                colour: Colour::Blue,
                shape: Shape::Square,
            };
            assert_eq!(
                scene,
                Scene {
                    objects: vec![squares],
                    relation: None,
                    count,
                    background: Background::Pink
                }
            );
        }
    }

    #[test]
    fn other_prompts_are_refused_with_the_word_that_does_not_fit() {
        for (prompt, problem) in [
            ("", "it ends where `a` should be"),
            (
                "a photo of a cat",
                "`photo` is not a colour (red, green, blue, yellow, purple, orange)",
            ),
            (
                "a red cat on a white background",
                "`cat` is not a shape (circle, square, triangle)",
            ),
            (
                "a red circle on a mauve background",
                "`mauve` is not a background (black, white, gray, pink)",
            ),
            (
                "a red circle below a blue square on a white background",
                "`below` where `on` should be",
            ),
            ("five red circles on a white background", "`five` where `a` should be"),
            (
                "two red circle on a white background",
                "`circle` is not several shapes (circles, squares, triangles)",
            ),
            (
                "two red circles above a blue square on a white background",
                "`above` where `on` should be",
            ),
            (
                "a red circle on a white background, please",
                "`background,` where `background` should be",
            ),
            ("a red circle on a white background please", "`please` after the end"),
        ] {
            let error = prompt.parse::<Scene>().unwrap_err();
            assert_eq!(
                error,
                EvalError::Prompt {
                    prompt: prompt.to_owned(),
                    problem: problem.to_owned()
                }
            );
        }
    }
}
