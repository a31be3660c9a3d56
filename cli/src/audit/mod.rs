//! `gavel audit`: proves from ledger and blobs, without a model, that each pair was sampled, judged and trained on once, under
//! the right policy version.
//!
//! [`account`] goes through the events, [`steps`] through what they add up to, [`evaluation`] through what was painted and
//! judged to measure the run, [`blobs`] through the bytes that all of it names, [`files`] through the run's folder. Everything
//! that does not fit is listed; none of them stops at the first finding.

mod account;
mod blobs;
mod evaluation;
mod files;
mod finding;
mod given;
mod steps;
#[cfg(test)]
mod tests;
mod trajectory;
mod verdict;

use std::process::ExitCode;

use anyhow::Context as _;
use gavel_core::ids::{Digest, RunId, Step};
use serde::Serialize;

use crate::args::AuditArguments;
use crate::commands::block_on;
use crate::run::RunFolder;
use account::Account;
use blobs::Blobbed;
use files::Filed;
use finding::{Finding, Findings};
use steps::Pairs;

/// What an audit found.
#[derive(Debug, Serialize)]
struct Report {
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
    blobs: Blobbed,
    files: Filed,
    findings: Vec<Finding>,
}

/// Audits a run and prints every finding.
///
/// # Errors
/// The run cannot be read at all. Findings are no error but the exit status 1.
pub(crate) fn audit(arguments: &AuditArguments) -> anyhow::Result<ExitCode> {
    let report = block_on(look(arguments))?;
    if arguments.json {
        println!(
            "{}",
            serde_json::to_string_pretty(&report).context("cannot write JSON")?
        );
    } else {
        print!("{}", report.text());
    }
    Ok(if report.findings.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn look(arguments: &AuditArguments) -> anyhow::Result<Report> {
    let (folder, spec) = RunFolder::open(&arguments.run)?;
    let history = folder.history(&spec).await?;
    let mut findings = Findings::default();
    let account = Account::read(&history, &mut findings)?;
    let pairs = steps::check(&account, &mut findings);
    let run = &account.run;
    let policies = steps::policies(&account);
    evaluation::check(&account, &policies, &mut findings);
    let blobs = blobs::check(&account, &folder.blobs().await?, &mut findings).await?;
    let files = files::check(&folder, &spec, &history.record, run, &policies, &mut findings);
    Ok(Report {
        run: run.id().clone(),
        spec_sha256: run.spec_sha256(),
        events: history.events.len(),
        grants: account.grants,
        accepted: account.accepted.len(),
        taken_back: account.taken_back,
        steps: run.committed(),
        pairs,
        blobs,
        files,
        findings: findings.0,
    })
}

impl Report {
    fn text(&self) -> String {
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
        for Finding { rule, place, problem } in &self.findings {
            text += &format!("FINDING      {} | {place}: {problem}\n", rule.name());
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
