//! Judges the matches of a recorded run again, with another rubric or another judge, and says what would have changed: `gavel
//! rejudge`. Nothing of the run changes.

mod change;

use std::collections::BTreeMap;
use std::ops::{ControlFlow, RangeInclusive};
use std::sync::Arc;

use gavel_core::RunAssets;
use gavel_core::ids::{Digest, Millis, PromptIndex, RunId, Step};
use gavel_core::rpo;
use gavel_core::run::GroupResult;
use gavel_core::work::{Orders, Spent, Task, VerdictRecord};
use gavel_judge::{VerdictCache, judge_with};
use gavel_rubric::data::{Picture, ReadOptions};
use gavel_rubric::{Judge, JudgedPair, RubricSet, Rubrics, Theme};
use image::RgbImage;
use serde::Serialize;
use tokio::runtime::Runtime;

use crate::{Error, RunSource};
pub use change::{Change, ChangedGroup, Decided};

/// Which matches of a run are judged again.
#[derive(Debug, Clone)]
pub struct RejudgeOptions {
    /// Their steps; without it every step whose pictures are kept.
    pub steps: Option<RangeInclusive<u32>>,
    /// Prompts of a step at most, from its first on.
    pub prompts: usize,
}

/// By whom they are judged, and by what.
pub struct Again<'a> {
    /// The judge.
    pub judge: &'a dyn Judge,
    /// What decides about each prompt.
    pub rubrics: &'a Rubrics,
    /// Where verdicts are kept, so that none is asked for twice.
    pub kept: &'a dyn VerdictCache,
    /// Whether each theme of a rubric judges by itself too.
    pub by_theme: bool,
}

/// The matches of a run that can be judged again: they were judged, and their pictures are kept.
pub struct Rejudge<'a> {
    source: &'a dyn RunSource,
    runtime: Runtime,
    run: RunId,
    assets: Arc<RunAssets>,
    /// Rewards of the best and of the worst.
    rewards: (f64, f64),
    steps: Vec<(Step, Vec<Group>)>,
    lost: u64,
    spent: Spent,
    judged: u64,
    /// What the judges of the run's steps took, and for how many matches.
    seconds: (f64, u64),
}

/// What the run's judges have taken for a match, each on the average and `None` where nothing was counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PerMatch {
    /// Seconds of a judge worker.
    pub seconds: Option<f64>,
    /// Tokens that servers read and wrote.
    pub tokens: Option<f64>,
    /// What these cost, by the prices of the run's judges.
    pub cost: Option<f64>,
}

struct Group {
    prompt_index: PromptIndex,
    task: Task,
    pictures: Vec<Digest>,
    verdicts: Vec<VerdictRecord>,
}

/// What would have changed.
#[derive(Debug, Clone, Serialize)]
pub struct RejudgeReport {
    /// The run.
    pub run: RunId,
    /// Who judged now.
    pub judge: String,
    /// Fingerprint of the rubric that it judged by, where a prompt has none of its own.
    pub rubric: Digest,
    /// Groups that were judged by a rubric of their prompt.
    #[serde(skip_serializing_if = "is_zero")]
    pub groups_by_own_rubric: u64,
    /// By step.
    pub steps: Vec<StepChange>,
    /// Over all of them.
    pub total: Change,
    /// Each theme of the rubrics by itself against the run's verdicts, by its name; empty unless that was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub themes: Vec<ThemeChange>,
    /// The groups whose verdicts would have been others, with what their candidates would have been rewarded with.
    pub changed: Vec<ChangedGroup>,
    /// Matches that were judged in the run and whose pictures are not kept any more.
    pub lost: u64,
    /// What was asked of servers for it.
    pub spent: Spent,
}

/// What would have changed in one step.
#[derive(Debug, Clone, Serialize)]
pub struct StepChange {
    /// The step.
    pub step: Step,
    /// Its matches.
    #[serde(flatten)]
    pub change: Change,
}

/// What one theme of the rubrics says by itself.
#[derive(Debug, Clone, Serialize)]
pub struct ThemeChange {
    /// Its name, or its first criterion.
    pub theme: String,
    /// Its verdicts against those of the run. Rewards are not counted.
    #[serde(flatten)]
    pub change: Change,
}

