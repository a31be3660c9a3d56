//! A held-out judge watches the judge: it sees a share of the pairs, and nothing is rewarded for what it says.

use super::super::fixtures::{spec, watched};
use super::*;
use crate::spec::StopSpec;
use crate::work::{Fault, Part, Unusable, VerdictRecord, rules};

fn fleet(share: f64, change: impl FnOnce(&mut RunSpec)) -> Fleet {
    let mut spec = spec();
    change(&mut spec);
    Fleet::new(watched(spec, share))
}

/// A verdict of the held-out judge.
fn opinion(prompt: u32, side: Side, run: &Run) -> VerdictRecord {
    VerdictRecord {
        rubric: run.assets().held_out_judge.as_ref().unwrap().rubric.digest,
        ..record(prompt, Verdict::Preferred { side }, run)
    }
}

#[test]
fn a_step_is_committed_once_the_held_out_judge_has_seen_its_share() {
    let mut fleet = fleet(0.5, |_| {});
    let share = rules::held_out_prompts(fleet.run.spec(), Step(1));
    assert_eq!(share.len(), 4, "half of 7 pairs, rounded");
    // Whoever has anything else to do does that first.
    let is_watch = |unit: &Unit| matches!(unit, Unit::HeldOutJudge { .. });
    let roles = [Role::Trainer, Role::Judge, Role::Sampler];
    let next = |run: &Run| {
        let mut next = roles.iter().copied();
        next.find(|role| run.next_unit(*role).is_some_and(|unit| !is_watch(&unit)))
    };
    while let Some(role) = next(&fleet.run) {
        let (unit, _) = fleet.lease(role, "w").unwrap();
        fleet.complete(unit);
    }
    assert!(fleet.run.in_flight().next().unwrap().is_trained());
    let mut seen = Vec::new();
    while fleet.run.committed() == Step(0) && fleet.run.next_unit(Role::Trainer).is_none() {
        let (unit, _) = fleet.lease(Role::Judge, "j").unwrap();
        assert!(is_watch(&unit), "{unit}");
        let Some(Assignment::Judge { pairs }) = fleet.run.assignment(&unit) else {
            panic!("{unit} judges pairs");
        };
        seen.extend(pairs.iter().map(|pair| pair.prompt_index.0));
        fleet.complete(unit);
    }
    assert_eq!(seen, share.into_iter().collect::<Vec<_>>());
    assert_eq!(fleet.run.next_unit(Role::Trainer), Some(Unit::Commit { step: Step(1) }));
}

#[test]
fn figures_count_the_pairs_that_both_judges_decide_and_those_on_which_they_agree() {
    let mut fleet = fleet(1.0, |_| {});
    fleet.finish_with(|unit, outcome| {
        let Outcome::Judged { verdicts, .. } = outcome else {
            return;
        };
        for record in verdicts {
            record.verdict = match (unit, record.prompt_index.0) {
                (Unit::Judge { .. }, 0) => Verdict::Failed { reason: "blind".into() },
                (Unit::HeldOutJudge { .. }, 1..3) => Verdict::Preferred { side: Side::Second },
                _ => Verdict::Preferred { side: Side::First },
            };
        }
    });
    let record = &fleet.run.results().steps[0].record;
    assert_eq!(
        (record.held_out_pairs, record.held_out_agreement),
        (Some(6), Some(4.0 / 6.0))
    );
    assert_eq!((record.decided, record.failed), (6, 1), "what it says decides nothing");
    assert!(fleet.replay() == fleet.run);
}

#[test]
fn nothing_is_rewarded_for_what_the_held_out_judge_says() {
    let mut with_one = fleet(1.0, |_| {});
    with_one.work_until(|_| false);
    let mut without = Fleet::new(run());
    without.work_until(|_| false);
    let (with_one, without) = (with_one.run.results(), without.run.results());
    assert_eq!(with_one.policies, without.policies);
    for (step, other) in with_one.steps.iter().zip(&without.steps) {
        assert_eq!(step.shards, other.shards);
        assert_eq!(step.record.decided, other.record.decided);
        assert_eq!(
            (other.record.held_out_pairs, other.record.held_out_agreement),
            (None, None)
        );
    }
}

#[test]
fn a_held_out_judge_that_never_works_is_recorded_and_holds_nothing_up() {
    let mut fleet = fleet(0.1, |_| {});
    let share = rules::held_out_prompts(fleet.run.spec(), Step(1));
    let is_watch = |unit: &Unit| matches!(unit, Unit::HeldOutJudge { step: Step(1), .. });
    for _ in 0..fleet.run.spec().limits.attempts {
        let (unit, fence) = lease(&mut fleet, is_watch);
        let failed = Event::Failed {
            unit,
            worker: worker(),
            fence,
            reason: "no picture".into(),
            fatal: false,
            unusable: vec![],
        };
        fleet.apply(failed).unwrap();
    }
    fleet.work_until(|run| run.committed() == Step(1));
    let step = &fleet.run.results().steps[0];
    assert_eq!(
        (step.record.held_out_pairs, step.record.held_out_agreement),
        (Some(0), None)
    );
    for prompt in share {
        let [record] = step.groups[prompt as usize].held_out.as_slice() else {
            panic!("one verdict for each pair")
        };
        assert_eq!(
            record.verdict,
            Verdict::Failed {
                reason: "no picture".into()
            }
        );
    }
}

