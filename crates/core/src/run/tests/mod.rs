mod ahead;
mod asking;
mod conditionings;
mod control;
mod evaluation_alone;
mod fleet;
mod groups;
mod held_out;
mod probes;
mod questions;
mod redo;
mod retention;
mod rubrics;
mod snapshot;
mod spent;
mod stop;
mod time;
mod trouble;
mod warm_start;
mod writer;

use super::fixtures::{assets, judged, record, run, run_of, spec};
use super::*;
use crate::Hint;
use crate::work::{Assignment, Outcome, OutcomeKind, Reason, Role, ShardStatistics, Side, SkippedPair, Verdict};
use fleet::Fleet;

fn fleet() -> Fleet {
    Fleet::new(run())
}

fn with(change: impl FnOnce(&mut RunSpec)) -> Fleet {
    let mut spec = spec();
    change(&mut spec);
    Fleet::new(run_of(spec))
}

/// Works until a unit that `wanted` picks is the next of its role, and leases it.
fn lease(fleet: &mut Fleet, wanted: impl Fn(&Unit) -> bool) -> (Unit, Fence) {
    let next = |run: &Run| {
        [Role::Trainer, Role::Judge, Role::Sampler]
            .into_iter()
            .find(|role| run.next_unit(*role).is_some_and(|unit| wanted(&unit)))
    };
    fleet.work_until(|run| next(run).is_some());
    let role = next(&fleet.run).unwrap();
    fleet.lease(role, "w").unwrap()
}

fn worker() -> WorkerId {
    WorkerId("w".into())
}

fn failed_reason(run: &Run) -> String {
    match run.phase() {
        Phase::Failed { reason } => reason,
        phase => panic!("the run is {phase:?}"),
    }
}

/// Leases a gradient unit of step 1, changes the honest outcome, and hands it in.
fn gradient(fleet: &mut Fleet, change: impl FnOnce(&mut Outcome)) -> Result<Vec<Effect>, Refusal> {
    let (unit, fence) = lease(fleet, |unit| matches!(unit, Unit::Gradient { .. }));
    let Event::Completed { mut outcome, .. } = fleet.completion(unit) else {
        unreachable!()
    };
    change(&mut outcome);
    fleet.apply(Event::Completed {
        unit,
        worker: worker(),
        fence,
        outcome,
    })
}

#[test]
fn a_run_goes_through_its_phases_and_says_what_to_do() {
    let mut fleet = fleet();
    assert_eq!(fleet.run.phase(), Phase::Preparing);
    assert_eq!(fleet.run.next_unit(Role::Trainer), Some(Unit::Initialise));
    // Idle time goes to the base's held-out pictures and to calibration.
    assert!(matches!(
        fleet.run.next_unit(Role::Sampler),
        Some(Unit::EvaluateSample { .. })
    ));
    assert_eq!(
        fleet.run.next_unit(Role::Judge),
        Some(Unit::CalibrateJudge { chunk: 0 })
    );
    fleet.lease(Role::Trainer, "w");
    let effects = fleet.complete(Unit::Initialise);
    assert!(
        matches!(&effects[..], [Effect::StepCommitted(Step(0), _)]),
        "{effects:?}"
    );
    assert_eq!(fleet.run.phase(), Phase::Training);
    // Training comes before evaluation.
    assert_eq!(
        fleet.run.next_unit(Role::Sampler),
        Some(Unit::Sample {
            step: Step(1),
            chunk: 0
        })
    );

    lease(&mut fleet, |unit| *unit == Unit::Commit { step: Step(2) });
    let effects = fleet.complete(Unit::Commit { step: Step(2) });
    assert!(
        matches!(&effects[..], [Effect::StepCommitted(Step(2), _)]),
        "{effects:?}"
    );

    lease(&mut fleet, |unit| matches!(unit, Unit::EvaluateJudge { chunk: 2, .. }));
    assert_eq!(fleet.run.phase(), Phase::EvaluatingTuned);
    let effects = fleet.complete(Unit::EvaluateJudge { probe: None, chunk: 2 });
    assert_eq!(effects, [Effect::Ended]);
    assert_eq!(fleet.run.phase(), Phase::Finished);
    for role in [Role::Sampler, Role::Judge, Role::Trainer] {
        assert_eq!(fleet.run.next_unit(role), None);
    }
}

