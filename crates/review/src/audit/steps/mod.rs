//! Each step's pairs, from the accepted results alone: sampled, judged and trained on once, under the policy of the step.

mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use gavel_core::ids::{Digest, PromptIndex, Step};
use gavel_core::rpo::{self, learning_rate};
use gavel_core::run::{CandidateResult, Run, ShardResult};
use gavel_core::schedule;
use gavel_core::work::{
    AskedMatches, Assignment, Orders, Outcome, Pair, Policy, PromptPlace, PromptTask, RewardedCandidate, RewardedGroup,
    Task, TaskList, Unit, VerdictRecord, rules,
};
use serde::Serialize;

use super::events::{Accepted, Account};
use super::finding::{Findings, Rule};
use super::{assignments, verdict};

/// What became of the pairs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Pairs {
    pub(super) sampled: u32,
    pub(super) decided: u32,
    pub(super) abstained: u32,
    pub(super) failed: u32,
    /// Decided pairs whose gradient was added.
    pub(super) trained: u32,
    /// Decided pairs whose gradient was not finite.
    pub(super) skipped: u32,
}

/// The policies that were accepted; version n at index n.
pub(super) fn policies(account: &Account) -> Vec<&Policy> {
    let initial = account.accepted.get(&Unit::Initialise);
    let commits = (1..).map_while(|step| account.accepted.get(&Unit::Commit { step: Step(step) }));
    initial
        .into_iter()
        .chain(commits)
        .map_while(|accepted| match &accepted.outcome {
            Outcome::Initialised { policy, .. } | Outcome::Committed { policy, .. } => Some(policy),
            _ => None,
        })
        .collect()
}

/// The conditionings that accepted results name, by the line of their task.
fn conditionings(account: &Account) -> BTreeSet<(u32, Digest)> {
    let (spec, tasks) = (account.run.spec(), account.run.assets().prompts.len() as u32);
    let mut steps = BTreeMap::new();
    let mut named = BTreeSet::new();
    for (unit, accepted) in &account.accepted {
        let (Unit::Sample { step, .. }, Outcome::Sampled { samples, .. }) = (unit, &accepted.outcome) else {
            continue;
        };
        let lines: &Vec<u32> = steps
            .entry(*step)
            .or_insert_with(|| schedule::prompt_lines(spec.run.seed, tasks, *step, spec.prompts.per_step));
        named.extend(samples.iter().filter_map(|sample| {
            let line = *lines.get(sample.prompt_index.0 as usize)?;
            Some((line, sample.conditioning?))
        }));
    }
    named
}

/// Audits every step that has a commit.
pub(super) fn check(account: &Account, findings: &mut Findings) -> Pairs {
    let policies = policies(account);
    let mut pairs = Pairs::default();
    let mut named = BTreeMap::new();
    let mut asked: BTreeMap<Step, AskedMatches> = BTreeMap::new();
    let conditionings = conditionings(account);
    for (version, policy) in policies.iter().enumerate().take(policies.len().saturating_sub(1)) {
        let step = Step(version as u32 + 1);
        let spec = account.run.spec();
        let mut audit = StepAudit {
            account,
            run: &account.run,
            step,
            policy,
            sampling: policies[rules::sampling_version(spec, step) as usize],
            lag: rules::policy_lag(spec, step),
            lines: schedule::prompt_lines(
                spec.run.seed,
                account.run.assets().prompts.len() as u32,
                step,
                spec.prompts.per_step,
            ),
            conditionings: &conditionings,
            candidates: BTreeMap::new(),
            conditioned: BTreeMap::new(),
            verdicts: BTreeMap::new(),
            rechecked: rules::is_trusted(spec, step, |step| asked.get(&step).copied())
                .then(|| rules::rechecked_prompts(spec, step)),
            held_out: BTreeMap::new(),
            skipped: BTreeMap::new(),
            shards: Vec::new(),
            findings,
        };
        audit.samples();
        audit.verdicts();
        audit.gradients();
        audit.commit();
        audit.state();
        audit.count(&mut pairs);
        asked.insert(step, audit.asked());
        for (prompt, candidates) in &audit.candidates {
            for (candidate, result) in candidates.iter().enumerate() {
                let at = format!("step {step}, prompt {prompt}, candidate {candidate}");
                if let Some(other) = named.insert(result.trajectory, at.clone()) {
                    let problem = format!("names the trajectory of {other}, {}", result.trajectory);
                    audit.findings.add(Rule::Samples, at, problem);
                }
            }
        }
    }
    let committed = account.run.results().steps.len();
    if committed + 1 != policies.len().max(1) {
        let problem = format!(
            "{committed} steps, {} accepted commits",
            policies.len().saturating_sub(1)
        );
        findings.add(Rule::State, "the run", problem);
    }
    pairs
}

