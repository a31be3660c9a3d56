//! How long steps take on a fleet that does not exist yet, and what each role does meanwhile.
//!
//! The run's own state machine works through some steps in virtual time, with workers that take a given time for each unit.
//! Beside it stands the bound that no schedule can beat.

pub mod rehearsal;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use serde::Serialize;

use crate::assets::RunAssets;
use crate::hint::Hint;
use crate::ids::{Fence, Millis, RunId, Step, WorkerId};
use crate::rpo;
use crate::run::{Event, Refusal, Run};
use crate::schedule;
use crate::spec::{OrdersRule, RunSpec};
use crate::work::{Assignment, Role, Task, Unit, rules};

/// What the work costs one worker, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StageSeconds {
    /// All candidates of one prompt.
    pub sample: f64,
    /// One prompt's pairs, each in both image orders.
    pub judge: f64,
    /// The gradient of one prompt's candidates.
    pub gradient: f64,
    /// One optimizer step.
    pub commit: f64,
}

/// How many workers of each role there are; at least one of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Workers {
    /// Samplers.
    pub samplers: u32,
    /// Judges.
    pub judges: u32,
    /// Trainers.
    pub trainers: u32,
}

impl Workers {
    /// The workers of one role.
    pub fn of(&self, role: Role) -> u32 {
        match role {
            Role::Sampler => self.samplers,
            Role::Judge => self.judges,
            Role::Trainer => self.trainers,
        }
    }

    /// The same fleet with one more of `role`.
    #[must_use]
    pub fn with_one_more(mut self, role: Role) -> Self {
        match role {
            Role::Sampler => self.samplers += 1,
            Role::Judge => self.judges += 1,
            Role::Trainer => self.trainers += 1,
        }
        self
    }
}

/// When a unit may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Discipline {
    /// When all of the step is sampled, all of it is judged, then all of it is trained on: one policy per step.
    PhaseByPhase,
    /// As soon as its inputs exist, as Gavel does it.
    Streamed,
}

/// What a schedule comes to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Forecast {
    /// Seconds from the first sample to the last commit.
    pub seconds: f64,
    /// The mean over the steps.
    pub step_seconds: f64,
    /// Share of their time in which samplers work.
    pub samplers_busy: f64,
    /// Share of their time in which judges work.
    pub judges_busy: f64,
    /// Share of their time in which trainers work.
    pub trainers_busy: f64,
}

/// What no schedule can beat, in seconds for all steps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bound {
    /// All sampling, spread evenly.
    pub samplers: f64,
    /// All judging, spread evenly.
    pub judges: f64,
    /// All gradients and optimizer steps, spread evenly.
    pub trainers: f64,
    /// The longest chain of units that wait for each other, however many workers there are.
    pub critical_path: f64,
}

impl Bound {
    /// The largest of its parts.
    pub fn seconds(&self) -> f64 {
        self.samplers
            .max(self.judges)
            .max(self.trainers)
            .max(self.critical_path)
    }
}

/// Why there is no forecast.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CapacityError {
    /// Without this role the run stands still.
    #[error("a fleet without a {0} never finishes a step")]
    NobodyThere(Role),
    /// A stage's time is no time.
    #[error("the seconds of `{stage}` must be a number of 0 or more, at most 1000000")]
    NoDuration {
        /// Which stage.
        stage: &'static str,
    },
    /// The state machine refused its own next unit: a defect.
    #[error("the run refuses its own work")]
    Refused(#[from] Refusal),
}

impl Hint for CapacityError {
    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::NobodyThere(_) => "count the workers with --samplers, --judges and --trainers",
            Self::NoDuration { .. } => {
                "measure the stages with `gavel bench`, or take the seconds in a finished run's report.json"
            }
            Self::Refused(_) => return None,
        };
        Some(text.into())
    }
}

/// Virtual time, in microseconds, so that short stages are not rounded away.
type Micros = u64;

