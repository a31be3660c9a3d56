//! Questions about the pictures of prompts, which a model writes: each prompt taken apart into what a good picture answers by yes.

mod draft;
mod words;

use std::collections::BTreeMap;

use gavel_core::ids::Digest;

use crate::data::Picture;
use crate::data::questions::PictureQuestion;
use crate::recorded::{Question, Recorded};
use crate::{AskError, Chat, threads};
use draft::Draft;

/// Most questions of a prompt.
const QUESTIONS_MOST: usize = 24;
/// Most tokens of an answer: so many questions of a sentence each, and what JSON adds.
const TOKENS_MOST: u32 = 2048;
/// Times that a prompt is asked about, until an answer has no fault.
const ATTEMPTS: usize = 3;
/// Temperature of all but the first time: an answer that was of no use is not asked for again in the very same way.
const TEMPERATURE: f64 = 0.7;

/// Of what kind a question about an edit's change is.
const FULFILMENT: &str = "fulfilment";
/// Of what kind a question about what an edit leaves alone is.
const PRESERVATION: &str = "preservation";
/// Any other kind.
const OTHER: &str = "other";
/// Kinds of questions about the picture of a description.
const KINDS: &[&str] = &["entity", "attribute", "count", "relation", "global", OTHER];
/// Kinds of questions about an edit.
const KINDS_OF_EDITS: &[&str] = &[FULFILMENT, PRESERVATION, OTHER];

/// Who takes prompts apart, and how.
pub struct PictureQuestionWriter<'a> {
    /// Writes the questions.
    pub chat: &'a dyn Chat,
    /// What has been written before.
    pub recorded: &'a Recorded<'a>,
    /// Prompts under way at a time.
    pub threads: usize,
    /// Is told of each prompt that is done, from several threads.
    pub progress: &'a (dyn Fn() + Sync),
}

/// A prompt that is to be taken apart.
#[derive(Debug, Clone, Copy)]
pub struct WantedQuestions<'a> {
    /// Its words.
    pub words: &'a str,
    /// The pictures that it edits, which the writer is shown; none of a description.
    pub sources: &'a [Picture],
}

/// What came of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WrittenQuestions {
    /// At least one question.
    Written(Vec<PictureQuestion>),
    /// No question that could be asked.
    Unwritten {
        /// Why not.
        reason: String,
    },
}

impl WantedQuestions<'_> {
    fn is_edit(&self) -> bool {
        !self.sources.is_empty()
    }
}

impl PictureQuestionWriter<'_> {
    /// Takes each prompt apart, in order; one that stands there twice is asked about once.
    ///
    /// # Errors
    /// [`AskError`] of the model, or of a journal that cannot be written; what was written before is in the journal.
    pub fn write(&self, prompts: &[WantedQuestions<'_>]) -> Result<Vec<WrittenQuestions>, AskError> {
        let mut first: Vec<WantedQuestions<'_>> = Vec::new();
        let mut known: BTreeMap<(&str, Vec<Digest>), usize> = BTreeMap::new();
        let mut positions = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            let sources = prompt.sources.iter().map(|source| source.digest).collect();
            let position = *known.entry((prompt.words, sources)).or_insert(first.len());
            if position == first.len() {
                first.push(*prompt);
            }
            positions.push(position);
        }
        let written = threads::map(self.threads, &first, |_, prompt| {
            let written = self.ask(prompt)?;
            (self.progress)();
            Ok::<_, AskError>(written)
        })?;
        Ok(positions
            .into_iter()
            .map(|position| written[position].clone())
            .collect())
    }

    /// The questions of the first answer without a fault; else of the one with the fewest, put right.
    fn ask(&self, wanted: &WantedQuestions<'_>) -> Result<WrittenQuestions, AskError> {
        let pictures: Vec<&Picture> = wanted.sources.iter().collect();
        let schema = words::schema(wanted.is_edit());
        let mut best: Option<Draft> = None;
        let mut problem = String::new();
        for attempt in 0..ATTEMPTS {
            let messages = words::messages(wanted, &problem);
            let question = Question {
                messages: &messages,
                pictures: &pictures,
                max_tokens: TOKENS_MOST,
                temperature: if attempt == 0 { 0.0 } else { TEMPERATURE },
                seed: attempt as u64,
                schema: &schema,
            };
            let reply = match self.recorded.reply(self.chat, &question) {
                Ok(reply) => reply,
                Err(AskError::Unanswerable { reason, .. }) => {
                    problem = reason;
                    break;
                }
                Err(error) => return Err(error),
            };
            let draft = Draft::read(&reply.text, reply.complete, wanted.is_edit());
            problem = draft.problem();
            let is_better = |best: &Draft| draft.faults() < best.faults();
            if !draft.questions.is_empty() && best.as_ref().is_none_or(is_better) {
                best = Some(draft);
            }
            if problem.is_empty() {
                break;
            }
        }
        Ok(match best {
            Some(draft) => WrittenQuestions::Written(draft.questions),
            None => WrittenQuestions::Unwritten { reason: problem },
        })
    }
}

#[cfg(test)]
mod tests;
