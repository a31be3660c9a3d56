//! The blobs that the ledger names: there, with the right bytes, and in what they say of themselves.
//!
//! What the run retains must be there ([`Run::retained`]). Other blobs of committed steps may have been collected; they are
//! counted as gone.

use std::collections::BTreeMap;

use gavel_coordinator::blobs::BlobError;
use gavel_core::ids::{Digest, PromptIndex, Step};
use gavel_core::run::Run;
use gavel_core::schedule;
use gavel_core::spec::GradientExchange;
use gavel_core::work::{Outcome, Part, Policy, Task, Unit, rules};
use gavel_policy::{ConditioningFile, TensorFile, Trajectory};
use serde::Serialize;

use super::events::Account;
use super::finding::{Findings, Rule};
use super::steps::policies;
use super::trajectory::{self, Expected};
use crate::{Error, RunSource};

/// What was found of the blobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct BlobCounts {
    /// Blobs that are there, with the right bytes.
    pub(super) right: usize,
    /// Blobs of committed steps that are not there any more.
    pub(super) gone: usize,
    /// Trajectories that are there and fit their position.
    pub(super) trajectories: usize,
    /// Trajectories that the ledger names.
    pub(super) trajectories_named: usize,
}

/// A blob that the ledger names.
struct Named {
    what: String,
    content: Content,
}

enum Content {
    Opaque,
    Trajectory(Box<Expected>),
    /// Of this task.
    Conditioning(Task),
    Gradient {
        terms: u64,
    },
    Optimizer {
        updates: u64,
    },
}

