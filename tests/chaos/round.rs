//! One run from submission to its end, disturbed or not.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use gavel_core::run::{Phase, RunStatus};
use tokio::time::MissedTickBehavior;

use super::dice::Dice;
use super::disk::Disk;
use super::faults::{DECK, Done, Ending, Fault, Ongoing};
use super::fleet::{Ended, Fleet, POLL, Shape};
use super::outcome::{self, Outcome, Tally};

/// Accepted units between two faults, at most.
const GAP: usize = 12;
/// A fault strikes this much after its unit, at most, so that kills also hit the middle of the work.
const DELAY_MS: usize = 300;
/// A run without progress for this long is stuck.
const STUCK: Duration = Duration::from_secs(120);
/// After the disk had space again, a coordinator that was about to end may still do so.
const AFTER_FULL: Duration = Duration::from_secs(5);

/// What a run asks for that has lost a picture of its submission.
const SUBMIT_AGAIN: &str = "gavel submit --resume";

/// What a round brought.
pub(crate) struct Round {
    pub(crate) outcome: Outcome,
    pub(crate) tally: Tally,
    pub(crate) wall: Duration,
    pub(crate) restarts: u32,
    pub(crate) kills: u32,
}

/// The faults to come, and what came of those that were.
pub(crate) struct Chaos {
    dice: Dice,
    deck: Vec<Fault>,
    /// Kills that are still to come.
    kills_missing: u32,
    /// Faults that must come in any case: every kind once.
    faults_missing: usize,
    /// What struck, how often.
    pub(crate) struck: BTreeMap<Fault, u32>,
    /// What could not strike, and why.
    pub(crate) skipped: BTreeMap<Fault, String>,
    /// How often the coordinator ended because its disk was full.
    pub(crate) ended_full: u32,
    ongoing: Vec<Ongoing>,
    next: Option<Next>,
    disk_full_until: Option<Instant>,
}

struct Next {
    fault: Fault,
    /// Accepted units after which it is due.
    after: u64,
    delay: Duration,
    due: Option<Instant>,
}

impl Chaos {
    pub(crate) fn new(seed: u64, kills: u32) -> Self {
        Self {
            dice: Dice::new(seed),
            deck: Vec::new(),
            kills_missing: kills,
            faults_missing: DECK.len(),
            struck: BTreeMap::new(),
            skipped: BTreeMap::new(),
            ended_full: 0,
            ongoing: Vec::new(),
            next: None,
            disk_full_until: None,
        }
    }

    /// Whether more faults are to come.
    pub(crate) fn goes_on(&self) -> bool {
        self.kills_missing > 0 || self.faults_missing > 0
    }

    fn plan(&mut self, accepted: u64) -> Next {
        if self.deck.is_empty() {
            self.deck.extend(DECK);
            self.dice.shuffle(&mut self.deck);
        }
        Next {
            // The deck was filled when it was empty.
            fault: self.deck.pop().unwrap_or(DECK[0]),
            after: accepted + 1 + self.dice.below(GAP) as u64,
            delay: Duration::from_millis(self.dice.below(DELAY_MS) as u64),
            due: None,
        }
    }

    /// Ends what has lasted long enough, and strikes when it is time. `trains`: two steps at least are still to be committed.
    /// Returns how many processes were killed.
    fn act(&mut self, accepted: u64, trains: bool, fleet: &mut Fleet, disk: Option<&Disk>) -> anyhow::Result<u32> {
        let now = Instant::now();
        let (over, ongoing) = std::mem::take(&mut self.ongoing)
            .into_iter()
            .partition(|ongoing| ongoing.until <= now);
        self.ongoing = ongoing;
        self.end(over, fleet, disk)?;
        if !self.goes_on() {
            return Ok(0);
        }
        let mut next = match self.next.take() {
            Some(next) => next,
            None => self.plan(accepted),
        };
        if accepted >= next.after && next.due.is_none() {
            next.due = Some(now + next.delay);
        }
        if next.due.is_none_or(|due| due > now) {
            self.next = Some(next);
            return Ok(0);
        }
        if next.fault.damages() && !trains {
            // Its turn comes again in the next round.
            self.deck.insert(0, next.fault);
            return Ok(0);
        }
        self.strike(next.fault, fleet, disk)
    }

    fn strike(&mut self, fault: Fault, fleet: &mut Fleet, disk: Option<&Disk>) -> anyhow::Result<u32> {
        let is_full = self.ongoing.iter().any(|ongoing| matches!(ongoing.end, Ending::Space));
        let done = match fault {
            Fault::FillDisk if is_full => Done::Skipped("the disk is full already".to_owned()),
            fault => fault.strike(fleet, disk, &mut self.dice)?,
        };
        self.faults_missing = self.faults_missing.saturating_sub(1);
        let kills = match done {
            Done::Over { kills } => kills,
            Done::Lasts(ongoing) => {
                if fault == Fault::FillDisk {
                    self.disk_full_until = Some(ongoing.until + AFTER_FULL);
                }
                self.ongoing.push(ongoing);
                0
            }
            Done::Skipped(reason) => {
                self.skipped.insert(fault, reason);
                return Ok(0);
            }
        };
        *self.struck.entry(fault).or_default() += 1;
        self.kills_missing = self.kills_missing.saturating_sub(kills);
        Ok(kills)
    }