struct StepAudit<'a> {
    account: &'a Account,
    run: &'a Run,
    step: Step,
    /// The policy that the step trains.
    policy: &'a Policy,
    /// The policy that it is sampled from, `sampling.max_policy_lag` versions before.
    sampling: &'a Policy,
    /// By how many versions.
    lag: u32,
    lines: Vec<u32>,
    /// The conditionings that results name, by the line of their task: what a sampler may have been handed.
    conditionings: &'a BTreeSet<(u32, Digest)>,
    candidates: BTreeMap<u32, Vec<CandidateResult>>,
    /// What each prompt's candidates were conditioned on.
    conditioned: BTreeMap<u32, Digest>,
    /// On the matches of each prompt's candidates.
    verdicts: BTreeMap<u32, Vec<VerdictRecord>>,
    /// The prompts that are asked in both image orders where the judge has earned trust by the steps before; `None` where all are.
    rechecked: Option<BTreeSet<u32>>,
    /// Those of the held-out judge, on its share of the prompts.
    held_out: BTreeMap<u32, Vec<VerdictRecord>>,
    skipped: BTreeMap<u32, &'a str>,
    shards: Vec<ShardResult>,
    findings: &'a mut Findings,
}

impl<'a> StepAudit<'a> {
    fn per_step(&self) -> u32 {
        self.lines.len() as u32
    }

    fn task(&self, prompt_index: u32) -> Task {
        let place = PromptPlace {
            list: TaskList::Prompts,
            index: self.line(prompt_index),
        };
        self.run.assets().task(place).cloned().unwrap_or_default()
    }

    fn line(&self, prompt_index: u32) -> u32 {
        self.lines.get(prompt_index as usize).copied().unwrap_or_default()
    }

