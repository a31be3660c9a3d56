//! Files that people write about pictures: tasks to sample from ([`tasks`]), labelled examples to learn from
//! ([`LabelledSet`]), and [`questions`] about single pictures.
//!
//! A file is a JSON array, JSON Lines or YAML; prompts may also be the lines of a text, and tasks the rows of a table. Pictures are named by a path (absolute, or relative to the file), an http(s) address or
//! a data URL. Whatever is wrong with a record is told with file, record and field, before anything starts.

mod error;
mod example;
mod file;
mod labelled;
mod picture;
pub mod questions;
mod record;
pub mod tasks;
#[cfg(test)]
mod tests;

pub use error::{DataError, Expected, Foreign, PictureError, Place, RecordFault};
pub use labelled::{Example, Label, LabelledSet, Labelling, RankedPair, Task};
pub use picture::Picture;

/// Gets the bytes behind an http(s) address, of which there may be at most so many.
pub type Fetch<'a> = dyn Fn(&str, u64) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> + 'a;

/// How examples are read.
pub struct ReadOptions<'a> {
    /// Most bytes of an encoded picture.
    pub picture_bytes_max: u64,
    /// Most pixels of a picture.
    pub picture_pixels_max: u64,
    /// What becomes of a picture through which one sees.
    pub transparency: Transparency,
    /// Least and greatest score, where a record does not say.
    pub scores: Option<(i64, i64)>,
    /// Gets pictures from the web.
    pub fetch: &'a Fetch<'a>,
}

/// What becomes of a picture through which one sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transparency {
    /// It is laid over white, as people see it on a page.
    OverWhite,
    /// Its colours are taken as if it were opaque, as diffusers' `load_image` does: an editing pipeline sees its sources so.
    Dropped,
}

impl ReadOptions<'static> {
    /// Pictures of at most 32 MiB and 64 megapixels over white, and none from the web.
    pub fn local() -> Self {
        Self {
            picture_bytes_max: 32 << 20,
            picture_pixels_max: 64_000_000,
            transparency: Transparency::OverWhite,
            scores: None,
            fetch: &|_, _| Err("pictures are not fetched from the web here".into()),
        }
    }

    /// Of pictures that a run painted: the largest that may be painted is read, and four bytes a pixel are more than a PNG of it has.
    pub fn painted() -> Self {
        let pixels = gavel_core::bounds::PIXELS.most;
        Self {
            picture_bytes_max: 4 * pixels,
            picture_pixels_max: pixels,
            ..Self::local()
        }
    }
}
