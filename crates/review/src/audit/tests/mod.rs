//! Made-up ledgers: a whole run with made-up results, and what an audit says when somebody has changed it afterwards.

mod derived;
mod made_up;

use gavel_coordinator::blobs::BlobError;
use gavel_core::ids::{Digest, Fence, PromptIndex, Step, WorkerId};
use gavel_core::run::{Event, Phase};
use gavel_core::spec::RunSpec;
use gavel_core::work::{Orders, Outcome, Policy, Side, Unit, Verdict};

use super::events::Account;
use super::files::FileCounts;
use super::finding::{Findings, Rule};
use super::steps;
use crate::History;
use made_up::{COMMIT, GRADIENT, JUDGE, SAMPLE, STEPS, events, events_with_a_loss, history, run};

fn findings(history: &History) -> Vec<(Rule, String)> {
    let mut findings = Findings::default();
    let account = Account::read(history, &mut findings).unwrap();
    steps::check(&account, &mut findings);
    let text = |finding: super::Finding| (finding.rule, format!("{}: {}", finding.location, finding.problem));
    findings.0.into_iter().map(text).collect()
}

fn findings_of(events: &[Event]) -> Vec<(Rule, String)> {
    findings(&history(events))
}

/// An audit after `change` must have a finding of each of these rules, and each must be said with all of these words.
fn check(change: impl FnOnce(&mut Vec<Event>), expected: &[(Rule, &str)]) {
    let mut events = events();
    change(&mut events);
    let found = findings_of(&events);
    for (rule, words) in expected {
        assert!(
            found.iter().any(|(found, text)| found == rule && text.contains(words)),
            "no finding of {rule:?} with `{words}` in {found:#?}"
        );
    }
}

/// The index of a unit's result among the events.
fn result_of(events: &[Event], of: Unit) -> usize {
    let is_it = |event: &Event| matches!(event, Event::Completed { unit, .. } if *unit == of);
    events.iter().position(is_it).unwrap()
}

fn outcome_of(events: &mut [Event], unit: Unit) -> &mut Outcome {
    let index = result_of(events, unit);
    match &mut events[index] {
        Event::Completed { outcome, .. } => outcome,
        other => panic!("{other:?} is no result"),
    }
}

#[test]
fn a_ledger_that_nobody_touched_has_no_findings_and_its_pairs_are_counted() {
    let history = history(&events());
    let mut findings = Findings::default();
    let account = Account::read(&history, &mut findings).unwrap();
    let pairs = steps::check(&account, &mut findings);
    assert_eq!(findings.0, []);
    assert_eq!(account.run.phase(), Phase::Finished);
    assert_eq!(
        (pairs.sampled, pairs.decided, pairs.abstained, pairs.trained),
        (8, 7, 1, 7)
    );
    let policies: Vec<_> = account.run.results().policies.iter().collect();
    assert_eq!(
        (steps::policies(&account), policies.len()),
        (policies.clone(), 1 + STEPS as usize)
    );
}

#[test]
fn what_was_lost_and_made_again_counts_once_if_it_is_the_same() {
    let events = events_with_a_loss();
    let mut findings = Findings::default();
    let account = Account::read(&history(&events), &mut findings).unwrap();
    let pairs = steps::check(&account, &mut findings);
    assert_eq!(findings.0, []);
    assert_eq!(account.taken_back, 2, "the samples, and the verdicts on them");
    assert_eq!((pairs.sampled, pairs.trained), (8, 7));

    let mut changed = events;
    let lost = Unit::Sample {
        step: Step(1),
        chunk: 0,
    };
    let again = |event: &Event| matches!(event, Event::Completed { unit, .. } if *unit == lost);
    let index = changed.iter().rposition(again).unwrap();
    assert_ne!(index, result_of(&changed, lost), "there are two results");
    if let Event::Completed {
        outcome: Outcome::Sampled { samples, .. },
        ..
    } = &mut changed[index]
    {
        samples[3].image = Digest::of(b"another");
    }
    let found = findings_of(&changed);
    let expected = |(rule, text): &(Rule, String)| {
        *rule == Rule::Once && text.contains("was lost: sample chunk 0 of step 1, prompt 1, candidate 1: the image")
    };
    assert!(found.iter().any(expected), "{found:#?}");
}

