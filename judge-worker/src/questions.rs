//! Questions about single held-out pictures.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use gavel_core::ids::Digest;
use gavel_core::spec::JudgeSpec;
use gavel_core::work::{PictureAnswer, Spent, Task};
use gavel_judge::{Error, Models, concurrency};
use gavel_rubric::data::Picture;
use gavel_rubric::{AskError, Chat, Recorded, threads, yes_or_no_key};
use gavel_worker::{WorkContext, WorkError};

use crate::rubric_writer::{arithmetic, picture};
use crate::work::unanswered;

/// What answers a run's questions: the model that writes for its judge.
pub(crate) struct PictureQuestions {
    spec: JudgeSpec,
    /// Opened when the first picture is asked about: a worker that is given none loads no model for it.
    chat: Option<Box<dyn Chat>>,
}

impl PictureQuestions {
    pub(crate) fn new(spec: &JudgeSpec) -> Self {
        Self {
            spec: spec.clone(),
            chat: None,
        }
    }

    /// Opens the model, if that has not been done yet, and returns what it had used before.
    ///
    /// # Errors
    /// Another machine may have what this one lacks: no attempt is used up.
    pub(crate) fn open(&mut self, models: &mut Models) -> Result<Spent, WorkError> {
        if self.chat.is_some() {
            return Ok(Spent::default());
        }
        let chat = models.open_writer(&self.spec).map_err(|error| match error {
            Error::Unfit { .. } => WorkError::fatal(&error),
            _ => WorkError::unavailable(&error),
        })?;
        tracing::info!(model = chat.name(), "ready to answer questions");
        let spent = chat.spent();
        self.chat = Some(chat);
        Ok(spent)
    }

    /// The answers to questions about the picture of a task, in order. What the coordinator has kept of another run or worker is taken, and the
    /// same question is asked once.
    ///
    /// # Errors
    /// The model cannot be asked anything now, or a picture cannot be had.
    pub(crate) fn answer(
        &self,
        task: &Task,
        image: &Digest,
        questions: &[String],
        context: &WorkContext,
    ) -> Result<Vec<PictureAnswer>, WorkError> {
        let Some(chat) = self.chat.as_deref() else {
            return Err(WorkError::Retry("what answers questions is not open".into()));
        };
        let sources = task.sources.iter().map(|source| picture(source, context));
        let sources: Vec<Picture> = sources.collect::<Result<_, _>>()?;
        let shown = picture(image, context)?;
        let arithmetic = arithmetic(&self.spec);
        let key = |question: &String| {
            let key = yes_or_no_key(chat, question, &sources, &shown);
            Digest::of(format!("{key} {arithmetic}").as_bytes())
        };
        let keys: Vec<Digest> = questions.iter().map(key).collect();
        let kept = match self.spec.keeps_answers() {
            true => context.recall_answers(&keys),
            false => vec![None; keys.len()],
        };
        let mut answers: BTreeMap<Digest, PictureAnswer> = BTreeMap::new();
        let mut open: BTreeMap<Digest, &String> = BTreeMap::new();
        for ((key, kept), question) in keys.iter().zip(kept).zip(questions) {
            match kept {
                Some(answer) => drop(answers.insert(*key, answer)),
                None => drop(open.insert(*key, question)),
            }
        }
        if context.cancelled() {
            return Err(WorkError::Cancelled);
        }
        let open: Vec<(Digest, &String)> = open.into_iter().collect();
        let given = Mutex::new(Vec::new());
        let recorded = Recorded::new(None);
        let asked = threads::map(concurrency(&self.spec), &open, |_, (key, question)| {
            let said = recorded.yes_or_no(chat, question, &sources, &shown);
            let answer = match said {
                Ok(yes) => PictureAnswer::said(yes),
                // This one cannot be answered, others may be.
                Err(AskError::Unanswerable { reason, .. }) => PictureAnswer::Unanswered { reason },
                Err(error) => return Err(error),
            };
            given
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((*key, answer));
            Ok(())
        });
        let given = given.into_inner().unwrap_or_else(PoisonError::into_inner);
        if self.spec.keeps_answers() {
            // Also of a picture that not all is answered about yet: whoever is given it next asks for the rest.
            let worth = given.iter().filter(|(_, answer)| answer.is_answered());
            let worth: Vec<(Digest, PictureAnswer)> = worth.cloned().collect();
            if !worth.is_empty() {
                context.keep_answers(&worth);
            }
        }
        asked.map_err(|error| unanswered(&error))?;
        answers.extend(given);
        let in_order: Option<Vec<PictureAnswer>> = keys.iter().map(|key| answers.get(key).cloned()).collect();
        in_order.ok_or_else(|| WorkError::Retry("a question has no answer".into()))
    }

    /// What has been used so far.
    pub(crate) fn spent(&self) -> Spent {
        self.chat.as_ref().map(|chat| chat.spent()).unwrap_or_default()
    }
}
