//! A model with the words that it judges by.

use std::sync::Arc;

use gavel_core::{
    Hint,
    ids::{Digest, PromptIndex},
    verdict::VerdictRecord,
};
use gavel_models::{
    ModelError,
    vlm::{Content, Conversation, Message, Qwen2_5Vl, VlmInspection},
};
use gavel_rubric::{JudgeTemplate, Part, Pictures, RubricSet, TemplateError};
use image::RgbImage;

use crate::answer::{Answer, decide, mean};

/// A frozen model, a prompt template and a rubric.
pub struct Judge {
    model: Arc<Qwen2_5Vl>,
    template: JudgeTemplate,
    rubric: RubricSet,
    rubric_digest: Digest,
    labels: [u32; 2],
    margin: f64,
}

/// Two images of one caption.
#[derive(Debug, Clone, Copy)]
pub struct JudgedPair<'a> {
    /// The pair's place in the step, the held-out set or the labelled set.
    pub prompt: PromptIndex,
    /// The caption.
    pub caption: &'a str,
    /// The first candidate.
    pub first: &'a RgbImage,
    /// The second candidate.
    pub second: &'a RgbImage,
}

/// Judging failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The template does not render for this caption.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A label is not one token, or the model refused its input.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The model gave NaN or infinity.
    #[error("the judge's logits for `{caption}` are not finite")]
    NotFinite {
        /// The caption.
        caption: String,
    },
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Template(error) => error.hint(),
            Self::Model(ModelError::Value { input: "label", .. }) => {
                Some("choose labels in the judge template that the judge's tokenizer knows as one token each".into())
            }
            Self::Model(_) => None,
            Self::NotFinite { .. } => {
                Some("the judge's weights are damaged, or its number format overflows: try f32".into())
            }
        }
    }
}

impl Judge {
    /// Puts a judge together. It abstains where the mean probability is closer than `margin` to one half.
    ///
    /// # Errors
    /// [`Error::Model`] when a label of the template is not one token of the model.
    pub fn new(model: Arc<Qwen2_5Vl>, template: JudgeTemplate, rubric: RubricSet, margin: f64) -> Result<Self, Error> {
        let labels = [
            model.label_token(&template.labels[0])?,
            model.label_token(&template.labels[1])?,
        ];
        Ok(Self {
            rubric_digest: rubric.digest(),
            model,
            template,
            rubric,
            labels,
            margin,
        })
    }

    /// Judges one pair in both image orders.
    ///
    /// # Errors
    /// As [`Judge::judge`].
    pub fn judge_pair(&self, caption: &str, first: &RgbImage, second: &RgbImage) -> Result<VerdictRecord, Error> {
        let pair = JudgedPair {
            prompt: PromptIndex(0),
            caption,
            first,
            second,
        };
        Ok(self.judge(&[pair])?.swap_remove(0))
    }

    /// Judges pairs, each in both image orders, as one batch; one record for each, in order. A pair's verdict does not depend
    /// on the others.
    ///
    /// # Errors
    /// [`Error::Template`], [`Error::Model`], [`Error::NotFinite`]; an answer that is no label is no error but an abstention.
    pub fn judge(&self, pairs: &[JudgedPair<'_>]) -> Result<Vec<VerdictRecord>, Error> {
        let mut questions = Vec::with_capacity(2 * pairs.len());
        for pair in pairs {
            questions.push(self.ask(pair, Pictures::InOrder)?);
            questions.push(self.ask(pair, Pictures::Swapped)?);
        }
        let conversations: Vec<Conversation<'_>> = questions.iter().map(Question::conversation).collect();
        let logits = self.model.next_token_logits_batch(&conversations)?;
        pairs
            .iter()
            .zip(logits.chunks_exact(2))
            .map(|(pair, logits)| self.record(pair, logits))
            .collect()
    }

    /// The template's words for a pair, and its images in the order of their places in them.
    fn ask<'a>(&self, pair: &JudgedPair<'a>, pictures: Pictures) -> Result<Question<'a>, Error> {
        let (messages, places) = words(&self.template, &self.rubric, pair.caption, pictures)?;
        let image = |place| if place == 0 { pair.first } else { pair.second };
        Ok(Question {
            messages,
            images: places.into_iter().map(image).collect(),
        })
    }

    /// `logits` hold both orders: first candidate first, then second candidate first.
    fn record(&self, pair: &JudgedPair<'_>, logits: &[Vec<f32>]) -> Result<VerdictRecord, Error> {
        let not_finite = || Error::NotFinite {
            caption: pair.caption.to_owned(),
        };
        let answer = |logits: &Vec<f32>| Answer::from_logits(logits, self.labels).ok_or_else(not_finite);
        let answers = [answer(&logits[0])?, answer(&logits[1])?];
        let (verdict, order_probabilities) = decide(answers, self.template.label_mass_min, self.margin);
        Ok(VerdictRecord {
            prompt: pair.prompt,
            verdict,
            probability_first: mean(order_probabilities),
            order_probabilities,
            rubric: self.rubric_digest,
        })
    }
}

/// Checks, without the model's weights, that a judge can ask its question: each label is one token, and the model sees both
/// images.
///
/// # Errors
/// As [`Judge::new`] and [`Judge::judge`].
pub fn check_question(folder: &VlmInspection, template: &JudgeTemplate, rubric: &RubricSet) -> Result<(), Error> {
    for label in &template.labels {
        folder.label_token(label)?;
    }
    let (messages, places) = words(template, rubric, "a caption", Pictures::InOrder)?;
    let seen = folder.image_places(&messages)?;
    if seen != places.len() {
        return Err(Error::Model(ModelError::Value {
            input: "images",
            problem: format!("the prompt has {seen} image places, the template {}", places.len()),
        }));
    }
    Ok(())
}

/// The template's words for a caption, and which image stands at each of their places.
fn words(
    template: &JudgeTemplate,
    rubric: &RubricSet,
    caption: &str,
    pictures: Pictures,
) -> Result<(Vec<Message>, Vec<usize>), TemplateError> {
    let mut places = Vec::with_capacity(2);
    let mut messages = Vec::new();
    for message in template.render(caption, rubric, pictures)? {
        let mut content = Vec::with_capacity(message.content.len());
        for part in message.content {
            content.push(match part {
                Part::Text(text) => Content::Text { text },
                Part::Image(place) => {
                    places.push(place);
                    Content::Image
                }
            });
        }
        messages.push(Message {
            role: message.role,
            content,
        });
    }
    Ok((messages, places))
}

/// A prompt with its images.
struct Question<'a> {
    messages: Vec<Message>,
    images: Vec<&'a RgbImage>,
}

impl Question<'_> {
    fn conversation(&self) -> Conversation<'_> {
        Conversation {
            messages: &self.messages,
            images: self.images.clone(),
        }
    }
}
