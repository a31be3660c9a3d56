//! Whether the state machine's results of a step are those that were accepted, and what became of its pairs.

use gavel_core::work::VerdictRecord;

use super::super::finding::Rule;
use super::{Pairs, StepAudit};

impl StepAudit<'_> {
    /// The state machine's results of the step are those that were accepted.
    pub(super) fn state(&mut self) {
        let Some(result) = self.run.results().steps.get(self.step.0 as usize - 1) else {
            return;
        };
        let location = format!("step {}", self.step);
        self.findings
            .equal(Rule::State, &location, "pairs", &self.lines.len(), &result.groups.len());
        for (index, group) in result.groups.iter().enumerate() {
            let index = index as u32;
            let location = format!("{location}, pair {index}");
            let line = self.lines.get(index as usize).copied().unwrap_or_default();
            self.findings
                .equal(Rule::State, &location, "prompt line", &line, &group.line);
            self.findings.equal(
                Rule::State,
                &location,
                "candidates",
                &self.candidates.get(&index).cloned().unwrap_or_default(),
                &group.candidates,
            );
            let skipped = self.skipped.get(&index).map(|reason| (*reason).to_owned());
            self.findings
                .equal(Rule::State, &location, "skipped", &skipped, &group.skipped);
            match (self.verdicts.get(&index), &group.verdicts) {
                (Some(accepted), recorded) => {
                    self.findings
                        .equal(Rule::State, &location, "verdicts", accepted, recorded);
                }
                // Only an exhausted judge leaves a pair without an accepted verdict.
                (None, recorded) if !recorded.is_empty() && !recorded.iter().any(VerdictRecord::is_judged) => {}
                (None, recorded) => {
                    let problem = format!("no verdict was accepted, the state has {recorded:?}");
                    self.findings.add(Rule::State, &location, problem);
                }
            }
        }
        let shards = &result.shards;
        self.findings
            .equal(Rule::State, &location, "shards", &self.shards, shards);
        let record = &result.record;
        self.findings
            .equal(Rule::State, &location, "terms", &self.terms(), &record.terms);
        let (counted, mut recorded) = (self.counts(), Pairs::default());
        (recorded.sampled, recorded.decided, recorded.abstained) = (record.pairs, record.decided, record.abstained);
        (recorded.failed, recorded.skipped) = (record.failed, record.skipped);
        recorded.trained = record.decided.saturating_sub(record.skipped);
        self.findings
            .equal(Rule::State, &location, "its record", &counted, &recorded);
    }

    fn counts(&self) -> Pairs {
        let mut pairs = Pairs {
            sampled: self.candidates.len() as u32,
            skipped: self.skipped.len() as u32,
            ..Pairs::default()
        };
        for prompt in 0..self.per_step() {
            let judged = |verdicts: &Vec<VerdictRecord>| verdicts.iter().all(VerdictRecord::is_judged);
            match self.ranks(prompt) {
                Some(_) => pairs.decided += 1,
                None if self.verdicts.get(&prompt).is_some_and(judged) => pairs.abstained += 1,
                None => pairs.failed += 1,
            }
        }
        pairs.trained = pairs.decided.saturating_sub(pairs.skipped);
        pairs
    }

    pub(super) fn count(&self, total: &mut Pairs) {
        let pairs = self.counts();
        total.sampled += pairs.sampled;
        total.decided += pairs.decided;
        total.abstained += pairs.abstained;
        total.failed += pairs.failed;
        total.trained += pairs.trained;
        total.skipped += pairs.skipped;
    }
}