#[test]
fn work_for_a_worker_in_quarantine_and_a_second_model_are_found() {
    check(
        |events| {
            let event = Event::Quarantined {
                worker: WorkerId("judge-1".into()),
                reason: "its verdicts were of another run".into(),
            };
            let first = events
                .iter()
                .position(|event| matches!(event, Event::Granted { unit, .. } if *unit == JUDGE));
            events.insert(first.unwrap(), event);
        },
        &[(Rule::Leases, "is granted to judge-1, which is in quarantine")],
    );
    check(
        |events| {
            if let Outcome::Sampled { model, .. } = outcome_of(events, SAMPLE) {
                *model = Digest::of(b"another");
            }
        },
        &[(Rule::Policy, "sample chunk 1 of step 2 was done with model")],
    );
}

#[test]
fn a_second_result_of_a_unit_is_found() {
    check(
        |events| {
            let index = result_of(events, SAMPLE);
            events.insert(index + 1, events[index].clone());
        },
        &[
            (Rule::Once, "sample chunk 1 of step 2 has a second result"),
            (Rule::Leases, "no lease is open"),
            (Rule::Events, "does not apply"),
        ],
    );
}

#[test]
fn a_result_of_another_worker_or_with_another_fence_is_found() {
    check(
        |events| {
            let index = result_of(events, JUDGE);
            if let Event::Completed { worker, .. } = &mut events[index] {
                *worker = WorkerId("stranger".into());
            }
        },
        &[(Rule::Leases, "stranger hands in what judge-1 holds")],
    );
    check(
        |events| {
            let index = result_of(events, JUDGE);
            if let Event::Completed { fence, .. } = &mut events[index] {
                *fence = Fence(999);
            }
        },
        &[(Rule::Leases, "fence 999 is handed in")],
    );
}

#[test]
fn a_fence_out_of_order_and_a_grant_of_what_is_held_are_found() {
    check(
        |events| {
            if let Event::Granted { fence, .. } = &mut events[4] {
                *fence = Fence(7);
            }
        },
        &[(Rule::Leases, "is granted with fence 7; the next is 3")],
    );
    check(
        |events| events.insert(5, events[4].clone()),
        &[(Rule::Leases, "while sampler-1 holds it")],
    );
}

#[test]
fn an_event_that_is_missing_or_of_another_kind_is_found() {
    let mut missing = history(&events());
    missing.events.remove(3);
    assert!(findings(&missing).contains(&(Rule::Events, "event 5: event 4 is missing".into())));

    let mut renamed = history(&events());
    renamed.events[3].kind = "granted".into();
    let expected = "event 4: its column says `granted`, the event is `completed`";
    assert!(findings(&renamed).contains(&(Rule::Events, expected.into())));
}

#[test]
fn an_event_whose_bytes_have_changed_is_found() {
    let mut changed = history(&events());
    changed.events[3].at.0 += 1;
    let found = findings(&changed);
    let [(Rule::Checksums, problem)] = &found[..] else {
        panic!("{found:?}")
    };
    assert!(
        problem.starts_with("event 4: ") && problem.contains("checksum"),
        "{problem}"
    );

    let mut changed = history(&events());
    changed.record.created.0 += 1;
    let found = findings(&changed);
    let found = found.iter().find(|(rule, _)| *rule == Rule::Checksums);
    assert!(
        found.is_some_and(|(_, problem)| problem.contains("its configuration")),
        "{found:?}"
    );
}

#[test]
fn a_verdict_that_its_probabilities_do_not_support_is_found() {
    check(
        |events| {
            if let Outcome::Judged { verdicts, .. } = outcome_of(events, JUDGE) {
                verdicts[0].verdict = Verdict::Preferred { side: Side::Second };
            }
        },
        &[(Rule::Verdicts, "step 2, pair 0: says")],
    );
    check(
        |events| {
            if let Outcome::Judged { verdicts, .. } = outcome_of(events, JUDGE) {
                verdicts[1].probability_first = 0.9;
            }
        },
        &[(Rule::Verdicts, "step 2, pair 1: its probability is 0.9")],
    );
}

