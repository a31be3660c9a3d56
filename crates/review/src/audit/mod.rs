//! Proves from ledger and blobs, without a model, that each pair was sampled, judged and trained on once, under the right policy
//! version: `gavel audit`.
//!
//! `events` goes through the events, `steps` through what they add up to, `assignments` what each worker was given, `evaluation` through what was painted and
//! judged to measure the run, `derived` through what the ledger keeps besides events, `blobs` through the bytes that all of it names, `files` through the run's folder. Everything
//! that does not fit is listed; none of them stops at the first finding.

mod assignments;
mod blobs;
mod derived;
mod evaluation;
mod events;
mod files;
mod finding;
mod steps;
#[cfg(test)]
mod tests;
mod trajectory;
mod verdict;

use gavel_core::ids::{Digest, RunId, Step};
use serde::Serialize;

use crate::{Error, RunSource};
use blobs::BlobCounts;
use derived::DerivedCounts;
use events::Account;
use files::{FileCounts, Fingerprint};
use finding::Findings;
pub use finding::{Finding, Rule};
use steps::Pairs;

/// What an audit found.
#[derive(Debug, Serialize)]
pub struct AuditReport {
    run: RunId,
    spec_sha256: Digest,
    /// Events of the ledger.
    events: usize,
    /// Leases that were granted.
    grants: u64,
    /// Units with an accepted result.
    accepted: usize,
    /// Results that were taken back and made again.
    taken_back: u64,
    /// Committed steps.
    steps: Step,
    pairs: Pairs,
    derived: DerivedCounts,
    blobs: BlobCounts,
    files: FileCounts,
    /// Everything that does not fit.
    pub findings: Vec<Finding>,
}

/// Audits a run. Files are only looked into where the source has the run's folder.
///
/// # Errors
/// The run cannot be read at all. What is wrong with it is a finding.
pub async fn audit(source: &dyn RunSource) -> Result<AuditReport, Error> {
    // First what follows from the events: a coordinator may be writing.
    let derived = source.derived().await?;
    let history = source.history().await?;
    let mut findings = Findings::default();
    let account = Account::read(&history, &mut findings)?;
    let pairs = steps::check(&account, &mut findings);
    let run = &account.run;
    let policies = steps::policies(&account);
    evaluation::check(&account, &policies, &mut findings);
    let derived = derived::check(&history, run, &derived, &mut findings);
    let blobs = blobs::check(&account, source, &mut findings).await?;
    let fingerprint = Fingerprint::new(run, &history.record);
    files::check_fingerprints(source.spec(), &history.record, &fingerprint, &mut findings);
    let files = source.folder().map_or_else(FileCounts::default, |folder| {
        files::check(folder.path(), run, &fingerprint, &policies, &mut findings)
    });
    Ok(AuditReport {
        run: run.id().clone(),
        spec_sha256: run.spec_sha256(),
        events: history.events.len(),
        grants: account.grants,
        accepted: account.accepted.len(),
        taken_back: account.taken_back,
        steps: run.committed(),
        pairs,
        derived,
        blobs,
        files,
        findings: findings.0,
    })
}

impl AuditReport {
    /// The audit for people, finding by finding.
    pub fn text(&self) -> String {
        let Self { run, steps, pairs, .. } = self;
        let (blobs, files) = (&self.blobs, &self.files);
        let mut text = format!(
            "run {run}, {steps} steps committed, spec {}\n",
            self.spec_sha256.short()
        );
        text += &format!(
            "ledger       {} events, {} leases, {} accepted results, {} taken back before\n",
            self.events, self.grants, self.accepted, self.taken_back
        );
        text += &format!(
            "pairs        {} sampled; {} decided, {} abstained, {} failed; {} trained on, {} skipped\n",
            pairs.sampled, pairs.decided, pairs.abstained, pairs.failed, pairs.trained, pairs.skipped
        );
        if let Some(events) = self.derived.snapshot {
            let DerivedCounts { commits, details, .. } = self.derived;
            text += &format!(
                "snapshot     after event {events}, with the commits of {commits} and the details of {details} steps: compared with a replay\n"
            );
        }
        text += &format!(
            "trajectories {} of {} there and right: policy, place, noise, every transition\n",
            blobs.trajectories, blobs.trajectories_named
        );
        text += &format!(
            "blobs        {} there and right, {} collected\n",
            blobs.right, blobs.gone
        );
        text += &format!(
            "files        final adapter {}, {} checkpoints right\n",
            if files.adapter { "right" } else { "not checked or wrong" },
            files.checkpoints
        );
        for Finding {
            rule,
            location,
            problem,
        } in &self.findings
        {
            text += &format!("FINDING      {} | {location}: {problem}\n", rule.name());
        }
        text += &match self.findings.len() {
            0 if blobs.gone == 0 => "no findings\n".to_owned(),
            0 => format!("no findings; {} collected blobs could not be looked into\n", blobs.gone),
            1 => "1 finding\n".to_owned(),
            count => format!("{count} findings\n"),
        };
        text
    }
}