/// Reads every blob that the accepted results name.
///
/// # Errors
/// The blob store cannot be read.
pub(super) async fn check(
    account: &Account,
    source: &dyn RunSource,
    findings: &mut Findings,
) -> Result<BlobCounts, Error> {
    let named = named(account);
    let retained = account.run.retained();
    let sums_are_blobs = account.run.spec().trainer.exchange == GradientExchange::Blobs;
    let mut found = BlobCounts::default();
    for (digest, Named { what, content }) in &named {
        let is_trajectory = matches!(content, Content::Trajectory(_));
        found.trajectories_named += usize::from(is_trajectory);
        let bytes = match source.blob(digest).await {
            Ok(bytes) => bytes,
            Err(BlobError::Missing { .. })
                if !retained.contains(digest) || (!sums_are_blobs && matches!(content, Content::Gradient { .. })) =>
            {
                found.gone += 1;
                continue;
            }
            Err(BlobError::Missing { .. }) => {
                findings.add(Rule::Blobs, what, format!("blob {digest} is missing"));
                continue;
            }
            Err(BlobError::Corrupt { found, .. }) => {
                findings.add(
                    Rule::Blobs,
                    what,
                    format!("blob {digest} holds bytes that hash to {found}"),
                );
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        found.right += 1;
        let problem = match content {
            Content::Opaque => None,
            Content::Trajectory(expected) => match Trajectory::from_safetensors(&bytes) {
                Ok(trajectory) => trajectory::problem(&trajectory, expected, account.run.spec()),
                Err(error) => Some(error.to_string()),
            },
            Content::Conditioning(task) => match ConditioningFile::from_safetensors(&bytes) {
                Ok(file) => trajectory::conditioning_problem(&file, task, account.run.spec()),
                Err(error) => Some(error.to_string()),
            },
            Content::Gradient { terms } => metadata(&bytes, "terms", &terms.to_string()),
            Content::Optimizer { updates } => metadata(&bytes, "step", &updates.to_string()),
        };
        let rule = if is_trajectory { Rule::Trajectories } else { Rule::Blobs };
        match problem {
            Some(problem) => findings.add(rule, what, format!("{digest}: {problem}")),
            None => found.trajectories += usize::from(is_trajectory),
        }
    }
    Ok(found)
}

/// What is wrong with a metadata value of a tensor file.
fn metadata(bytes: &[u8], key: &str, expected: &str) -> Option<String> {
    match TensorFile::from_bytes(bytes) {
        Ok(file) => {
            let found = file.metadata.get(key).map(String::as_str);
            (found != Some(expected)).then(|| format!("`{key}` is {}, expected {expected}", found.unwrap_or("absent")))
        }
        Err(error) => Some(error.to_string()),
    }
}

/// Every blob that the accepted results name, and that was stored with the run, once.
fn named(account: &Account) -> BTreeMap<Digest, Named> {
    let run = &account.run;
    let policies = policies(account);
    let updates = updates(run, policies.len());
    let mut named = BTreeMap::new();
    let mut add = |digest, what, content| {
        named.entry(digest).or_insert(Named { what, content });
    };
    for (unit, accepted) in &account.accepted {
        let version = match unit {
            Unit::Commit { step } => step.0 as usize,
            _ => 0,
        };
        for (digest, part) in accepted.outcome.outputs() {
            let expected = expected(run, &policies, unit, part, &accepted.outcome);
            let whose = expected.as_ref().map(ToString::to_string);
            let (what, content) = match part {
                Part::OptimizerState => {
                    let updates = updates.get(version).copied().unwrap_or_default();
                    (
                        format!("the {part} of policy {version}"),
                        Content::Optimizer { updates },
                    )
                }
                Part::Adapter | Part::AveragedAdapter => (format!("the {part} of policy {version}"), Content::Opaque),
                Part::Gradient { .. } => match &accepted.outcome {
                    Outcome::Gradient { statistics, .. } => {
                        let terms = statistics.terms;
                        (unit.to_string(), Content::Gradient { terms })
                    }
                    _ => (unit.to_string(), Content::Opaque),
                },
                Part::Trajectory { prompt_index, .. } => {
                    let whose = whose.unwrap_or_else(|| format!("{unit}, prompt {prompt_index}"));
                    let content = expected.map_or(Content::Opaque, |expected| Content::Trajectory(Box::new(expected)));
                    (format!("the trajectory of {whose}"), content)
                }
                Part::Conditioning { prompt_index } => {
                    let what = format!("{unit}, prompt {prompt_index}: the {part}");
                    let content = match unit.step().and_then(|step| task(run, step, prompt_index)) {
                        Some(task) => Content::Conditioning(task.clone()),
                        None => Content::Opaque,
                    };
                    (what, content)
                }
                Part::Image { prompt_index, .. } => {
                    let whose = whose.unwrap_or_else(|| format!("{unit}, prompt {prompt_index}"));
                    (format!("the image of {whose}"), Content::Opaque)
                }
                Part::Rubric { .. } => (unit.to_string(), Content::Opaque),
                // Results name none of these.
                Part::InitialAdapter
                | Part::PairImage { .. }
                | Part::Source { .. }
                | Part::Target { .. }
                | Part::Mask { .. } => (format!("{unit}: the {part}"), Content::Opaque),
            };
            add(digest, what, content);
        }
    }
    for (digest, part) in run.assets().blobs() {
        add(digest, format!("the submitted {part}"), Content::Opaque);
    }
    named
}

/// How many optimizer steps each version of the policy has behind it: a commit of nothing is none.
fn updates(run: &Run, versions: usize) -> Vec<u64> {
    let mut updates = 0;
    let mut counted = vec![0];
    for version in 1..versions {
        let terms = run.results().steps.get(version - 1).map(|step| step.record.terms);
        updates += u64::from(terms.unwrap_or(0) > 0);
        counted.push(updates);
    }
    counted
}

/// What the position of a training unit's candidate implies; `None` for evaluations and for what belongs to no candidate.
fn expected(run: &Run, policies: &[&Policy], unit: &Unit, part: Part, outcome: &Outcome) -> Option<Expected> {
    let Unit::Sample { step, .. } = *unit else {
        return None;
    };
    let (Part::Trajectory {
        prompt_index,
        candidate,
    }
    | Part::Image {
        prompt_index,
        candidate,
    }) = part
    else {
        return None;
    };
    let Outcome::Sampled { samples, .. } = outcome else {
        return None;
    };
    let sampled = samples
        .iter()
        .find(|one| one.prompt_index == prompt_index && one.candidate == candidate)?;
    let spec = run.spec();
    Some(Expected {
        step: step.0,
        prompt_index: prompt_index.0,
        candidate: candidate.0,
        task: task(run, step, prompt_index)?.clone(),
        conditioning: sampled.conditioning,
        adapter: policies.get(rules::sampling_version(spec, step) as usize)?.adapter,
        model: *outcome.model()?,
    })
}

/// The task of a prompt of a step.
fn task(run: &Run, step: Step, prompt_index: PromptIndex) -> Option<&Task> {
    let (spec, tasks) = (run.spec(), &run.assets().prompts);
    let lines = schedule::prompt_lines(spec.run.seed, tasks.len() as u32, step, spec.prompts.per_step);
    tasks.get(*lines.get(prompt_index.0 as usize)? as usize)
}
