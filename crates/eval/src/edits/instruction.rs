//! Instructions such as `make the red circle blue`.

use std::str::FromStr;

use crate::EvalError;
use crate::vocabulary::{Background, Colour, Object, background, colour, end, literal, named_object, next, object};

/// What an instruction asks for. The object that it names is told by its colour alone: no source shows two of a colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instruction {
    /// `make the red circle blue`: the object keeps its shape.
    Recolour {
        /// The object as it is.
        object: Object,
        /// What colour it is to have.
        colour: Colour,
    },
    /// `make the background pink`.
    Background {
        /// What colour it is to have.
        colour: Background,
    },
    /// `remove the red circle`.
    Remove {
        /// The object as it is.
        object: Object,
    },
    /// `add a blue square on the right`.
    Add {
        /// The new object.
        object: Object,
        /// Where it is to be.
        place: Place,
    },
    /// `replace the red circle with a blue square`.
    Replace {
        /// The object as it is.
        object: Object,
        /// What is to be there instead.
        new: Object,
    },
}

/// Where an object is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// `on the left`.
    Left,
    /// `on the right`.
    Right,
    /// `at the top`.
    Top,
    /// `at the bottom`.
    Bottom,
}

impl Instruction {
    /// The object of the source that the instruction names.
    pub fn named(self) -> Option<Object> {
        match self {
            Self::Recolour { object, .. } | Self::Remove { object } | Self::Replace { object, .. } => Some(object),
            Self::Background { .. } | Self::Add { .. } => None,
        }
    }
}

impl Place {
    /// Its centre (x, y) in pixels.
    pub fn centre(self) -> (usize, usize) {
        match self {
            Self::Left => (16, 32),
            Self::Right => (48, 32),
            Self::Top => (32, 16),
            Self::Bottom => (32, 48),
        }
    }
}

impl FromStr for Instruction {
    type Err = EvalError;

    fn from_str(text: &str) -> Result<Self, EvalError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        instruction(&mut words.as_slice()).map_err(|problem| EvalError::Instruction {
            prompt: text.to_owned(),
            problem,
        })
    }
}

fn instruction(words: &mut &[&str]) -> Result<Instruction, String> {
    let instruction = match next(words, "`make`, `remove`, `add` or `replace`")? {
        "make" => {
            literal(words, &["the"])?;
            make(words)?
        }
        "remove" => {
            literal(words, &["the"])?;
            Instruction::Remove {
                object: named_object(words)?,
            }
        }
        "add" => Instruction::Add {
            object: object(words)?,
            place: place(words)?,
        },
        "replace" => {
            literal(words, &["the"])?;
            let named = named_object(words)?;
            literal(words, &["with"])?;
            Instruction::Replace {
                object: named,
                new: object(words)?,
            }
        }
        word => return Err(format!("`{word}` where `make`, `remove`, `add` or `replace` should be")),
    };
    end(words)?;
    Ok(instruction)
}

fn make(words: &mut &[&str]) -> Result<Instruction, String> {
    if let ["background", rest @ ..] = *words {
        *words = rest;
        return Ok(Instruction::Background {
            colour: background(words)?,
        });
    }
    Ok(Instruction::Recolour {
        object: named_object(words)?,
        colour: colour(words)?,
    })
}

fn place(words: &mut &[&str]) -> Result<Place, String> {
    let (place, rest) = match *words {
        ["on", "the", "left", rest @ ..] => (Place::Left, rest),
        ["on", "the", "right", rest @ ..] => (Place::Right, rest),
        ["at", "the", "top", rest @ ..] => (Place::Top, rest),
        ["at", "the", "bottom", rest @ ..] => (Place::Bottom, rest),
        _ => {
            let places = "on the left, on the right, at the top, at the bottom";
            return Err(format!("`{}` is not a place ({places})", words.join(" ")));
        }
    };
    *words = rest;
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::Shape;

    const RED_CIRCLE: Object = Object {
        colour: Colour::Red,
        shape: Shape::Circle,
    };
    const ORANGE_SQUARE: Object = Object {
        colour: Colour::Orange,
        shape: Shape::Square,
    };

    #[test]
    fn every_kind_of_instruction_is_read() {
        for (text, expected) in [
            (
                "make the red circle blue",
                Instruction::Recolour {
                    object: RED_CIRCLE,
                    colour: Colour::Blue,
                },
            ),
            (
                "make the background pink",
                Instruction::Background {
                    colour: Background::Pink,
                },
            ),
            ("remove the red circle", Instruction::Remove { object: RED_CIRCLE }),
            (
                "add a orange square at the bottom",
                Instruction::Add {
                    object: ORANGE_SQUARE,
                    place: Place::Bottom,
                },
            ),
            (
                "replace the red circle with an orange square",
                Instruction::Replace {
                    object: RED_CIRCLE,
                    new: ORANGE_SQUARE,
                },
            ),
        ] {
            assert_eq!(text.parse::<Instruction>(), Ok(expected));
        }
    }

    #[test]
    fn other_prompts_are_refused_with_the_word_that_does_not_fit() {
        for (prompt, problem) in [
            ("", "it ends where `make`, `remove`, `add` or `replace` should be"),
            (
                "paint the red circle blue",
                "`paint` where `make`, `remove`, `add` or `replace` should be",
            ),
            ("make a red circle blue", "`a` where `the` should be"),
            ("make the red circle", "it ends where a colour should be"),
            (
                "make the red circle pink",
                "`pink` is not a colour (red, green, blue, yellow, purple, orange)",
            ),
            (
                "make the background red",
                "`red` is not a background (black, white, gray, pink)",
            ),
            (
                "add a blue square in the middle",
                "`in the middle` is not a place (on the left, on the right, at the top, at the bottom)",
            ),
            ("remove the red circle please", "`please` after the end"),
        ] {
            assert_eq!(
                prompt.parse::<Instruction>(),
                Err(EvalError::Instruction {
                    prompt: prompt.to_owned(),
                    problem: problem.to_owned()
                })
            );
        }
    }
}
