//! A template's words around one pair.

use gavel_core::bounds;
use gavel_rubric::{JudgeTemplate, JudgedPair, Message, Pictures};
use image::RgbImage;

use crate::Error;

/// What is asked about a pair, in one image order. `Part::Image(k)` of the messages stands for `images[k]`.
pub(crate) struct Question<'a> {
    pub(crate) messages: Vec<Message>,
    pub(crate) images: Vec<&'a RgbImage>,
}

impl<'a> Question<'a> {
    /// # Errors
    /// [`Error::Template`]; [`Error::LongPrompt`]; [`Error::Unfit`] when the template shows a picture that the pair does not have.
    pub(crate) fn new(template: &JudgeTemplate, pair: &JudgedPair<'a>, pictures: Pictures) -> Result<Self, Error> {
        let images = Self::images(template, pair, vec![pair.first, pair.second])?;
        Ok(Self {
            messages: template.render(pair.prompt, pair.rubric, pictures, pair.sources.len())?,
            images,
        })
    }

    /// What is asked about the list of a pair's prompt, whose pictures come in this order.
    ///
    /// # Errors
    /// As [`Question::new`]; [`Error::Unfit`] when the template has no label for each picture.
    pub(crate) fn of_list(
        template: &JudgeTemplate,
        pair: &JudgedPair<'a>,
        shown: Vec<&'a RgbImage>,
    ) -> Result<Self, Error> {
        let (pictures, labels) = (shown.len(), template.labels.len());
        if pictures > labels {
            return Err(Error::Unfit {
                problem: format!(
                    "judge template `{}` has {labels} labels, and {pictures} pictures are compared",
                    template.name
                ),
                hint: "give it a label for each of `sampling.candidates`",
            });
        }
        let images = Self::images(template, pair, shown)?;
        Ok(Self {
            messages: template.render_list(pair.prompt, pair.rubric, pictures, pair.sources.len())?,
            images,
        })
    }

    /// The pictures of a question: the candidates, and behind them those that were edited.
    fn images(
        template: &JudgeTemplate,
        pair: &JudgedPair<'a>,
        mut images: Vec<&'a RgbImage>,
    ) -> Result<Vec<&'a RgbImage>, Error> {
        bounds::WORDS.check("prompt", pair.prompt.len())?;
        match (template.shows_base(), pair.sources) {
            (true, []) => {
                return Err(Error::Unfit {
                    problem: format!(
                        "judge template `{}` shows the picture that was edited, and this pair has none",
                        template.name
                    ),
                    hint: "use a template without `{ base = true }` for text-to-image pairs",
                });
            }
            (false, [_, ..]) => {
                return Err(Error::Unfit {
                    problem: format!(
                        "judge template `{}` does not show the picture that was edited",
                        template.name
                    ),
                    hint: "put a part `{ base = true }` into the template, before the two candidates",
                });
            }
            (_, sources) => images.extend(sources),
        }
        Ok(images)
    }
}