/// Lets a fleet work through the spec's steps. Every pair counts as decided, so that no gradient is left out; evaluation is.
///
/// # Errors
/// [`CapacityError`]: a role is missing, or a stage's time is no time.
pub fn forecast(
    spec: &RunSpec,
    workers: Workers,
    seconds: StageSeconds,
    discipline: Discipline,
) -> Result<Forecast, CapacityError> {
    check(workers, seconds)?;
    let mut spec = spec.clone();
    spec.evaluation = None;
    // A rubric is written once, and a run samples its prompts again and again.
    spec.judge.writer = None;
    // A judge has to earn trust first, and how alike pictures become nobody knows.
    spec.judge.orders = OrdersRule::Both;
    spec.judge.min_distance = None;
    let assets = RunAssets {
        prompts: vec![Task::default()],
        ..RunAssets::default()
    };
    let mut run = Run::new(RunId("forecast".into()), spec, assets);
    let mut idle = BTreeMap::from(ROLES.map(|role| (role, workers.of(role))));
    let mut busy = BTreeMap::from(ROLES.map(|role| (role, 0)));
    let mut at_work: BinaryHeap<Reverse<(Micros, Fence, Unit)>> = BinaryHeap::new();
    let mut now = 0;
    loop {
        for role in ROLES {
            while idle[&role] > 0
                && let Some(unit) = run.next_unit(role)
                && (discipline == Discipline::Streamed || is_its_turn(&run, &unit))
            {
                let fence = run.next_fence();
                let worker = worker();
                run.apply(Event::Granted { unit, worker, fence }, millis(now))?;
                let takes = micros(cost(&run, &unit, &seconds));
                at_work.push(Reverse((now + takes, fence, unit)));
                idle.entry(role).and_modify(|idle| *idle -= 1);
                busy.entry(role).and_modify(|busy| *busy += takes);
            }
        }
        let Some(Reverse((done, fence, unit))) = at_work.pop() else {
            break;
        };
        now = done;
        idle.entry(unit.role()).and_modify(|idle| *idle += 1);
        let Some(assignment) = run.assignment(&unit) else {
            break;
        };
        let outcome = rehearsal::decided(rehearsal::work(
            run.spec(),
            run.assets().general_rubric(&unit),
            &assignment,
        ));
        let worker = worker();
        run.apply(
            Event::Completed {
                unit,
                worker,
                fence,
                outcome,
            },
            millis(now),
        )?;
    }
    let whole = now as f64 / 1e6;
    let share = |role: Role| {
        let there = now as f64 * f64::from(workers.of(role));
        if there > 0.0 { busy[&role] as f64 / there } else { 0.0 }
    };
    Ok(Forecast {
        seconds: whole,
        step_seconds: whole / f64::from(run.spec().run.steps.max(1)),
        samplers_busy: share(Role::Sampler),
        judges_busy: share(Role::Judge),
        trainers_busy: share(Role::Trainer),
    })
}

/// What no schedule of the spec's steps can beat.
///
/// # Errors
/// As [`forecast`].
pub fn bound(spec: &RunSpec, workers: Workers, seconds: StageSeconds) -> Result<Bound, CapacityError> {
    check(workers, seconds)?;
    let steps = f64::from(spec.run.steps);
    let per_step = spec.prompts.per_step;
    let pairs = steps * f64::from(per_step);
    let held_out = spec.judge.held_out.as_ref();
    let watched = steps * held_out.map_or(0.0, |held_out| f64::from(held_out.prompts(per_step)));
    let spread = |work: f64, role: Role| work / f64::from(workers.of(role));
    Ok(Bound {
        samplers: spread(pairs * seconds.sample, Role::Sampler),
        judges: spread((pairs + watched) * seconds.judge, Role::Judge),
        trainers: spread(pairs * seconds.gradient + steps * seconds.commit, Role::Trainer),
        critical_path: critical_path(spec, &seconds),
    })
}

const ROLES: [Role; 3] = [Role::Trainer, Role::Judge, Role::Sampler];

fn check(workers: Workers, seconds: StageSeconds) -> Result<(), CapacityError> {
    if let Some(role) = ROLES.into_iter().find(|role| workers.of(*role) == 0) {
        return Err(CapacityError::NobodyThere(role));
    }
    for (stage, seconds) in [
        ("sample", seconds.sample),
        ("judge", seconds.judge),
        ("gradient", seconds.gradient),
        ("commit", seconds.commit),
    ] {
        // NaN fails too.
        if !(0.0..=1e6).contains(&seconds) {
            return Err(CapacityError::NoDuration { stage });
        }
    }
    Ok(())
}