#[test]
fn the_image_orders_that_were_to_be_asked_are_drawn_again() {
    let run = made_up::trusting_run();
    let events = made_up::events_of(run.clone());
    assert_eq!(findings(&made_up::history_of(&run, &events)), []);
    let orders = |events: &mut [Event], unit| match outcome_of(events, unit) {
        Outcome::Judged { verdicts, .. } => verdicts.iter().map(|record| record.orders).collect::<Vec<_>>(),
        _ => Vec::new(),
    };
    let chunks = [0, 1].map(|chunk| Unit::Judge { step: Step(2), chunk });
    let asked = chunks.map(|unit| orders(&mut events.clone(), unit)).concat();
    assert_eq!(asked.iter().filter(|orders| orders.is_both()).count(), 1, "{asked:?}");

    // A verdict that was asked in another order than was drawn.
    let once = asked.iter().position(|orders| !orders.is_both()).unwrap();
    let mut changed = events.clone();
    if let Outcome::Judged { verdicts, .. } = outcome_of(&mut changed, chunks[once / 2]) {
        verdicts[once % 2].orders = Orders::Both;
    }
    let found = findings(&made_up::history_of(&run, &changed));
    let expected =
        |(rule, text): &(Rule, String)| *rule == Rule::Verdicts && text.contains("the image orders asked are `both`");
    assert!(found.iter().any(expected), "{found:#?}");

    // A judge that had not earned the trust: a second pair of the first step flips.
    let mut changed = events;
    let first = Unit::Judge {
        step: Step(1),
        chunk: 0,
    };
    if let Outcome::Judged { verdicts, .. } = outcome_of(&mut changed, first) {
        verdicts[0] = verdicts[1].clone();
        verdicts[0].prompt_index = PromptIndex(0);
    }
    let found = findings(&made_up::history_of(&run, &changed));
    let expected = |(rule, text): &(Rule, String)| *rule == Rule::Verdicts && text.contains("`both` were to be asked");
    assert!(found.iter().any(expected), "{found:#?}");
}

#[test]
fn a_verdict_by_another_rubric_is_found() {
    check(
        |events| {
            if let Outcome::Judged { verdicts, .. } = outcome_of(events, JUDGE) {
                verdicts[0].rubric = Digest::of(b"another");
            }
        },
        &[(Rule::Verdicts, "is judged by rubric")],
    );
}

#[test]
fn two_candidates_with_one_trajectory_are_found() {
    check(
        |events| {
            let Outcome::Sampled { samples, .. } = outcome_of(events, SAMPLE) else {
                return;
            };
            samples[1].trajectory = samples[0].trajectory;
        },
        &[(Rule::Samples, "names the trajectory of step 2, prompt 2, candidate 0")],
    );
}

#[test]
fn a_prompt_that_was_sampled_twice_is_found() {
    check(
        |events| {
            let Outcome::Sampled { samples, .. } = outcome_of(events, SAMPLE) else {
                return;
            };
            samples[2].prompt_index = samples[0].prompt_index;
            samples[3].prompt_index = samples[0].prompt_index;
        },
        &[(Rule::Samples, "prompt 2 is sampled a second time")],
    );
}

#[test]
fn work_with_an_adapter_of_another_manifest_is_found() {
    let another = |events: &mut Vec<Event>| {
        if let Outcome::Sampled { manifest, .. } = outcome_of(events, SAMPLE) {
            *manifest = Some(Digest::of(b"another"));
        }
    };
    // The state machine stops at it, so that nothing after it applies.
    check(another, &[(Rule::Events, "does not apply: the run has ended")]);
    // Where the state machine has refused the event for another reason, the books still tell.
    check(
        |events| {
            another(events);
            let index = result_of(events, SAMPLE);
            if let Event::Completed { worker, .. } = &mut events[index] {
                *worker = WorkerId("stranger".into());
            }
        },
        &[(Rule::Policy, "sampled with an adapter of another manifest")],
    );
}

