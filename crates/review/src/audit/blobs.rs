//! The blobs that the ledger names: there, with the right bytes, and in what they say of themselves.
//!
//! What the run retains must be there ([`Run::retained`]). Other blobs of committed steps may have been collected; they are
//! counted as gone.

use std::collections::BTreeMap;

use gavel_coordinator::blobs::BlobError;
use gavel_core::ids::{Digest, Step};
use gavel_core::run::Run;
use gavel_core::schedule;
use gavel_core::spec::GradientExchange;
use gavel_core::work::{Outcome, Policy, Sampled, Unit};
use gavel_policy::{TensorFile, Trajectory};
use serde::Serialize;

use super::account::Account;
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
    Gradient { terms: u64 },
    Optimizer { updates: u64 },
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

/// Every blob that the accepted results name, once.
fn named(account: &Account) -> BTreeMap<Digest, Named> {
    let run = &account.run;
    let mut names = Names(BTreeMap::new());
    let mut updates = 0;
    let policies = policies(account);
    for (version, policy) in policies.iter().enumerate() {
        if version > 0 {
            let terms = run.results().steps.get(version - 1).map(|step| step.record.terms);
            updates += u64::from(terms.unwrap_or(0) > 0);
        }
        names.policy(version, policy, updates);
    }
    for (unit, accepted) in &account.accepted {
        match &accepted.outcome {
            Outcome::Sampled { samples, model, .. } => {
                for sampled in samples {
                    let expected = expected(run, &policies, unit, sampled, *model);
                    let what = expected
                        .as_ref()
                        .map_or_else(|| format!("{unit}, prompt {}", sampled.prompt), ToString::to_string);
                    names.add(sampled.image, format!("the image of {what}"), Content::Opaque);
                    if let Some(trajectory) = sampled.trajectory {
                        let content =
                            expected.map_or(Content::Opaque, |expected| Content::Trajectory(Box::new(expected)));
                        names.add(trajectory, format!("the trajectory of {what}"), content);
                    }
                }
            }
            Outcome::Gradient {
                gradient: Some(gradient),
                statistics,
                ..
            } => {
                let terms = statistics.terms;
                names.add(*gradient, unit.to_string(), Content::Gradient { terms });
            }
            _ => {}
        }
    }
    for (index, pair) in run.assets().labelled.iter().enumerate() {
        for picture in [pair.first, pair.second] {
            names.add(picture, format!("a picture of labelled pair {index}"), Content::Opaque);
        }
    }
    names.0
}

struct Names(BTreeMap<Digest, Named>);

impl Names {
    /// Notes a blob, once.
    fn add(&mut self, digest: Digest, what: String, content: Content) {
        self.0.entry(digest).or_insert(Named { what, content });
    }

    fn policy(&mut self, version: usize, policy: &Policy, updates: u64) {
        let what = |part: &str| format!("the {part} of policy {version}");
        self.add(policy.adapter, what("adapter"), Content::Opaque);
        self.add(
            policy.optimizer,
            what("optimizer state"),
            Content::Optimizer { updates },
        );
        if let Some(averaged) = policy.averaged {
            self.add(averaged, what("averaged adapter"), Content::Opaque);
        }
    }
}

/// What the position of a training unit's candidate implies; `None` for evaluations.
fn expected(run: &Run, policies: &[&Policy], unit: &Unit, sampled: &Sampled, model: Digest) -> Option<Expected> {
    let Unit::Sample { step: Step(step), .. } = *unit else {
        return None;
    };
    let spec = run.spec();
    let lines = run.assets().prompts.len() as u32;
    let lines = schedule::prompt_lines(spec.run.seed, lines, Step(step), spec.prompts.per_step);
    let line = lines.get(sampled.prompt.0 as usize)?;
    let version = step.checked_sub(1)?;
    let version = version - version.min(spec.sampling.max_policy_lag);
    Some(Expected {
        step,
        prompt_index: sampled.prompt.0,
        candidate: sampled.candidate.0,
        prompt: run.assets().prompts.get(*line as usize)?.clone(),
        adapter: policies.get(version as usize)?.adapter,
        model,
    })
}
