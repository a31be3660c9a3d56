//! Judge units of a fleet.

use std::{collections::BTreeMap, time::Instant};

use gavel_core::{
    Diagnostic, HeldOutJudgeAssets, RunAssets,
    ids::{Digest, PromptIndex, RunId},
    spec::{JudgeSpec, ReasonsSpec, RunSpec},
    work::{Assignment, Outcome, Pair, Spent, Task, Unit, VerdictRecord, rules},
};
use gavel_judge::{Explainer, Models};
use gavel_rubric::data::{Picture, ReadOptions};
use gavel_rubric::{AskError, JudgedPair, ReasonTemplate};
use gavel_worker::{Work, WorkContext, WorkError};
use image::RgbImage;

use crate::difference::difference;
use crate::open_judge::{OpenJudge, prompt_rubrics};
use crate::questions::PictureQuestions;
use crate::rubric_writer::RubricWriter;

/// [`Work`] of a judge: training pairs, held-out pairs and labelled pairs alike, what the held-out judge is to see of them, the rubrics of
/// single prompts, and questions about single pictures.
#[derive(Default)]
pub struct JudgeWork {
    models: Models,
    ready: Option<Ready>,
}

/// What a run's pairs are judged with.
struct Ready {
    /// The run's `[judge]`, which says which pairs are asked about.
    spec: JudgeSpec,
    judge: OpenJudge,
    held_out: Option<HeldOut>,
    /// Which pairs are explained, and by whom.
    reasons: Option<(ReasonsSpec, Explainer)>,
    /// Who writes the rubrics of single prompts.
    writer: Option<RubricWriter>,
    /// What answers questions about single pictures.
    questions: PictureQuestions,
    /// What the coordinator has been told of [`Ready::spent`].
    told: Spent,
}

/// A run's held-out judge, opened when the first unit asks for it: a worker that gets none of these units loads no second model.
struct HeldOut {
    spec: JudgeSpec,
    assets: HeldOutJudgeAssets,
    opened: Option<OpenJudge>,
}

impl Ready {
    /// Opens the judge that this unit is for, if it is not open yet.
    fn open_for(&mut self, unit: &Unit, models: &mut Models) -> Result<(), WorkError> {
        if !matches!(unit, Unit::HeldOutJudge { .. }) {
            return Ok(());
        }
        let Some(HeldOut { spec, assets, opened }) = &mut self.held_out else {
            return Err(WorkError::Fatal("the run has no held-out judge".into()));
        };
        if opened.is_none() {
            let judge = OpenJudge::open_held_out(spec, assets, models).map_err(|error| match error {
                // As with the other judge: what this machine lacks is no failed attempt.
                WorkError::Retry(reason) => WorkError::Unavailable(reason),
                error => error,
            })?;
            self.told.add(&judge.spent());
            *opened = Some(judge);
        }
        Ok(())
    }

    /// The judge that this unit is for.
    fn judge_for(&self, unit: &Unit) -> &OpenJudge {
        let held_out = self.held_out.as_ref().and_then(|held_out| held_out.opened.as_ref());
        match (unit, held_out) {
            (Unit::HeldOutJudge { .. }, Some(held_out)) => held_out,
            _ => &self.judge,
        }
    }

    /// What the verdicts of both judges, the reasons, the rubrics and the answers have used since the judges were opened.
    fn spent(&self) -> Spent {
        let mut spent = self.judge.spent();
        if let Some(writer) = &self.writer {
            spent.add(&writer.spent());
        }
        spent.add(&self.questions.spent());
        if let Some((_, explainer)) = &self.reasons {
            spent.add(&explainer.spent());
        }
        if let Some(held_out) = self.held_out.as_ref().and_then(|held_out| held_out.opened.as_ref()) {
            spent.add(&held_out.spent());
        }
        spent
    }

    /// What they have used since this was asked last; `None` for nothing.
    fn spent_anew(&mut self) -> Option<Spent> {
        let spent = self.spent();
        let anew = spent.since(&self.told);
        self.told = spent;
        (!anew.is_nothing()).then_some(anew)
    }

