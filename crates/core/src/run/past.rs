//! What a lean run leaves to its ledger of a committed step besides its details: its figures, its policy, and whose commit counts.
//!
//! No unit in flight reads any of it, but an event that takes steps back may: then the run is given all of it again for that event.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::reopen::Source;
use super::results::{StepRecord, StepResult};
use super::snapshot::CommitRow;
use super::{Effect, Event, Refusal, Run};
use crate::ids::{Fence, Millis, Step, WorkerId};
use crate::work::{Policy, Unit};

/// What a step came to, without its [details](Run::details_from). It is never changed, but a step that is taken back and taken again has another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "CommitRow", into = "CommitRow")]
pub struct Commit {
    /// The step's figures.
    pub record: StepRecord,
    /// The policy that it led to.
    pub policy: Policy,
    /// By which grant.
    pub fence: Fence,
    /// Whose result it is.
    pub worker: WorkerId,
}

impl Run {
    /// What a step came to; `None` of one that is not committed, or that the run has left to its ledger.
    pub fn commit_of(&self, step: Step) -> Option<Commit> {
        let result = self.results.steps.get(step.0.checked_sub(1)? as usize)?;
        let accepted = self.accepted.get(&Unit::Commit { step })?;
        Some(Commit {
            record: result.record.clone(),
            policy: self.results.policies.get(step.0 as usize)?.clone(),
            fence: accepted.fence,
            worker: WorkerId::clone(&accepted.worker),
        })
    }

    /// The first committed step that the run still has; earlier ones are in its ledger alone, but for the policies among them that are
    /// kept. 1 in a run that is not [lean](Run::lean).
    pub fn commits_from(&self) -> Step {
        Step(self.results.steps.first_present() as u32 + 1)
    }

    /// Whether the event can be applied only by [`Run::apply_with_past`]: it takes steps back, perhaps to before those that the run
    /// has.
    pub fn needs_past(&self, event: &Event) -> bool {
        if self.commits_from() == Step(1) {
            return false;
        }
        match event {
            Event::RolledBack { to } => *to < self.committed(),
            // What is said of a unit that the worker does not hold counts for nothing.
            Event::Failed {
                unit,
                worker,
                fence,
                fatal: false,
                unusable,
                ..
            } if self.check_lease(unit, *fence, Some(worker)).is_ok() => {
                let mut sources = unusable.iter().filter_map(|input| self.source(unit, &input.blob));
                sources.any(|source| matches!(source, Source::Policy(_)))
            }
            _ => false,
        }
    }

    /// Applies an event that [needs the past](Run::needs_past): the commits of all steps before [`Run::commits_from`], in order. The run is as
    /// lean afterwards as it was.
    ///
    /// # Errors
    /// As [`Run::apply`]; [`Refusal::NeedsPast`] where these are others.
    pub fn apply_with_past(&mut self, event: Event, past: Vec<Commit>, now: Millis) -> Result<Vec<Effect>, Refusal> {
        let missing = self.commits_from().0 - 1;
        let steps = past.iter().map(|commit| commit.record.step.0);
        if !steps.eq(1..=missing) {
            return Err(Refusal::NeedsPast);
        }
        for commit in past {
            let Commit {
                record,
                policy,
                fence,
                worker,
            } = commit;
            let step = record.step;
            self.results.policies.recall(step.0 as usize, policy);
            self.accepted.insert(Unit::Commit { step }, fence, worker);
            let (groups, shards) = (Vec::new(), Vec::new());
            let result = StepResult { record, groups, shards };
            self.results.steps.recall(step.0 as usize - 1, result);
        }
        let applied = self.apply(event, now);
        self.let_commits_go();
        applied
    }

    /// To be called when a step is committed, and when the past has been recalled: what is left follows from the rest of the state alone.
    pub(super) fn let_commits_go(&mut self) {
        if !self.is_lean {
            return;
        }
        let committed = self.committed();
        let agreement = self.spec.stop.as_ref().and_then(|stop| stop.agreement());
        let agreement = agreement.map_or(1, |(_, steps)| steps);
        // A step that begins looks at so many before the policy that samples it, which may be as old as the lag says.
        let trust = self.spec.judge.adaptive_orders();
        let trust = trust.map_or(1, |rule| rule.window + self.spec.sampling.max_policy_lag);
        let counted = agreement.max(trust);
        let from = self
            .details_from
            .0
            .min((committed.0 + 1).saturating_sub(counted))
            .max(1);
        for step in (self.commits_from().0..from).map(Step) {
            self.accepted.remove(&Unit::Commit { step });
        }
        self.results.steps.keep(|index| index + 1 >= from as usize);
        // Held policies are those that are released one day, which is when somebody asks for their blobs.
        let versions = self.results.policies.numbered().map(|(version, _)| version as u32);
        let kept: BTreeSet<u32> = versions
            .filter(|version| {
                let step = Step(*version);
                // The initial policy is no commit, so that nobody recalls it: whoever goes back to the first step names it.
                *version == 0
                    || version + 1 >= from
                    || self.keeps_policy(*version)
                    || self.held_policies.contains(&step)
                    || self.released_policies.contains(&step)
            })
            .collect();
        self.results.policies.keep(|version| kept.contains(&(version as u32)));
    }
}

/// The commits of a run so far, for whoever applies all of its events and has no ledger at hand.
#[derive(Debug, Clone, Default)]
pub struct Commits(Vec<Commit>);

impl Commits {
    /// Applies the run's next event, with the past where it needs that.
    ///
    /// # Errors
    /// As [`Run::apply`].
    pub fn apply(&mut self, run: &mut Run, event: Event, now: Millis) -> Result<Vec<Effect>, Refusal> {
        let effects = if run.needs_past(&event) {
            let missing = run.commits_from().0 as usize - 1;
            let past = self.0.iter().take(missing).cloned().collect();
            run.apply_with_past(event, past, now)?
        } else {
            run.apply(event, now)?
        };
        // Steps that were taken back are gone from here before they are taken again.
        let committed = run.committed();
        self.0.truncate(committed.0 as usize);
        if self.0.len() < committed.0 as usize {
            self.0.extend(run.commit_of(committed));
        }
        Ok(effects)
    }

    /// The commits, in the order of their steps.
    pub fn into_vec(self) -> Vec<Commit> {
        self.0
    }
}