#[test]
fn a_run_without_evaluation_ends_with_its_last_commit() {
    let mut fleet = with(|spec| spec.evaluation = None);
    fleet.work_until(|_| false);
    assert_eq!(fleet.run.phase(), Phase::Finished);
    assert_eq!(fleet.run.results().policies.len(), 4);
    assert!(fleet.run.status(Millis(0)).evaluation.is_none());
}

#[test]
fn only_as_many_held_out_prompts_are_painted_as_asked_for() {
    let mut fleet = with(|spec| spec.evaluation.as_mut().unwrap().prompts = Some(3));
    fleet.work_until(|_| false);
    let evaluation = fleet.run.status(fleet.now).evaluation.unwrap();
    assert_eq!(
        (
            evaluation.prompts,
            evaluation.base,
            evaluation.tuned,
            evaluation.compared
        ),
        (3, 3, 3, 3)
    );
}

#[test]
fn a_pair_is_judged_as_soon_as_both_its_candidates_exist() {
    let mut fleet = fleet();
    lease(&mut fleet, |unit| matches!(unit, Unit::Sample { chunk: 1, .. }));
    // Chunk 0 has painted prompts 0 to 2; pairs 0 and 1 are a judge chunk, pair 2 waits for 3.
    let (unit, _) = lease(&mut fleet, |unit| matches!(unit, Unit::Judge { chunk: 0, .. }));
    let Some(Assignment::Judge { pairs }) = fleet.run.assignment(&unit) else {
        panic!()
    };
    assert_eq!(pairs.iter().map(|pair| pair.prompt_index.0).collect::<Vec<_>>(), [0, 1]);
    assert!(!matches!(fleet.run.next_unit(Role::Judge), Some(Unit::Judge { .. })));
    fleet.complete(Unit::Sample {
        step: Step(1),
        chunk: 1,
    });
    assert_eq!(
        fleet.run.next_unit(Role::Judge),
        Some(Unit::Judge {
            step: Step(1),
            chunk: 1
        })
    );
}

#[test]
fn only_preferred_pairs_reach_a_gradient_with_their_rewards() {
    let mut fleet = with(|spec| spec.judge.batch = 7);
    let (unit, fence) = lease(&mut fleet, |unit| matches!(unit, Unit::Judge { .. }));
    let verdict = |index: u32| match index {
        1 => Verdict::Preferred { side: Side::First },
        2 => Verdict::Preferred { side: Side::Second },
        3 => Verdict::Failed { reason: "blind".into() },
        _ => Verdict::Abstain {
            reason: crate::work::AbstainReason::TooClose,
        },
    };
    let verdicts = (0..7).map(|index| record(index, verdict(index), &fleet.run)).collect();
    fleet
        .apply(Event::Completed {
            unit,
            worker: worker(),
            fence,
            outcome: judged(verdicts),
        })
        .unwrap();
    let Some(Assignment::Gradient { groups, policy_lag, .. }) = fleet.run.assignment(&Unit::Gradient {
        step: Step(1),
        shard: 0,
    }) else {
        panic!()
    };
    let rewards: Vec<_> = groups
        .iter()
        .map(|group| {
            (
                group.prompt_index.0,
                group.candidates[0].reward,
                group.candidates[1].reward,
            )
        })
        .collect();
    assert_eq!(rewards, [(1, 1.0, -0.1), (2, -0.1, 1.0)]);
    assert_eq!(policy_lag, 0);
    // Shard 1 holds no decided pair and needs no worker.
    lease(&mut fleet, |unit| matches!(unit, Unit::Commit { .. }));
    let Some(Assignment::Commit { gradients, terms, .. }) = fleet.run.assignment(&Unit::Commit { step: Step(1) })
    else {
        panic!()
    };
    assert_eq!((gradients.len(), terms), (1, 2 * 2 * 7));
    fleet.complete(Unit::Commit { step: Step(1) });
    let step = fleet.run.status(fleet.now).steps[0].clone();
    assert_eq!(
        (step.pairs, step.decided, step.abstained, step.failed, step.skipped),
        (7, 2, 4, 1, 0)
    );
    assert!((step.reward_mean - 0.45).abs() < 1e-12);
    assert!((step.kl - 0.25).abs() < 1e-12);
    assert_eq!(step.seconds.sample, 3.0);
}

