//! Rubrics of single prompts, written before the first comparison of the prompt.

use std::collections::BTreeSet;

use gavel_core::ids::Digest;
use gavel_core::spec::{RunSpec, WriterSpec};
use gavel_core::work::{Side, Spent, Task};
use gavel_core::{LabelledPair, RunAssets};
use gavel_judge::Models;
use gavel_rubric::data::{Example, Label, LabelledSet, Labelling, Picture, Place, ReadOptions, Task as Kind};
use gavel_rubric::generate::{
    Embed as _, GenerateError, HashedNgrams, Neighbours, PromptSetWriter, WantedSet, WriteOutcome, WriteSettings,
    WriteTemplate,
};
use gavel_rubric::{Chat, Judge, RubricSet};
use gavel_worker::{WorkContext, WorkError};

use crate::work::unanswered;

/// Times that an answer without a criterion is asked for.
const ATTEMPTS: usize = 2;

/// Most labelled pairs of a prompt by which its set is verified, the first in the file: their pictures are in memory together, and each is
/// judged twice in both image orders.
const VERIFIED_MOST: usize = 32;

/// A run's writer, with what its files give it to write from.
pub(crate) struct RubricWriter {
    chat: Box<dyn Chat>,
    template: WriteTemplate,
    settings: WriteSettings,
    labelled: Vec<LabelledPair>,
    neighbours: Neighbours,
}

impl RubricWriter {
    /// Opens a run's writer; `None` in a run without one. It is the judge's own model, of an ensemble the first member's.
    ///
    /// # Errors
    /// A template that nothing can be asked with is fatal; another machine may have what this one lacks.
    pub(crate) fn open(spec: &RunSpec, assets: &RunAssets, models: &mut Models) -> Result<Option<Self>, WorkError> {
        let (Some(writer), Some(text)) = (&spec.judge.writer, &assets.writer_template) else {
            return Ok(None);
        };
        let template = WriteTemplate::parse(text, &writer.template).map_err(|error| WorkError::fatal(&error))?;
        let chat = models
            .open_writer(&spec.judge)
            .map_err(|error| WorkError::retry(&error))?;
        let prompts: Vec<&str> = assets.labelled.iter().map(|pair| pair.task.words.as_str()).collect();
        let neighbours = match writer.nearest {
            0 => Neighbours::default(),
            _ => Neighbours::new(&prompts, &HashedNgrams).map_err(|error| WorkError::fatal(&error))?,
        };
        Ok(Some(Self {
            chat,
            template,
            settings: settings(writer, spec.run.seed),
            labelled: assets.labelled.clone(),
            neighbours,
        }))
    }

    /// What decides about a prompt, as the judge reads it; `None` where the answers were of no use, or decide worse than the general set on
    /// the prompt's own labelled pairs.
    ///
    /// # Errors
    /// The model does not answer, or a picture cannot be had.
    pub(crate) fn write(
        &self,
        task: &Task,
        general: &RubricSet,
        judge: &dyn Judge,
        context: &WorkContext,
    ) -> Result<Option<RubricSet>, WorkError> {
        let source = match task.sources.first() {
            Some(source) => Some(picture(source, context)?),
            None => None,
        };
        let examples = self.examples(task, context)?;
        let writer = PromptSetWriter {
            chat: self.chat.as_ref(),
            judge,
            embed: &HashedNgrams,
            template: &self.template,
            journal: None,
            threads: 1,
            settings: self.settings.clone(),
            progress: &|_| {},
        };
        let wanted = WantedSet {
            prompt: &task.words,
            source: source.as_ref(),
        };
        let mut written = writer.write(&[wanted], examples.as_ref(), general).map_err(unwritten)?;
        let outcome = written.sets.pop().map(|written| written.outcome);
        Ok(match outcome {
            Some(WriteOutcome::Written(set)) => set.combined(self.settings.combine, general),
            Some(WriteOutcome::Worse) => {
                tracing::info!(
                    prompt = task.words,
                    "the rubric that was written decides worse than the general one"
                );
                None
            }
            Some(WriteOutcome::Unreadable) | None => {
                tracing::warn!(
                    prompt = task.words,
                    "no answer held a criterion: the general rubric decides"
                );
                None
            }
        })
    }

    /// What has been used so far.
    pub(crate) fn spent(&self) -> Spent {
        self.chat.spent()
    }

    /// The labelled pairs that the writer needs: those of the prompt itself, which verify its set, and the nearest of other prompts, which it is
    /// written from. Their pictures alone are fetched.
    fn examples(&self, task: &Task, context: &WorkContext) -> Result<Option<LabelledSet>, WorkError> {
        let own = (0..self.labelled.len()).filter(|index| self.labelled[*index].task == *task);
        let mut chosen: Vec<usize> = own.take(VERIFIED_MOST).collect();
        chosen.extend(self.nearest(task)?);
        chosen.sort_unstable();
        let examples: Vec<Example> = chosen
            .into_iter()
            .map(|index| example(index, &self.labelled[index], context))
            .collect::<Result<_, _>>()?;
        let kind = if task.sources.is_empty() {
            Kind::TextToImage
        } else {
            Kind::Editing
        };
        Ok((!examples.is_empty()).then_some(LabelledSet {
            examples,
            task: kind,
            labelling: Labelling::Ranked,
        }))
    }

    /// The pairs of other prompts that are nearest to this one, one of each prompt.
    fn nearest(&self, task: &Task) -> Result<Vec<usize>, WorkError> {
        if self.settings.nearest == 0 {
            return Ok(Vec::new());
        }
        let vectors = HashedNgrams.embed(&[&task.words]).map_err(|error| unanswered(&error))?;
        let near = vectors.iter().flat_map(|vector| {
            self.neighbours
                .nearest(vector, |index| self.labelled[index].task != *task)
        });
        let mut seen = BTreeSet::new();
        let others = near
            .into_iter()
            .filter(|index| seen.insert(&self.labelled[*index].task));
        Ok(others.take(self.settings.nearest).collect())
    }
}

/// What the coordinator is told of a set that could not be asked for.
fn unwritten(error: GenerateError) -> WorkError {
    match error {
        GenerateError::Ask(error) => unanswered(&error),
        error => WorkError::retry(&error),
    }
}

fn settings(writer: &WriterSpec, seed: u64) -> WriteSettings {
    WriteSettings {
        criteria: writer.criteria as usize,
        nearest: writer.nearest as usize,
        max_tokens: writer.max_tokens,
        attempts: ATTEMPTS,
        temperature: 0.0,
        // Of the second attempt alone, and not a number that somebody has to find again.
        seed: seed as u32,
        combine: writer.combine,
    }
}

fn example(index: usize, pair: &LabelledPair, context: &WorkContext) -> Result<Example, WorkError> {
    let source = pair.task.sources.first();
    let ranks = match pair.preferred {
        Side::First => vec![1, 2],
        Side::Second => vec![2, 1],
    };
    Ok(Example {
        place: Place { index, line: None },
        prompt: pair.task.words.clone(),
        source: source.map(|source| picture(source, context)).transpose()?,
        responses: vec![picture(&pair.first, context)?, picture(&pair.second, context)?],
        label: Label::Rank(ranks),
    })
}

fn picture(digest: &Digest, context: &WorkContext) -> Result<Picture, WorkError> {
    let bytes = context.get(digest)?;
    Picture::checked(bytes.to_vec(), &ReadOptions::local())
        .map_err(|fault| WorkError::misleading(*digest, format!("image blob {digest} cannot be decoded: it {fault}")))
}
