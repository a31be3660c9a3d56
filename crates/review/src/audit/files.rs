//! The files of a run's folder beside what its ledger names.

use std::path::Path;

use gavel_coordinator::ledger::RunRecord;
use gavel_core::ids::{Digest, Step};
use gavel_core::run::{Phase, Run};
use gavel_core::spec::{RunSpec, fingerprint_with_paths};
use gavel_core::work::Policy;
use gavel_core::work::rules::is_checkpoint;
use gavel_models::lora::{LoraConfig, folder_files, folder_files_before};
use gavel_policy::train::replay::OPTIMIZER_FILE;
use serde::Serialize;

use super::finding::{Findings, Rule};
use crate::folder::WEIGHTS_FILE;

/// Which files were looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct FileCounts {
    /// Whether the final adapter is there and right.
    pub(super) adapter: bool,
    /// Checkpoints that are there and right.
    pub(super) checkpoints: usize,
}

/// Compares the fingerprints that `spec.json` and the ledger's row give with the run's.
pub(super) fn check_fingerprints(
    spec: &RunSpec,
    record: &RunRecord,
    fingerprint: &Fingerprint,
    findings: &mut Findings,
) {
    let present = &fingerprint.present;
    for (location, found, expected) in [
        ("spec.json", spec.digest().to_string(), present),
        (
            "the ledger's spec_sha256",
            record.spec_sha256.clone(),
            &fingerprint.submitted,
        ),
    ] {
        let expected = fingerprint.expected(expected, &found);
        findings.equal(Rule::Files, location, "the spec's fingerprint", &expected, &found);
    }
}

/// Compares `adapter/`, `checkpoints/` and `report.json` with the run. A run that has not finished has no final adapter yet.
pub(super) fn check(
    folder: &Path,
    run: &Run,
    fingerprint: &Fingerprint,
    policies: &[&Policy],
    findings: &mut Findings,
) -> FileCounts {
    let mut counts = FileCounts::default();
    let finished = run.phase() == Phase::Finished;
    let config = LoraConfig::from(&run.spec().lora);
    if let Some(policy) = policies.last().filter(|_| finished) {
        let expected = policy.evaluated();
        counts.adapter = is_right(findings, |findings| {
            adapter(&folder.join("adapter"), "adapter", expected, &config, findings);
        });
        report(folder, expected, fingerprint, findings);
    }
    for (version, policy) in policies.iter().enumerate() {
        if !is_checkpoint(run.spec(), Step(version as u32)) {
            continue;
        }
        let name = format!("checkpoints/step-{version}");
        let dir = folder.join(&name);
        // While a run goes on, a checkpoint is written a moment after its commit, the optimizer state last.
        if !finished && !dir.join(OPTIMIZER_FILE).exists() {
            continue;
        }
        let right = is_right(findings, |findings| checkpoint(&dir, &name, policy, &config, findings));
        counts.checkpoints += usize::from(right);
    }
    counts
}

fn is_right(findings: &mut Findings, check: impl FnOnce(&mut Findings)) -> bool {
    let before = findings.0.len();
    check(findings);
    findings.0.len() == before
}

fn checkpoint(dir: &Path, name: &str, policy: &Policy, config: &LoraConfig, findings: &mut Findings) {
    adapter(dir, name, policy.adapter, config, findings);
    if let Some(averaged) = policy.averaged {
        let name = format!("{name}/averaged");
        adapter(&dir.join("averaged"), &name, averaged, config, findings);
    }
    let location = format!("{name}/{OPTIMIZER_FILE}");
    if let Some(bytes) = read(&dir.join(OPTIMIZER_FILE), &location, findings) {
        let found = Digest::of(&bytes);
        findings.equal(Rule::Files, location, "SHA-256", &policy.optimizer, &found);
    }
}

/// An adapter folder: the weights are the blob's bytes, and the other files what follows from them.
fn adapter(dir: &Path, name: &str, expected: Digest, config: &LoraConfig, findings: &mut Findings) {
    let location = format!("{name}/{WEIGHTS_FILE}");
    let Some(weights) = read(&dir.join(WEIGHTS_FILE), &location, findings) else {
        return;
    };
    let found = Digest::of(&weights);
    if found != expected {
        let problem = format!("its SHA-256 is {found}, the policy's adapter is {expected}");
        return findings.add(Rule::Files, location, problem);
    }
    let written = folder_files(&weights, config).and_then(|now| Ok((now, folder_files_before(&weights, config)?)));
    match written {
        Ok((now, before)) => {
            for ((file, now), (_, before)) in now.into_iter().zip(before) {
                let location = format!("{name}/{file}");
                if read(&dir.join(file), &location, findings).is_some_and(|found| found != now && found != before) {
                    findings.add(Rule::Files, location, "is not what Gavel writes beside these weights");
                }
            }
        }
        Err(error) => findings.add(Rule::Files, location, error.to_string()),
    }
}

/// The run's fingerprint by the present rule and, where an earlier version wrote the run, by the rule of that time.
pub(super) struct Fingerprint {
    present: Digest,
    /// The one with which it was submitted, before somebody changed how many steps it has.
    submitted: Digest,
    with_paths: Option<Digest>,
}

impl Fingerprint {
    pub(super) fn new(run: &Run, record: &RunRecord) -> Self {
        let submitted = serde_json::from_str(&record.spec).map(|spec: RunSpec| spec.digest());
        Self {
            present: run.spec_sha256(),
            submitted: submitted.unwrap_or_else(|_| run.spec_sha256()),
            with_paths: fingerprint_with_paths(&record.spec),
        }
    }

    /// What `found` has to be equal to.
    fn expected(&self, present: &Digest, found: &str) -> String {
        let earlier = self.with_paths.map(|digest| digest.to_string());
        earlier
            .filter(|digest| digest == found)
            .unwrap_or_else(|| present.to_string())
    }
}

/// `report.json` names the adapter and the spec.
fn report(folder: &Path, adapter: Digest, spec: &Fingerprint, findings: &mut Findings) {
    let Some(bytes) = read(&folder.join("report.json"), "report.json", findings) else {
        return;
    };
    let report: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let found = |key: &str| report.get(key).and_then(serde_json::Value::as_str).unwrap_or("absent");
    for (key, expected) in [
        ("adapter_sha256", adapter.to_string()),
        ("spec_sha256", spec.expected(&spec.present, found("spec_sha256"))),
    ] {
        findings.equal(Rule::Files, "report.json", key, &expected.as_str(), &found(key));
    }
}

fn read(file: &Path, location: &str, findings: &mut Findings) -> Option<Vec<u8>> {
    match std::fs::read(file) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            findings.add(Rule::Files, location, format!("cannot be read: {error}"));
            None
        }
    }
}