/// Whether everything that belongs to earlier phases is done.
fn is_its_turn(run: &Run, unit: &Unit) -> bool {
    let earlier: &[Role] = match unit.role() {
        Role::Sampler => &[],
        Role::Judge => &[Role::Sampler],
        Role::Trainer => &[Role::Sampler, Role::Judge],
    };
    let leased = |role: Role| run.leases().any(|(unit, _)| unit.role() == role);
    !earlier
        .iter()
        .any(|role| run.next_unit(*role).is_some() || leased(*role))
}

/// Seconds that one worker takes for a unit. The initial policy counts as being there.
fn cost(run: &Run, unit: &Unit, seconds: &StageSeconds) -> f64 {
    let spec = run.spec();
    let matches = rpo::match_count(spec.sampling.candidates.into()) as f64;
    let pairs = |chunk, size| f64::from(schedule::extent(chunk, size, spec.prompts.per_step).len() as u32);
    match *unit {
        Unit::Sample { chunk, .. } => pairs(chunk, spec.sampling.batch) * seconds.sample,
        Unit::Judge { chunk, .. } => pairs(chunk, spec.judge.batch) * seconds.judge,
        // It is taken to be as fast as the judge.
        Unit::HeldOutJudge { .. } => match run.assignment(unit) {
            Some(Assignment::Judge { pairs }) => pairs.len() as f64 / matches * seconds.judge,
            _ => 0.0,
        },
        Unit::Gradient { shard, .. } => pairs(shard, spec.trainer.shard) * seconds.gradient,
        Unit::Commit { .. } => seconds.commit,
        Unit::Initialise
        | Unit::WriteRubric { .. }
        | Unit::EvaluateSample { .. }
        | Unit::EvaluateJudge { .. }
        | Unit::CalibrateJudge { .. }
        | Unit::AnswerQuestions { .. } => 0.0,
    }
}

/// When the last commit ends if nobody ever waits for a worker: a step is sampled with the policy that it may use, and
/// trained on the one before it.
fn critical_path(spec: &RunSpec, seconds: &StageSeconds) -> f64 {
    let per_step = spec.prompts.per_step;
    let unit = |index: u32, size: u32| {
        let size = size.max(1);
        f64::from(schedule::extent(index / size, size, per_step).len() as u32)
    };
    // (until it is judged, its gradient), for the pairs of one step.
    let chains: Vec<(f64, f64)> = (0..per_step)
        .map(|index| {
            let judged =
                unit(index, spec.sampling.batch) * seconds.sample + unit(index, spec.judge.batch) * seconds.judge;
            (judged, unit(index, spec.trainer.shard) * seconds.gradient)
        })
        .collect();
    let mut commits = vec![0.0_f64];
    for step in (1..=spec.run.steps).map(Step) {
        let sampled_with = commits[rules::sampling_version(spec, step) as usize];
        let trains = commits[rules::trained_version(step) as usize];
        let trained = chains
            .iter()
            .map(|(judged, gradient)| (sampled_with + judged).max(trains) + gradient)
            .fold(0.0, f64::max);
        commits.push(trained + seconds.commit);
    }
    commits.last().copied().unwrap_or(0.0)
}

fn worker() -> WorkerId {
    WorkerId("forecast".into())
}

fn micros(seconds: f64) -> Micros {
    (seconds * 1e6).round() as Micros
}

