//! What can happen to a fleet, and how it is done.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use gavel_core::work::Role;

use super::dice::Dice;
use super::disk::Disk;
use super::fleet::Fleet;
use super::process::signal;
use super::proxy::Network;

/// Among how many of the newest blobs the damaged one is chosen: those of the step in flight.
const NEWEST: usize = 12;

/// In seconds.
const HOUR: usize = 3_600;

/// Whom a fault hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    /// One worker, whichever.
    Worker,
    /// All workers of a role.
    Group(Role),
    /// The coordinator.
    Coordinator,
    /// Everybody; for the network: every worker.
    Everything,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// kill -9.
    Kill(Target),
    /// SIGSTOP, and SIGCONT when the leases have run out.
    Stop(Target),
    /// The workers' connections break, and none can be made until the leases have run out.
    Break(Target),
    /// The workers' connections go silent until the leases have run out, then go on or break.
    Silence(Target),
    /// Bytes of a blob change.
    Flip,
    /// A blob's file vanishes.
    Delete,
    /// The disk of ledger and blobs is full for a while.
    FillDisk,
    /// Somebody sets the wall clock of the coordinator's machine, by up to an hour either way.
    SetClock,
}

/// Every kind of fault, the more likely ones more often: 39 kills among 30 faults.
pub(crate) const DECK: [Fault; 30] = [
    Fault::Kill(Target::Worker),
    Fault::Kill(Target::Worker),
    Fault::Kill(Target::Worker),
    Fault::Kill(Target::Worker),
    Fault::Kill(Target::Coordinator),
    Fault::Kill(Target::Coordinator),
    Fault::Kill(Target::Coordinator),
    Fault::Kill(Target::Group(Role::Sampler)),
    Fault::Kill(Target::Group(Role::Sampler)),
    Fault::Kill(Target::Group(Role::Judge)),
    Fault::Kill(Target::Group(Role::Trainer)),
    Fault::Kill(Target::Group(Role::Trainer)),
    Fault::Kill(Target::Everything),
    Fault::Kill(Target::Everything),
    Fault::Stop(Target::Worker),
    Fault::Stop(Target::Group(Role::Sampler)),
    Fault::Stop(Target::Group(Role::Trainer)),
    Fault::Stop(Target::Coordinator),
    Fault::Break(Target::Worker),
    Fault::Break(Target::Everything),
    Fault::Silence(Target::Worker),
    Fault::Silence(Target::Group(Role::Judge)),
    Fault::Silence(Target::Everything),
    Fault::Flip,
    Fault::Flip,
    Fault::Delete,
    Fault::Delete,
    Fault::FillDisk,
    Fault::SetClock,
    Fault::SetClock,
];

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Worker => f.write_str("one worker"),
            Self::Group(role) => write!(f, "all {role}s"),
            Self::Coordinator => f.write_str("the coordinator"),
            Self::Everything => f.write_str("everything"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(target) => write!(f, "kill -9: {target}"),
            Self::Stop(target) => write!(f, "stopped beyond the lease: {target}"),
            Self::Break(target) => write!(f, "connections broken: {target}"),
            Self::Silence(target) => write!(f, "connections silent: {target}"),
            Self::Flip => f.write_str("a blob's bytes changed"),
            Self::Delete => f.write_str("a blob deleted"),
            Self::FillDisk => f.write_str("disk full"),
            Self::SetClock => f.write_str("wall clock set"),
        }
    }
}

/// A fault that lasts, and how it ends.
pub(crate) struct Ongoing {
    pub(crate) until: Instant,
    pub(crate) end: Ending,
}

/// How a fault ends.
pub(crate) enum Ending {
    /// These parts' processes go on, where they are still the same.
    Continue(Vec<(usize, u32)>),
    /// These workers' connections go on where they were.
    GoOn(Vec<usize>),
    /// These workers can connect again; what was on its way is lost.
    Reconnect(Vec<usize>),
    /// There is space again.
    Space,
}

/// What came of a fault.
pub(crate) enum Done {
    /// It is over; so many processes were killed.
    Over { kills: u32 },
    /// It lasts.
    Lasts(Ongoing),
    /// It could not be done now, for this reason.
    Skipped(String),
}

impl Fault {
    /// Whether it hits bytes that only a run that still takes steps would miss.
    pub(crate) fn damages(self) -> bool {
        matches!(self, Self::Flip | Self::Delete)
    }

