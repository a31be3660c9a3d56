//! A coordinator's state without a driver, for the tests of this folder.

use gavel_core::forecast::rehearsal;
use gavel_core::ids::{Digest, Millis, RunId, WorkerId};
use gavel_core::run::{Event, Run};
use gavel_core::spec::RunSpec;
use gavel_core::work::{LeaseKey, Role, Unit};
use gavel_core::{RubricText, RunAssets};

use super::State;
use crate::ledger::Position;
use crate::snapshots::Kept;

pub(super) const NOW: Millis = Millis(1);

pub(super) const ROLES: [Role; 3] = [Role::Sampler, Role::Judge, Role::Trainer];

pub(super) fn id(name: &str) -> RunId {
    RunId(name.into())
}

/// A run of small steps, changed by `change`.
pub(super) fn small(name: &str, change: impl FnOnce(&mut RunSpec, &mut RunAssets)) -> (RunSpec, RunAssets) {
    let mut spec = RunSpec::default();
    spec.run.name = name.into();
    spec.run.steps = 2;
    spec.prompts.per_step = 1;
    spec.checkpoints.every = 0;
    spec.coordinator.keep_steps = 0;
    let mut assets = RunAssets {
        prompts: vec!["a cat".into()],
        rubric: RubricText::new("the first"),
        ..RunAssets::default()
    };
    change(&mut spec, &mut assets);
    (spec, assets)
}

/// Adds a run of small steps, changed by `change`.
pub(super) fn add_run(state: &mut State, name: &str, change: impl FnOnce(&mut RunSpec, &mut RunAssets)) {
    let (spec, assets) = small(name, change);
    let position = Position {
        events: 0,
        chain: Digest::of(name.as_bytes()),
    };
    let run = Run::new(spec.id(), spec, assets).created(NOW).lean();
    state.insert(run, NOW, position, NOW, Kept::default());
}

/// Hands in what the holder of a lease was asked for.
pub(super) fn complete(state: &mut State, lease: LeaseKey) {
    let run = lease.run.clone();
    let completed = completed(state, lease);
    state.report(&run, completed, None, NOW).unwrap();
}

/// The event of what the holder of a lease was asked for.
pub(super) fn completed(state: &State, LeaseKey { run, unit, fence }: LeaseKey) -> Event {
    let leased = state.run(&run).unwrap();
    let worker = leased.lease(&unit).unwrap().worker.clone();
    let assignment = leased.assignment(&unit).unwrap();
    let outcome = rehearsal::work(leased.spec(), leased.assets().general_rubric(&unit), &assignment);
    Event::Completed {
        unit,
        worker,
        fence,
        outcome: rehearsal::decided(outcome),
    }
}

/// Grants the next unit of a run, of whichever role.
pub(super) fn grant(state: &mut State, run: &RunId) -> LeaseKey {
    let ready = state.run(run).unwrap();
    let unit: Unit = ROLES.into_iter().find_map(|role| ready.next_unit(role)).unwrap();
    let fence = ready.next_fence();
    let worker = WorkerId("anybody".into());
    state.apply(run, Event::Granted { unit, worker, fence }, NOW).unwrap();
    let run = run.clone();
    LeaseKey { run, unit, fence }
}
