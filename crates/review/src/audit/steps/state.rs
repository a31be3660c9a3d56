//! Whether the state machine's results of a step are those that were accepted, and what became of its pairs.

use gavel_core::work::{AskedMatches, Verdict, VerdictRecord, rules};

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
        let watched = rules::held_out_prompts(self.run.spec(), self.step);
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
            self.findings.equal(
                Rule::State,
                &location,
                "conditioning",
                &self.conditioned.get(&index).copied(),
                &group.conditioning,
            );
            let skipped = self.skipped.get(&index).map(|reason| (*reason).to_owned());
            self.findings
                .equal(Rule::State, &location, "skipped", &skipped, &group.skipped);
            let judged = self.verdicts.get(&index).cloned();
            self.recorded(&location, "verdicts", judged.as_ref(), &group.verdicts);
            let held_out = self.held_out.get(&index).cloned();
            let is_watched = watched.contains(&index);
            if is_watched || !group.held_out.is_empty() {
                self.recorded(&location, "held-out verdicts", held_out.as_ref(), &group.held_out);
            }
        }
        let shards = &result.shards;
        self.findings
            .equal(Rule::State, &location, "shards", &self.shards, shards);
        let record = &result.record;
        self.findings
            .equal(Rule::State, &location, "terms", &self.terms(), &record.terms);
        let found = (record.held_out_pairs, record.held_out_agreement);
        self.findings
            .equal(Rule::State, &location, "held-out agreement", &self.agreement(), &found);
        let asked = self.run.spec().judge.counts_questions().then(|| self.asked());
        self.findings
            .equal(Rule::State, &location, "matches asked", &asked, &record.asked);
        let (counted, mut recorded) = (self.counts(), Pairs::default());
        (recorded.sampled, recorded.decided, recorded.abstained) = (record.pairs, record.decided, record.abstained);
        (recorded.failed, recorded.skipped) = (record.failed, record.skipped);
        recorded.trained = record.decided.saturating_sub(record.skipped);
        self.findings
            .equal(Rule::State, &location, "its record", &counted, &recorded);
    }

    /// The verdicts on a pair that the state machine has are those that were accepted.
    fn recorded(
        &mut self,
        location: &str,
        what: &str,
        accepted: Option<&Vec<VerdictRecord>>,
        recorded: &Vec<VerdictRecord>,
    ) {
        match accepted {
            Some(accepted) => self.findings.equal(Rule::State, location, what, accepted, recorded),
            // Only an exhausted judge leaves a pair without an accepted verdict.
            None if !recorded.is_empty() && !recorded.iter().any(VerdictRecord::is_judged) => {}
            None => {
                let problem = format!("no {what} were accepted, the state has {recorded:?}");
                self.findings.add(Rule::State, location, problem);
            }
        }
    }

    /// How many pairs both judges decided, and the share on which they prefer the same side; counted from what was accepted.
    fn agreement(&self) -> (Option<u32>, Option<f64>) {
        if self.run.spec().judge.held_out.is_none() {
            return (None, None);
        }
        let both = self.held_out.iter().flat_map(|(prompt, held_out)| {
            let verdicts = self.verdicts.get(prompt).map_or(&[][..], Vec::as_slice);
            verdicts.iter().zip(held_out)
        });
        let both: Vec<bool> = both
            .filter_map(|(judge, held_out)| match (&judge.verdict, &held_out.verdict) {
                (Verdict::Preferred { side: one }, Verdict::Preferred { side: other }) => Some(one == other),
                _ => None,
            })
            .collect();
        let alike = both.iter().filter(|alike| **alike).count();
        let share = (!both.is_empty()).then(|| alike as f64 / both.len() as f64);
        (Some(both.len() as u32), share)
    }

    /// How the step's matches were asked; counted from what was accepted.
    pub(super) fn asked(&self) -> AskedMatches {
        AskedMatches::of(self.verdicts.values().flatten())
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