impl<'a> Rejudge<'a> {
    /// Reads the run, and finds out which pictures are kept. Blocks, and must not be called from async code.
    ///
    /// # Errors
    /// The run cannot be read.
    pub fn read(source: &'a dyn RunSource, options: &RejudgeOptions) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::Runtime)?;
        let run = runtime.block_on(source.run())?;
        let objective = &run.spec().objective;
        let mut rejudge = Self {
            source,
            run: run.id().clone(),
            assets: run.shared_assets(),
            rewards: (objective.reward_preferred, objective.reward_dispreferred),
            steps: Vec::new(),
            lost: 0,
            spent: run.spent(),
            judged: run.status(Millis(0)).matches_judged,
            seconds: (0.0, 0),
            runtime,
        };
        for result in &run.results().steps {
            let step = result.record.step;
            rejudge.seconds.0 += result.record.seconds.judge;
            rejudge.seconds.1 += result
                .groups
                .iter()
                .map(|group| group.verdicts.len() as u64)
                .sum::<u64>();
            if options.steps.as_ref().is_some_and(|steps| !steps.contains(&step.0)) {
                continue;
            }
            let mut groups = Vec::new();
            for (index, group) in (0..).zip(&result.groups).take(options.prompts) {
                let Some(task) = run.assets().prompts.get(group.line as usize) else {
                    continue;
                };
                if !group.is_judged() {
                    continue;
                }
                match rejudge.is_kept(group, task)? {
                    true => groups.push(Group::of(PromptIndex(index), task, group)),
                    false => rejudge.lost += group.verdicts.len() as u64,
                }
            }
            if !groups.is_empty() {
                rejudge.steps.push((step, groups));
            }
        }
        Ok(rejudge)
    }

    /// The run.
    pub fn run(&self) -> &RunId {
        &self.run
    }

    /// What the run carries: its rubric and the words that its judge is asked with, among others.
    pub fn assets(&self) -> &RunAssets {
        &self.assets
    }

    /// The rubrics that decided in the run: the general one, and those of the prompts that are judged again.
    ///
    /// # Errors
    /// The text of a prompt's rubric cannot be read, or the run's rubric holds no criterion.
    pub fn rubrics(&self) -> Result<Rubrics, Error> {
        let assets = &self.assets;
        let general = RubricSet::from_text(&assets.rubric.text).ok_or(Error::Rubric {
            rubric: assets.rubric.digest,
        })?;
        let mut of_prompts = BTreeMap::new();
        for group in self.steps.iter().flat_map(|(_, groups)| groups) {
            let (task, named) = (&group.task, group.verdicts.first().map(|record| record.rubric));
            let own = named.filter(|rubric| *rubric != general.digest());
            let Some(digest) = own.filter(|_| !of_prompts.contains_key(task)) else {
                continue;
            };
            let text = self.runtime.block_on(self.source.blob(&digest))?;
            let rubric = std::str::from_utf8(&text).ok().and_then(RubricSet::from_text);
            of_prompts.insert(task.clone(), rubric.ok_or(Error::Rubric { rubric: digest })?);
        }
        Ok(Rubrics::new(general, of_prompts))
    }

    /// Matches that can be judged again.
    pub fn matches(&self) -> u64 {
        let groups = self.steps.iter().flat_map(|(_, groups)| groups);
        groups.map(|group| group.verdicts.len() as u64).sum()
    }

    /// Matches that were judged in the run and whose pictures are not kept any more.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// What a match has cost the run, on the average: what the same judge may take again.
    pub fn per_match(&self) -> PerMatch {
        let usage = self.spent.usage;
        let tokens = (usage.prompt_tokens + usage.completion_tokens) as f64;
        let mean = |sum: f64, matches: u64| (sum > 0.0 && matches > 0).then(|| sum / matches as f64);
        PerMatch {
            seconds: mean(self.seconds.0, self.seconds.1),
            tokens: mean(tokens, self.judged),
            cost: mean(self.spent.cost.unwrap_or(0.0), self.judged),
        }
    }

    /// Judges them, step by step. Where `progress` breaks off, the report has the steps so far. Blocks, as [`Rejudge::read`] does.
    ///
    /// # Errors
    /// A picture cannot be read, or the judge does not answer.
    pub fn judge(
        &self,
        again: &Again<'_>,
        mut progress: impl FnMut(&StepChange) -> ControlFlow<()>,
    ) -> Result<RejudgeReport, Error> {
        let before = again.judge.spent();
        let mut report = RejudgeReport {
            run: self.run.clone(),
            judge: again.judge.name().to_owned(),
            rubric: again.rubrics.general().digest(),
            groups_by_own_rubric: 0,
            steps: Vec::new(),
            total: Change::default(),
            themes: Vec::new(),
            changed: Vec::new(),
            lost: self.lost,
            spent: Spent::default(),
        };
        for (step, groups) in &self.steps {
            let mut change = Change::default();
            for group in groups {
                let rubric = again.rubrics.of(&group.task.words, &group.task.sources);
                report.groups_by_own_rubric += u64::from(rubric != again.rubrics.general());
                let verdicts = self.judge_group(group, again, rubric, &mut change, &mut report.themes)?;
                report.changed.extend(self.changed(*step, group, &verdicts));
            }
            report.total.add(&change);
            let done = StepChange { step: *step, change };
            let goes_on = progress(&done);
            report.steps.push(done);
            if goes_on.is_break() {
                break;
            }
        }
        report.spent = again.judge.spent().since(&before);
        Ok(report)
    }

