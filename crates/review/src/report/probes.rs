//! What probes say over the steps: the judge's win rate, the evaluator's score, and a few prompts' pictures side by side.

use gavel_core::run::{ProbeStatus, Run};
use gavel_core::work::{Arm, Task};
use gavel_eval::{Adherence, Evaluator, Facts};
use image::RgbImage;
use serde::Serialize;

use super::pictures::Picture;
use crate::{Error, RunSource};

/// Prompts whose pictures stand side by side.
const ROWS: usize = 6;
/// Steps whose pictures do.
const COLUMNS: usize = 8;

/// The policies of a run with `evaluation.every`, on the prompts of a probe. A run without has none.
#[derive(Default)]
pub(super) struct Probes {
    /// In the order of the steps, the last one's among them.
    pub(super) steps: Vec<ProbedStep>,
    /// The evaluator's score of the base's pictures.
    pub(super) base_score: Option<f64>,
    /// The words of the first prompts, with their pictures by the base and by each step of `columns`; `None` where there is none yet.
    pub(super) rows: Vec<(String, Vec<Option<Picture>>)>,
    /// Which steps' pictures `rows` have, behind the base's.
    pub(super) columns: Vec<u32>,
}

/// An element of report.json's `probes`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct ProbedStep {
    #[serde(flatten)]
    pub(super) status: ProbeStatus,
    /// Mean share of a prompt's facts that hold; `None` without an evaluator, or before all prompts are painted.
    pub(super) score: Option<f64>,
}

impl Probes {
    /// Reads the probes' pictures from the blobs and evaluates them.
    ///
    /// # Errors
    /// A blob that is gone or no picture, or a task that the evaluator does not understand.
    pub(super) async fn read(
        run: &Run,
        source: &dyn RunSource,
        evaluator: Option<&dyn Evaluator>,
    ) -> Result<Self, Error> {
        let statuses = run.probes();
        let Some(first) = statuses.first() else {
            return Ok(Self::default());
        };
        let tasks = run.assets().held_out.iter().take(first.prompts as usize);
        let tasks = Tasks::read(tasks, source).await?;
        let (base_score, base) = tasks.measure(run, Arm::Base, source, evaluator).await?;
        let shown = shown(statuses.len());
        let mut probes = Self {
            base_score,
            rows: tasks
                .0
                .iter()
                .take(ROWS)
                .map(|(task, _)| (task.words.clone(), Vec::new()))
                .collect(),
            ..Self::default()
        };
        probes.add_column(base);
        for (index, status) in statuses.into_iter().enumerate() {
            let is_last = status.step.0 == run.spec().run.steps;
            let arm = if is_last { Arm::Tuned } else { Arm::Probe(status.step) };
            let (score, pictures) = tasks.measure(run, arm, source, evaluator).await?;
            if shown.contains(&index) {
                probes.columns.push(status.step.0);
                probes.add_column(pictures);
            }
            probes.steps.push(ProbedStep { status, score });
        }
        Ok(probes)
    }

    fn add_column(&mut self, pictures: Vec<Option<Picture>>) {
        for ((_, row), picture) in self.rows.iter_mut().zip(pictures) {
            row.push(picture);
        }
    }
}

/// The prompts of a probe with what is edited.
struct Tasks<'a>(Vec<(&'a Task, Vec<RgbImage>)>);

impl<'a> Tasks<'a> {
    async fn read(tasks: impl Iterator<Item = &'a Task>, source: &dyn RunSource) -> Result<Self, Error> {
        let mut read = Vec::new();
        for task in tasks {
            let mut sources = Vec::new();
            for digest in &task.sources {
                sources.push(Picture::read(*digest, source).await?.decode()?);
            }
            read.push((task, sources));
        }
        Ok(Self(read))
    }

    /// The evaluator's score of an arm's pictures, where all are there, and the pictures themselves.
    async fn measure(
        &self,
        run: &Run,
        arm: Arm,
        source: &dyn RunSource,
        evaluator: Option<&dyn Evaluator>,
    ) -> Result<(Option<f64>, Vec<Option<Picture>>), Error> {
        let mut pictures = Vec::new();
        let mut facts: Vec<Facts> = Vec::new();
        for ((task, sources), digest) in self.0.iter().zip(run.results().images(arm)) {
            let Some(digest) = digest else {
                pictures.push(None);
                continue;
            };
            let picture = Picture::read(*digest, source).await?;
            if let Some(evaluator) = evaluator {
                let words = &task.words;
                let asked = gavel_eval::Task { words, sources };
                facts.push(evaluator.evaluate(&asked, &picture.decode()?)?.facts);
            }
            pictures.push(Some(picture));
        }
        let score = Adherence::of(&facts).filter(|score| score.prompts == self.0.len());
        Ok((score.map(|score| score.mean), pictures))
    }
}

/// Which of so many steps are shown: all, or some at equal distances with the last.
fn shown(steps: usize) -> Vec<usize> {
    let columns = steps.min(COLUMNS);
    (1..=columns).map(|column| column * steps / columns - 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_steps_are_all_shown_and_of_many_some_with_the_last() {
        assert_eq!(shown(0), [0; 0]);
        assert_eq!(shown(3), [0, 1, 2]);
        assert_eq!(shown(8), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(shown(20), [1, 4, 6, 9, 11, 14, 16, 19]);
    }
}