#[test]
fn a_step_that_decided_nothing_is_committed_with_no_terms() {
    let mut fleet = with(|spec| spec.judge.batch = 7);
    let (unit, fence) = lease(&mut fleet, |unit| matches!(unit, Unit::Judge { .. }));
    let verdict = Verdict::Abstain {
        reason: crate::work::AbstainReason::OrdersDisagree,
    };
    let verdicts = (0..7).map(|index| record(index, verdict.clone(), &fleet.run)).collect();
    let outcome = judged(verdicts);
    fleet
        .apply(Event::Completed {
            unit,
            worker: worker(),
            fence,
            outcome,
        })
        .unwrap();
    assert_eq!(fleet.run.next_unit(Role::Trainer), Some(Unit::Commit { step: Step(1) }));
    let Some(Assignment::Commit { gradients, terms, .. }) = fleet.run.assignment(&Unit::Commit { step: Step(1) })
    else {
        panic!()
    };
    assert_eq!((gradients.len(), terms), (0, 0));
}

#[test]
fn stale_fence_is_refused_and_changes_nothing() {
    let mut fleet = fleet();
    let (unit, first) = fleet.lease(Role::Trainer, "w").unwrap();
    let late = fleet.completion(unit);
    fleet.now = Millis(60_001);
    assert_eq!(fleet.run.expired(Millis(60_000)), []);
    assert_eq!(fleet.run.expired(fleet.now), [(unit, first)]);
    fleet.apply(Event::Expired { unit, fence: first }).unwrap();
    assert_eq!(
        fleet.apply(late.clone()),
        Err(Refusal::NotLeased { unit, found: first })
    );
    let (_, second) = fleet.lease(Role::Trainer, "other").unwrap();
    assert_eq!(
        fleet.apply(late.clone()),
        Err(Refusal::StaleFence {
            unit,
            found: first,
            latest: second
        })
    );
    fleet.complete(unit);
    let refusal = fleet.apply(late).unwrap_err();
    assert_eq!(
        refusal,
        Refusal::StaleFence {
            unit,
            found: first,
            latest: second
        }
    );
    assert!(refusal.hint().is_some());
}

#[test]
fn a_second_completion_is_recognised_even_steps_later() {
    let mut fleet = fleet();
    let (unit, _) = fleet.lease(Role::Trainer, "w").unwrap();
    let event = fleet.completion(unit);
    fleet.apply(event.clone()).unwrap();
    assert!(matches!(fleet.apply(event.clone()), Err(Refusal::Repeated { .. })));
    fleet.work_until(|_| false);
    assert!(matches!(fleet.apply(event), Err(Refusal::Repeated { .. })));
}

