//! A fleet of fake workers over the real state machine: whatever is interleaved, lost or doubled, a run ends the same.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::fixtures::{questioned, run_of, spec, watched};
use super::*;
use crate::forecast::rehearsal::{left_out, second_opinion, work};
use crate::spec::{OrdersRule, WriterSpec};
use crate::work::{Fault, Part, Role, Unusable};

/// A run with its ledger and some workers.
pub(super) struct Fleet {
    pub(super) run: Run,
    /// As it was before its first event.
    begun: Run,
    /// What a lean one has left behind.
    pub(super) commits: Commits,
    pub(super) ledger: Vec<(Event, Millis)>,
    pub(super) now: Millis,
    accepted: BTreeMap<Unit, u32>,
    /// Completions that have been sent, for sending them again.
    sent: Vec<Event>,
    /// Times that an input was lost.
    losses: u32,
}

impl Fleet {
    pub(super) fn new(run: Run) -> Self {
        Self {
            begun: run.clone(),
            run,
            commits: Commits::default(),
            ledger: vec![],
            now: Millis(0),
            accepted: BTreeMap::new(),
            sent: vec![],
            losses: 0,
        }
    }

    /// Applies an event as the driver does; a refused event must change nothing.
    pub(super) fn apply(&mut self, event: Event) -> Result<Vec<Effect>, Refusal> {
        let before = self.run.clone();
        let result = self.commits.apply(&mut self.run, event.clone(), self.now);
        match &result {
            Ok(_) => {
                // The ledger stores JSON.
                let stored = serde_json::from_str(&serde_json::to_string(&event).unwrap()).unwrap();
                assert_eq!(stored, event);
                self.ledger.push((stored, self.now));
                if let Event::Completed { unit, .. } = event {
                    *self.accepted.entry(unit).or_default() += 1;
                }
            }
            Err(_) => assert!(self.run == before, "a refused event changed the run"),
        }
        result
    }

    pub(super) fn lease(&mut self, role: Role, worker: &str) -> Option<(Unit, Fence)> {
        let unit = self.run.next_unit(role)?;
        assert!(
            self.run.assignment(&unit).is_some(),
            "{unit} is ready without its inputs"
        );
        let fence = self.run.next_fence();
        self.apply(Event::Granted {
            unit,
            worker: WorkerId(worker.into()),
            fence,
        })
        .unwrap();
        Some((unit, fence))
    }

    pub(super) fn completion(&self, unit: Unit) -> Event {
        let lease = self.run.lease(&unit).unwrap();
        let assignment = self.run.assignment(&unit).unwrap();
        let outcome = work(self.run.spec(), self.run.assets().general_rubric(&unit), &assignment);
        let outcome = second_opinion(&unit, outcome);
        let outcome = left_out(&self.run.spec().judge, &unit, outcome);
        Event::Completed {
            unit,
            worker: lease.worker.clone(),
            fence: lease.fence,
            outcome,
        }
    }

    pub(super) fn complete(&mut self, unit: Unit) -> Vec<Effect> {
        let event = self.completion(unit);
        self.sent.push(event.clone());
        self.apply(event).unwrap()
    }

    /// Takes the run and a replay of it over: after it their leases have the same deadlines. One that has ended has none.
    fn take_over(&mut self, replayed: &mut Run) {
        let recovered = Event::Recovered { away_ms: 0 };
        let taken = self.run.apply(recovered.clone(), self.now);
        assert_eq!(replayed.apply(recovered, self.now), taken);
    }

    /// Works in order until the run has ended or `until` holds.
    pub(super) fn work_until(&mut self, until: impl Fn(&Run) -> bool) {
        while !until(&self.run) {
            self.now.0 += 1;
            let leased = [Role::Trainer, Role::Judge, Role::Sampler]
                .into_iter()
                .find_map(|role| self.lease(role, "w"));
            match leased {
                Some((unit, _)) => drop(self.complete(unit)),
                None => return,
            }
        }
    }

