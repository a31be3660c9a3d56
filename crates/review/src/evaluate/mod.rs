//! Evaluates *subjects* outside a run: `gavel evaluate`. A [`Subject`] is whatever gives a picture for each prompt, or several *samples* of it:
//! the base model, an adapter, a run's step, or a folder of pictures.
//!
//! [`Pictures`] finds or paints the pictures, [`Evaluation`] asks the exact rules and the judge about them, and [`EvaluationReport`] is
//! what came of it. Pictures and verdicts are kept under what they depend on, so that an evaluation that was killed goes on, and
//! the same one made in one go or in several comes to the same bytes.

mod answers;
mod error;
mod figures;
mod page;
mod pictures;
mod questions;
mod rows;
mod shard;
mod subject;
mod thumbnails;

use std::collections::BTreeMap;
use std::ops::Range;

use gavel_core::ids::{Digest, PromptIndex};
use gavel_core::work::{Orders, PictureAnswer, Verdict, VerdictRecord};
use gavel_eval::Evaluator;
use gavel_judge::{VerdictCache, judge_with, keep_given};
use gavel_models::dinov2::Dinov2;
use gavel_rubric::data::Picture;
use gavel_rubric::data::tasks::TaskRecord;
use gavel_rubric::{Judge, JudgedPair, Rubrics};
use image::RgbImage;
use serde::Serialize;
use serde_json::Value;

use answers::PreparedTask;
pub use answers::{PairVerdict, PictureAnswers, PromptAnswers, RegionOrigin, SourceDistance};
pub use error::Error;
pub use figures::{AdherenceFigures, Figures, MeanDistance, PairFigures, SourceFigures, SubjectFigures};
pub use page::render;
pub use pictures::Pictures;
use questions::Answered;
pub use questions::{Everywhere, QuestionAnswer, QuestionAuthor, QuestionFigures, Questioning, record_questions};
pub use shard::{InvalidShard, Shard};
pub use subject::Subject;
use thumbnails::thumbnail;

/// What is asked about the pictures, and of whom.
pub struct Evaluation<'a> {
    /// The prompts.
    pub tasks: &'a [TaskRecord],
    /// Those that are evaluated.
    pub subjects: &'a [Subject],
    /// Pictures that each has of each prompt.
    pub samples: u8,
    /// Their pictures, all of which are there.
    pub pictures: &'a Pictures<'a>,
    /// The exact rules.
    pub evaluator: Option<&'a dyn Evaluator>,
    /// By whose embeddings an edit is compared with its source.
    pub dinov2: Option<&'a Dinov2>,
    /// Who compares each two subjects.
    pub judge: Option<Judging<'a>>,
    /// Who answers questions about single pictures.
    pub questioning: Option<Questioning<'a>>,
    /// The field of the prompts' records by whose values the figures are told as well.
    pub by: Option<&'a str>,
}

/// A judge with what it decides by.
pub struct Judging<'a> {
    /// The judge.
    pub judge: &'a dyn Judge,
    /// What decides about each prompt.
    pub rubrics: &'a Rubrics,
    /// Where verdicts are kept, so that none is asked for twice.
    pub kept: &'a dyn VerdictCache,
    /// Pairs that are asked about together.
    pub batch: u32,
}

/// What came of an evaluation. The same evaluation gives the same report, whatever was kept.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EvaluationReport {
    /// Those that were evaluated.
    pub subjects: Vec<SubjectName>,
    /// Who judged; `None` without a judge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeName>,
    /// The name of the model that answered questions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub questioned: Option<String>,
    /// Who wrote questions; `None` where nobody was asked to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub question_author: Option<QuestionAuthor>,
    /// Whose exact rules answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluator: Option<&'static str>,
    /// Over all prompts.
    pub figures: Figures,
    /// By the values of a field of the prompts' records, in the order in which they first come; empty unless that was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<PromptGroup>,
    /// Prompt by prompt.
    pub prompts: Vec<PromptAnswers>,
}

/// A subject as people named it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SubjectName {
    /// Its name.
    pub name: String,
    /// What it is.
    pub what: String,
}

/// Who judged, and by what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JudgeName {
    /// The judge's name.
    pub name: String,
    /// Fingerprint of model, template and margin.
    pub identity: Digest,
    /// Fingerprint of the general rubric.
    pub rubric: Digest,
}