#[test]
fn a_grant_needs_a_ready_unit_and_the_next_fence() {
    let mut fleet = fleet();
    let grant = |unit, fence| Event::Granted {
        unit,
        worker: worker(),
        fence: Fence(fence),
    };
    let early = Unit::Commit { step: Step(1) };
    assert_eq!(fleet.apply(grant(early, 1)), Err(Refusal::NotReady { unit: early }));
    let unit = Unit::Initialise;
    let expected = Refusal::FenceOutOfSequence {
        unit,
        expected: Fence(1),
        found: Fence(2),
    };
    assert_eq!(fleet.apply(grant(unit, 2)), Err(expected));
    fleet.apply(grant(unit, 1)).unwrap();
    assert_eq!(fleet.apply(grant(unit, 2)), Err(Refusal::NotReady { unit }));
    let other = Event::Released {
        unit,
        worker: WorkerId("thief".into()),
        fence: Fence(1),
        reason: None,
    };
    assert!(matches!(fleet.apply(other), Err(Refusal::OtherWorker { .. })));
}

#[test]
fn heartbeats_keep_leases_and_name_those_that_are_lost() {
    let mut fleet = fleet();
    let (unit, fence) = fleet.lease(Role::Trainer, "w").unwrap();
    assert_eq!(fleet.run.keep_alive(&worker(), &[(unit, fence)], Millis(50_000)), []);
    assert_eq!(fleet.run.expired(Millis(100_000)), []);
    let wrong = (unit, Fence(99));
    assert_eq!(fleet.run.keep_alive(&worker(), &[wrong], Millis(50_000)), [wrong]);
    assert_eq!(
        fleet
            .run
            .keep_alive(&WorkerId("x".into()), &[(unit, fence)], Millis(90_000)),
        [(unit, fence)]
    );
    fleet.now = Millis(1_000_000);
    fleet.apply(Event::Recovered { away_ms: 910_000 }).unwrap();
    assert_eq!(fleet.run.expired(Millis(1_060_000)), []);
    assert_eq!(fleet.run.expired(Millis(1_060_001)).len(), 1);
}

#[test]
fn a_judge_that_keeps_failing_leaves_failed_verdicts_and_the_run_goes_on() {
    let mut fleet = fleet();
    for attempt in 1..=3 {
        let (unit, fence) = lease(&mut fleet, |unit| matches!(unit, Unit::Judge { chunk: 1, .. }));
        let event = Event::Failed {
            unit,
            worker: worker(),
            fence,
            reason: format!("attempt {attempt}"),
            fatal: false,
            unusable: vec![],
        };
        fleet.apply(event).unwrap();
    }
    let verdicts: Vec<_> = fleet.run.in_flight().next().unwrap().groups[2..4]
        .iter()
        .flat_map(|group| group.verdicts.clone())
        .collect();
    assert_eq!(verdicts.len(), 2);
    for record in verdicts {
        assert_eq!(
            record.verdict,
            Verdict::Failed {
                reason: "attempt 3".into()
            }
        );
    }
    fleet.work_until(|_| false);
    assert_eq!(fleet.run.phase(), Phase::Finished);
    assert_eq!(fleet.run.status(fleet.now).steps[0].failed, 2);
}

#[test]
fn a_judge_that_works_on_nothing_stops_the_run_and_resume_judges_again() {
    let mut fleet = with(|spec| {
        spec.judge.batch = 7;
        spec.limits.attempts = 1;
    });
    let (unit, fence) = lease(&mut fleet, |unit| matches!(unit, Unit::Judge { .. }));
    let event = Event::Failed {
        unit,
        worker: worker(),
        fence,
        reason: "no weights".into(),
        fatal: false,
        unusable: vec![],
    };
    assert_eq!(fleet.apply(event), Ok(vec![Effect::Ended]));
    assert!(failed_reason(&fleet.run).contains("no weights"));
    assert_eq!(fleet.run.next_unit(Role::Judge), None);
    assert_eq!(fleet.apply(Event::Resumed), Ok(vec![]));
    assert_eq!(fleet.run.next_unit(Role::Judge), Some(unit));
    fleet.work_until(|_| false);
    assert_eq!(fleet.run.phase(), Phase::Finished);
    assert_eq!(fleet.run.status(fleet.now).steps[0].failed, 0);
}