#[test]
fn its_rubric_and_its_model_are_its_own() {
    let mut fleet = fleet(1.0, |_| {});
    let (unit, fence) = lease(&mut fleet, |unit| matches!(unit, Unit::HeldOutJudge { chunk: 0, .. }));
    let complete = |verdicts, model: &[u8]| Event::Completed {
        unit,
        worker: worker(),
        fence,
        outcome: Outcome::Judged {
            verdicts,
            model: Digest::of(model),
            spent: None,
            seconds: 0.0,
        },
    };
    let of_the_judge = [0, 1].map(|prompt| record(prompt, Verdict::Preferred { side: Side::First }, &fleet.run));
    let refused = fleet.apply(complete(of_the_judge.to_vec(), b"another model"));
    assert!(
        matches!(&refused, Err(Refusal::InvalidOutcome { problem, .. }) if problem.contains("judged by rubric")),
        "{refused:?}"
    );
    let own = [0, 1].map(|prompt| opinion(prompt, Side::First, &fleet.run));
    fleet.apply(complete(own.to_vec(), b"another model")).unwrap();
    // The next must be of the same model, which need not be the judge's.
    let (unit, fence) = lease(&mut fleet, |unit| matches!(unit, Unit::HeldOutJudge { chunk: 1, .. }));
    let own = [2, 3].map(|prompt| opinion(prompt, Side::First, &fleet.run));
    let other = Event::Completed {
        unit,
        worker: worker(),
        fence,
        outcome: judged(own.to_vec()),
    };
    let refused = fleet.apply(other);
    assert!(
        matches!(&refused, Err(Refusal::InvalidOutcome { problem, .. }) if problem.contains("held-out judge has fingerprint")),
        "{refused:?}"
    );
}

#[test]
fn pictures_that_are_lost_take_what_the_held_out_judge_said_of_them_along() {
    let mut fleet = fleet(1.0, |_| {});
    let (unit, fence) = lease(&mut fleet, |unit| matches!(unit, Unit::Gradient { .. }));
    let inputs = fleet.run.assignment(&unit).unwrap();
    let of_a_pair = |(blob, part)| match part {
        Part::Trajectory { prompt_index, .. } => Some((blob, prompt_index.0 as usize)),
        _ => None,
    };
    let (lost, prompt) = inputs.inputs().find_map(of_a_pair).unwrap();
    let said = |run: &Run| run.in_flight().next().unwrap().groups[prompt].held_out.len();
    assert_eq!(said(&fleet.run), 1);
    let failed = Event::Failed {
        unit,
        worker: worker(),
        fence,
        reason: "gone".into(),
        fatal: false,
        unusable: vec![Unusable {
            blob: lost,
            fault: Fault::Storage,
        }],
    };
    fleet.apply(failed).unwrap();
    assert_eq!(said(&fleet.run), 0);
    fleet.work_until(|_| false);
    assert_eq!(fleet.run.phase(), Phase::Finished);
    assert!(
        fleet
            .run
            .results()
            .steps
            .iter()
            .all(|step| step.record.held_out_pairs.is_some())
    );
}

#[test]
fn judges_that_disagree_over_some_steps_hold_the_run_and_say_by_how_much() {
    let stop = |least| {
        let rules = StopSpec {
            agreement_min: Some(least),
            agreement_steps: Some(2),
            ..StopSpec::default()
        };
        let mut fleet = fleet(1.0, |spec| {
            spec.run.steps = 6;
            spec.stop = Some(rules);
        });
        // From step 2 on the held-out judge prefers the other picture of half of the pairs.
        let mut reasons = Vec::new();
        while fleet.run.phase() != Phase::Finished {
            let roles = [Role::Trainer, Role::Judge, Role::Sampler];
            let (unit, _) = roles.into_iter().find_map(|role| fleet.lease(role, "w")).unwrap();
            let mut event = fleet.completion(unit);
            if let Event::Completed { outcome, .. } = &mut event
                && let Outcome::Judged { verdicts, .. } = outcome
            {
                for record in verdicts {
                    let differs = matches!(unit, Unit::HeldOutJudge { step, .. } if step > Step(1));
                    let side = match differs && record.prompt_index.0.is_multiple_of(2) {
                        true => Side::Second,
                        false => Side::First,
                    };
                    record.verdict = Verdict::Preferred { side };
                }
            }
            fleet.apply(event).unwrap();
            if let Some(reason) = fleet.run.stop_rule() {
                fleet.apply(Event::Paused { reason: reason.clone() }).unwrap();
                reasons.push((fleet.run.committed(), reason));
                fleet.apply(Event::Resumed).unwrap();
            }
        }
        reasons
    };
    // 7 and 3 of 7 pairs agree in the first two steps, 3 of 7 from then on; what somebody resumed from is not counted again.
    let reasons = stop(0.6);
    let steps: Vec<Step> = reasons.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [Step(3), Step(5)], "{reasons:#?}");
    let expected = "`stop.agreement_min`: in steps 2 to 3 the held-out judge prefers the same picture as the judge on 6 of the 14 \
                    pairs that both decided, a share of 0.429, less than 0.6";
    assert!(reasons[0].1.starts_with(expected), "{}", reasons[0].1);
    assert!(reasons[0].1.contains("gavel resume"), "{}", reasons[0].1);
    assert_eq!(stop(0.4), []);
}

#[test]
fn a_step_has_the_mean_scores_of_judges_that_score_pictures() {
    let mut fleet = fleet(1.0, |_| {});
    fleet.finish_with(|unit, outcome| {
        let Outcome::Judged { verdicts, .. } = outcome else {
            return;
        };
        for record in verdicts {
            record.scores = match unit {
                Unit::Judge { .. } => Some([0.25, 0.75]),
                Unit::HeldOutJudge { .. } => Some([-3.0, 1.0]),
                _ => None,
            };
        }
    });
    let records: Vec<_> = fleet.run.results().steps.iter().map(|step| &step.record).collect();
    assert!(records.iter().all(|record| record.score == Some(0.5)));
    assert!(records.iter().all(|record| record.held_out_score == Some(-1.0)));
}