/// The prompts with one value of a field.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PromptGroup {
    /// The value, as text; `None` of the prompts without the field.
    pub value: Option<String>,
    /// Their figures.
    pub figures: Figures,
}

/// A prompt with its pictures in memory.
struct OpenPrompt<'a> {
    task: PreparedTask<'a>,
    /// Of each subject so many.
    samples: usize,
    /// In the subjects' order and, of each, in the samples'.
    pictures: Vec<(Picture, RgbImage)>,
}

/// One of the pairs that the judge is asked about.
#[derive(Debug, Clone, Copy)]
struct SamplePair {
    subjects: [usize; 2],
    /// Which picture of either.
    sample: u8,
}

impl OpenPrompt<'_> {
    /// Two subjects' pictures, as the judge is asked about them.
    fn pair<'p>(&'p self, index: usize, asked: SamplePair, rubrics: &'p Rubrics) -> JudgedPair<'p> {
        let [first, second] = asked
            .subjects
            .map(|subject| subject * self.samples + usize::from(asked.sample));
        let words = &self.task.record.words;
        JudgedPair {
            prompt_index: PromptIndex(index as u32),
            prompt: words,
            sources: &self.task.sources,
            first: &self.pictures[first].1,
            second: &self.pictures[second].1,
            rubric: rubrics.of(words, &self.task.digests),
            orders: Orders::Both,
            list: &[],
        }
    }
}

