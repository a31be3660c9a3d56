//! Questions about single held-out pictures, which a judge's model answers by yes or no.

use std::ops::Range;

use super::Run;
use super::status::QuestionsStatus;
use crate::ids::PromptIndex;
use crate::work::{Arm, PictureAnswer, Unit};

/// The pictures that questions are asked about.
const ARMS: [Arm; 2] = [Arm::Base, Arm::Tuned];

impl Run {
    /// What is asked about the pictures of a held-out prompt.
    pub(super) fn questions(&self, index: PromptIndex) -> &[String] {
        self.assets.questions.get(index.0 as usize).map_or(&[], Vec::as_slice)
    }

    /// Makes the questions about these pictures ready that can be answered and are not.
    pub(super) fn open_questions(&mut self, arm: Arm, prompts: &Range<u32>) {
        for prompt_index in prompts.clone().map(PromptIndex) {
            let unit = Unit::AnswerQuestions { arm, prompt_index };
            let answered = self.results.answers(arm).get(prompt_index.0 as usize);
            let is_open = answered.is_some_and(Option::is_none)
                && !self.board.is_ready(&unit)
                && self.board.lease(&unit).is_none();
            if is_open && self.assignment(&unit).is_some() {
                self.board.add(unit);
            }
        }
    }

    pub(super) fn note_answers(&mut self, arm: Arm, index: PromptIndex, answers: Vec<PictureAnswer>) {
        if let Some(answered) = self.results.answers_mut(arm).get_mut(index.0 as usize) {
            *answered = Some(answers);
            self.missing.answers -= 1;
        }
    }

    /// Notes that nobody can be asked about a picture, and why.
    pub(super) fn note_unanswered(&mut self, arm: Arm, index: PromptIndex, reason: &str) {
        let unanswered = PictureAnswer::Unanswered {
            reason: reason.to_owned(),
        };
        self.note_answers(arm, index, vec![unanswered; self.questions(index).len()]);
    }

    /// Forgets what was answered about pictures that are painted anew.
    pub(super) fn forget_answers(&mut self, arm: Arm, prompts: &Range<u32>) {
        let answers = self.results.answers_mut(arm);
        if let Some(answers) = answers.get_mut(prompts.start as usize..prompts.end as usize) {
            let forgotten = answers.iter_mut().filter_map(Option::take).count();
            self.missing.answers += forgotten as u32;
        }
        self.forget(|unit| match unit {
            Unit::AnswerQuestions { arm: of, prompt_index } => *of == arm && prompts.contains(&prompt_index.0),
            _ => false,
        });
    }

    pub(super) fn questions_status(&self) -> Option<QuestionsStatus> {
        let held_out = self.results.base_answers.len();
        let total: usize = self.assets.questions.iter().take(held_out).map(Vec::len).sum();
        let answers = || {
            ARMS.iter()
                .flat_map(|arm| self.results.answers(*arm))
                .flatten()
                .flatten()
        };
        (total > 0).then(|| QuestionsStatus {
            asked: answers().count() as u32,
            unanswered: answers().filter(|answer| !answer.is_answered()).count() as u32,
            total: (ARMS.len() * total) as u32,
        })
    }
}