fn millis(now: Micros) -> Millis {
    Millis(now / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(steps: u32, per_step: u32) -> RunSpec {
        let mut spec = RunSpec::default();
        spec.run.steps = steps;
        spec.prompts.per_step = per_step;
        spec
    }

    const ONE_OF_EACH: Workers = Workers {
        samplers: 1,
        judges: 1,
        trainers: 1,
    };
    const SECONDS: StageSeconds = StageSeconds {
        sample: 4.0,
        judge: 2.0,
        gradient: 3.0,
        commit: 1.0,
    };

    #[test]
    fn one_worker_of_each_takes_what_can_be_counted_by_hand() {
        // Phase by phase: 3 * 4, then 3 * 2, then 3 * 3, then 1. Streamed: the last sample ends at 12, its judge at 14, its
        // gradient at 17.
        let phases = forecast(&spec(2, 3), ONE_OF_EACH, SECONDS, Discipline::PhaseByPhase).unwrap();
        assert_eq!((phases.seconds, phases.step_seconds), (56.0, 28.0));
        assert!((phases.samplers_busy - 24.0 / 56.0).abs() < 1e-9);
        let streamed = forecast(&spec(2, 3), ONE_OF_EACH, SECONDS, Discipline::Streamed).unwrap();
        assert_eq!(streamed.seconds, 36.0);
        assert!((streamed.trainers_busy - 20.0 / 36.0).abs() < 1e-9);
        let bound = bound(&spec(2, 3), ONE_OF_EACH, SECONDS).unwrap();
        assert_eq!((bound.samplers, bound.judges, bound.trainers), (24.0, 12.0, 20.0));
        assert_eq!(bound.critical_path, 20.0);
    }

    #[test]
    fn with_a_lag_the_sampler_does_not_wait_for_the_commit() {
        let mut spec = spec(2, 3);
        spec.sampling.max_policy_lag = 1;
        // Samples end at 4, 8, ... 24 without a pause. Step 1 is committed at 18 as before; step 2's verdicts come at 18, 22 and
        // 26, its last gradient at 29.
        let ahead = forecast(&spec, ONE_OF_EACH, SECONDS, Discipline::Streamed).unwrap();
        assert_eq!(ahead.seconds, 30.0);
        assert!((ahead.samplers_busy - 24.0 / 30.0).abs() < 1e-9);
        assert!(bound(&spec, ONE_OF_EACH, SECONDS).unwrap().seconds() <= 30.0);
        // A third step shows the difference that a lag of 2 makes: none, the sampler never waits already.
        spec.run.steps = 3;
        let one = forecast(&spec, ONE_OF_EACH, SECONDS, Discipline::Streamed).unwrap();
        spec.sampling.max_policy_lag = 2;
        let two = forecast(&spec, ONE_OF_EACH, SECONDS, Discipline::Streamed).unwrap();
        assert!(two.seconds <= one.seconds, "{two:?} {one:?}");
    }

    #[test]
    fn no_schedule_beats_the_bound_and_streaming_never_loses() {
        for (samplers, judges, trainers) in [(1, 1, 1), (4, 1, 2), (8, 3, 8), (2, 9, 1)] {
            for (batch, shard) in [(1, 1), (2, 3), (5, 4)] {
                let workers = Workers {
                    samplers,
                    judges,
                    trainers,
                };
                let mut spec = spec(4, 10);
                spec.sampling.batch = batch;
                spec.sampling.max_policy_lag = samplers % 3;
                spec.judge.batch = batch + 1;
                spec.trainer.shard = shard;
                let bound = bound(&spec, workers, SECONDS).unwrap().seconds();
                let phases = forecast(&spec, workers, SECONDS, Discipline::PhaseByPhase).unwrap();
                let streamed = forecast(&spec, workers, SECONDS, Discipline::Streamed).unwrap();
                assert!(
                    streamed.seconds >= bound - 1e-3,
                    "{workers:?} {batch} {shard}: {streamed:?} {bound}"
                );
                assert!(
                    streamed.seconds <= phases.seconds,
                    "{workers:?} {batch} {shard}: {streamed:?} {phases:?}"
                );
            }
        }
    }

    #[test]
    fn a_fleet_without_a_role_and_a_time_that_is_none_are_refused() {
        let nobody = Workers {
            judges: 0,
            ..ONE_OF_EACH
        };
        assert_eq!(
            forecast(&spec(1, 1), nobody, SECONDS, Discipline::Streamed),
            Err(CapacityError::NobodyThere(Role::Judge))
        );
        let never = StageSeconds {
            judge: f64::NAN,
            ..SECONDS
        };
        assert_eq!(
            bound(&spec(1, 1), ONE_OF_EACH, never),
            Err(CapacityError::NoDuration { stage: "judge" })
        );
    }
}