    fn end(&mut self, over: Vec<Ongoing>, fleet: &Fleet, disk: Option<&Disk>) -> anyhow::Result<()> {
        over.into_iter().try_for_each(|ongoing| ongoing.end.come(fleet, disk))
    }

    /// Nobody may end by itself but a coordinator whose disk is full.
    fn explain(&mut self, ended: Ended) -> anyhow::Result<()> {
        let full = self.disk_full_until.is_some_and(|until| until > Instant::now());
        if ended.part != 0 || !full {
            bail!("{}", ended.how);
        }
        self.ended_full += 1;
        Ok(())
    }
}

/// Runs to the end. Without `chaos`, undisturbed.
pub(crate) async fn run(
    shape: &Shape,
    folder: &Path,
    settings: &[String],
    mut chaos: Option<&mut Chaos>,
) -> anyhow::Result<Round> {
    let began = Instant::now();
    let state = folder.join("state");
    let disk = match &mut chaos {
        None => None,
        Some(_) => Disk::mount(&state)
            .inspect_err(|reason| println!("NO FULL DISK IS TRIED: {reason:#}"))
            .ok(),
    };
    let mut fleet = Fleet::start(shape, folder, &state, settings).await?;
    let kills = match follow(&mut fleet, chaos, disk.as_ref()).await {
        Ok(kills) => kills,
        Err(error) => return Err(error).with_context(|| format!("logs are in {}", folder.display())),
    };
    let restarts = fleet.restarts;
    fleet.end().await?;
    let (outcome, tally) = outcome::read(&state, &shape.run_id()).await?;
    Ok(Round {
        outcome,
        tally,
        wall: began.elapsed(),
        restarts,
        kills,
    })
}

/// Watches until the run has finished and every part serves undisturbed. Returns how many processes were killed.
async fn follow(fleet: &mut Fleet, mut chaos: Option<&mut Chaos>, disk: Option<&Disk>) -> anyhow::Result<u32> {
    let mut ticks = tokio::time::interval(POLL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut accepted, mut moved, mut kills) = (0, Instant::now(), 0);
    let mut trains = false;
    let mut waiting = String::new();
    let ended = loop {
        ticks.tick().await;
        if let Some(status) = fleet.status().await? {
            match &status.phase {
                Phase::Failed { reason } if reason.contains(SUBMIT_AGAIN) && chaos.is_some() => {
                    // While the coordinator is stopped, or its disk full, this fails: the next tick tries again.
                    if let Err(error) = fleet.submit_again().await {
                        println!("not submitted again yet: {error:#}");
                    }
                }
                phase if phase.is_ended() => break status.phase,
                _ => {}
            }
            let units = units(&status);
            if units > accepted {
                (accepted, moved) = (units, Instant::now());
            }
            trains = status.step.0 + 2 <= status.steps_total;
            waiting = status.waiting.text;
        }
        for ended in fleet.revive()? {
            match &mut chaos {
                Some(chaos) => chaos.explain(ended)?,
                None => bail!("{}", ended.how),
            }
        }
        if let Some(chaos) = &mut chaos {
            kills += chaos.act(accepted, trains, fleet, disk)?;
        }
        if moved.elapsed() > STUCK {
            bail!("no progress for {} s; the run waits for {waiting}", STUCK.as_secs());
        }
    };
    if let Some(chaos) = chaos {
        let ongoing = std::mem::take(&mut chaos.ongoing);
        chaos.end(ongoing, fleet, disk)?;
        // What did not come to its turn comes in the next round.
        chaos.deck.extend(chaos.next.take().map(|next| next.fault));
    }
    // What was killed last is to end in good order too.
    let began = Instant::now();
    while fleet.parts.iter().any(|part| part.pid().is_none()) || began.elapsed() < POLL {
        tokio::time::sleep(POLL).await;
        fleet.revive()?;
        if began.elapsed() > STUCK {
            bail!("a part does not start again");
        }
    }
    match ended {
        Phase::Finished => Ok(kills),
        phase => bail!("the run ended as {phase:?}"),
    }
}

/// How many pieces of work the run has accepted: the clock that faults go by.
fn units(status: &RunStatus) -> u64 {
    let in_flight = status.progress.map_or(0, |progress| {
        progress.samples / 8 + progress.groups_judged / 4 + progress.shards
    });
    let evaluated = status.evaluation.map_or(0, |evaluation| {
        (evaluation.base + evaluation.tuned + evaluation.compared) / 4
    });
    let calibrated = status.judge.map_or(0, |judge| judge.judged / 4);
    u64::from(status.step.0) * UNITS_PER_STEP + u64::from(in_flight + evaluated + calibrated)
}

/// With the settings of the test: three units of samples, of pairs, of gradients, and the commit.
const UNITS_PER_STEP: u64 = 10;
