//! What a judge is asked about a step's pairs: in one image order once it has earned trust, and nothing about pictures that are too alike.

use super::super::fixtures::watched;
use super::*;
use crate::ids::PromptIndex;
use crate::spec::OrdersRule;
use crate::work::{AbstainReason, AskedMatches, Orders, VerdictRecord, rules};

fn trusting(change: impl FnOnce(&mut RunSpec)) -> RunSpec {
    let mut spec = spec();
    spec.run.steps = 6;
    spec.judge.orders = OrdersRule::Adaptive;
    (spec.judge.orders_trust, spec.judge.orders_window) = (Some(0.2), Some(1));
    spec.judge.orders_recheck = Some(0.3);
    change(&mut spec);
    spec
}

/// Has the orders of every pair asked in both disagree in these steps, and agree in the others.
fn flip(steps: &[u32], unit: Unit, outcome: &mut Outcome) {
    let (Unit::Judge { step, .. }, Outcome::Judged { verdicts, .. }) = (unit, outcome) else {
        return;
    };
    for record in verdicts.iter_mut().filter(|record| record.orders.is_both()) {
        let flips = steps.contains(&step.0);
        record.order_probabilities = if flips { [0.9, 0.1] } else { [0.9, 0.9] };
        record.verdict = match flips {
            true => Verdict::Abstain {
                reason: AbstainReason::OrdersDisagree,
            },
            false => Verdict::Preferred { side: Side::First },
        };
    }
}

fn asked(run: &Run) -> Vec<AskedMatches> {
    let steps = run.results().steps.iter();
    steps.map(|step| step.record.asked.unwrap()).collect()
}

#[test]
fn trust_is_earned_lost_by_the_pairs_that_are_rechecked_and_earned_again() {
    let mut fleet = Fleet::new(run_of(trusting(|_| {})));
    fleet.finish_with(|unit, outcome| flip(&[1, 4], unit, outcome));
    let of = |once, twice, flipped| AskedMatches {
        once,
        twice,
        flipped,
        too_alike: 0,
    };
    // Two of seven prompts are rechecked, which is 0.3 of them, rounded.
    let expected = [
        of(0, 7, 7),
        of(0, 7, 0),
        of(5, 2, 0),
        of(5, 2, 2),
        of(0, 7, 0),
        of(5, 2, 0),
    ];
    assert_eq!(asked(&fleet.run), expected);
    let mut all = AskedMatches::default();
    expected.iter().for_each(|step| all.add(step));
    assert_eq!(fleet.run.asked(), Some(all));
    assert_eq!(fleet.run.status(Millis(9)).asked, Some(all));
    let consistency = |step: usize| fleet.run.results().steps[step].record.order_consistency;
    assert_eq!([consistency(2), consistency(3)], [1.0, 0.0], "of pairs asked in both");
    for (step, result) in (1..).map(Step).zip(fleet.run.results().steps.iter()) {
        let rechecked = rules::rechecked_prompts(fleet.run.spec(), step);
        let is_trusted = [3, 4, 6].contains(&step.0);
        for (index, group) in (0..).zip(&result.groups) {
            let expected = match is_trusted && !rechecked.contains(&index) {
                true => rules::one_order(fleet.run.spec(), step, PromptIndex(index), 0),
                false => Orders::Both,
            };
            assert_eq!(group.verdicts[0].orders, expected, "step {step}, pair {index}");
        }
    }
    assert!(fleet.replay() == fleet.run);
}

#[test]
fn a_step_that_is_sampled_ahead_looks_at_the_steps_that_led_to_its_policy() {
    let mut fleet = Fleet::new(run_of(trusting(|spec| spec.sampling.max_policy_lag = 2)));
    fleet.finish_with(|unit, outcome| flip(&[2], unit, outcome));
    let once: Vec<u64> = asked(&fleet.run).iter().map(|step| step.once).collect();
    // Steps 4, 5 and 6 are sampled from policies 1, 2 and 3.
    assert_eq!(once, [0, 0, 0, 5, 0, 5]);
}

#[test]
fn in_a_group_each_match_has_its_own_order_and_a_rechecked_group_is_asked_in_both() {
    let mut fleet = Fleet::new(run_of(trusting(|spec| {
        spec.sampling.candidates = 4;
        spec.run.steps = 2;
    })));
    fleet.finish_with(|unit, outcome| flip(&[], unit, outcome));
    let step = &fleet.run.results().steps[1];
    let rechecked = rules::rechecked_prompts(fleet.run.spec(), Step(2));
    let mut seen = Vec::new();
    for (index, group) in (0..).zip(&step.groups) {
        let orders: Vec<Orders> = group.verdicts.iter().map(|record| record.orders).collect();
        assert_eq!(orders.len(), 6);
        let all_both = orders.iter().all(Orders::is_both);
        assert_eq!(all_both, rechecked.contains(&index), "pair {index}");
        seen.extend(orders);
    }
    assert_eq!(step.record.asked.unwrap().once, 6 * 5);
    assert!(seen.contains(&Orders::Straight) && seen.contains(&Orders::Swapped));
}

