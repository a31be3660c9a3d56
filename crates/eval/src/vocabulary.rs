//! The words that pictures of flat shapes are described by, and how they are read one after another.
//!
//! A function that reads takes its words off the front, and says in its error which word does not fit.

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $(#[doc = concat!("`", $word, "`.")] $variant),+
        }

        impl $name {
            /// Every value, in palette order.
            pub const ALL: [Self; [$($word),+].len()] = [$(Self::$variant),+];

            /// The word in a prompt.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            fn from_word(word: &str) -> Option<Self> {
                Self::ALL.into_iter().find(|value| value.word() == word)
            }

            fn words() -> String {
                [$($word),+].join(", ")
            }
        }
    };
}

words! {
    /// An object's colour.
    Colour { Red = "red", Green = "green", Blue = "blue", Yellow = "yellow", Purple = "purple", Orange = "orange" }
}
words! {
    /// The background's colour.
    Background { Black = "black", White = "white", Gray = "gray", Pink = "pink" }
}
words! {
    /// An object's shape.
    Shape { Circle = "circle", Square = "square", Triangle = "triangle" }
}

/// One shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Object {
    /// Its colour.
    pub colour: Colour,
    /// Its shape.
    pub shape: Shape,
}

/// Reads `a COLOUR SHAPE`.
pub(crate) fn object(words: &mut &[&str]) -> Result<Object, String> {
    literal(words, &["a", "an"])?;
    named_object(words)
}

/// Reads `COLOUR SHAPE`.
pub(crate) fn named_object(words: &mut &[&str]) -> Result<Object, String> {
    let colour = colour(words)?;
    let shape = next(words, "a shape")?;
    let shape = Shape::from_word(shape).ok_or_else(|| format!("`{shape}` is not a shape ({})", Shape::words()))?;
    Ok(Object { colour, shape })
}

/// Reads `COLOUR SHAPEs`.
pub(crate) fn objects(words: &mut &[&str]) -> Result<Object, String> {
    let colour = colour(words)?;
    let word = next(words, "several shapes")?;
    let shape = word.strip_suffix('s').and_then(Shape::from_word).ok_or_else(|| {
        let several = Shape::ALL.map(|shape| format!("{}s", shape.word()));
        format!("`{word}` is not several shapes ({})", several.join(", "))
    })?;
    Ok(Object { colour, shape })
}

/// Reads an object's colour.
pub(crate) fn colour(words: &mut &[&str]) -> Result<Colour, String> {
    let word = next(words, "a colour")?;
    Colour::from_word(word).ok_or_else(|| format!("`{word}` is not a colour ({})", Colour::words()))
}

/// Reads a background's colour.
pub(crate) fn background(words: &mut &[&str]) -> Result<Background, String> {
    let word = next(words, "a background colour")?;
    Background::from_word(word).ok_or_else(|| format!("`{word}` is not a background ({})", Background::words()))
}

/// Reads one of the words that stand at a place.
pub(crate) fn literal(words: &mut &[&str], expected: &[&str]) -> Result<(), String> {
    let word = next(words, &format!("`{}`", expected[0]))?;
    if expected.contains(&word) {
        Ok(())
    } else {
        Err(format!("`{word}` where `{}` should be", expected[0]))
    }
}

/// Says that nothing is left.
pub(crate) fn end(words: &[&str]) -> Result<(), String> {
    match words {
        [] => Ok(()),
        [word, ..] => Err(format!("`{word}` after the end")),
    }
}

/// Takes a word; `what` it should be, where there is none.
pub(crate) fn next<'a>(words: &mut &[&'a str], what: &str) -> Result<&'a str, String> {
    let (word, rest) = words
        .split_first()
        .ok_or_else(|| format!("it ends where {what} should be"))?;
    *words = rest;
    Ok(word)
}
