//! The judged pairs of a run, or larger groups, as people look at them: the newest step first.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use gavel_core::ids::{Digest, PromptIndex, Step};
use gavel_core::run::{GroupResult, Run, StepResult};
use gavel_core::work::{Verdict, VerdictRecord};
use gavel_core::{Annotation, RubricText};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Groups that are looked at for one page: whoever asks for what there is little of gets a short page, and goes on from there.
const LOOKS: usize = 20_000;

/// A judged pair, or larger group, with its pictures.
#[derive(Debug, Serialize, JsonSchema)]
pub struct JudgedPair {
    /// The step.
    pub step: Step,
    /// The prompt's index in the step.
    pub index: usize,
    /// The words.
    pub prompt: String,
    /// PNG blobs of the pictures that were edited; none for text-to-image.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Digest>,
    /// What the task's file says besides.
    #[serde(flatten)]
    pub given: Annotation,
    /// PNG blobs of the candidates.
    pub images: Vec<Digest>,
    /// On each match: of the first against the second, against the third, and so on.
    pub verdicts: Vec<VerdictRecord>,
    /// What the held-out judge says of the same matches; empty where it has not looked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub held_out: Vec<VerdictRecord>,
    /// The candidates' ranks, 1 being the best; absent where the judge does not set them apart.
    pub ranks: Option<Vec<u32>>,
    /// Why the group gave no gradient although it was decided.
    pub skipped: Option<String>,
}

impl JudgedPair {
    /// Every picture that belongs to it.
    pub fn pictures(&self) -> impl Iterator<Item = Digest> {
        let given = [self.given.target, self.given.mask].into_iter().flatten();
        self.images.iter().chain(&self.sources).copied().chain(given)
    }

    /// The fingerprints of the rubrics that decided about it.
    pub fn rubrics(&self) -> impl Iterator<Item = Digest> {
        self.verdicts.iter().chain(&self.held_out).map(|record| record.rubric)
    }
}

/// A rubric as people read it beside a verdict that it decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct RubricShown {
    /// Themes with their lines, between empty lines.
    pub text: String,
    /// Whether it is of a single prompt, and not one by which a judge decides about all prompts without one of their own.
    pub of_prompt: bool,
}

impl RubricShown {
    /// The text of a single prompt's rubric, as its blob has it.
    pub fn of_blob(bytes: &[u8]) -> Self {
        Self {
            text: String::from_utf8_lossy(bytes).into_owned(),
            of_prompt: true,
        }
    }

    /// The rubrics that a run carries with it, those of its judges, by their fingerprints.
    pub fn carried(run: &Run) -> BTreeMap<Digest, Self> {
        let assets = run.assets();
        let held_out = assets.held_out_judge.iter().map(|held_out| &held_out.rubric);
        let shown = |rubric: &RubricText| Self {
            text: rubric.text.clone(),
            of_prompt: false,
        };
        let rubrics = held_out.chain([&assets.rubric]);
        rubrics.map(|rubric| (rubric.digest, shown(rubric))).collect()
    }
}

/// Which pairs are asked for. Without anything, all.
#[derive(Debug, Default, Clone)]
pub struct Filter {
    /// Those of this step.
    pub step: Option<Step>,
    /// Those whose prompt contains these words, be they large or small.
    pub prompt: Option<String>,
    /// Those of which this came.
    pub outcome: Option<Outcome>,
    /// Those whose best candidate is this one, counted from 1.
    pub winner: Option<usize>,
}

/// What came of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The judge sets its candidates apart.
    Decided,
    /// The judge looked and does not set them apart.
    Undecided,
    /// The judge could not look at all of it.
    Failed,
    /// It was decided and gave no gradient.
    Skipped,
    /// The held-out judge prefers another candidate than the judge.
    Disputed,
}

/// Where a page ends: the next begins behind this pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    step: Step,
    index: usize,
}

/// Not a cursor.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not what an earlier page gave as `next`")]
pub struct InvalidCursor(String);

/// A page of pairs.
#[derive(Debug)]
pub struct Page {
    /// The pairs, the newest step first.
    pub pairs: Vec<JudgedPair>,
    /// Behind what the next page begins; `None` at the end.
    pub next: Option<Cursor>,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.step, self.index)
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let parts = text.split_once('.');
        let parsed = parts.and_then(|(step, index)| Some((step.parse().ok()?, index.parse().ok()?)));
        let (step, index) = parsed.ok_or_else(|| InvalidCursor(gavel_core::bounds::cut(text.to_owned())))?;
        Ok(Self {
            step: Step(step),
            index,
        })
    }
}

impl Filter {
    fn admits(&self, run: &Run, step: Step, group: &GroupResult) -> bool {
        group.is_judged()
            && self.step.is_none_or(|wanted| wanted == step)
            && self.outcome.is_none_or(|outcome| outcome.is_of(group))
            && self.winner.is_none_or(|winner| is_best(group, winner))
            && self.prompt.as_ref().is_none_or(|words| contains(run, group, words))
    }
}

