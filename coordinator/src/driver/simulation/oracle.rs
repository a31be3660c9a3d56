//! What must hold whatever happens, checked from the ledger alone.
//!
//! For each run there is a *shadow*: the run as the ledger tells it, event by event, as soon as the ledger holds them. After
//! every round the driver's run must equal its shadow, so an event that was refused and yet changed something, or an
//! event that was applied and not written, shows at once.

use std::collections::BTreeMap;

use gavel_core::RunAssets;
use gavel_core::forecast::rehearsal;
use gavel_core::ids::{Millis, RunId, WorkerId};
use gavel_core::run::{Commit, Commits, Event, Phase, Refusal, Run, StepResult};
use gavel_core::spec::RunSpec;
use gavel_core::work::{Arm, LeaseKey, PictureAnswer, Role};
use tonic::Code;

use super::blobs::Blobs;
use super::invariants::{Invariants, Moment, judged_by_failure};
use super::ledger::Pages;
use super::process::Answered;
use super::protocol::{Request, Response};
use crate::ledger::{EventRecord, RunRecord, SnapshotRecord};
use crate::replay::{Replay, ReplayError, replay};
use crate::snapshots;
use crate::state::State;

/// The observer of one schedule.
#[derive(Default)]
pub(super) struct Oracle {
    pub(super) watched: BTreeMap<RunId, Watched>,
    /// When the coordinator, in its present life, last heard of each worker; the true time.
    seen: BTreeMap<WorkerId, u64>,
    worker_timeout: u64,
    /// Events of the ledger that are known.
    read: usize,
    /// Those of them that a run could take only with what it had let go.
    pub(super) looked_back: u64,
}

/// A run under observation.
pub(super) struct Watched {
    /// As lean as the driver's.
    pub(super) shadow: Run,
    /// What the shadow has let go.
    commits: Commits,
    /// The same with its whole history.
    whole: Run,
    /// As it was submitted, before somebody changed how many steps it has.
    submitted: RunSpec,
    pub(super) invariants: Invariants,
}

impl Oracle {
    pub(super) fn new(worker_timeout: u64) -> Self {
        Self {
            worker_timeout,
            ..Self::default()
        }
    }

    fn has_other_steps(&self, run: usize) -> bool {
        let watched = self.watched.get(&RunId(format!("run-{run}")));
        watched.is_some_and(|watched| watched.submitted.differs_in_steps_alone(watched.shadow.spec()))
    }

    /// Reads what the ledger holds since the last look, which was written at the true time `now`. Returns the new events.
    pub(super) fn read(&mut self, pages: &Pages, blobs: &Blobs, now: u64) -> Result<Vec<(RunId, Event)>, String> {
        for record in &pages.runs {
            if !self.watched.contains_key(&record.run) {
                let begun = replay(record, &[]).map_err(|error| format!("{}: {error:?}", record.run))?;
                let watched = Watched {
                    submitted: begun.spec().clone(),
                    shadow: begun.clone().lean(),
                    commits: Commits::default(),
                    whole: begun,
                    invariants: Invariants::default(),
                };
                self.watched.insert(record.run.clone(), watched);
            }
        }
        let mut news = Vec::new();
        for record in &pages.events[self.read..] {
            let event: Event = serde_json::from_str(&record.event)
                .map_err(|error| format!("the ledger holds what cannot be read back: {error}: {}", record.event))?;
            let watched = self
                .watched
                .get_mut(&record.run)
                .ok_or_else(|| format!("an event of run {} and no such run", record.run))?;
            let silent = match &event {
                Event::Expired { unit, .. } => watched.shadow.lease(unit).is_some_and(|lease| {
                    let seen = self.seen.get(&lease.worker);
                    seen.is_some_and(|seen| seen + self.worker_timeout < now)
                }),
                _ => false,
            };
            if let Event::Failed { unit, unusable, .. } = &event
                && blobs.deleted_in_use(unusable)
            {
                return Err(format!("the coordinator deleted a blob that {unit} needs"));
            }
            self.looked_back += u64::from(watched.shadow.needs_past(&event));
            watched.take(&event, record.at, now, silent, blobs)?;
            news.push((record.run.clone(), event));
        }
        self.read = pages.events.len();
        Ok(news)
    }

    /// A new life of the coordinator: no worker is known.
    pub(super) fn restarted(&mut self) {
        self.seen.clear();
    }