#[test]
fn a_unit_out_of_attempts_and_a_fatal_failure_fail_the_run() {
    let mut fleet = fleet();
    for attempt in 1..=3 {
        let (unit, fence) = lease(&mut fleet, |unit| matches!(unit, Unit::Sample { chunk: 1, .. }));
        assert!(!fleet.run.phase().is_ended(), "attempt {attempt}");
        let event = Event::Failed {
            unit,
            worker: worker(),
            fence,
            reason: "out of memory".into(),
            fatal: false,
            unusable: vec![],
        };
        fleet.apply(event).unwrap();
    }
    let reason = failed_reason(&fleet.run);
    assert!(
        reason.contains("3 attempts") && reason.contains("out of memory"),
        "{reason}"
    );
    assert_eq!(fleet.run.leases().count(), 0);

    let mut fleet = self::fleet();
    let (unit, fence) = lease(&mut fleet, |unit| matches!(unit, Unit::Gradient { .. }));
    let event = Event::Failed {
        unit,
        worker: worker(),
        fence,
        reason: "velocities differ".into(),
        fatal: true,
        unusable: vec![],
    };
    assert_eq!(fleet.apply(event), Ok(vec![Effect::Ended]));
    assert!(failed_reason(&fleet.run).contains("velocities differ"));
}

#[test]
fn a_ratio_off_one_before_the_first_update_fails_the_run() {
    let mut fleet = fleet();
    let off = |outcome: &mut Outcome| {
        if let Outcome::Gradient { statistics, .. } = outcome {
            statistics.ratio_deviation = 0.002;
        }
    };
    assert_eq!(gradient(&mut fleet, off), Ok(vec![Effect::Ended]));
    assert!(failed_reason(&fleet.run).contains("0.002"));
    // The result does not count; once the cause is gone, the unit is done again.
    fleet.apply(Event::Resumed).unwrap();
    assert!(matches!(
        fleet.run.next_unit(Role::Trainer),
        Some(Unit::Gradient { shard: 0, .. })
    ));
}

#[test]
fn another_manifest_fails_the_run_with_both() {
    let mut fleet = fleet();
    let other = Digest::of(b"other");
    let swap = |outcome: &mut Outcome| {
        if let Outcome::Gradient { manifest, .. } = outcome {
            *manifest = other;
        }
    };
    gradient(&mut fleet, swap).unwrap();
    let reason = failed_reason(&fleet.run);
    assert!(
        reason.contains(&other.short()) && reason.contains(&Digest::of(b"manifest").short()),
        "{reason}"
    );
}

#[test]
fn too_many_skipped_pairs_stop_the_run_and_few_are_recorded() {
    let skip = |outcome: &mut Outcome| {
        if let Outcome::Gradient {
            gradient,
            statistics,
            skipped,
            ..
        } = outcome
        {
            *gradient = None;
            *statistics = ShardStatistics::default();
            skipped.push(SkippedPair {
                prompt_index: crate::ids::PromptIndex(0),
                reason: "loss is NaN".into(),
            });
        }
    };
    // Pair 0 of the first step is decided by the fake judge, or this test could not skip it.
    let mut fleet = fleet();
    lease(&mut fleet, |unit| matches!(unit, Unit::Gradient { shard: 0, .. }));
    let decided = fleet
        .run
        .in_flight()
        .next()
        .unwrap()
        .groups
        .iter()
        .position(|group| group.is_decided())
        .unwrap() as u32;
    let skip = |outcome: &mut Outcome| {
        skip(outcome);
        if let Outcome::Gradient { skipped, .. } = outcome {
            skipped[0].prompt_index.0 = decided;
        }
    };

    let mut fleet = self::fleet();
    gradient(&mut fleet, skip).unwrap();
    assert_eq!(fleet.run.status(fleet.now).pairs_skipped, 1);
    fleet.work_until(|_| false);
    assert_eq!(fleet.run.status(fleet.now).steps[0].skipped, 1);

    let mut fleet = with(|spec| spec.limits.skipped_pairs = 0);
    gradient(&mut fleet, skip).unwrap();
    assert!(failed_reason(&fleet.run).contains("loss is NaN"));
}

