//! Rubrics of single prompts, written before the first comparison of the prompt.

use std::collections::BTreeSet;

use gavel_core::ids::Digest;
use gavel_core::spec::{Device, JudgeSpec, RunSpec, WriterSpec};
use gavel_core::work::{KeptRubric, Side, Spent, Task};
use gavel_core::{LabelledPair, RunAssets};
use gavel_judge::{Error, Models, rubric_writer_fingerprint};
use gavel_rubric::data::{Example, Label, LabelledSet, Labelling, Picture, Place, ReadOptions, Task as Kind};
use gavel_rubric::generate::{
    Embed, Evidence, GenerateError, HashedNgrams, Neighbours, PromptSetWriter, WantedSet, WriteOutcome, WriteSettings,
    WriteTemplate,
};
use gavel_rubric::{Chat, Judge, RubricSet};
use gavel_worker::{WorkContext, WorkError};

use crate::open_judge::OpenJudge;
use crate::work::unanswered;

/// Times that an answer without a criterion is asked for.
const ATTEMPTS: usize = 2;

/// Most labelled pairs of a prompt by which its set is verified, the first in the file: their pictures are in memory together, and each is
/// judged twice in both image orders.
const VERIFIED_MOST: usize = 32;

/// A run's writer, with what its files give it to write from.
pub(crate) struct RubricWriter {
    /// The run's `[judge]`, which says who writes.
    spec: JudgeSpec,
    template: WriteTemplate,
    settings: WriteSettings,
    labelled: Vec<LabelledPair>,
    /// Opened when the first prompt is to have its rubric: a worker that writes none loads no model for it.
    opened: Option<Opened>,
}

/// What writes, and what finds the labelled pairs that it is shown.
struct Opened {
    fingerprint: Digest,
    chat: Box<dyn Chat>,
    embed: Box<dyn Embed>,
    neighbours: Neighbours,
}

impl RubricWriter {
    /// Reads what a run says of its writer; `None` in a run without one.
    ///
    /// # Errors
    /// A template that nothing can be asked with.
    pub(crate) fn new(spec: &RunSpec, assets: &RunAssets) -> Result<Option<Self>, WorkError> {
        let (Some(writer), Some(text)) = (&spec.judge.writer, &assets.writer_template) else {
            return Ok(None);
        };
        let template = WriteTemplate::parse(text, &writer.template).map_err(|error| WorkError::fatal(&error))?;
        Ok(Some(Self {
            spec: spec.judge.clone(),
            template,
            settings: settings(writer),
            labelled: assets.labelled.clone(),
            opened: None,
        }))
    }

    /// Opens what writes beside the judge that verifies, if that has not been done yet, and returns what it had used before.
    ///
    /// # Errors
    /// Another machine may have what this one lacks: no attempt is used up.
    pub(crate) fn open(&mut self, judge: &OpenJudge, models: &mut Models) -> Result<Spent, WorkError> {
        if self.opened.is_some() {
            return Ok(Spent::default());
        }
        let lacks = |error: Error| match error {
            Error::Unfit { .. } => WorkError::fatal(&error),
            _ => WorkError::unavailable(&error),
        };
        let chat = models.open_rubric_writer(&self.spec).map_err(lacks)?;
        let fingerprint = rubric_writer_fingerprint(&self.spec, judge.model).map_err(lacks)?;
        let embed: Box<dyn Embed> = match self.spec.embedding() {
            Some(embedding) => models.open_embedding(embedding).map_err(lacks)?,
            None => Box::new(HashedNgrams),
        };
        let prompts: Vec<&str> = self.labelled.iter().map(|pair| pair.task.words.as_str()).collect();
        let neighbours = match self.settings.nearest {
            0 => Neighbours::default(),
            _ => Neighbours::new(&prompts, embed.as_ref()).map_err(|error| match unanswered(&error) {
                // Nothing has been said of the prompt yet.
                WorkError::Retry(reason) => WorkError::Unavailable(reason),
                error => error,
            })?,
        };
        tracing::info!(writer = chat.name(), near_by = embed.name(), "ready to write rubrics");
        let spent = chat.spent();
        self.opened = Some(Opened {
            fingerprint,
            chat,
            embed,
            neighbours,
        });
        Ok(spent)
    }

    /// The fingerprint of what writes; `None` before it is opened.
    pub(crate) fn fingerprint(&self) -> Option<Digest> {
        self.opened.as_ref().map(|opened| opened.fingerprint)
    }