    fn judge_group(
        &self,
        group: &Group,
        again: &Again<'_>,
        rubric: &RubricSet,
        change: &mut Change,
        themes: &mut Vec<ThemeChange>,
    ) -> Result<Vec<VerdictRecord>, Error> {
        let images = self.pictures(group)?;
        let sources: Vec<RgbImage> = group.task.sources.iter().map(|source| images[source].clone()).collect();
        let list: Vec<&RgbImage> = match again.judge.sees_lists() {
            true => group.pictures.iter().map(|picture| &images[picture]).collect(),
            false => Vec::new(),
        };
        let pairs: Vec<JudgedPair<'_>> = rpo::matches(group.pictures.len())
            .map(|(first, second)| JudgedPair {
                prompt_index: group.prompt_index,
                prompt: &group.task.words,
                sources: &sources,
                first: &images[&group.pictures[first]],
                second: &images[&group.pictures[second]],
                rubric,
                orders: Orders::Both,
                list: &list,
            })
            .collect();
        let verdicts = judge_with(again.kept, again.judge, &pairs).map_err(Error::Judge)?;
        for (before, after) in group.verdicts.iter().zip(&verdicts) {
            change.count(before, after);
        }
        change.count_rewards(group.pictures.len(), [&group.verdicts, &verdicts], self.rewards);
        for theme in rubric.themes.iter().filter(|_| again.by_theme) {
            let rubric = RubricSet::of_themes(vec![theme.clone()]);
            let rubric = &rubric;
            let alone: Vec<JudgedPair<'_>> = pairs.iter().map(|pair| JudgedPair { rubric, ..*pair }).collect();
            let verdicts = judge_with(again.kept, again.judge, &alone).map_err(Error::Judge)?;
            let change = ThemeChange::of(theme, themes);
            for (before, after) in group.verdicts.iter().zip(&verdicts) {
                change.count(before, after);
            }
        }
        Ok(verdicts)
    }

    /// The group before and after, where verdicts are others.
    fn changed(&self, step: Step, group: &Group, verdicts: &[VerdictRecord]) -> Option<ChangedGroup> {
        let [before, after] = [group.verdicts.as_slice(), verdicts]
            .map(|records| Decided::of(group.pictures.len(), records, self.rewards));
        (!before.is_as(&after)).then(|| ChangedGroup {
            step,
            prompt_index: group.prompt_index,
            prompt: group.task.words.clone(),
            pictures: group.pictures.clone(),
            before,
            after,
        })
    }

    /// Whether all that the judge is shown is there.
    fn is_kept(&self, group: &GroupResult, task: &Task) -> Result<bool, Error> {
        let candidates = group.candidates.iter().map(|candidate| candidate.image);
        for digest in candidates.chain(task.sources.iter().copied()) {
            if self.runtime.block_on(self.source.blob_size(&digest))?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn pictures(&self, group: &Group) -> Result<BTreeMap<Digest, RgbImage>, Error> {
        let mut images = BTreeMap::new();
        for digest in group.pictures.iter().chain(&group.task.sources) {
            if images.contains_key(digest) {
                continue;
            }
            let bytes = self.runtime.block_on(self.source.blob(digest))?;
            let image = Picture::decode(&bytes, &ReadOptions::painted());
            let image = image.map_err(|fault| Error::Picture {
                image: *digest,
                source: fault.into(),
            })?;
            images.insert(*digest, image);
        }
        Ok(images)
    }
}

impl Group {
    fn of(prompt_index: PromptIndex, task: &Task, group: &GroupResult) -> Self {
        Self {
            prompt_index,
            task: task.clone(),
            pictures: group.candidates.iter().map(|candidate| candidate.image).collect(),
            verdicts: group.verdicts.clone(),
        }
    }
}

impl ThemeChange {
    /// What is counted of a theme: its own row of `themes`, which has none for a theme that was not seen yet.
    fn of<'a>(theme: &Theme, themes: &'a mut Vec<Self>) -> &'a mut Change {
        let name = theme.name.clone().or_else(|| theme.tips.first().cloned());
        let name = name.unwrap_or_default();
        let known = themes.iter().position(|other| other.theme == name);
        let index = known.unwrap_or_else(|| {
            themes.push(Self {
                theme: name,
                change: Change::default(),
            });
            themes.len() - 1
        });
        &mut themes[index].change
    }
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}