#[test]
fn a_verdict_in_other_orders_than_were_to_be_asked_is_refused() {
    let mut fleet = Fleet::new(run_of(trusting(|_| {})));
    let (unit, fence) = lease(&mut fleet, |unit| matches!(unit, Unit::Judge { step: Step(2), .. }));
    let Event::Completed { outcome, .. } = fleet.completion(unit) else {
        unreachable!()
    };
    let changes: [fn(&mut VerdictRecord); 3] = [
        |record| {
            record.orders = match record.orders {
                Orders::Both => Orders::Straight,
                Orders::Straight | Orders::Swapped => Orders::Both,
            };
        },
        |record| *record = VerdictRecord::too_alike(record.prompt_index, record.rubric),
        |record| {
            let alike = VerdictRecord::too_alike(record.prompt_index, record.rubric);
            *record = VerdictRecord {
                difference: Some(0.0),
                ..alike
            };
        },
    ];
    for change in changes {
        let mut outcome = outcome.clone();
        if let Outcome::Judged { verdicts, .. } = &mut outcome {
            change(&mut verdicts[0]);
        }
        let refused = fleet.apply(Event::Completed {
            unit,
            worker: worker(),
            fence,
            outcome,
        });
        assert!(matches!(refused, Err(Refusal::InvalidOutcome { .. })), "{refused:?}");
    }
    fleet.complete(unit);
}

#[test]
fn only_pairs_of_steps_are_asked_once() {
    let mut spec = trusting(|_| {});
    spec.evaluation.as_mut().unwrap().every = Some(2);
    let mut fleet = Fleet::new(watched(spec, 1.0));
    fleet.finish_with(|unit, outcome| flip(&[], unit, outcome));
    let results = fleet.run.results();
    let probes = results.probes.iter().flat_map(|probe| &probe.comparisons);
    let measured = results.comparisons.iter().chain(&results.calibration).chain(probes);
    assert!(measured.flatten().all(|record| record.orders.is_both()));
    let held_out = results.steps.iter().flat_map(|step| &step.groups);
    let held_out: Vec<&VerdictRecord> = held_out.flat_map(|group| &group.held_out).collect();
    assert_eq!(held_out.len(), 6 * 7);
    assert!(held_out.iter().all(|record| record.orders.is_both()));
    assert!(asked(&fleet.run).iter().any(|step| step.once > 0));
}

#[test]
fn pairs_that_are_too_alike_are_not_asked_about_and_give_no_gradient() {
    let mut spec = spec();
    spec.judge.min_distance = Some(0.25);
    let mut fleet = Fleet::new(watched(spec, 1.0));
    fleet.finish_with(|_, _| {});
    let results = fleet.run.results();
    let mut too_alike = 0;
    for step in results.steps.iter() {
        let alike = |record: &VerdictRecord| record.is_too_alike();
        for group in &step.groups {
            let is_near = group.verdicts[0].difference.unwrap() < 0.25;
            assert_eq!(alike(&group.verdicts[0]), is_near);
            assert_eq!(
                alike(&group.held_out[0]),
                is_near,
                "the held-out judge is not asked either"
            );
            assert!(!is_near || group.ranks().is_none());
        }
        let counted = step.groups.iter().filter(|group| alike(&group.verdicts[0])).count() as u64;
        let asked = step.record.asked.unwrap();
        assert_eq!((asked.too_alike, asked.once), (counted, 0));
        assert_eq!(asked.twice + counted, 7);
        assert_eq!(step.record.decided + step.record.abstained, 7);
        too_alike += counted;
    }
    assert!((1..21).contains(&too_alike), "{too_alike} of 21");
    let measured = results.comparisons.iter().chain(&results.calibration).flatten();
    assert!(measured.clone().all(|record| !record.is_too_alike()));
    assert!(
        measured
            .clone()
            .any(|record| record.difference.is_some_and(|difference| difference < 0.25))
    );
    assert!(fleet.replay() == fleet.run);
}

#[test]
fn a_run_that_asks_about_every_pair_in_both_orders_counts_nothing_else() {
    let mut fleet = fleet();
    fleet.finish_with(|_, _| {});
    assert!(fleet.run.results().steps.iter().all(|step| step.record.asked.is_none()));
    assert_eq!((fleet.run.asked(), fleet.run.status(Millis(9)).asked), (None, None));
    let text = serde_json::to_string(&fleet.run.results()).unwrap();
    assert!(!text.contains("\"orders\"") && !text.contains("\"asked\""));
}