fn is_best(group: &GroupResult, winner: usize) -> bool {
    let ranks = group.ranks();
    ranks.is_some_and(|ranks| winner.checked_sub(1).and_then(|index| ranks.get(index)) == Some(&1))
}

fn contains(run: &Run, group: &GroupResult, words: &str) -> bool {
    let task = run.assets().prompts.get(group.line as usize);
    task.is_some_and(|task| task.words.to_lowercase().contains(&words.to_lowercase()))
}

impl Outcome {
    fn is_of(self, group: &GroupResult) -> bool {
        let failed = |record: &VerdictRecord| matches!(record.verdict, Verdict::Failed { .. });
        match self {
            Self::Decided => group.is_decided(),
            Self::Undecided => !group.is_decided() && !group.verdicts.iter().any(failed),
            Self::Failed => group.verdicts.iter().any(failed),
            Self::Skipped => group.skipped.is_some(),
            Self::Disputed => {
                let (pairs, alike) = group.agreement();
                alike < pairs
            }
        }
    }
}

/// The committed steps and those in flight that a run has with their candidates and verdicts: the newest first.
pub fn steps(run: &Run) -> impl Iterator<Item = (Step, &[GroupResult])> {
    let in_flight = run.in_flight().map(|flight| (flight.step, flight.groups.as_slice()));
    let mut in_flight: Vec<_> = in_flight.collect();
    in_flight.reverse();
    in_flight.into_iter().chain(committed(run.results().steps.iter()))
}

/// Committed steps with their candidates and verdicts: the newest first.
pub fn committed<'a>(
    steps: impl DoubleEndedIterator<Item = &'a StepResult>,
) -> impl Iterator<Item = (Step, &'a [GroupResult])> {
    steps.rev().map(|step| (step.record.step, step.groups.as_slice()))
}

/// A page that is being filled.
#[derive(Debug)]
pub struct Filling {
    filter: Filter,
    after: Option<Cursor>,
    limit: usize,
    looks: usize,
    last: Option<Cursor>,
    page: Page,
}

impl Filling {
    /// An empty page, for at most `limit` pairs that the filter admits, behind `after`.
    pub fn new(filter: Filter, after: Option<Cursor>, limit: usize) -> Self {
        let page = Page {
            pairs: Vec::new(),
            next: None,
        };
        Self {
            filter,
            after,
            limit,
            looks: 0,
            last: None,
            page,
        }
    }

    /// Looks at steps of a run, the newest first and each older than those before; whether the page could take more.
    pub fn add<'a>(&mut self, run: &Run, steps: impl Iterator<Item = (Step, &'a [GroupResult])>) -> bool {
        let groups = steps.flat_map(|(step, groups)| {
            let numbered = groups.iter().enumerate();
            numbered.map(move |(index, group)| (Cursor { step, index }, group))
        });
        for (at, group) in groups {
            if !self.after.is_none_or(|after| at.is_behind(after)) {
                continue;
            }
            if self.page.pairs.len() == self.limit || self.looks == LOOKS {
                self.page.next = self.last;
                return false;
            }
            self.looks += 1;
            self.last = Some(at);
            if self.filter.admits(run, at.step, group) {
                self.page.pairs.extend(view(run, at, group));
            }
        }
        true
    }

    /// The page.
    pub fn end(self) -> Page {
        self.page
    }

    /// The steps that there can be anything of on this page: the oldest, and the newest if that is known.
    pub(crate) fn reach(&self) -> (Step, Option<Step>) {
        let newest = [self.filter.step, self.after.map(|after| after.step)];
        (self.filter.step.unwrap_or(Step(1)), newest.into_iter().flatten().min())
    }
}

impl Cursor {
    /// Whether this comes after the other one, in the order of pages.
    fn is_behind(self, other: Self) -> bool {
        self.step < other.step || (self.step == other.step && self.index > other.index)
    }
}

fn view(run: &Run, Cursor { step, index }: Cursor, group: &GroupResult) -> Option<JudgedPair> {
    let task = run.assets().prompts.get(group.line as usize)?;
    let given = run.assets().annotations.prompts.get(&PromptIndex(group.line));
    Some(JudgedPair {
        step,
        index,
        prompt: task.words.clone(),
        sources: task.sources.clone(),
        given: given.cloned().unwrap_or_default(),
        images: group.candidates.iter().map(|candidate| candidate.image).collect(),
        verdicts: group.verdicts.clone(),
        held_out: group.held_out.clone(),
        ranks: group.ranks(),
        skipped: group.skipped.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_and_other_texts_are_refused() {
        let cursor = Cursor {
            step: Step(12),
            index: 3,
        };
        assert_eq!(cursor.to_string().parse::<Cursor>().unwrap(), cursor);
        for text in ["", "12", "12.", ".3", "12.3.4", "-1.0", "a.b"] {
            assert!(text.parse::<Cursor>().is_err(), "{text}");
        }
    }
}
