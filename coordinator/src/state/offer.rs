//! Work for those who wait for it: which unit each of them gets.

use gavel_core::ids::{Fence, Millis, RunId, WorkerId};
use gavel_core::run::Event;
use gavel_core::work::{Assignment, Role, Unit};

use super::{Grant, State};
use crate::driver::DriverError;
use crate::grpc::{ASSIGNMENT_BYTES_MAX, assignment_bytes};
use crate::metrics;
use crate::waiters::Waiters;

/// A unit that a worker may get, with its run and its fence.
type Offer = (RunId, Unit, Fence);

impl State {
    /// Gives work to those who wait for it, first come, first served.
    pub(crate) fn serve_waiters(&mut self, now: Millis) {
        self.tell_called();
        for role in [Role::Sampler, Role::Judge, Role::Trainer] {
            let mut waiters = std::mem::take(&mut self.waiters);
            self.serve(role, &mut waiters, now);
            self.waiters = waiters;
        }
    }

    fn serve(&mut self, role: Role, waiters: &mut Waiters, now: Millis) {
        while self.runs().any(|(run, _)| run.next_unit_at(role, now).is_some())
            && let Some((waiter, offer)) = waiters.pop_for(role, |worker| self.offer(role, worker, now))
        {
            let granted = match offer {
                Ok(offer) => self.grant(offer, &waiter.worker, now),
                Err(refusal) => {
                    // A caller that hung up needs no answer.
                    let answer = move || drop(waiter.reply.send(Err(refusal)));
                    self.batch.answers.push(Box::new(answer));
                    continue;
                }
            };
            let Some(grant) = granted else {
                waiters.push(role, waiter);
                break;
            };
            metrics::granted(role, waiter.since.elapsed().as_secs_f64());
            self.batch.grants.push((waiter.reply, grant, waiter.worker));
        }
    }

    /// What a worker gets next, or why it gets nothing any more; `None` when there is nothing for it now.
    fn offer(&self, role: Role, worker: &WorkerId, now: Millis) -> Option<Result<Offer, DriverError>> {
        if let Some(refusal) = self.quarantine(worker) {
            return Some(Err(refusal));
        }
        let open = self
            .runs()
            .map(|(run, _)| run)
            .filter(|run| run.next_unit_at(role, now).is_some() && !self.backoffs.keep(worker, run.id(), now));
        let run = self.turns.next(role, worker, open)?;
        Some(Ok((run.id().clone(), run.next_unit_at(role, now)?, run.next_fence())))
    }

    fn grant(&mut self, (id, unit, fence): Offer, worker: &WorkerId, now: Millis) -> Option<Box<Grant>> {
        let Some(assignment) = self.run(&id).ok()?.assignment(&unit) else {
            tracing::error!(run = %id, %unit, "a unit that is ready has no assignment");
            return None;
        };
        if let Some(reason) = undeliverable(&assignment) {
            self.give_up(&id, unit, reason, now);
            return None;
        }
        let event = Event::Granted {
            unit,
            worker: worker.clone(),
            fence,
        };
        if let Err(error) = self.apply(&id, event, now) {
            tracing::error!(run = %id, %unit, %error, "the next unit could not be granted");
            return None;
        }
        self.turns.granted(unit.role(), worker, &id);
        let run = self.run(&id).ok()?;
        let deadline = run.lease(&unit)?.deadline;
        let spec = run.spec_sha256();
        Some(Box::new(Grant {
            run: id,
            unit,
            fence,
            deadline,
            spec,
            assignment,
        }))
    }
}

