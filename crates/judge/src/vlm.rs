//! A model with the words that it judges by.

use std::sync::Arc;

use gavel_core::{
    Diagnostic,
    ids::Digest,
    work::{Orders, VerdictRecord},
};
use gavel_models::{
    ModelError,
    vlm::{Content, Conversation, Message, Vlm, VlmInspection},
};
use gavel_rubric::{AnswerKind, AskError, Judge, JudgeTemplate, JudgedPair, Part, Pictures, RubricSet};
use image::RgbImage;

use crate::Error;
use crate::answer::{Answer, Answers, decide};
use crate::list::{Lists, Shares, record};
use crate::question::Question;

/// A frozen model in this process, and the template that it is asked with.
pub struct VlmJudge {
    name: String,
    identity: Digest,
    model: Arc<Vlm>,
    template: JudgeTemplate,
    labels: Vec<u32>,
    margin: f64,
}

impl VlmJudge {
    /// Puts a judge together. `name` and `fingerprint` are those of the folder that `model` was loaded from. The judge abstains
    /// where the mean probability is closer than `margin` to one half.
    ///
    /// # Errors
    /// [`Error::Model`] when a label of the template is not one token of the model, [`Error::Unfit`] when the template asks for
    /// written words.
    pub fn new(
        name: String,
        fingerprint: Digest,
        model: Arc<Vlm>,
        template: JudgeTemplate,
        margin: f64,
    ) -> Result<Self, Error> {
        check_answer(&template)?;
        let labels = template.labels.iter().map(|label| model.label_token(label));
        let labels = labels.collect::<Result<_, _>>()?;
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

    /// One record for each pair. A pair that the model refuses fails alone; what is wrong with the model is an error.
    fn verdicts(&self, pairs: &[JudgedPair<'_>]) -> Result<Vec<VerdictRecord>, Error> {
        let judged = match self.template.shows_list() {
            true => self.lists(pairs),
            false => self.batch(pairs),
        };
        match judged {
            Err(error) if error.is_of_the_pair() && pairs.len() > 1 => {
                let alone = pairs.chunks(1).map(|pair| self.verdicts(pair));
                Ok(alone.collect::<Result<Vec<_>, Error>>()?.concat())
            }
            Err(error) if error.is_of_the_pair() => {
                let reason = Diagnostic::of(&error).to_string();
                let failed = |pair: &JudgedPair<'_>| {
                    VerdictRecord::failed(pair.prompt_index, reason.clone(), pair.rubric.digest())
                };
                Ok(pairs.iter().map(failed).collect())
            }
            judged => judged,
        }
    }

    /// All lists in one pass.
    fn lists(&self, pairs: &[JudgedPair<'_>]) -> Result<Vec<VerdictRecord>, Error> {
        let lists = Lists::of(&self.template, pairs)?;
        let questions = lists.questions(&self.template, pairs)?;
        let questions: Vec<Prompt<'_>> = questions.iter().map(Prompt::of).collect();
        let conversations: Vec<Conversation<'_>> = questions.iter().map(Prompt::conversation).collect();
        let logits = self.model.next_token_logits_batch(&conversations)?;
        let shares = logits.iter().zip(lists.labels());
        let shares = shares.map(|(logits, labels)| Shares::from_logits(logits, &self.labels[..labels]));
        let shares: Option<Vec<Shares>> = shares.collect();
        let shares = shares.ok_or_else(|| not_finite(&pairs[0]))?;
        Ok(lists.records(&self.template, self.margin, pairs, shares.into_iter().map(Ok)))
    }

    /// All pairs in one pass.
    fn batch(&self, pairs: &[JudgedPair<'_>]) -> Result<Vec<VerdictRecord>, Error> {
        // A template has no fewer.
        let labels = [self.labels[0], self.labels[1]];
        let mut questions = Vec::with_capacity(2 * pairs.len());
        for pair in pairs {
            for pictures in Answers::pictures(pair.orders) {
                questions.push(Prompt::of(&Question::new(&self.template, pair, *pictures)?));
            }
        }
        let conversations: Vec<Conversation<'_>> = questions.iter().map(Prompt::conversation).collect();
        let logits = self.model.next_token_logits_batch(&conversations)?;
        let mut logits = logits.iter();
        let judged = |pair: &JudgedPair<'_>| {
            // Those of the pair's questions, in the order of their pictures.
            let answers = Answers::collect(pair.orders, || {
                let logits = logits.next();
                logits
                    .and_then(|logits| Answer::from_logits(logits, labels))
                    .ok_or_else(|| not_finite(pair))
            })?;
            Ok(record(pair, decide(answers, self.template.label_mass_min, self.margin)))
        };
        pairs.iter().map(judged).collect()
    }
}

fn not_finite(pair: &JudgedPair<'_>) -> Error {
    Error::NotFinite {
        prompt: pair.prompt.to_owned(),
    }
}

impl Judge for VlmJudge {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> Digest {
        self.identity
    }

    fn sees_lists(&self) -> bool {
        self.template.shows_list()
    }

    fn judge(&self, pairs: &[JudgedPair<'_>]) -> Result<Vec<VerdictRecord>, AskError> {
        self.verdicts(pairs).map_err(|error| AskError::unanswerable(&error))
    }
}

/// Checks, without the model's weights, that a judge can ask its question: each label is one token, and the model sees all
/// images.
///
/// # Errors
/// As [`VlmJudge::new`]; [`Error::Template`]; [`Error::Model`].
pub fn check_question(folder: &VlmInspection, template: &JudgeTemplate, rubric: &RubricSet) -> Result<(), Error> {
    check_answer(template)?;
    for label in &template.labels {
        folder.label_token(label)?;
    }
    let image = RgbImage::new(1, 1);
    let pair = JudgedPair {
        prompt_index: gavel_core::ids::PromptIndex(0),
        prompt: "a prompt",
        sources: if template.shows_base() {
            std::slice::from_ref(&image)
        } else {
            &[]
        },
        first: &image,
        second: &image,
        rubric,
        orders: Orders::Both,
        list: &[],
    };
    let question = match template.shows_list() {
        true => Question::of_list(template, &pair, vec![&image; 2])?,
        false => Question::new(template, &pair, Pictures::InOrder)?,
    };
    let prompt = Prompt::of(&question);
    let seen = folder.image_slots(&prompt.messages)?;
    if seen != prompt.images.len() {
        return Err(Error::Model(ModelError::Value {
            input: "images",
            problem: format!(
                "the prompt has {seen} image slots, the template {}",
                prompt.images.len()
            ),
        }));
    }
    Ok(())
}

fn check_answer(template: &JudgeTemplate) -> Result<(), Error> {
    match template.answer {
        AnswerKind::Label => Ok(()),
        AnswerKind::Json => Err(Error::Unfit {
            problem: format!(
                "judge template `{}` asks for JSON, a judge in the worker answers with a label",
                template.name
            ),
            hint: "use a template with `answer = \"label\"`; a server's judge may answer with JSON",
        }),
    }
}

/// A question in the model's terms: its images stand in the order of their places in the words.
pub(crate) struct Prompt<'a> {
    messages: Vec<Message>,
    images: Vec<&'a RgbImage>,
}

impl<'a> Prompt<'a> {
    pub(crate) fn of(question: &Question<'a>) -> Self {
        let mut images = Vec::with_capacity(question.images.len());
        let mut messages = Vec::with_capacity(question.messages.len());
        for message in &question.messages {
            let mut content = Vec::with_capacity(message.content.len());
            for part in &message.content {
                content.push(match part {
                    Part::Text(text) => Content::Text { text: text.clone() },
                    Part::Image(place) => {
                        images.push(question.images[*place]);
                        Content::Image
                    }
                });
            }
            messages.push(Message {
                role: message.role.clone(),
                content,
            });
        }
        Self { messages, images }
    }

    pub(crate) fn conversation(&self) -> Conversation<'_> {
        Conversation {
            messages: &self.messages,
            images: self.images.clone(),
        }
    }
}