#[test]
fn outcomes_that_contradict_their_unit_are_refused() {
    type Change = fn(&mut Outcome);
    let changes: [(&str, Change); 6] = [
        ("terms", |outcome| {
            if let Outcome::Gradient { statistics, .. } = outcome {
                statistics.terms += 1000;
            }
        }),
        ("exactly when", |outcome| {
            if let Outcome::Gradient { gradient, .. } = outcome {
                *gradient = None;
            }
        }),
        ("not finite", |outcome| {
            if let Outcome::Gradient { statistics, .. } = outcome {
                statistics.kl = f64::NAN;
            }
        }),
        ("no duration", |outcome| {
            if let Outcome::Gradient { seconds, .. } = outcome {
                *seconds = -1.0;
            }
        }),
        ("clipped", |outcome| {
            if let Outcome::Gradient { statistics, .. } = outcome {
                statistics.clipped = statistics.terms + 1;
            }
        }),
        ("no decided pair", |outcome| {
            if let Outcome::Gradient { skipped, .. } = outcome {
                skipped.push(SkippedPair {
                    prompt_index: crate::ids::PromptIndex(6),
                    reason: String::new(),
                });
            }
        }),
    ];
    for (text, change) in changes {
        match gradient(&mut fleet(), change) {
            Err(Refusal::InvalidOutcome { problem, .. }) => assert!(problem.contains(text), "{problem}"),
            other => panic!("{text}: {other:?}"),
        }
    }
    let mut fleet = fleet();
    let (unit, fence) = fleet.lease(Role::Trainer, "w").unwrap();
    let outcome = judged(vec![]);
    let refusal = fleet.apply(Event::Completed {
        unit,
        worker: worker(),
        fence,
        outcome,
    });
    assert_eq!(
        refusal,
        Err(Refusal::WrongOutcome {
            unit,
            expected: OutcomeKind::Initialised,
            found: OutcomeKind::Judged
        })
    );
}

#[test]
fn verdicts_of_another_rubric_or_out_of_order_are_refused() {
    let mut fleet = fleet();
    let (unit, fence) = lease(&mut fleet, |unit| matches!(unit, Unit::Judge { .. }));
    let good = || {
        (0..2)
            .map(|index| record(index, Verdict::Preferred { side: Side::First }, &run()))
            .collect::<Vec<_>>()
    };
    let mut other = good();
    other[1].rubric = Digest::of(b"another rubric");
    let mut swapped = good();
    swapped.swap(0, 1);
    let mut improbable = good();
    improbable[0].probability_first = f64::NAN;
    let mut unreasonable = good();
    unreasonable[1].reasons.push(Reason {
        theme: None,
        verdict: Verdict::Preferred { side: Side::First },
        probability_first: f64::NAN,
        sentence: None,
    });
    for verdicts in [other, swapped, improbable, unreasonable, good()[..1].to_vec()] {
        let outcome = judged(verdicts);
        let refusal = fleet.apply(Event::Completed {
            unit,
            worker: worker(),
            fence,
            outcome,
        });
        assert!(matches!(refusal, Err(Refusal::InvalidOutcome { .. })), "{refusal:?}");
    }
    let outcome = judged(good());
    fleet
        .apply(Event::Completed {
            unit,
            worker: worker(),
            fence,
            outcome,
        })
        .unwrap();
}

