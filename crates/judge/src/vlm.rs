//! A model with the words that it judges by.

use std::sync::Arc;

use gavel_core::{Hint, ids::Digest, verdict::VerdictRecord};
use gavel_models::{
    ModelError,
    vlm::{Content, Conversation, Message, Vlm, VlmInspection},
};
use gavel_rubric::{AskError, Judge, JudgeTemplate, JudgedPair, Part, Pictures, RubricSet, TemplateError};
use image::RgbImage;

use crate::answer::{Answer, decide, mean};

/// A frozen model in this process, and the template that it is asked with.
pub struct VlmJudge {
    name: String,
    identity: Digest,
    model: Arc<Vlm>,
    template: JudgeTemplate,
    labels: [u32; 2],
    margin: f64,
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

impl VlmJudge {
    /// Puts a judge together. `name` and `fingerprint` are those of the folder that `model` was loaded from. The judge abstains
    /// where the mean probability is closer than `margin` to one half.
    ///
    /// # Errors
    /// [`Error::Model`] when a label of the template is not one token of the model.
    pub fn new(
        name: String,
        fingerprint: Digest,
        model: Arc<Vlm>,
        template: JudgeTemplate,
        margin: f64,
    ) -> Result<Self, Error> {
        let labels = [
            model.label_token(&template.labels[0])?,
            model.label_token(&template.labels[1])?,
        ];
        let identity = Digest::of(format!("{fingerprint} {} {margin}", template.digest()).as_bytes());
        Ok(Self {
            name,
            identity,
            model,
            template,
            labels,
            margin,
        })
    }

    fn verdicts(&self, rubric: &RubricSet, pairs: &[JudgedPair<'_>]) -> Result<Vec<VerdictRecord>, Error> {
        let mut questions = Vec::with_capacity(2 * pairs.len());
        for pair in pairs {
            questions.push(self.ask(rubric, pair, Pictures::InOrder)?);
            questions.push(self.ask(rubric, pair, Pictures::Swapped)?);
        }
        let conversations: Vec<Conversation<'_>> = questions.iter().map(Question::conversation).collect();
        let logits = self.model.next_token_logits_batch(&conversations)?;
        let rubric = rubric.digest();
        pairs
            .iter()
            .zip(logits.chunks_exact(2))
            .map(|(pair, logits)| self.record(rubric, pair, logits))
            .collect()
    }

    /// The template's words for a pair, and its images in the order of their places in them.
    fn ask<'a>(&self, rubric: &RubricSet, pair: &JudgedPair<'a>, pictures: Pictures) -> Result<Question<'a>, Error> {
        let (messages, places) = words(&self.template, rubric, pair.caption, pictures)?;
        let image = |place| if place == 0 { pair.first } else { pair.second };
        Ok(Question {
            messages,
            images: places.into_iter().map(image).collect(),
        })
    }

    /// `logits` hold both orders: first candidate first, then second candidate first.
    fn record(&self, rubric: Digest, pair: &JudgedPair<'_>, logits: &[Vec<f32>]) -> Result<VerdictRecord, Error> {
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
            rubric,
        })
    }
}

impl Judge for VlmJudge {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> Digest {
        self.identity
    }

    fn judge(&self, rubric: &RubricSet, pairs: &[JudgedPair<'_>]) -> Result<Vec<VerdictRecord>, AskError> {
        self.verdicts(rubric, pairs)
            .map_err(|error| AskError::unanswerable(&error))
    }
}

/// Checks, without the model's weights, that a judge can ask its question: each label is one token, and the model sees both
/// images.
///
/// # Errors
/// As [`VlmJudge::new`]; [`Error::Template`]; [`Error::Model`].
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