/// Why no worker can be told what to do: it does not fit into a message.
fn undeliverable(assignment: &Assignment) -> Option<String> {
    let bytes = assignment_bytes(assignment.clone());
    (bytes > ASSIGNMENT_BYTES_MAX).then(|| {
        format!(
            "what a worker has to be told for it takes {bytes} bytes, and a message holds {ASSIGNMENT_BYTES_MAX}: shorten the \
             prompts, or let a unit hold fewer of them (`sampling.batch`, `judge.batch`, `trainer.shard`)"
        )
    })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use gavel_core::run::Phase;
    use gavel_core::work::LeaseKey;
    use tokio::sync::oneshot;

    use super::super::fixtures::{NOW, add_run, complete, grant, id};
    use super::super::turns::TURN;
    use super::*;
    use crate::state::LeaseAnswer;
    use crate::waiters::Waiter;

    /// A coordinator of some runs whose first policies exist: samplers have much to do.
    fn runs(names: &[&str]) -> State {
        weighted(names.iter().map(|name| (*name, 1)))
    }

    fn weighted<'a>(runs: impl IntoIterator<Item = (&'a str, u32)>) -> State {
        let mut state = State::default();
        for (name, weight) in runs {
            add_run(&mut state, name, |spec, _| {
                spec.prompts.per_step = 64;
                spec.sampling.batch = 1;
                spec.fleet.weight = weight;
            });
            let first = grant(&mut state, &id(name));
            complete(&mut state, first);
        }
        state
    }

    type Answer = oneshot::Receiver<Result<LeaseAnswer, DriverError>>;

    /// A sampler asks for work, and waits as long as its answer is kept.
    fn ask(state: &mut State, worker: &str) -> Answer {
        let (reply, answer) = oneshot::channel();
        let waiter = Waiter {
            worker: WorkerId(worker.into()),
            since: Instant::now(),
            reply,
        };
        state.wait(Role::Sampler, waiter);
        answer
    }

    /// Who is given what.
    fn serve(state: &mut State, now: Millis) -> Vec<(String, LeaseKey)> {
        state.serve_waiters(now);
        let grants = state.take_batch().grants.into_iter();
        grants
            .map(|(_, grant, worker)| {
                let Grant { run, unit, fence, .. } = *grant;
                (worker.0, LeaseKey { run, unit, fence })
            })
            .collect()
    }

    /// What a sampler that asks now is given.
    fn serve_one(state: &mut State, worker: &str, now: Millis) -> Option<LeaseKey> {
        let _answer = ask(state, worker);
        serve(state, now).pop().map(|(_, key)| key)
    }

    #[test]
    fn runs_share_a_worker_by_turns() {
        let mut state = runs(&["a", "b", "c"]);
        let mut served = String::new();
        for _ in 0..6 * TURN {
            let key = serve_one(&mut state, "only", NOW).unwrap();
            served += &key.run.0;
            complete(&mut state, key);
        }
        let turn = |run: &str| run.repeat(TURN as usize);
        assert_eq!(served, ["a", "b", "c", "a", "b", "c"].map(turn).concat());
    }

    #[test]
    fn a_worker_that_leases_ahead_stays_with_its_run() {
        let mut state = runs(&["a", "b"]);
        let ahead: Vec<_> = (0..3).filter_map(|_| serve_one(&mut state, "only", NOW)).collect();
        assert!(
            ahead.len() == 3 && ahead.iter().all(|key| key.run == id("a")),
            "{ahead:?}"
        );
    }

    #[test]
    fn each_run_has_its_workers_and_a_late_one_gets_the_next_that_is_free() {
        let mut state = runs(&["a", "b"]);
        let workers = ["1", "2", "3", "4"];
        let mut at_work: Vec<_> = workers.map(|worker| serve_one(&mut state, worker, NOW).unwrap()).into();
        let count = |at_work: &[LeaseKey], run: &str| at_work.iter().filter(|key| key.run == id(run)).count();
        for round in 0..40 {
            let next = round % workers.len();
            complete(&mut state, at_work[next].clone());
            at_work[next] = serve_one(&mut state, workers[next], NOW).unwrap();
            assert_eq!((count(&at_work, "a"), count(&at_work, "b")), (2, 2));
        }
        add_run(&mut state, "late", |_, _| {});
        let first = grant(&mut state, &id("late"));
        complete(&mut state, first);
        complete(&mut state, at_work[0].clone());
        assert_eq!(serve_one(&mut state, "1", NOW).unwrap().run, id("late"));
    }

    #[test]
    fn runs_have_workers_and_turns_by_their_weights() {
        let mut state = weighted([("light", 1), ("heavy", 3)]);
        let workers = ["1", "2", "3", "4"];
        let mut at_work: Vec<_> = workers.map(|worker| serve_one(&mut state, worker, NOW).unwrap()).into();
        for round in 0..40 {
            let next = round % workers.len();
            complete(&mut state, at_work[next].clone());
            at_work[next] = serve_one(&mut state, workers[next], NOW).unwrap();
        }
        let heavy = at_work.iter().filter(|key| key.run == id("heavy")).count();
        assert_eq!(heavy, 3);

        let mut state = weighted([("light", 1), ("heavy", 3)]);
        let mut units = (0, 0);
        for _ in 0..2 * 4 * TURN {
            let key = serve_one(&mut state, "only", NOW).unwrap();
            match key.run == id("heavy") {
                true => units.0 += 1,
                false => units.1 += 1,
            }
            complete(&mut state, key);
        }
        assert_eq!(units, (2 * 3 * TURN, 2 * TURN));
    }

    #[test]
    fn a_run_that_a_worker_cannot_serve_holds_up_neither_the_worker_nor_the_run() {
        let mut state = runs(&["bad", "good"]);
        let mut now = NOW;
        let key = serve_one(&mut state, "poor", now).unwrap();
        assert_eq!(key.run, id("bad"));
        let LeaseKey { run, unit, fence } = key;
        let worker = WorkerId("poor".into());
        let returned = Event::Released {
            unit,
            worker,
            fence,
            reason: Some("the server is away".into()),
        };
        state.report(&run, returned, None, now).unwrap();
        for _ in 0..3 * TURN {
            let key = serve_one(&mut state, "poor", now).unwrap();
            assert_eq!(key.run, id("good"));
            complete(&mut state, key);
        }
        let key = serve_one(&mut state, "rich", now).unwrap();
        assert_eq!(
            (key.run.clone(), key.unit),
            (id("bad"), unit),
            "another worker may have what it needs"
        );
        complete(&mut state, key);
        now = now.plus(1_000);
        let next = [(); 2].map(|()| {
            let key = serve_one(&mut state, "poor", now).unwrap();
            complete(&mut state, key.clone());
            key.run
        });
        assert_eq!(
            next,
            [id("good"), id("bad")],
            "it tries again, when it is the run's turn"
        );
    }

    #[test]
    fn who_has_nothing_to_do_waits_while_those_behind_it_are_served() {
        let mut state = runs(&["bad"]);
        let LeaseKey { run, unit, fence } = serve_one(&mut state, "poor", NOW).unwrap();
        let failed = Event::Failed {
            unit,
            worker: WorkerId("poor".into()),
            fence,
            reason: "no model folder".into(),
            fatal: false,
            unusable: vec![],
        };
        state.report(&run, failed, None, NOW).unwrap();
        let _answers = [ask(&mut state, "poor"), ask(&mut state, "rich")];
        let served = |served: Vec<(String, LeaseKey)>| served.into_iter().map(|(worker, _)| worker).collect::<Vec<_>>();
        assert_eq!(served(serve(&mut state, NOW)), ["rich"]);
        assert_eq!(served(serve(&mut state, NOW.plus(1_000))), ["poor"]);
    }

    #[test]
    fn a_unit_that_no_message_can_hold_ends_its_run_and_no_other() {
        let mut state = State::default();
        add_run(&mut state, "huge", |_, assets| {
            assets.prompts = vec!["x".repeat(ASSIGNMENT_BYTES_MAX + 1).into()];
        });
        add_run(&mut state, "good", |_, _| {});
        for name in ["huge", "good"] {
            let first = grant(&mut state, &id(name));
            complete(&mut state, first);
        }
        let _answer = ask(&mut state, "sampler");
        assert!(serve(&mut state, NOW).is_empty());
        let Phase::Failed { reason } = state.run(&id("huge")).unwrap().phase() else {
            panic!("nobody can be told what to do")
        };
        assert!(
            reason.contains("sample") && reason.contains("sampling.batch"),
            "{reason}"
        );
        let served = serve(&mut state, NOW);
        assert_eq!(served[0].1.run, id("good"));
    }

    #[test]
    fn a_unit_that_ends_its_workers_ends_its_run_and_no_other() {
        let mut state = State::default();
        add_run(&mut state, "poison", |spec, _| spec.limits.lost_leases = 3);
        add_run(&mut state, "good", |_, _| {});
        let mut lost = Vec::new();
        let mut now = NOW;
        while !state.run(&id("poison")).unwrap().phase().is_ended() {
            let LeaseKey { unit, fence, .. } = grant(&mut state, &id("poison"));
            lost.push(unit);
            assert!(fence.0 <= 3, "the run should have ended");
            now = now.plus(3_600_000);
            state.expire(now);
        }
        let Phase::Failed { reason } = state.run(&id("poison")).unwrap().phase() else {
            panic!("its workers died")
        };
        assert!(lost.len() == 3 && reason.contains(&lost[0].to_string()), "{reason}");
        assert!(!state.run(&id("good")).unwrap().phase().is_ended());
    }
}
