//! Rubrics that are written while the run goes on: one for each prompt, before its pictures are compared for the first time.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::completion::JudgedOf;
use super::{GroupResult, Run};
use crate::assets::RunAssets;
use crate::ids::{Digest, Step};
use crate::schedule;
use crate::spec::{RunSpec, WriterSpec};
use crate::work::{PromptPlace, Task, TaskList, Unit};

/// Which prompts are to have a rubric of their own, and what was written for them so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Rubrics {
    places: Arc<Places>,
    /// Of each prompt that is done the rubric's text, a blob; `None` where the general rubric is to decide.
    written: BTreeMap<PromptPlace, Option<Digest>>,
}

/// Where the rubric of each prompt is written: where its task stands first. `None` for a prompt that has one already. All three are empty
/// in a run that writes none.
#[derive(Debug, Default, PartialEq)]
struct Places {
    prompts: Vec<Option<PromptPlace>>,
    held_out: Vec<Option<PromptPlace>>,
    labelled: Vec<Option<PromptPlace>>,
}

impl Places {
    fn of(assets: &RunAssets) -> Self {
        let mut first = BTreeMap::new();
        let labelled = assets.labelled.iter().map(|pair| &pair.task);
        Self {
            prompts: places(TaskList::Prompts, assets.prompts.iter(), assets, &mut first),
            held_out: places(TaskList::HeldOut, assets.held_out.iter(), assets, &mut first),
            labelled: places(TaskList::Labelled, labelled, assets, &mut first),
        }
    }

    fn of_list(&self, list: TaskList) -> &[Option<PromptPlace>] {
        match list {
            TaskList::Prompts => &self.prompts,
            TaskList::HeldOut => &self.held_out,
            TaskList::Labelled => &self.labelled,
        }
    }
}

/// Of each task of a list where it stands first, unless the files have a rubric for it.
fn places<'a>(
    list: TaskList,
    tasks: impl Iterator<Item = &'a Task>,
    assets: &RunAssets,
    first: &mut BTreeMap<&'a Task, PromptPlace>,
) -> Vec<Option<PromptPlace>> {
    let place = |(index, task)| {
        let place = *first.entry(task).or_insert(PromptPlace { list, index });
        assets.prompt_rubrics.of(task).is_none().then_some(place)
    };
    (0..).zip(tasks).map(place).collect()
}

impl Rubrics {
    pub(super) fn new(spec: &RunSpec, assets: &RunAssets) -> Self {
        let places = spec.judge.writer.as_ref().map(|_| Arc::new(Places::of(assets)));
        Self {
            places: places.unwrap_or_default(),
            written: BTreeMap::new(),
        }
    }

    /// Where the rubric of a prompt is written; `None` where none is.
    fn place(&self, list: TaskList, index: u32) -> Option<PromptPlace> {
        self.places.of_list(list).get(index as usize).copied().flatten()
    }

    /// What was written so far.
    pub(super) fn written(&self) -> impl ExactSizeIterator<Item = (PromptPlace, Option<Digest>)> {
        self.written.iter().map(|(place, rubric)| (*place, *rubric))
    }

    /// Puts back what a snapshot has.
    pub(super) fn restore(&mut self, written: impl IntoIterator<Item = (PromptPlace, Option<Digest>)>) {
        self.written = written.into_iter().collect();
    }
}

impl Run {
    /// The rubric of its own by which a judge unit decides about the prompt at this index of one of the run's lists: its text is a blob. `Some(None)`
    /// where the general one decides, and `None` while it is not written.
    pub fn own_rubric(&self, unit: &Unit, list: TaskList, index: u32) -> Option<Option<Digest>> {
        // The held-out judge has rubrics of its own, and none is written for it.
        let is_watch = matches!(unit, Unit::HeldOutJudge { .. });
        if let Some(place) = self.rubrics.place(list, index).filter(|_| !is_watch) {
            return self.rubrics.written.get(&place).copied();
        }
        let task = self.assets.task(PromptPlace { list, index })?;
        Some(self.assets.prompt_rubric(unit, task))
    }

    /// The fingerprint of the rubric by which a judge unit decides about the prompt at this index of one of the run's lists. Of a rubric
    /// that is not written it is that of the general one.
    pub fn rubric_of(&self, unit: &Unit, list: TaskList, index: u32) -> Digest {
        let own = self.own_rubric(unit, list, index).flatten();
        own.unwrap_or_else(|| self.assets.general_rubric(unit))
    }

    /// The prompt of a judge unit's pair, as the run's files have it; `None` once its step is committed.
    pub(super) fn judged_prompt(&self, unit: &Unit, index: u32) -> Option<(TaskList, u32)> {
        match *unit {
            Unit::Judge { step, .. } | Unit::HeldOutJudge { step, .. } => {
                let group = self.flight(step)?.groups.get(index as usize)?;
                Some((TaskList::Prompts, group.line))
            }
            Unit::CalibrateJudge { .. } => Some((TaskList::Labelled, index)),
            Unit::EvaluateJudge { .. } => Some((TaskList::HeldOut, index)),
            _ => None,
        }
    }