    /// What decides about a prompt, as the judge reads it; `None` where the answers were of no use, or decide worse than the general set on
    /// the prompt's own labelled pairs. What the coordinator has kept of another run or worker is taken.
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
        let Some(opened) = &self.opened else {
            return Err(WorkError::Retry("the writer of rubrics is not open".into()));
        };
        let source = match task.sources.first() {
            Some(source) => Some(picture(source, context)?),
            None => None,
        };
        let wanted = WantedSet {
            prompt: &task.words,
            source: source.as_ref(),
        };
        let own = (0..self.labelled.len()).filter(|index| self.labelled[*index].task == *task);
        let own = self.examples(task, own.take(VERIFIED_MOST), context)?;
        let shown = self.examples(task, self.nearest(opened, task)?.into_iter().rev(), context)?;
        let (shown, own) = (shown.pairs(), own.pairs());
        let evidence = Evidence {
            shown: &shown,
            own: &own,
        };
        let writer = PromptSetWriter {
            chat: opened.chat.as_ref(),
            judge,
            template: &self.template,
            journal: None,
            threads: 1,
            settings: self.settings.clone(),
            progress: &|_| {},
        };
        let key = match self.spec.keeps_rubrics() {
            true => {
                let key = writer.key(&wanted, evidence, general).map_err(unwritten)?;
                Some(Digest::of(format!("{key} {}", arithmetic(&self.spec)).as_bytes()))
            }
            false => None,
        };
        let kept = key.and_then(|key| context.recall_rubric(&key));
        if let Some(rubric) = kept.and_then(read) {
            tracing::debug!(prompt = task.words, "what was written before is taken");
            return Ok(rubric);
        }
        let written = writer.write_one(&wanted, evidence, general).map_err(unwritten)?;
        let rubric = match &written.outcome {
            WriteOutcome::Written(set) => set.combined(self.settings.combine, general),
            WriteOutcome::Worse | WriteOutcome::Unreadable => None,
        };
        let kept = match (&rubric, written.outcome) {
            (Some(rubric), _) => KeptRubric::Written { text: rubric.text() },
            (None, WriteOutcome::Worse) => {
                tracing::info!(
                    prompt = task.words,
                    "the rubric that was written decides worse than the general one"
                );
                KeptRubric::Worse
            }
            (None, _) => {
                tracing::warn!(
                    prompt = task.words,
                    "no answer held a criterion: the general rubric decides"
                );
                KeptRubric::Unreadable
            }
        };
        if let Some(key) = key {
            context.keep_rubric(&key, &kept);
        }
        Ok(rubric)
    }

    /// What has been used so far.
    pub(crate) fn spent(&self) -> Spent {
        self.opened
            .as_ref()
            .map(|opened| opened.chat.spent())
            .unwrap_or_default()
    }

    /// These labelled pairs with their pictures, in this order. No others are fetched.
    fn examples(
        &self,
        task: &Task,
        indexes: impl Iterator<Item = usize>,
        context: &WorkContext,
    ) -> Result<LabelledSet, WorkError> {
        let examples = indexes.map(|index| example(index, &self.labelled[index], context));
        Ok(LabelledSet {
            examples: examples.collect::<Result<_, _>>()?,
            task: match task.sources.is_empty() {
                true => Kind::TextToImage,
                false => Kind::Editing,
            },
            labelling: Labelling::Ranked,
        })
    }

    /// The pairs of other prompts that are nearest to this one, one of each prompt.
    fn nearest(&self, opened: &Opened, task: &Task) -> Result<Vec<usize>, WorkError> {
        if self.settings.nearest == 0 {
            return Ok(Vec::new());
        }
        let vectors = opened.embed.embed(&[&task.words]).map_err(|error| unanswered(&error))?;
        let near = vectors.iter().flat_map(|vector| {
            opened
                .neighbours
                .nearest(vector, |index| self.labelled[index].task != *task)
        });
        let mut seen = BTreeSet::new();
        let others = near
            .into_iter()
            .filter(|index| seen.insert(&self.labelled[*index].task));
        Ok(others.take(self.settings.nearest).collect())
    }
}

/// What became of a prompt, as it was kept: a rubric, or that the general one decides. `None` for a text that is no rubric.
fn read(kept: KeptRubric) -> Option<Option<RubricSet>> {
    match kept {
        KeptRubric::Written { text } => RubricSet::from_text(&text).map(Some),
        KeptRubric::Worse | KeptRubric::Unreadable => Some(None),
    }
}

/// By which arithmetic a run's judge and its writer answer: a GPU's likeliest word need not be a CPU's.
pub(crate) fn arithmetic(spec: &JudgeSpec) -> String {
    let judge = spec.back_ends().filter_map(|back_end| back_end.model());
    let writer = spec.rubric_writer().and_then(|back_end| back_end.model());
    let kinds = judge.chain(writer).map(|model| {
        let device = match model.device {
            Device::Cuda(_) => "gpu".to_owned(),
            on_cpu => on_cpu.to_string(),
        };
        format!("{device} {:?}", model.dtype)
    });
    kinds.collect::<Vec<_>>().join(", ")
}

/// What the coordinator is told of a set that could not be asked for.
fn unwritten(error: GenerateError) -> WorkError {
    match error {
        GenerateError::Ask(error) => unanswered(&error),
        error => WorkError::retry(&error),
    }
}

fn settings(writer: &WriterSpec) -> WriteSettings {
    WriteSettings {
        criteria: writer.criteria as usize,
        nearest: writer.nearest as usize,
        max_tokens: writer.max_tokens,
        attempts: ATTEMPTS,
        temperature: 0.0,
        // Of the second attempt alone. Nothing of the run's: what is written for a prompt serves other runs too.
        seed: 0,
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

/// A picture of the run.
pub(crate) fn picture(digest: &Digest, context: &WorkContext) -> Result<Picture, WorkError> {
    let bytes = context.get(digest)?;
    Picture::checked(bytes.to_vec(), &ReadOptions::local())
        .map_err(|fault| WorkError::misleading(*digest, format!("image blob {digest} cannot be decoded: it {fault}")))
}