    /// Writes what is to decide about a prompt, and stores its text.
    fn write_rubric(
        &mut self,
        task: &Task,
        models: &mut Models,
        context: &WorkContext,
        started: Instant,
    ) -> Result<Outcome, WorkError> {
        let Some(writer) = &mut self.writer else {
            return Err(WorkError::Fatal("the run has no writer of rubrics".into()));
        };
        self.told.add(&writer.open(&self.judge, models)?);
        let rubric = writer.write(task, &self.judge.rubric, self.judge.unkept(), context)?;
        let model = writer.fingerprint().unwrap_or(self.judge.model);
        Ok(Outcome::RubricWritten {
            rubric: rubric.map(|rubric| context.put(rubric.text())),
            model,
            spent: self.spent_anew(),
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// Answers the questions about a picture.
    fn answer_questions(
        &mut self,
        (task, image, questions): (&Task, &Digest, &[String]),
        models: &mut Models,
        context: &WorkContext,
        started: Instant,
    ) -> Result<Outcome, WorkError> {
        self.told.add(&self.questions.open(models)?);
        Ok(Outcome::QuestionsAnswered {
            answers: self.questions.answer(task, image, questions, context)?,
            model: self.judge.model,
            spent: self.spent_anew(),
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// What the unit's judge says of pairs, each with how far apart its pictures are. About those that are too alike it is not asked.
    fn verdicts(
        &self,
        unit: &Unit,
        context: &WorkContext,
        pairs: &[JudgedPair<'_>],
    ) -> Result<Vec<VerdictRecord>, WorkError> {
        // A verdict that is kept for every run speaks of the pictures; how far apart they are is looked at anew.
        let differences: Vec<Option<f64>> = pairs.iter().map(|pair| difference(pair.first, pair.second)).collect();
        let mut verdicts: Vec<VerdictRecord> = pairs
            .iter()
            .map(|pair| VerdictRecord::too_alike(pair.prompt_index, pair.rubric.digest()))
            .collect();
        let is_asked = |place: &usize| !rules::is_too_alike(&self.spec, unit, differences[*place]);
        let places: Vec<usize> = (0..pairs.len()).filter(is_asked).collect();
        if !places.is_empty() {
            let asked: Vec<JudgedPair<'_>> = places.iter().map(|place| pairs[*place]).collect();
            let answered = self.judge_for(unit).judge(context, &asked);
            for (place, record) in places.into_iter().zip(answered.map_err(|error| unanswered(&error))?) {
                verdicts[place] = record;
            }
        }
        for (record, difference) in verdicts.iter_mut().zip(differences) {
            record.difference = difference;
        }
        Ok(verdicts)
    }

    /// Adds reasons to the verdicts on the pairs that are shown to people. Without an answer they are left out: no verdict
    /// waits for its reason.
    fn explain(
        &self,
        context: &WorkContext,
        pairs: &[Pair],
        judged: &[JudgedPair<'_>],
        verdicts: &mut [VerdictRecord],
    ) {
        let Some((spec, explainer)) = &self.reasons else { return };
        let is_explained = |place: &usize| spec.covers(&pairs[*place]) && !verdicts[*place].is_too_alike();
        let places: Vec<usize> = (0..pairs.len()).filter(is_explained).collect();
        let chosen: Vec<JudgedPair<'_>> = places.iter().map(|place| judged[*place]).collect();
        match explainer.explain(&chosen, |pairs| self.judge.judge(context, pairs)) {
            Ok(reasons) => {
                for (place, reasons) in places.into_iter().zip(reasons) {
                    verdicts[place].reasons = reasons;
                }
            }
            Err(error) => {
                let reason = Diagnostic::foreign(&error);
                tracing::warn!(%reason, pairs = chosen.len(), "verdicts without their reasons");
            }
        }
    }
}

impl Work for JudgeWork {
    fn prepare(&mut self, run: &RunId, spec: &RunSpec, assets: &RunAssets) -> Result<(), WorkError> {
        self.ready = None;
        let judge = OpenJudge::open(&spec.judge, assets, &mut self.models)?;
        let reasons = self.explainer(&spec.judge, assets)?;
        let writer = RubricWriter::new(spec, assets)?;
        tracing::info!(%run, "ready to judge");
        let held_out = spec.judge.held_out.as_deref().zip(assets.held_out_judge.as_ref());
        let ready = self.ready.insert(Ready {
            spec: spec.judge.clone(),
            judge,
            held_out: held_out.map(|(spec, assets)| HeldOut {
                spec: spec.judge(),
                assets: assets.clone(),
                opened: None,
            }),
            reasons,
            writer,
            questions: PictureQuestions::new(&spec.judge),
            told: Spent::default(),
        });
        // A back end may have been in use before.
        ready.told = ready.spent();
        Ok(())
    }

    fn perform(&mut self, unit: &Unit, assignment: &Assignment, context: &WorkContext) -> Result<Outcome, WorkError> {
        let started = Instant::now();
        let Some(ready) = &mut self.ready else {
            return Err(WorkError::Retry(
                "this judge was given work before it was prepared".into(),
            ));
        };
        let pairs = match assignment {
            Assignment::Judge { pairs } => pairs,
            Assignment::WriteRubric { task } => return ready.write_rubric(task, &mut self.models, context, started),
            Assignment::AnswerQuestions {
                task, image, questions, ..
            } => return ready.answer_questions((task, image, questions), &mut self.models, context, started),
            _ => return Err(WorkError::Fatal("a judge was given a unit of another role".into())),
        };
        let images = decode(pairs, context)?;
        let sources: Vec<Vec<RgbImage>> = pairs
            .iter()
            .map(|pair| pair.task.sources.iter().map(|source| images[source].clone()).collect())
            .collect();
        if context.cancelled() {
            return Err(WorkError::Cancelled);
        }
        ready.open_for(unit, &mut self.models)?;
        let judge = ready.judge_for(unit);
        let rubrics = prompt_rubrics(context, pairs)?;
        let lists = match judge.sees_lists() {
            true => lists(pairs, &images),
            false => BTreeMap::new(),
        };
        let judged: Vec<JudgedPair<'_>> = pairs
            .iter()
            .zip(&sources)
            .map(|(pair, sources)| JudgedPair {
                prompt_index: pair.prompt_index,
                prompt: &pair.task.words,
                sources,
                first: &images[&pair.first],
                second: &images[&pair.second],
                rubric: pair.rubric.map_or(&judge.rubric, |rubric| &rubrics[&rubric]),
                orders: pair.orders,
                list: lists.get(&pair.prompt_index).map_or(&[], Vec::as_slice),
            })
            .collect();
        let mut verdicts = ready.verdicts(unit, context, &judged)?;
        let model = judge.model;
        // Labelled pairs measure the judge and are shown to nobody, and reasons are the judge's own.
        if !matches!(unit, Unit::CalibrateJudge { .. } | Unit::HeldOutJudge { .. }) {
            ready.explain(context, pairs, &judged, &mut verdicts);
        }
        Ok(Outcome::Judged {
            verdicts,
            model,
            spent: ready.spent_anew(),
            seconds: started.elapsed().as_secs_f64(),
        })
    }
}

impl JudgeWork {
    fn explainer(
        &mut self,
        spec: &JudgeSpec,
        assets: &RunAssets,
    ) -> Result<Option<(ReasonsSpec, Explainer)>, WorkError> {
        let (Some(reasons), Some(text)) = (&spec.reasons, &assets.reason_template) else {
            return Ok(None);
        };
        let template = ReasonTemplate::parse(text, &reasons.template).map_err(|error| WorkError::fatal(&error))?;
        let explainer = self.models.open_explainer(spec, template, reasons.max_tokens);
        let explainer = explainer.map_err(|error| WorkError::retry(&error))?;
        Ok(Some((reasons.clone(), explainer)))
    }
}

/// What the coordinator is told of a question without an answer. A server's words stay in this worker's log: the server may be
/// one that those who look at a run must not read.
pub(crate) fn unanswered(error: &AskError) -> WorkError {
    tracing::warn!(reason = %Diagnostic::foreign(error), "pairs or pictures that cannot be judged now");
    let told = error.for_everybody().in_full();
    match error {
        AskError::Unavailable { .. } => WorkError::Unavailable(told),
        AskError::Refused { .. } | AskError::Unanswerable { .. } => WorkError::Retry(told),
    }
}

/// The pictures of each prompt that these pairs compare, each once. A unit has all pairs of its prompts.
fn lists<'a>(pairs: &[Pair], images: &'a BTreeMap<Digest, RgbImage>) -> BTreeMap<PromptIndex, Vec<&'a RgbImage>> {
    let mut lists: BTreeMap<PromptIndex, Vec<&RgbImage>> = BTreeMap::new();
    for pair in pairs {
        let list = lists.entry(pair.prompt_index).or_default();
        for picture in [&images[&pair.first], &images[&pair.second]] {
            if !list.iter().any(|listed| std::ptr::eq(*listed, picture)) {
                list.push(picture);
            }
        }
    }
    lists
}

/// Every picture that the judge is shown of the pairs, once.
fn decode(pairs: &[Pair], context: &WorkContext) -> Result<BTreeMap<Digest, RgbImage>, WorkError> {
    let candidates = pairs.iter().flat_map(|pair| [pair.first, pair.second]);
    let sources = pairs.iter().flat_map(|pair| pair.task.sources.iter().copied());
    let mut digests: Vec<Digest> = candidates.chain(sources).collect();
    digests.sort();
    digests.dedup();
    let mut images = BTreeMap::new();
    for (digest, blob) in digests.iter().zip(context.get_many(&digests)?) {
        let image = Picture::decode(&blob, &ReadOptions::local()).map_err(|fault| {
            WorkError::misleading(*digest, format!("image blob {digest} cannot be decoded: it {fault}"))
        })?;
        images.insert(*digest, image);
    }
    Ok(images)
}