    /// Where the rubric was written by which a judge unit decides about a prompt; `None` where it came with the run.
    pub(super) fn written_for(&self, unit: &Unit, index: u32, rubric: &Digest) -> Option<PromptPlace> {
        let (list, index) = self.judged_prompt(unit, index)?;
        let place = self.rubrics.place(list, index)?;
        (self.rubrics.written.get(&place) == Some(&Some(*rubric))).then_some(place)
    }

    /// The rubrics that were written: the place of the prompt and the text's blob, `None` where the general rubric decides.
    pub fn written_rubrics(&self) -> impl ExactSizeIterator<Item = (PromptPlace, Option<Digest>)> {
        self.rubrics.written()
    }

    /// How many prompts have a rubric of their own: those that the run's files gave one, and those that one was written for.
    pub fn own_rubrics(&self) -> usize {
        let written = self.written_rubrics().filter(|(_, rubric)| rubric.is_some());
        self.assets.prompt_rubrics.iter().len() + written.count()
    }

    /// Whether what writes rubrics is known by a fingerprint of its own, and not by the judge's.
    pub(super) fn writer_has_models(&self) -> bool {
        self.spec.judge.writer.as_ref().is_some_and(WriterSpec::has_models)
    }

    /// Asks for the rubrics of these prompts that nobody was asked for yet.
    pub(super) fn ask_for_rubrics(&mut self, list: TaskList, indexes: impl IntoIterator<Item = u32>) {
        for index in indexes {
            let Some(place) = self.rubrics.place(list, index) else {
                continue;
            };
            let unit = Unit::WriteRubric { place };
            let is_asked = self.board.is_ready(&unit) || self.board.lease(&unit).is_some();
            if !is_asked && !self.rubrics.written.contains_key(&place) {
                self.board.add(unit);
            }
        }
    }

    /// Takes note of a written rubric, or that none came of it, and makes the judge units ready that waited for it alone.
    pub(super) fn note_rubric(&mut self, place: PromptPlace, rubric: Option<Digest>) {
        self.rubrics.written.insert(place, rubric);
        for unit in self.judged_by(place) {
            self.open_judge_unit(unit);
        }
    }

    /// Forgets a rubric whose text is gone. Judge units that were to go by it wait for the new one.
    pub(super) fn forget_rubric(&mut self, place: PromptPlace) {
        let waiting: Vec<Unit> = self.judged_by(place).collect();
        self.rubrics.written.remove(&place);
        self.board.withdraw(|unit| waiting.contains(unit));
    }

    /// Makes a judge unit ready, unless it is done or in work, or waits for something.
    pub(super) fn open_judge_unit(&mut self, unit: Unit) {
        let is_open = !self.is_judged(&unit) && !self.board.is_ready(&unit) && self.board.lease(&unit).is_none();
        if is_open && self.assignment(&unit).is_some() {
            self.board.add(unit);
        }
    }

    /// Whether every pair of a judge unit has been judged.
    fn is_judged(&self, unit: &Unit) -> bool {
        let extent = self.extent(unit);
        match JudgedOf::unit(unit) {
            Some(JudgedOf::Step(step)) => {
                let groups = self.flight(step).map(|flight| flight.part(&extent));
                groups.is_none_or(|groups| groups.iter().all(GroupResult::is_judged))
            }
            Some(JudgedOf::Comparison(_)) => self.is_compared(unit),
            Some(JudgedOf::Calibration) => {
                let judged = &self.results.calibration[extent.start as usize..extent.end as usize];
                judged.iter().all(Option::is_some)
            }
            // The held-out judge waits for no rubric.
            Some(JudgedOf::HeldOut(_)) | None => true,
        }
    }

    /// The judge units of steps in flight, of comparisons and of the calibration, in which the prompt of this place is judged by what was written for it.
    fn judged_by(&self, place: PromptPlace) -> impl Iterator<Item = Unit> + use<> {
        let batch = self.spec.judge.batch;
        let is_of = |list, index| self.rubrics.place(list, index) == Some(place);
        let mut units = Vec::new();
        for flight in &self.flights {
            let lines = (0..).zip(&flight.groups);
            let groups = lines.filter(|(_, group)| is_of(TaskList::Prompts, group.line));
            let step: Step = flight.step;
            units.extend(groups.map(|(index, _)| Unit::Judge {
                step,
                chunk: schedule::chunk_of(index, batch),
            }));
        }
        let probes = self.results.probes.iter().map(|probe| Some(probe.step));
        let compared: Vec<Option<Step>> = std::iter::once(None).chain(probes).collect();
        let held_out = (0..self.results.base_images.len() as u32).filter(|index| is_of(TaskList::HeldOut, *index));
        for chunk in held_out.map(|index| schedule::chunk_of(index, batch)) {
            let of_chunk = compared
                .iter()
                .map(|probe| Unit::EvaluateJudge { probe: *probe, chunk });
            units.extend(of_chunk.filter(|unit| !self.extent(unit).is_empty()));
        }
        let labelled = (0..self.results.calibration.len() as u32).filter(|index| is_of(TaskList::Labelled, *index));
        units.extend(labelled.map(|index| Unit::CalibrateJudge {
            chunk: schedule::chunk_of(index, batch),
        }));
        units.dedup();
        units.into_iter()
    }
}