#[test]
fn a_stopped_run_refuses_work_and_resumes_where_it_was() {
    let mut fleet = fleet();
    let (unit, fence) = lease(&mut fleet, |unit| matches!(unit, Unit::Gradient { .. }));
    assert_eq!(fleet.apply(Event::Resumed), Err(Refusal::NotStopped));
    let late = fleet.completion(unit);
    fleet.apply(Event::Cancelled { reason: "lunch".into() }).unwrap();
    assert_eq!(fleet.run.phase(), Phase::Stopped { reason: "lunch".into() });
    assert_eq!(fleet.apply(late), Err(Refusal::Ended));
    assert_eq!(
        fleet.run.keep_alive(&worker(), &[(unit, fence)], fleet.now),
        [(unit, fence)]
    );
    assert_eq!(
        fleet.apply(Event::Cancelled { reason: "again".into() }),
        Err(Refusal::Ended)
    );
    fleet.apply(Event::Resumed).unwrap();
    assert_eq!(fleet.run.next_unit(Role::Trainer), Some(unit));
    fleet.work_until(|_| false);
    assert_eq!(fleet.run.phase(), Phase::Finished);
    assert_eq!(fleet.apply(Event::Resumed), Err(Refusal::Ended));
}

#[test]
fn waiting_names_the_missing_worker_and_then_the_slow_one() {
    let mut fleet = with(|spec| spec.evaluation = None);
    let waiting = fleet.run.waiting_for(Millis(5));
    assert_eq!(
        waiting.cause,
        WaitingFor::Worker {
            role: Role::Trainer,
            ready: 1
        }
    );
    assert_eq!(waiting.since_unix_ms, 0);
    fleet.now = Millis(100);
    let (unit, fence) = fleet.lease(Role::Trainer, "w").unwrap();
    let waiting = fleet.run.waiting_for(Millis(200));
    assert_eq!(waiting.cause, WaitingFor::Completion { unit, worker: worker() });
    assert_eq!(waiting.since_unix_ms, 100);
    fleet.apply(Event::Expired { unit, fence }).unwrap();
    let waiting = fleet.run.waiting_for(Millis(200));
    assert!(waiting.text.contains("1 leases lost"), "{}", waiting.text);
    // Judges have work but there is none, while a sampler is busy: after a while that is what counts.
    lease(&mut fleet, |unit| matches!(unit, Unit::Judge { .. }));
    let (judging, fence) = fleet
        .run
        .leases()
        .map(|(unit, lease)| (*unit, lease.fence))
        .next()
        .unwrap();
    fleet
        .apply(Event::Released {
            unit: judging,
            worker: worker(),
            fence,
            reason: None,
        })
        .unwrap();
    fleet.lease(Role::Sampler, "s").unwrap();
    assert!(matches!(
        fleet.run.waiting_for(fleet.now).cause,
        WaitingFor::Completion { .. }
    ));
    let later = Millis(fleet.now.0 + 10_001);
    assert_eq!(
        fleet.run.waiting_for(later).cause,
        WaitingFor::Worker {
            role: Role::Judge,
            ready: 1
        }
    );
    fleet
        .apply(Event::Cancelled {
            reason: "enough".into(),
        })
        .unwrap();
    assert_eq!(fleet.run.waiting_for(later).cause, WaitingFor::Nothing);
}

#[test]
fn status_survives_json_and_measures_judge_and_win_rate() {
    let mut fleet = fleet();
    fleet.work_until(|_| false);
    let status = fleet.run.status(fleet.now);
    let text = serde_json::to_string(&status).unwrap();
    assert_eq!(serde_json::from_str::<RunStatus>(&text).unwrap(), status);
    assert!(text.contains("\"waiting\":{\"for\":"));
    let win_rate = status.evaluation.unwrap().win_rate.unwrap();
    assert_eq!(win_rate.wins + win_rate.losses + win_rate.abstained, 5);
    assert!(win_rate.low < win_rate.value && win_rate.value < win_rate.high);
    let judge = status.judge.unwrap();
    assert_eq!((judge.pairs, judge.judged), (3, 3));
    assert_eq!(judge.order_consistency, 1.0);
    assert_eq!(status.matches_judged, 21);
    assert_eq!(status.steps.len(), 3);
}