    fn accepted(&self, unit: Unit) -> Option<&'a Accepted> {
        self.account.accepted.get(&unit)
    }

    fn samples(&mut self) {
        let batch = self.run.spec().sampling.batch;
        for chunk in 0..schedule::chunks(self.per_step(), batch) {
            let unit = Unit::Sample { step: self.step, chunk };
            let extent = schedule::extent(chunk, batch, self.per_step());
            let Some(accepted) = self.accepted(unit) else {
                self.findings
                    .add(Rule::Samples, unit, "was never accepted, yet its step is committed");
                continue;
            };
            let expected = Assignment::Sample {
                step: self.step,
                policy: self.sampling.clone(),
                prompts: extent
                    .clone()
                    .map(|prompt| PromptTask {
                        index: PromptIndex(prompt),
                        task: self.task(prompt),
                        conditioning: self.handed(prompt, accepted),
                    })
                    .collect(),
            };
            self.given(Rule::Samples, &unit, &expected, accepted);
            let Outcome::Sampled { samples, manifest, .. } = &accepted.outcome else {
                self.findings.add(Rule::Samples, unit, "its result is no samples");
                continue;
            };
            if *manifest != Some(self.sampling.manifest) {
                self.findings
                    .add(Rule::Policy, unit, "sampled with an adapter of another manifest");
            }
            self.groups(&unit, extent, samples);
        }
    }

    /// The conditioning that a worker was handed for a prompt, if a result names it for that task. Which of them it is handed, or none,
    /// depends on who was faster, and changes nothing.
    fn handed(&self, prompt: u32, accepted: &Accepted) -> Option<Digest> {
        let Some(Assignment::Sample { prompts, .. }) = &accepted.assignment else {
            return None;
        };
        let handed = prompts.iter().find(|one| one.index.0 == prompt)?.conditioning?;
        let line = *self.lines.get(prompt as usize)?;
        self.conditionings.contains(&(line, handed)).then_some(handed)
    }

    /// All candidates of each prompt of the chunk, in order.
    fn groups(&mut self, unit: &Unit, extent: Range<u32>, samples: &[gavel_core::work::Sampled]) {
        let found: Vec<(u32, u8)> = samples
            .iter()
            .map(|one| (one.prompt_index.0, one.candidate.0))
            .collect();
        let size = self.run.spec().sampling.candidates;
        let expected: Vec<(u32, u8)> = extent
            .flat_map(|prompt| (0..size).map(move |candidate| (prompt, candidate)))
            .collect();
        self.findings
            .equal(Rule::Samples, unit, "prompts and candidates", &expected, &found);
        for group in samples.chunks_exact(usize::from(size)) {
            let result = |sampled: &gavel_core::work::Sampled| {
                sampled.trajectory.map(|trajectory| CandidateResult {
                    trajectory,
                    image: sampled.image,
                })
            };
            let prompt = group[0].prompt_index.0;
            self.conditioned
                .extend(group[0].conditioning.map(|blob| (prompt, blob)));
            let Some(candidates) = group.iter().map(result).collect() else {
                self.findings.add(
                    Rule::Samples,
                    unit,
                    format!("prompt {prompt}: a candidate has no trajectory"),
                );
                continue;
            };
            if self.candidates.insert(prompt, candidates).is_some() {
                self.findings
                    .add(Rule::Samples, unit, format!("prompt {prompt} is sampled a second time"));
            }
        }
    }

    fn verdicts(&mut self) {
        let batch = self.run.spec().judge.batch;
        let watched = rules::held_out_prompts(self.run.spec(), self.step);
        for chunk in 0..schedule::chunks(self.per_step(), batch) {
            let extent = schedule::extent(chunk, batch, self.per_step());
            let unit = Unit::HeldOutJudge { step: self.step, chunk };
            for (prompt, verdicts) in self.judged(unit, watched.range(extent.clone()).copied().collect()) {
                self.held_out.insert(prompt, verdicts);
            }
            let unit = Unit::Judge { step: self.step, chunk };
            for (prompt, verdicts) in self.judged(unit, extent.collect()) {
                if self.verdicts.insert(prompt, verdicts).is_some() {
                    let location = format!("step {}, pair {prompt}", self.step);
                    self.findings.add(Rule::Verdicts, location, "is judged a second time");
                }
            }
        }
    }

    /// What a judge's unit says of these prompts' matches; nothing where no result was accepted.
    fn judged(&mut self, unit: Unit, prompts: Vec<u32>) -> Vec<(u32, Vec<VerdictRecord>)> {
        // After too many failed attempts there is no result, and its pairs are recorded as failed.
        let Some(accepted) = self.accepted(unit) else {
            return Vec::new();
        };
        let matches = rpo::match_count(usize::from(self.run.spec().sampling.candidates));
        let expected = Assignment::Judge {
            pairs: prompts.iter().flat_map(|prompt| self.matches(&unit, *prompt)).collect(),
        };
        self.given(Rule::Verdicts, &unit, &expected, accepted);
        let Outcome::Judged { verdicts, .. } = &accepted.outcome else {
            self.findings.add(Rule::Verdicts, unit, "its result is no verdicts");
            return Vec::new();
        };
        let found: Vec<u32> = verdicts.iter().map(|record| record.prompt_index.0).collect();
        let expected: Vec<u32> = prompts
            .into_iter()
            .flat_map(|prompt| std::iter::repeat_n(prompt, matches))
            .collect();
        self.findings.equal(Rule::Verdicts, unit, "pairs", &expected, &found);
        let groups = verdicts.chunks(matches).map(|group| {
            let prompt = group[0].prompt_index;
            let location = format!("step {}, pair {prompt}", self.step);
            let rubric = self.run.rubric_of(&unit, TaskList::Prompts, self.line(prompt.0));
            for (number, record) in group.iter().enumerate() {
                let asked = (rubric, self.orders(&unit, prompt, number));
                if let Some(problem) = verdict::problem(record, &unit, asked, self.run) {
                    self.findings.add(Rule::Verdicts, &location, problem);
                }
            }
            (prompt.0, group.to_vec())
        });
        groups.collect()
    }

    /// A prompt's candidates, each against each.
    fn matches(&self, unit: &Unit, prompt: u32) -> Vec<Pair> {
        let candidates = self.candidates.get(&prompt).map_or(&[][..], Vec::as_slice);
        let task = self.task(prompt);
        let rubric = self.run.own_rubric(unit, TaskList::Prompts, self.line(prompt));
        let rubric = rubric.flatten();
        rpo::matches(candidates.len())
            .enumerate()
            .map(|(number, (first, second))| Pair {
                prompt_index: PromptIndex(prompt),
                task: task.clone(),
                first: candidates[first].image,
                second: candidates[second].image,
                rubric,
                orders: self.orders(unit, PromptIndex(prompt), number),
            })
            .collect()
    }

    /// In which image orders a match is to be asked, by what was accepted of earlier steps.
    fn orders(&self, unit: &Unit, prompt: PromptIndex, number: usize) -> Orders {
        match (unit, &self.rechecked) {
            (Unit::Judge { .. }, Some(rechecked)) if !rechecked.contains(&prompt.0) => {
                rules::one_order(self.run.spec(), self.step, prompt, number)
            }
            _ => Orders::Both,
        }
    }

    fn ranks(&self, prompt: u32) -> Option<Vec<u32>> {
        rpo::ranks(self.candidates.get(&prompt)?.len(), self.verdicts.get(&prompt)?)
    }

    /// The decided pairs of a shard with the rewards of their verdicts.
    fn rewarded(&self, extent: Range<u32>) -> Vec<RewardedGroup> {
        let objective = &self.run.spec().objective;
        extent
            .filter_map(|prompt| {
                let rewards = rpo::rewards(
                    &self.ranks(prompt)?,
                    objective.reward_preferred,
                    objective.reward_dispreferred,
                );
                let candidates = self.candidates.get(&prompt)?.iter().zip(rewards);
                Some(RewardedGroup {
                    prompt_index: PromptIndex(prompt),
                    conditioning: self.conditioned.get(&prompt).copied(),
                    candidates: candidates
                        .map(|(result, reward)| RewardedCandidate {
                            trajectory: result.trajectory,
                            reward,
                        })
                        .collect(),
                })
            })
            .collect()
    }

    fn gradients(&mut self) {
        let size = self.run.spec().trainer.shard;
        for shard in 0..schedule::chunks(self.per_step(), size) {
            let unit = Unit::Gradient { step: self.step, shard };
            let pairs = self.rewarded(schedule::extent(shard, size, self.per_step()));
            let accepted = self.accepted(unit);
            let result = match (accepted, pairs.is_empty()) {
                (None, true) => ShardResult::default(),
                (None, false) => {
                    let problem = format!("{} decided pairs, and no result was accepted", pairs.len());
                    self.findings.add(Rule::Gradients, unit, problem);
                    ShardResult::default()
                }
                (Some(_), true) => {
                    self.findings.add(
                        Rule::Gradients,
                        unit,
                        "has a gradient, and none of its pairs is decided",
                    );
                    ShardResult::default()
                }
                (Some(accepted), false) => self.shard(unit, pairs, accepted),
            };
            self.shards.push(result);
        }
    }

    fn shard(&mut self, unit: Unit, pairs: Vec<RewardedGroup>, accepted: &'a Accepted) -> ShardResult {
        let decided: Vec<u32> = pairs.iter().map(|pair| pair.prompt_index.0).collect();
        let expected = Assignment::Gradient {
            step: self.step,
            policy: self.policy.clone(),
            groups: pairs,
            policy_lag: self.lag,
        };
        self.given(Rule::Gradients, &unit, &expected, accepted);
        let Outcome::Gradient {
            gradient,
            manifest,
            statistics,
            skipped,
            ..
        } = &accepted.outcome
        else {
            self.findings.add(Rule::Gradients, unit, "its result is no gradient");
            return ShardResult::default();
        };
        if *manifest != self.policy.manifest {
            self.findings
                .add(Rule::Policy, unit, "trained with an adapter of another manifest");
        }
        for pair in skipped {
            if !decided.contains(&pair.prompt_index.0)
                || self.skipped.insert(pair.prompt_index.0, &pair.reason).is_some()
            {
                let problem = format!("skips pair {}, which it was not given, or twice", pair.prompt_index);
                self.findings.add(Rule::Gradients, unit, problem);
            }
        }
        let trained = decided.len().saturating_sub(skipped.len()) as u64;
        let terms =
            trained * u64::from(self.run.spec().sampling.candidates) * self.run.spec().trained_steps().len() as u64;
        self.findings
            .equal(Rule::Gradients, unit, "terms", &terms, &statistics.terms);
        if gradient.is_some() != (statistics.terms > 0) {
            self.findings.add(
                Rule::Gradients,
                unit,
                "a gradient must be there exactly when there are terms",
            );
        }
        ShardResult {
            gradient: *gradient,
            statistics: statistics.clone(),
        }
    }

    fn terms(&self) -> u64 {
        self.shards.iter().map(|shard| shard.statistics.terms).sum()
    }

    fn commit(&mut self) {
        let unit = Unit::Commit { step: self.step };
        let Some(accepted) = self.accepted(unit) else { return };
        let sums = (0..).zip(&self.shards).filter_map(|(shard, result)| {
            let maker = self.accepted(Unit::Gradient { step: self.step, shard })?;
            Some((result.gradient?, maker.worker.clone()))
        });
        let (gradients, holders) = sums.unzip();
        let expected = Assignment::Commit {
            step: self.step,
            policy: self.policy.clone(),
            gradients,
            holders,
            terms: self.terms(),
        };
        self.given(Rule::Commits, &unit, &expected, accepted);
        let Outcome::Committed {
            policy,
            learning_rate: found,
            ..
        } = &accepted.outcome
        else {
            self.findings.add(Rule::Commits, unit, "its result is no policy");
            return;
        };
        let spec = self.run.spec();
        let expected = learning_rate(&spec.optimizer, self.step, accepted.steps);
        self.findings
            .equal(Rule::Commits, unit, "learning rate", &expected, found);
        if self.terms() == 0 && policy != self.policy {
            self.findings.add(
                Rule::Commits,
                unit,
                "nothing was decided, and the policy is another one",
            );
        }
    }

    /// Compares what a worker was given with what the step's earlier results imply.
    fn given(&mut self, rule: Rule, unit: &Unit, expected: &Assignment, accepted: &Accepted) {
        assignments::check(rule, unit, expected, accepted.assignment.as_ref(), self.findings);
    }
}