#[test]
fn terms_that_do_not_add_up_are_found() {
    check(
        |events| {
            if let Outcome::Gradient { statistics, .. } = outcome_of(events, GRADIENT) {
                statistics.terms -= 1;
            }
        },
        &[(
            Rule::Gradients,
            "gradient shard 0 of step 1: terms: expected 6, found 5",
        )],
    );
}

#[test]
fn a_skipped_pair_that_the_shard_was_not_given_is_found() {
    check(
        |events| {
            if let Outcome::Gradient { skipped, .. } = outcome_of(events, GRADIENT) {
                skipped.push(gavel_core::work::SkippedPair {
                    prompt_index: PromptIndex(1),
                    reason: "not finite".into(),
                });
            }
        },
        &[(Rule::Gradients, "skips pair 1, which it was not given")],
    );
}

#[test]
fn a_step_without_one_of_its_results_is_found() {
    check(
        |events| drop(events.remove(result_of(events, SAMPLE))),
        &[(Rule::Samples, "sample chunk 1 of step 2: was never accepted")],
    );
    check(
        |events| drop(events.remove(result_of(events, GRADIENT))),
        &[(Rule::Gradients, "1 decided pairs, and no result was accepted")],
    );
}

#[test]
fn a_policy_that_was_changed_between_two_steps_is_found() {
    check(
        |events| {
            // The state machine hears of the commit as it was; the record of what it led to is another one.
            let Event::Completed { unit, worker, .. } = events[result_of(events, COMMIT)].clone() else {
                return;
            };
            let fence = Fence(
                events
                    .iter()
                    .filter(|event| matches!(event, Event::Granted { .. }))
                    .count() as u64
                    + 1,
            );
            let outcome = Outcome::Committed {
                policy: Policy {
                    adapter: Digest::of(b"another"),
                    optimizer: Digest::of(b"another's moments"),
                    averaged: None,
                    manifest: Digest::of(b"manifest"),
                    tensors: 4,
                },
                grad_norm: 1.0,
                learning_rate: 1.0,
                seconds: 0.0,
            };
            let granted = Event::Granted {
                unit,
                worker: worker.clone(),
                fence,
            };
            events.extend([
                granted,
                Event::Completed {
                    unit,
                    worker,
                    fence,
                    outcome,
                },
            ]);
        },
        &[
            (Rule::Once, "commit of step 1 is granted again after its result"),
            (Rule::Once, "commit of step 1 has a second result"),
        ],
    );
}

#[test]
fn a_learning_rate_that_is_not_the_schedule_s_is_found() {
    check(
        |events| {
            if let Outcome::Committed { learning_rate, .. } = outcome_of(events, COMMIT) {
                *learning_rate *= 2.0;
            }
        },
        &[(Rule::Commits, "learning rate")],
    );
}

/// A run without a folder, whose blobs were all deleted.
struct RecordOnly(RunSpec, History);

#[async_trait::async_trait]
impl crate::RunSource for RecordOnly {
    fn spec(&self) -> &RunSpec {
        &self.0
    }

    async fn history(&self) -> Result<History, crate::Error> {
        Ok(self.1.clone())
    }

    async fn blob(&self, digest: &Digest) -> Result<bytes::Bytes, BlobError> {
        Err(BlobError::Missing {
            location: "nowhere".into(),
            digest: *digest,
        })
    }

    async fn blob_size(&self, _: &Digest) -> Result<Option<u64>, BlobError> {
        Ok(None)
    }
}

#[test]
fn a_source_without_a_folder_is_audited_for_all_but_files() {
    let source = RecordOnly(run().spec().clone(), history(&events()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let report = runtime.block_on(super::audit(&source)).unwrap();
    assert_eq!(report.files, FileCounts::default());
    assert_eq!(report.pairs.trained, 7);
    let missing = |finding: &super::Finding| finding.rule == Rule::Blobs && finding.problem.contains("is missing");
    assert!(!report.findings.is_empty() && report.findings.iter().all(missing));
}