impl Evaluation<'_> {
    /// Keeps the verdicts that the same judge, asked elsewhere, gave on two subjects' first pictures, prompt by prompt: nobody is asked about
    /// them again. Nothing without a judge.
    ///
    /// # Errors
    /// A picture is not there.
    pub fn take(&self, subjects: [usize; 2], verdicts: &[Option<VerdictRecord>]) -> Result<(), Error> {
        let Some(judging) = &self.judge else { return Ok(()) };
        for (index, verdict) in (0..self.tasks.len()).zip(verdicts) {
            let Some(verdict) = verdict else { continue };
            let prompt = self.open(index)?;
            let asked = SamplePair { subjects, sample: 0 };
            let pair = prompt.pair(index, asked, judging.rubrics);
            keep_given(judging.kept, judging.judge, &[(pair, verdict)]);
        }
        Ok(())
    }

    /// Keeps the answers that the same model, asked elsewhere, gave about a subject's first picture of each prompt, each to all questions about the
    /// picture in the order of [`Everywhere::lists`]: nobody is asked them again. Nothing where no questions are asked.
    ///
    /// # Errors
    /// A picture is not there, or the answers cannot be kept.
    pub fn take_answers(&self, subject: usize, answers: &[Option<Vec<PictureAnswer>>]) -> Result<(), Error> {
        let Some(questioning) = &self.questioning else {
            return Ok(());
        };
        for ((index, task), answers) in self.tasks.iter().enumerate().zip(answers) {
            let Some(answers) = answers else { continue };
            let pictures = self.pictures.open(subject, index)?;
            if let Some(picture) = pictures.first() {
                questioning.take(index, task, picture, answers)?;
            }
        }
        Ok(())
    }

    /// Asks about every picture and every pair; `progress` hears of prompts that are done. Blocks where the judge's cache does.
    ///
    /// # Errors
    /// A picture is not there, or the judge does not answer.
    pub fn report(&self, progress: &dyn Fn(usize)) -> Result<EvaluationReport, Error> {
        let (mut prompts, mut thumbnails) = (Vec::new(), Vec::new());
        self.each(0..self.tasks.len(), progress, |index, prompt, verdicts, answered| {
            let similarities = self.similarities(prompt)?;
            prompts.push(self.answers(index, prompt, verdicts, answered, similarities));
            let pictures = prompt.pictures.iter();
            thumbnails.push(pictures.map(|(_, image)| thumbnail(image)).collect::<Vec<_>>());
            Ok(())
        })?;
        let names: Vec<String> = self.subjects.iter().map(|subject| subject.name.clone()).collect();
        let of = |indices: &[usize]| {
            let answers: Vec<&PromptAnswers> = indices.iter().map(|index| &prompts[*index]).collect();
            let small: Vec<&[RgbImage]> = indices.iter().map(|index| thumbnails[*index].as_slice()).collect();
            Figures::of(&names, self.samples, &answers, &small)
        };
        let all: Vec<usize> = (0..prompts.len()).collect();
        let groups = self.groups().into_iter().map(|(value, indices)| PromptGroup {
            value,
            figures: of(&indices),
        });
        Ok(EvaluationReport {
            subjects: self.subjects.iter().map(SubjectName::of).collect(),
            judge: self.judge.as_ref().map(JudgeName::of),
            questioned: self.questioning.as_ref().map(|asked| asked.chat.name().to_owned()),
            question_author: self.questioning.as_ref().and_then(|asked| asked.author.cloned()),
            evaluator: self.evaluator.map(Evaluator::name),
            figures: of(&all),
            groups: groups.collect(),
            prompts,
        })
    }

    /// Asks about the pictures and pairs of some prompts, so that the answers are kept: a shard of the evaluation. `progress` as of
    /// [`Evaluation::report`]. Returns how many questions and pairs have no answer, which are asked about again.
    ///
    /// # Errors
    /// As of [`Evaluation::report`].
    pub fn ask(&self, prompts: Range<usize>, progress: &dyn Fn(usize)) -> Result<usize, Error> {
        let mut open = 0;
        self.each(prompts, progress, |_, _, verdicts, answered| {
            let failed = verdicts.iter().map(|verdict| &verdict.record.verdict);
            open += failed
                .filter(|verdict| matches!(verdict, Verdict::Failed { .. }))
                .count();
            open += answered.iter().flat_map(Answered::unanswered).count();
            Ok(())
        })?;
        Ok(open)
    }

    /// Asks about some prompts, as many of them together as judge and writer take, and hands each on with its verdicts and answers.
    fn each<F>(&self, prompts: Range<usize>, progress: &dyn Fn(usize), mut then: F) -> Result<(), Error>
    where
        F: FnMut(usize, &OpenPrompt<'_>, Vec<PairVerdict>, Vec<Answered>) -> Result<(), Error>,
    {
        let pairs = self.pairs().count();
        let batch = self.judge.as_ref().map_or(1, |judging| judging.batch.max(1) as usize);
        let together = (batch / pairs.max(1)).max(1);
        for first in prompts.clone().step_by(together) {
            let open: Vec<OpenPrompt<'_>> = (first..prompts.end.min(first + together))
                .map(|index| self.open(index))
                .collect::<Result<_, _>>()?;
            let mut verdicts = self.verdicts(first, &open)?.into_iter();
            let mut answered = match &self.questioning {
                Some(questioning) => questioning.answers(first, &open)?,
                None => Vec::new(),
            }
            .into_iter();
            for (index, prompt) in (first..).zip(&open) {
                let verdicts = verdicts.by_ref().take(pairs).collect();
                then(index, prompt, verdicts, answered.next().unwrap_or_default())?;
            }
            progress(open.len());
        }
        Ok(())
    }

    fn open(&self, index: usize) -> Result<OpenPrompt<'_>, Error> {
        let mut pictures = Vec::with_capacity(self.subjects.len() * usize::from(self.samples));
        for subject in 0..self.subjects.len() {
            let of_subject = self.pictures.open(subject, index)?.into_iter();
            pictures.extend(of_subject.map(|picture| {
                let image = picture.image();
                (picture, image)
            }));
        }
        Ok(OpenPrompt {
            task: PreparedTask::of(&self.tasks[index]),
            samples: self.samples.into(),
            pictures,
        })
    }

    /// What is compared of each prompt: of each two subjects the first pictures, the second ones and so on.
    fn pairs(&self) -> impl Iterator<Item = SamplePair> {
        let (subjects, samples) = (self.subjects.len(), self.samples);
        let two = (0..subjects).flat_map(move |first| (first + 1..subjects).map(move |second| [first, second]));
        two.flat_map(move |subjects| (0..samples).map(move |sample| SamplePair { subjects, sample }))
    }

    /// As answers say it: nothing where there is one.
    fn sample(&self, sample: u8) -> Option<u8> {
        (self.samples > 1).then_some(sample)
    }

    /// How alike each subject's edit is to the first source, as a whole, where it is edited and elsewhere; nothing where nothing was edited, or
    /// nobody can tell.
    fn similarities(&self, prompt: &OpenPrompt<'_>) -> Result<Vec<[Option<f64>; 3]>, Error> {
        let Some(model) = self.dinov2 else {
            return Ok(Vec::new());
        };
        let similarity = |part: Option<[RgbImage; 2]>| {
            let Some([source, edited]) = part else { return Ok(None) };
            let (source, edited) = (model.embedding(&source)?, model.embedding(&edited)?);
            Ok::<_, Error>(Some(source.iter().zip(&edited).map(|(a, b)| a * b).sum()))
        };
        let mut similarities = Vec::with_capacity(prompt.pictures.len());
        for (_, image) in &prompt.pictures {
            let Some([whole, inside, outside]) = prompt.task.parts(image) else {
                return Ok(Vec::new());
            };
            similarities.push([similarity(whole)?, similarity(inside)?, similarity(outside)?]);
        }
        Ok(similarities)
    }

    /// The verdicts on each two subjects of each of some prompts, prompt by prompt; nothing without a judge.
    fn verdicts(&self, first_index: usize, prompts: &[OpenPrompt<'_>]) -> Result<Vec<PairVerdict>, Error> {
        let Some(judging) = &self.judge else {
            return Ok(Vec::new());
        };
        let (mut asked, mut pairs) = (Vec::new(), Vec::new());
        for (index, prompt) in (first_index..).zip(prompts) {
            asked.extend(self.pairs());
            pairs.extend(self.pairs().map(|pair| prompt.pair(index, pair, judging.rubrics)));
        }
        let mut verdicts = Vec::with_capacity(pairs.len());
        let batch = judging.batch.max(1) as usize;
        for (asked, pairs) in asked.chunks(batch).zip(pairs.chunks(batch)) {
            let records = judge_with(judging.kept, judging.judge, pairs)?;
            let named = asked.iter().zip(records);
            verdicts.extend(named.map(|(asked, record)| PairVerdict {
                subjects: asked.subjects.map(|subject| self.subjects[subject].name.clone()),
                sample: self.sample(asked.sample),
                record,
            }));
        }
        Ok(verdicts)
    }

    fn answers(
        &self,
        index: usize,
        prompt: &OpenPrompt<'_>,
        verdicts: Vec<PairVerdict>,
        answered: Vec<Answered>,
        similarities: Vec<[Option<f64>; 3]>,
    ) -> PromptAnswers {
        let (mut answered, mut similarities) = (answered.into_iter(), similarities.into_iter());
        let of_subject = |subject| (0..self.samples).map(move |sample| (subject, sample));
        let pictures = self.subjects.iter().flat_map(of_subject).zip(&prompt.pictures);
        let pictures = pictures.map(|((subject, sample), (picture, image))| {
            let Answered {
                questions,
                quality,
                fulfilment,
            } = answered.next().unwrap_or_default();
            let [similarity, similarity_inside, similarity_outside] = similarities.next().unwrap_or_default();
            PictureAnswers {
                questions,
                quality,
                fulfilment,
                similarity,
                similarity_inside,
                similarity_outside,
                sample: self.sample(sample),
                ..PictureAnswers::of(&subject.name, picture, image, &prompt.task, self.evaluator)
            }
        });
        PromptAnswers {
            index,
            prompt: prompt.task.record.words.clone(),
            fields: prompt.task.record.fields.clone(),
            pictures: pictures.collect(),
            verdicts,
        }
    }

    /// The prompts by the values of the field, in the order in which these first come.
    fn groups(&self) -> Vec<(Option<String>, Vec<usize>)> {
        let Some(field) = self.by else { return Vec::new() };
        let mut groups: Vec<(Option<String>, Vec<usize>)> = Vec::new();
        let mut positions = BTreeMap::new();
        for (index, task) in self.tasks.iter().enumerate() {
            let value = task.fields.get(field).map(as_text);
            let position = *positions.entry(value.clone()).or_insert(groups.len());
            match groups.get_mut(position) {
                Some((_, indices)) => indices.push(index),
                None => groups.push((value, vec![index])),
            }
        }
        groups
    }
}

/// A text without its quotation marks, all else as JSON.
fn as_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

impl SubjectName {
    fn of(subject: &Subject) -> Self {
        Self {
            name: subject.name.clone(),
            what: subject.what.clone(),
        }
    }
}

impl JudgeName {
    fn of(judging: &Judging<'_>) -> Self {
        Self {
            name: judging.judge.name().to_owned(),
            identity: judging.judge.identity(),
            rubric: judging.rubrics.general().digest(),
        }
    }
}
