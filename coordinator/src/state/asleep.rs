//! Ended runs at which nobody looks. What lists and the other runs need of them stays in memory; the rest is in the ledger until
//! somebody names the run.

use gavel_core::ids::{Digest, Millis, RunId};
use gavel_core::run::{Run, RunStatus};
use tokio::sync::watch;

use super::{RunState, State};
use crate::ledger::Position;
use crate::metrics;
use crate::snapshots::Kept;

/// How long a run stays awake after it has ended or somebody has named it, in milliseconds: who looks at a page comes again within
/// seconds.
const AWAKE_MS: u64 = 60_000;

/// What is known of a run that is asleep.
#[derive(Debug)]
pub(super) struct Asleep {
    /// As lists show it.
    status: RunStatus,
    created: Millis,
    /// Where its rows end in the ledger.
    position: Position,
    /// The blobs that it needs.
    retained: Box<[Digest]>,
    pub(super) changed: watch::Sender<u64>,
}

impl Asleep {
    fn of(state: RunState) -> Self {
        Self {
            status: state.run.status_in_short(state.at),
            created: state.created,
            position: state.position,
            retained: state.run.retained().into_iter().collect(),
            changed: state.changed,
        }
    }

    pub(super) fn position(&self) -> Position {
        self.position
    }

    pub(super) fn retained(&self) -> &[Digest] {
        &self.retained
    }

    /// As lists show it at `now`: nothing but the time goes on.
    pub(super) fn status(&self, now: Millis) -> RunStatus {
        RunStatus {
            now_unix_ms: now.0,
            ..self.status.clone()
        }
    }
}

impl State {
    /// Where the rows of a run end that is asleep; `None` where it is awake, or no such run is here.
    pub(crate) fn asleep_at(&self, id: &RunId) -> Option<Position> {
        self.asleep.get(id).map(Asleep::position)
    }

    /// Keeps a run awake for a while, since somebody names it.
    pub(crate) fn named(&mut self, id: &RunId, now: Millis) {
        if let Some(state) = self.runs.get_mut(id) {
            state.named = now;
        }
    }

    /// Lets the ended runs fall asleep that nobody has named for a while. To be called when the ledger has all of their events.
    pub(crate) fn fall_asleep(&mut self, now: Millis) {
        let tired = self.runs.iter().filter(|(_, state)| {
            let idle = now.since(state.named.max(state.at));
            state.run.phase().is_ended() && idle >= AWAKE_MS
        });
        let tired: Vec<RunId> = tired.map(|(id, _)| id.clone()).collect();
        for id in tired {
            if let Some(state) = self.runs.remove(&id) {
                // Nothing of it changes while it sleeps, so that these figures stay true.
                metrics::runs(std::iter::once(&state.run));
                tracing::debug!(run = %id, "run left to the ledger until somebody names it");
                self.asleep.insert(id, Asleep::of(state));
            }
        }
    }

    /// Takes a run back that was asleep, as the ledger has it.
    pub(crate) fn awaken(&mut self, run: Run, at: Millis, kept: Kept, now: Millis) {
        let Some(Asleep {
            created,
            position,
            changed,
            ..
        }) = self.asleep.remove(run.id())
        else {
            return;
        };
        let state = RunState {
            created,
            position,
            at,
            named: now,
            kept,
            changed,
            run,
        };
        self.runs.insert(state.run.id().clone(), state);
    }
}