    /// Works to the end, one unit at a time, with results that are changed before they are handed in.
    pub(super) fn finish_with(&mut self, mut change: impl FnMut(Unit, &mut Outcome)) {
        while self.run.phase() != Phase::Finished {
            self.now.0 += 1;
            let roles = [Role::Trainer, Role::Judge, Role::Sampler];
            let (unit, _) = roles.into_iter().find_map(|role| self.lease(role, "w")).unwrap();
            let mut completed = self.completion(unit);
            if let Event::Completed { outcome, .. } = &mut completed {
                change(unit, outcome);
            }
            self.apply(completed).unwrap();
        }
    }

    /// One random move of one of several workers.
    pub(super) fn act(&mut self, choice: u8, pick: usize) {
        self.now.0 += 7;
        let roles = [Role::Sampler, Role::Judge, Role::Trainer];
        let open: Vec<(Unit, Fence, WorkerId)> = self
            .run
            .leases()
            .map(|(unit, lease)| (*unit, lease.fence, lease.worker.clone()))
            .collect();
        let chosen = (!open.is_empty()).then(|| open[pick % open.len()].clone());
        match (choice % 16, chosen) {
            (0..=5, _) | (_, None) => {
                let worker = format!("w{}", pick % 5);
                self.lease(roles[pick % 3], &worker);
            }
            (6..=10, Some((unit, ..))) => drop(self.complete(unit)),
            (11, Some((unit, fence, worker))) => {
                // At most one failure of each unit, so that no unit runs out of attempts.
                if !self
                    .ledger
                    .iter()
                    .any(|(event, _)| matches!(event, Event::Failed { unit: failed, .. } if *failed == unit))
                {
                    self.apply(Event::Failed {
                        unit,
                        worker,
                        fence,
                        reason: "lost its way".into(),
                        fatal: false,
                        unusable: vec![],
                    })
                    .unwrap();
                }
            }
            (12, Some((unit, fence, worker))) => drop(
                self.apply(Event::Released {
                    unit,
                    worker,
                    fence,
                    reason: None,
                })
                .unwrap(),
            ),
            (13, Some((unit, fence, worker))) => {
                self.run.keep_alive(&worker, &[(unit, fence)], self.now);
                self.now.0 += self.run.spec().fleet.lease.as_millis() as u64 + 1;
                self.run.keep_alive(&worker, &[(unit, fence)], self.now);
                for (unit, fence) in self.run.expired(self.now) {
                    self.apply(Event::Expired { unit, fence }).unwrap();
                }
            }
            (14, Some((unit, fence, worker))) => {
                let stale = Event::Released {
                    unit,
                    worker,
                    fence: Fence(fence.0.wrapping_sub(1)),
                    reason: None,
                };
                assert!(matches!(self.apply(stale), Err(Refusal::StaleFence { .. })));
            }
            (_, Some((unit, fence, worker))) => {
                if pick.is_multiple_of(3) {
                    self.lose_an_input(unit, fence, worker, pick / 3);
                } else if !self.sent.is_empty() {
                    // What was made again since is no repetition, but stale.
                    let again = self.sent[pick % self.sent.len()].clone();
                    assert!(self.apply(again).is_err());
                }
            }
        }
    }

    /// A worker finds that one of its unit's blobs is gone.
    fn lose_an_input(&mut self, unit: Unit, fence: Fence, worker: WorkerId, pick: usize) {
        // What came with the submission nobody can make again.
        if matches!(unit, Unit::CalibrateJudge { .. }) {
            return;
        }
        let assignment = self.run.assignment(&unit).unwrap();
        let inputs: Vec<Digest> = assignment
            .inputs()
            .filter(|(_, part)| !matches!(part, Part::Source { .. }))
            .map(|(blob, _)| blob)
            .collect();
        if inputs.is_empty() {
            return;
        }
        self.losses += 1;
        let blob = inputs[pick % inputs.len()];
        self.apply(Event::Failed {
            unit,
            worker,
            fence,
            reason: "gone".into(),
            fatal: false,
            unusable: vec![Unusable {
                blob,
                fault: Fault::Storage,
            }],
        })
        .unwrap();
    }

    pub(super) fn replay(&self) -> Run {
        let mut run = self.begun.clone();
        for (event, now) in &self.ledger {
            run.apply(event.clone(), *now).unwrap();
        }
        run
    }
}