    /// The driver's runs are those of the ledger.
    pub(super) fn compare(&self, state: &State) -> Result<(), String> {
        for (run, _) in state.runs() {
            match self.watched.get(run.id()) {
                None => return Err(format!("the driver has run {}, the ledger has not", run.id())),
                Some(watched) if watched.shadow != *run => {
                    return Err(format!("the driver's run {} is not the ledger's", run.id()));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// A message is a sign of life as soon as it is taken.
    pub(super) fn hear(&mut self, worker: WorkerId, registers: bool, now: u64) {
        if registers || self.seen.contains_key(&worker) {
            self.seen.insert(worker, now);
        }
    }

    /// Heartbeats renew leases when the driver takes them, before the round's events are written; `at` by the driver's time, and
    /// at the true time `now`.
    pub(super) fn keep_alive(
        &mut self,
        request: &Request,
        answer: &Response,
        at: Millis,
        now: u64,
    ) -> Result<(), String> {
        let (Request::Heartbeat { worker, held }, Response::Beaten { lost, .. }) = (request, answer) else {
            return Ok(());
        };
        for key in held.iter().filter(|key| !lost.contains(key)) {
            let Some(watched) = self.watched.get_mut(&key.run) else {
                return Err(format!(
                    "a heartbeat kept a lease of run {}, which does not exist",
                    key.run
                ));
            };
            watched.shadow.keep_alive(worker, &[(key.unit, key.fence)], at);
            watched.invariants.keep_alive(key, worker, now + watched.lease())?;
        }
        Ok(())
    }

    /// Leases that nobody has renewed in time end, whatever the wall clock says: `now` is the true time.
    pub(super) fn check_expired(&self, now: u64) -> Result<(), String> {
        let mut overdue = self
            .watched
            .values()
            .filter_map(|watched| watched.invariants.overdue(now));
        overdue.next().map_or(Ok(()), |unit| {
            Err(format!(
                "the lease on {unit} is open although nobody has renewed it in time"
            ))
        })
    }

    /// No time is counted in which the coordinator was not up: `up` is how long it was.
    pub(super) fn check_seconds(&self, up: u64) -> Result<(), String> {
        for (run, watched) in &self.watched {
            let steps = watched.whole.results().steps.iter();
            let seconds: f64 = steps.map(|step| step.record.seconds.wall).sum();
            if seconds * 1_000.0 > up as f64 + 1.0 {
                return Err(format!(
                    "the steps of {run} took {seconds} s, and the coordinator was up for {up} ms"
                ));
            }
        }
        Ok(())
    }

    /// An answer says nothing that the ledger does not hold.
    pub(super) fn check_answer(&self, answered: &Answered) -> Result<(), String> {
        let open = |key: &LeaseKey| {
            let watched = self.watched.get(&key.run)?;
            let (fence, holder) = watched.invariants.open(&key.unit)?;
            (fence == key.fence).then_some(holder)
        };
        let invariants_of = |run: &RunId| {
            let watched = self.watched.get(run).map(|watched| &watched.invariants);
            watched.ok_or_else(|| format!("an answer about run {run}, which the ledger does not hold"))
        };
        let refusal = answered.refusal.as_ref();
        match (&answered.call.request, &answered.response) {
            (Request::Lease { worker }, Response::Leased(grant)) => {
                if !invariants_of(&grant.run)?.was_granted(&grant.unit, grant.fence, worker) {
                    return Err(format!(
                        "{worker} was given {} with fence {}, and the ledger does not know",
                        grant.unit, grant.fence
                    ));
                }
            }
            (Request::Complete { key, .. }, Response::Done) => {
                if !invariants_of(&key.run)?.was_completed(key.fence) {
                    return Err(format!("{} was acknowledged, and the ledger does not know", key.unit));
                }
            }
            (
                Request::Complete {
                    worker, key, honest, ..
                },
                Response::Failed(code),
            ) => {
                // A round that the coordinator does not survive decides nothing.
                if *honest && !super::protocol::passes(*code) && open(key) == Some(worker) {
                    return Err(format!(
                        "an honest result was refused while its lease is open: {refusal:?}"
                    ));
                }
                if *honest
                    && matches!(
                        refusal,
                        Some(Refusal::InvalidOutcome { .. } | Refusal::WrongOutcome { .. })
                    )
                {
                    return Err(format!("an honest result was called invalid: {refusal:?}"));
                }
            }
            (Request::Fail { key, .. }, Response::Done) => {
                if !invariants_of(&key.run)?.has_ended(key.fence) {
                    return Err(format!(
                        "a failure of {} was acknowledged, and the ledger does not know",
                        key.unit
                    ));
                }
            }
            (Request::Release { worker, keys, .. }, Response::Done) => {
                if let Some(key) = keys.iter().find(|key| open(key) == Some(worker)) {
                    return Err(format!("{} was given back and is still leased", key.unit));
                }
            }
            (Request::Deregister { worker }, Response::Done) => {
                for watched in self.watched.values() {
                    if let Some(unit) = watched.invariants.held_by(worker) {
                        return Err(format!("{worker} has left and still holds {unit}"));
                    }
                }
            }
            (Request::Heartbeat { worker, .. }, Response::Beaten { lost, .. }) => {
                if let Some(key) = lost.iter().find(|key| open(key) == Some(worker)) {
                    return Err(format!("{worker} was told that it lost {}, which it holds", key.unit));
                }
            }
            // The first submission, once more, after somebody has given the run other steps.
            (Request::Submit(run), Response::Failed(Code::AlreadyExists)) if self.has_other_steps(*run) => {}
            (Request::Submit(_), Response::Failed(code)) if !super::protocol::passes(*code) => {
                return Err(format!("a submission was refused for good: {code:?}"));
            }
            _ => {}
        }
        Ok(())
    }

    /// The end of a schedule: every run is what it would have been without any disturbance.
    pub(super) fn check_end(&self, state: &State, pages: &Pages, now: Millis) -> Result<u32, String> {
        let mut equal = 0;
        for record in &pages.runs {
            let watched = &self.watched[&record.run];
            let events: Vec<_> = pages
                .events
                .iter()
                .filter(|event| event.run == record.run)
                .cloned()
                .collect();
            let whole = &watched.whole;
            check_steps(whole, pages)?;
            let mut replayed = replay_to_the_end(record, &events, pages.snapshots.get(&record.run))?;
            let mut live = state
                .run(&record.run)
                .map_err(|_| format!("{} is gone", record.run))?
                .clone();
            // After it both have the same deadlines; a run that has ended has none.
            for run in [&mut replayed, &mut live] {
                let _ = run.apply(Event::Recovered { away_ms: 0 }, now);
            }
            if replayed != live {
                return Err("a replay of the whole ledger gives another run".into());
            }
            watched.invariants.check_end(whole)?;
            if !judged_by_failure(whole) {
                let undisturbed = undisturbed(whole.spec(), whole.assets())?;
                if !given_up(whole, &undisturbed) {
                    same_results(whole, &undisturbed)?;
                    equal += 1;
                }
            }
        }
        Ok(equal)
    }
}

impl Watched {
    fn lease(&self) -> u64 {
        self.shadow.spec().fleet.lease.as_millis() as u64
    }

    /// An event that was written with the driver's time `at`, at the true time `now`.
    fn take(&mut self, event: &Event, at: Millis, now: u64, silent: bool, blobs: &Blobs) -> Result<(), String> {
        let moment = Moment {
            at,
            now,
            lease: self.lease(),
        };
        self.invariants.before(event, moment, silent, &self.shadow)?;
        self.commits
            .apply(&mut self.shadow, event.clone(), at)
            .map_err(|refusal| format!("the ledger holds an event that does not apply: {refusal}"))?;
        self.whole
            .apply(event.clone(), at)
            .map_err(|refusal| format!("a lean run takes an event that another does not: {refusal}"))?;
        self.invariants.after(event, &self.shadow, blobs)
    }
}

/// What the ledger keeps of the run's steps is what they came to.
fn check_steps(whole: &Run, pages: &Pages) -> Result<(), String> {
    let steps = &whole.results().steps;
    for (index, step) in steps.iter().enumerate() {
        let key = (whole.id().clone(), step.record.step);
        let (details, commit) = (pages.details.get(&key), pages.commits.get(&key));
        // Writing them failed, and will be tried again with those of the next step.
        if index + 1 == steps.len() && details.is_none() && commit.is_none() {
            continue;
        }
        let expected = whole.commit_of(step.record.step);
        let details_fit = details
            .and_then(|details| serde_json::from_str::<StepResult>(&details.result).ok())
            .is_some_and(|details| details == *step);
        // One that was damaged is not used, and replaced when somebody needs it.
        let commit_fits = commit.is_some_and(|commit| {
            commit.check().is_err() || serde_json::from_str::<Commit>(&commit.commit).ok() == expected
        });
        if !details_fit || !commit_fits {
            return Err(format!(
                "of step {} the ledger keeps {details:?} and {commit:?}, and it is {step:?} and {expected:?}",
                step.record.step
            ));
        }
    }
    Ok(())
}

/// Replays a run as a coordinator without a snapshot does, and holds the snapshot that the ledger keeps against it on the way.
fn replay_to_the_end(record: &RunRecord, events: &[EventRecord], kept: Option<&SnapshotRecord>) -> Result<Run, String> {
    // One that was damaged is not used, and replaced when the next is due.
    let kept = kept.filter(|kept| kept.check().is_ok());
    let broken = |error: ReplayError| format!("the ledger cannot be replayed: {error:?}");
    let mut replay = Replay::begin(record).map_err(broken)?.lean();
    for event in events {
        replay.take(event).map_err(broken)?;
        let Some(kept) = kept.filter(|kept| kept.position == replay.position()) else {
            continue;
        };
        let replayed = snapshots::of(replay.run(), replay.position(), replay.at());
        match replayed.map_err(|error| error.to_string())? {
            Some(replayed) if replayed == *kept => {}
            replayed => return Err(format!("the ledger keeps {kept:?}, and a replay gives {replayed:?}")),
        }
    }
    Ok(replay.into_run())
}

/// The run without any disturbance: one worker, one unit at a time.
fn undisturbed(spec: &RunSpec, assets: &RunAssets) -> Result<Run, String> {
    let mut run = Run::new(RunId("undisturbed".into()), spec.clone(), assets.clone());
    let worker = WorkerId("w".into());
    loop {
        let next = [Role::Trainer, Role::Judge, Role::Sampler]
            .into_iter()
            .find_map(|role| run.next_unit(role));
        let Some(unit) = next else { break };
        let fence = run.next_fence();
        let granted = Event::Granted {
            unit,
            worker: worker.clone(),
            fence,
        };
        run.apply(granted, Millis(0)).map_err(|refusal| refusal.to_string())?;
        let assignment = run.assignment(&unit).ok_or("no assignment")?;
        let outcome =
            rehearsal::second_opinion(&unit, rehearsal::work(spec, assets.general_rubric(&unit), &assignment));
        let completed = Event::Completed {
            unit,
            worker: worker.clone(),
            fence,
            outcome: rehearsal::left_out(&spec.judge, &unit, outcome),
        };
        run.apply(completed, Millis(0)).map_err(|refusal| refusal.to_string())?;
    }
    match run.phase() {
        Phase::Finished => Ok(run),
        phase => Err(format!("the undisturbed run ends as {phase:?}")),
    }
}

/// Whether a rubric was not written, or questions were not answered, because their attempts were used up: the general rubric decides then, and
/// the verdicts and the answers say so.
fn given_up(run: &Run, undisturbed: &Run) -> bool {
    let written: BTreeMap<_, _> = undisturbed.written_rubrics().collect();
    let mut rubrics = run.written_rubrics();
    let is_unwritten =
        rubrics.any(|(place, rubric)| rubric.is_none() && written.get(&place).is_some_and(Option::is_some));
    let is_unanswered = [Arm::Base, Arm::Tuned].into_iter().any(|arm| {
        let expected = undisturbed.results().answers(arm);
        let mut answers = run.results().answers(arm).iter().zip(expected);
        answers.any(|(found, expected)| {
            let answers = found.iter().flatten();
            found != expected && answers.clone().count() > 0 && !answers.clone().any(PictureAnswer::is_answered)
        })
    });
    is_unwritten || is_unanswered
}

fn same_results(found: &Run, expected: &Run) -> Result<(), String> {
    let (found, expected) = (found.results(), expected.results());
    let same = |what: &str, same: bool| match same {
        true => Ok(()),
        false => Err(format!("the {what} differ from the undisturbed run's")),
    };
    same("policies", found.policies == expected.policies)?;
    same("base pictures", found.base_images == expected.base_images)?;
    same("tuned pictures", found.tuned_images == expected.tuned_images)?;
    same("comparisons", found.comparisons == expected.comparisons)?;
    same(
        "answers about base pictures",
        found.base_answers == expected.base_answers,
    )?;
    same(
        "answers about tuned pictures",
        found.tuned_answers == expected.tuned_answers,
    )?;
    same("probes", found.probes == expected.probes)?;
    same("judge's measurements", found.calibration == expected.calibration)?;
    same("numbers of steps", found.steps.len() == expected.steps.len())?;
    for (found, expected) in found.steps.iter().zip(&expected.steps) {
        same("verdicts", found.groups == expected.groups)?;
        same("gradients", found.shards == expected.shards)?;
        let mut record = found.record.clone();
        record.seconds = expected.record.seconds;
        same("steps' figures", record == expected.record)?;
    }
    Ok(())
}
