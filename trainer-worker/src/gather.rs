//! A step's gradient sums, brought together from the trainers that made them.

use std::time::Instant;

use gavel_core::ids::{Digest, WorkerId};
use gavel_core::spec::Device;
use gavel_core::work::rally::{self, Presence, RallyOutcome};
use gavel_core::work::{Fault, Unusable};
use gavel_policy::train::Reduction;
use gavel_worker::{WorkContext, WorkError};

use crate::exchange::{self, EXCHANGE_WITHIN, Exchange, ExchangeError, JOIN_WITHIN, Seat, Shard, Watch};
use crate::kept::Kept;
use crate::sums::Sums;

/// What a commit adds up, and what this trainer has of it.
pub(crate) struct StepSums<'a> {
    pub(crate) gradients: &'a [Digest],
    pub(crate) holders: &'a [WorkerId],
    pub(crate) terms: u64,
    pub(crate) parameters: usize,
    pub(crate) device: Device,
    pub(crate) here: &'a Sums,
}

impl StepSums<'_> {
    /// The mean gradient, for the trainer that commits: alone where it has every sum, else with the others.
    pub(crate) fn called_together(
        &self,
        exchange: &dyn Exchange,
        kept: &mut Kept,
        context: &WorkContext,
    ) -> Result<Vec<f32>, WorkError> {
        let here: Option<Vec<&[f32]>> = self.gradients.iter().map(|name| self.here.get(name)).collect();
        if let Some(sums) = here {
            let mut reduction = Reduction::new(self.parameters);
            sums.into_iter().for_each(|sum| reduction.add(sum));
            return Ok(reduction.mean(self.terms));
        }
        let lost = self.lost(context);
        if !lost.is_empty() {
            return Err(gone(lost, "this trainer no longer has sums that it made"));
        }
        let own = context.worker().ok_or_else(alone)?;
        let members = rally::members(own, self.holders);
        if let Some(rendezvous) = kept.offer(&members, self.device, Instant::now()) {
            match context.rally(rendezvous.clone(), true, JOIN_WITHIN)? {
                RallyOutcome::NotKept => tracing::info!("not every trainer has the last group, another one is formed"),
                outcome => return self.met(exchange, kept, outcome, rendezvous, true, context),
            }
        }
        kept.let_go();
        let rendezvous = exchange.rendezvous().map_err(failed)?;
        let outcome = context.rally(rendezvous.clone(), false, JOIN_WITHIN)?;
        self.met(exchange, kept, outcome, rendezvous, false, context)
    }

    /// The mean gradient, where everybody came.
    fn met(
        &self,
        exchange: &dyn Exchange,
        kept: &mut Kept,
        outcome: RallyOutcome,
        rendezvous: Vec<u8>,
        is_kept: bool,
        context: &WorkContext,
    ) -> Result<Vec<f32>, WorkError> {
        match outcome {
            RallyOutcome::Complete { members } => {
                let group = rally::Group {
                    members,
                    rendezvous,
                    kept: is_kept,
                };
                self.exchanged(exchange, kept, &group, context)
            }
            RallyOutcome::Incomplete { absent, lost } => {
                let of_absent = self.gradients.iter().zip(self.holders);
                let of_absent = of_absent.filter(|(_, holder)| absent.contains(holder));
                let names = lost.into_iter().chain(of_absent.map(|(name, _)| *name)).collect();
                let absent: Vec<&str> = absent.iter().map(|worker| worker.0.as_str()).collect();
                let reason = match absent.is_empty() {
                    true => "a trainer no longer has sums that it made".to_owned(),
                    false => format!("trainers did not bring their sums: {}", absent.join(", ")),
                };
                Err(gone(names, &reason))
            }
            RallyOutcome::NotKept => Err(WorkError::Retry(
                "a trainer was called to a new group and asks for a kept one".into(),
            )),
        }
    }

    /// What this trainer answers a call with.
    pub(crate) fn presence(&self, kept: &Kept, group: &rally::Group, context: &WorkContext) -> Presence {
        let lost = self.lost(context);
        if !lost.is_empty() {
            Presence::WithoutSums(lost)
        } else if group.kept && !kept.has(group, self.device) {
            Presence::WithoutGroup
        } else {
            Presence::Ready
        }
    }

    /// The mean gradient, for every member of a group that has joined. The group is kept when this succeeds.
    pub(crate) fn exchanged(
        &self,
        exchange: &dyn Exchange,
        kept: &mut Kept,
        group: &rally::Group,
        context: &WorkContext,
    ) -> Result<Vec<f32>, WorkError> {
        let stranger = |worker: &WorkerId| WorkError::Retry(format!("worker {worker} is not of the group"));
        let rank = |worker: &WorkerId| group.rank(worker).ok_or_else(|| stranger(worker));
        let own_rank = rank(context.worker().ok_or_else(alone)?)?;
        let mut shards = Vec::with_capacity(self.gradients.len());
        for (name, holder) in self.gradients.iter().zip(self.holders) {
            let owner = rank(holder)?;
            let sum = self.here.get(name).filter(|_| owner == own_rank);
            shards.push(Shard { owner, sum });
        }
        let seat = Seat {
            rendezvous: &group.rendezvous,
            rank: own_rank,
            size: group.members.len(),
            device: self.device,
        };
        let cancelled = || context.cancelled();
        let watch = Watch::new(EXCHANGE_WITHIN, &cancelled);
        let mut communicator = match kept.take(group, self.device) {
            Some(communicator) => communicator,
            None if group.kept => return Err(WorkError::Retry("the kept group is no longer here".into())),
            None => exchange.meet(&seat, &watch).map_err(failed)?,
        };
        let mean = exchange::mean(
            communicator.as_mut(),
            &seat,
            &shards,
            self.parameters,
            self.terms,
            &watch,
        );
        let mean = mean.map_err(failed)?;
        kept.keep(group, self.device, communicator, Instant::now());
        Ok(mean)
    }

    /// What this trainer made and does not have: it was given up for other runs.
    fn lost(&self, context: &WorkContext) -> Vec<Digest> {
        let own = context.worker();
        let made_here = self.gradients.iter().zip(self.holders);
        let made_here = made_here.filter(|(_, holder)| own.is_none_or(|own| own == *holder));
        let lost = made_here.filter(|(name, _)| self.here.get(name).is_none());
        lost.map(|(name, _)| *name).collect()
    }
}

fn alone() -> WorkError {
    WorkError::Retry("there is no fleet to exchange gradient sums with".into())
}

/// The sums are made again: nobody is to blame.
fn gone(names: Vec<Digest>, reason: &str) -> WorkError {
    let unusable = |blob| Unusable {
        blob,
        fault: Fault::Storage,
    };
    WorkError::Unusable {
        inputs: names.into_iter().map(unusable).collect(),
        reason: reason.to_owned(),
    }
}

fn failed(error: ExchangeError) -> WorkError {
    match error {
        ExchangeError::Cancelled => WorkError::Cancelled,
        error => WorkError::retry(&error),
    }
}