/// A run that samples ahead by `lag` steps, probes as often as `every` says, shows a held-out judge `share` of its pairs, and that no
/// number of lost results ends. It may write its prompts' rubrics, and spare its judge questions. It asks about some of its held-out pictures.
fn patient(lag: u32, every: Option<u32>, share: Option<f64>, writes: bool, spares: bool) -> Run {
    let mut spec = spec();
    let evaluation = spec.evaluation.as_mut().unwrap();
    evaluation.every = every;
    evaluation.subset = every.map(|_| 3);
    spec.sampling.max_policy_lag = lag;
    spec.limits.attempts = 1_000_000;
    spec.judge.writer = writes.then(WriterSpec::default);
    if spares {
        spec.judge.orders = OrdersRule::Adaptive;
        (spec.judge.orders_window, spec.judge.min_distance) = (Some(1), Some(0.2));
        spec.run.steps = 3 + lag;
    }
    questioned(&match share {
        None => run_of(spec),
        Some(share) => watched(spec, share),
    })
}

fn undisturbed(lag: u32, every: Option<u32>, share: Option<f64>, writes: bool, spares: bool) -> Run {
    let mut fleet = Fleet::new(patient(lag, every, share, writes, spares));
    fleet.work_until(|_| false);
    assert_eq!(fleet.run.phase(), Phase::Finished);
    fleet.run
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_run_ends_with_the_same_results(
        lag in 0..3_u32,
        every in prop::option::of(1..3_u32),
        share in prop::option::of(prop::sample::select(vec![0.1, 0.5, 1.0])),
        writes: bool,
        spares: bool,
        moves in prop::collection::vec((any::<u8>(), any::<usize>()), 0..400),
    ) {
        let mut fleet = Fleet::new(patient(lag, every, share, writes, spares));
        for (choice, pick) in moves {
            fleet.act(choice, pick);
        }
        // Workers that died keep their leases until these expire; then one honest worker does the rest.
        fleet.now.0 += 10_000_000;
        for (unit, fence) in fleet.run.expired(fleet.now) {
            fleet.apply(Event::Expired { unit, fence }).unwrap();
        }
        fleet.work_until(|_| false);
        prop_assert_eq!(fleet.run.phase(), Phase::Finished);
        prop_assert!(fleet.losses > 0 || fleet.accepted.values().all(|count| *count == 1));

        let expected = undisturbed(lag, every, share, writes, spares);
        prop_assert_eq!(&fleet.run.results().policies, &expected.results().policies);
        prop_assert_eq!(&fleet.run.results().tuned_images, &expected.results().tuned_images);
        prop_assert_eq!(&fleet.run.results().comparisons, &expected.results().comparisons);
        prop_assert_eq!(&fleet.run.results().base_answers, &expected.results().base_answers);
        prop_assert_eq!(&fleet.run.results().tuned_answers, &expected.results().tuned_answers);
        prop_assert_eq!(&fleet.run.results().probes, &expected.results().probes);
        prop_assert_eq!(&fleet.run.results().calibration, &expected.results().calibration);
        for (found, expected) in fleet.run.results().steps.iter().zip(&expected.results().steps) {
            prop_assert_eq!(&found.groups, &expected.groups);
            prop_assert_eq!(&found.shards, &expected.shards);
            prop_assert_eq!(found.record.held_out_agreement, expected.record.held_out_agreement);
        }

        let mut replayed = fleet.replay();
        fleet.take_over(&mut replayed);
        prop_assert!(replayed == fleet.run, "the ledger replays to another run");
    }

    #[test]
    fn a_replay_of_any_beginning_equals_the_run(
        lag in 0..3_u32,
        every in prop::option::of(1..3_u32),
        share in prop::option::of(prop::sample::select(vec![0.1, 0.5, 1.0])),
        writes: bool,
        spares: bool,
        moves in prop::collection::vec((any::<u8>(), any::<usize>()), 0..120),
    ) {
        let mut fleet = Fleet::new(patient(lag, every, share, writes, spares));
        for (choice, pick) in moves {
            fleet.act(choice, pick);
        }
        let mut replayed = fleet.replay();
        fleet.take_over(&mut replayed);
        prop_assert!(replayed == fleet.run, "the ledger replays to another run");
    }
}
