//! Held-out pictures, comparisons, questions and labelled pairs: painted by base, final policy and those of the probes, judged once, as their
//! evidence says.

use gavel_core::work::{Arm, Assignment, Orders, Outcome, Policy, Sampled, TaskList, Unit, VerdictRecord};

use super::events::{Accepted, Account};
use super::finding::{Findings, Rule};
use super::verdict;

/// Audits every accepted evaluation unit.
pub(super) fn check(account: &Account, policies: &[&Policy], findings: &mut Findings) {
    let results = account.run.results();
    for (unit, accepted) in &account.accepted {
        match (unit, &accepted.outcome) {
            (Unit::EvaluateSample { arm, .. }, Outcome::Sampled { samples, .. }) => {
                let policy = match arm {
                    Arm::Base => None,
                    Arm::Tuned => policies.last().copied(),
                    Arm::Probe(step) => policies.get(step.0 as usize).copied(),
                };
                let images = results.images(*arm);
                painted(unit, accepted, policy, findings);
                for Sampled {
                    prompt_index: prompt,
                    image,
                    ..
                } in samples
                {
                    let recorded = images.get(prompt.0 as usize).copied().flatten();
                    let location = format!("{unit}, prompt {prompt}");
                    findings.equal(Rule::State, location, "image", &Some(*image), &recorded);
                }
            }
            (Unit::EvaluateJudge { probe, .. }, Outcome::Judged { verdicts, .. }) => {
                judged(unit, verdicts, results.comparisons(*probe), account, findings);
            }
            (Unit::CalibrateJudge { .. }, Outcome::Judged { verdicts, .. }) => {
                judged(unit, verdicts, &results.calibration, account, findings);
            }
            (Unit::AnswerQuestions { arm, prompt_index }, Outcome::QuestionsAnswered { answers, .. }) => {
                let recorded = results.answers(*arm).get(prompt_index.0 as usize);
                let recorded = recorded.and_then(Option::as_ref);
                findings.equal(Rule::State, unit, "answers", &Some(answers), &recorded);
            }
            _ => {}
        }
    }
}

/// Base pictures come from no policy, tuned ones from the last, a probe's from that of its step.
fn painted(unit: &Unit, accepted: &Accepted, expected: Option<&Policy>, findings: &mut Findings) {
    match &accepted.assignment {
        Some(Assignment::EvaluateSample { policy, .. }) if policy.as_ref() == expected => {}
        Some(Assignment::EvaluateSample { policy, .. }) => {
            let name =
                |policy: Option<&Policy>| policy.map_or("the base".to_owned(), |policy| policy.adapter.to_string());
            let problem = format!("painted by {}, expected {}", name(policy.as_ref()), name(expected));
            findings.add(Rule::Policy, unit, problem);
        }
        _ => findings.add(Rule::Policy, unit, "was granted before its policy existed"),
    }
}

fn judged(
    unit: &Unit,
    verdicts: &[VerdictRecord],
    recorded: &[Option<VerdictRecord>],
    account: &Account,
    findings: &mut Findings,
) {
    for record in verdicts {
        let location = format!("{unit}, pair {}", record.prompt_index);
        let list = match unit {
            Unit::CalibrateJudge { .. } => TaskList::Labelled,
            _ => TaskList::HeldOut,
        };
        let rubric = account.run.rubric_of(unit, list, record.prompt_index.0);
        if let Some(problem) = verdict::problem(record, unit, (rubric, Orders::Both), &account.run) {
            findings.add(Rule::Verdicts, &location, problem);
        }
        let recorded = recorded.get(record.prompt_index.0 as usize).and_then(Option::as_ref);
        findings.equal(Rule::State, location, "verdict", &Some(record), &recorded);
    }
}