    /// Does it.
    pub(crate) fn strike(self, fleet: &mut Fleet, disk: Option<&Disk>, dice: &mut Dice) -> anyhow::Result<Done> {
        let until = Instant::now() + fleet.shape.lease + Duration::from_millis(500);
        let lasts = |end| Ok(Done::Lasts(Ongoing { until, end }));
        match self {
            Self::Kill(target) => {
                let parts = places(target, fleet, dice);
                let pids: Vec<u32> = parts
                    .into_iter()
                    .filter_map(|part| fleet.parts[part].doomed())
                    .collect();
                signal("KILL", &pids)?;
                Ok(Done::Over {
                    kills: pids.len() as u32,
                })
            }
            Self::Stop(target) => {
                let parts = places(target, fleet, dice).into_iter();
                let stopped: Vec<(usize, u32)> = parts
                    .filter_map(|part| Some((part, fleet.parts[part].pid()?)))
                    .collect();
                signal("STOP", &stopped.iter().map(|(_, pid)| *pid).collect::<Vec<_>>())?;
                lasts(Ending::Continue(stopped))
            }
            Self::Break(target) => {
                let workers = workers(target, fleet, dice);
                workers
                    .iter()
                    .for_each(|worker| fleet.proxy(*worker).set(Network::Broken));
                lasts(Ending::Reconnect(workers))
            }
            Self::Silence(target) => {
                let workers = workers(target, fleet, dice);
                workers
                    .iter()
                    .for_each(|worker| fleet.proxy(*worker).set(Network::Silent));
                lasts(match dice.below(2) {
                    0 => Ending::GoOn(workers),
                    _ => Ending::Reconnect(workers),
                })
            }
            Self::Flip | Self::Delete => match recent_blob(&fleet.state.join("blobs"), dice)? {
                Some(blob) => {
                    if self == Self::Flip {
                        flip(&blob, dice)?;
                    } else {
                        std::fs::remove_file(&blob).context("cannot delete a blob")?;
                    }
                    Ok(Done::Over { kills: 0 })
                }
                None => Ok(Done::Skipped("no blob yet".to_owned())),
            },
            Self::SetClock => match &fleet.clock {
                Some(clock) => {
                    clock.set(dice.below(2 * HOUR + 1) as i64 - HOUR as i64)?;
                    Ok(Done::Over { kills: 0 })
                }
                None => Ok(Done::Skipped("libfaketime is not here".to_owned())),
            },
            Self::FillDisk => match disk {
                Some(disk) => {
                    disk.fill()?;
                    lasts(Ending::Space)
                }
                None => Ok(Done::Skipped("no disk of its own".to_owned())),
            },
        }
    }
}

impl Ending {
    /// Ends the fault.
    pub(crate) fn come(self, fleet: &Fleet, disk: Option<&Disk>) -> anyhow::Result<()> {
        match self {
            Self::Continue(stopped) => {
                let same = stopped
                    .into_iter()
                    .filter(|(part, pid)| fleet.parts[*part].pid() == Some(*pid));
                signal("CONT", &same.map(|(_, pid)| pid).collect::<Vec<_>>())
            }
            Self::GoOn(workers) => {
                workers
                    .iter()
                    .for_each(|worker| fleet.proxy(*worker).set(Network::Open));
                Ok(())
            }
            Self::Reconnect(workers) => {
                workers.iter().for_each(|worker| fleet.proxy(*worker).open_anew());
                Ok(())
            }
            Self::Space => disk.map_or(Ok(()), Disk::free),
        }
    }
}

fn places(target: Target, fleet: &Fleet, dice: &mut Dice) -> Vec<usize> {
    match target {
        Target::Coordinator => vec![0],
        Target::Everything => (0..fleet.parts.len()).collect(),
        _ => workers(target, fleet, dice),
    }
}

fn workers(target: Target, fleet: &Fleet, dice: &mut Dice) -> Vec<usize> {
    match target {
        Target::Worker => vec![dice.one_of(&fleet.workers(None))],
        Target::Group(role) => fleet.workers(Some(role)),
        Target::Coordinator | Target::Everything => fleet.workers(None),
    }
}

/// One of the newest blobs.
fn recent_blob(folder: &Path, dice: &mut Dice) -> anyhow::Result<Option<PathBuf>> {
    let mut blobs: Vec<(SystemTime, PathBuf)> = Vec::new();
    for shelf in std::fs::read_dir(folder).context("cannot read the blob folder")? {
        let shelf = shelf.context("cannot read the blob folder")?.path();
        // Beside the shelves lies `staging/`, whose files are no blobs yet.
        if shelf.file_name().is_none_or(|name| name.len() != 2) {
            continue;
        }
        for file in std::fs::read_dir(&shelf)
            .context("cannot read the blob folder")?
            .flatten()
        {
            let whole = file.file_name().len() == 62;
            if let Some(modified) = file
                .metadata()
                .ok()
                .filter(|_| whole)
                .and_then(|about| about.modified().ok())
            {
                blobs.push((modified, file.path()));
            }
        }
    }
    blobs.sort_by(|one, other| other.cmp(one));
    blobs.truncate(NEWEST);
    Ok((!blobs.is_empty()).then(|| blobs.swap_remove(dice.below(blobs.len())).1))
}

fn flip(file: &Path, dice: &mut Dice) -> anyhow::Result<()> {
    let mut bytes = std::fs::read(file).context("cannot read a blob")?;
    if let Some(last) = bytes.len().checked_sub(1) {
        bytes[dice.below(last + 1)] ^= 0xff;
    }
    std::fs::write(file, bytes).context("cannot change a blob")
}
