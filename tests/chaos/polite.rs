//! Parts that are told to end do so in good order, and workers wait for a coordinator that is away.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use gavel_coordinator::ledger::{Ledger as _, SqliteLedger};
use gavel_core::ids::{Fence, WorkerId};
use gavel_core::run::Event;
use gavel_core::work::{Role, Unit};

use super::fleet::{Fleet, PATIENCE, POLL, Shape};
use super::process::signal;

/// One worker of each role, watched as a fleet usually is: a lease that expires here would do so after a minute.
const SHAPE: Shape = Shape {
    run: "quickstart",
    samplers: 1,
    judges: 1,
    trainers: 1,
    heartbeat: Duration::from_secs(5),
    lease: Duration::from_secs(60),
};
/// A unit may go on for 10 s after the signal, and the farewell takes a few more at most.
const DRAINED_WITHIN: Duration = Duration::from_secs(25);
/// Attempts to connect that a worker may make at once, and in each second, to a coordinator that is away.
const ATTEMPTS: (u32, u32) = (20, 2);

/// Units that take long enough to be met at work, in a run that does not end.
fn settings() -> Vec<String> {
    let settings = [
        "run.steps=1000",
        "prompts.per_step=32",
        "sampling.batch=16",
        "judge.batch=16",
        "trainer.shard=16",
        "evaluation.prompts=1",
    ];
    settings.map(str::to_owned).to_vec()
}

/// A unit of samples that takes minutes.
fn long_settings() -> Vec<String> {
    let settings = [
        "run.steps=1",
        "prompts.per_step=400",
        "sampling.batch=400",
        "sampling.steps=100",
        "evaluation.prompts=1",
    ];
    settings.map(str::to_owned).to_vec()
}

pub(super) fn worker() -> anyhow::Result<()> {
    super::block_on(async {
        let folder = tempfile::tempdir()?;
        let state = folder.path().join("state");
        let mut fleet = Fleet::start(&SHAPE, folder.path(), &state, &settings()).await?;
        let mut told = Vec::new();
        for role in [Role::Sampler, Role::Judge, Role::Trainer] {
            let what = format!("a {role} at work");
            let status = fleet
                .status_when(&what, |status| {
                    status.leases.iter().any(|lease| lease.unit.role() == role)
                })
                .await?;
            let lease = status.leases.iter().find(|lease| lease.unit.role() == role);
            told.push(lease.context("a lease")?.worker.clone());
            let part = fleet.workers(Some(role))[0];
            tell_all_to_end(&mut fleet, &[part], "TERM").await?;
            // The next role's work may need this one's.
            fleet.revive()?;
        }
        fleet.parts.iter_mut().for_each(super::process::Part::dismiss);
        for part in 0..fleet.parts.len() {
            fleet.wait_for_good_end(part).await?;
        }
        let events = events(&state).await?;
        for worker in told {
            check_farewell(&events, &worker)?;
        }
        Ok(())
    })
}

pub(super) fn long_unit() -> anyhow::Result<()> {
    super::block_on(async {
        let folder = tempfile::tempdir()?;
        let state = folder.path().join("state");
        let shape = Shape { judges: 0, ..SHAPE };
        let mut fleet = Fleet::start(&shape, folder.path(), &state, &long_settings()).await?;
        let is_sample = |unit: &Unit| matches!(unit, Unit::Sample { .. });
        let status = fleet
            .status_when("a sampler at work", |status| {
                status.leases.iter().any(|lease| is_sample(&lease.unit))
            })
            .await?;
        let lease = status.leases.iter().find(|lease| is_sample(&lease.unit));
        let lease = lease.context("a lease")?.clone();
        let sampler = fleet.workers(Some(Role::Sampler))[0];
        tell_all_to_end(&mut fleet, &[sampler], "TERM").await?;
        let returned = events(&state).await?.into_iter().any(
            |event| matches!(event, Event::Released { unit, fence, .. } if unit == lease.unit && fence == lease.fence),
        );
        ensure!(returned, "{} was not given back", lease.unit);
        fleet
            .status_when("the unit is free for others", |status| {
                !status.leases.iter().any(|lease| is_sample(&lease.unit))
            })
            .await?;
        Ok(())
    })
}

pub(super) fn coordinator() -> anyhow::Result<()> {
    super::block_on(async {
        let folder = tempfile::tempdir()?;
        let state = folder.path().join("state");
        let mut fleet = Fleet::start(&SHAPE, folder.path(), &state, &settings()).await?;
        for name in ["TERM", "INT"] {
            let before = fleet
                .status_when("work in every hand", |status| status.leases.len() >= 2)
                .await?;
            let pids: Vec<_> = fleet.parts.iter().map(super::process::Part::pid).collect();
            tell_all_to_end(&mut fleet, &[0], name).await?;
            wait_while_away(&fleet).await?;
            let ended = fleet.revive()?;
            ensure!(ended.is_empty(), "{}", ended[0].how);
            let same = fleet
                .parts
                .iter()
                .map(super::process::Part::pid)
                .skip(1)
                .eq(pids.into_iter().skip(1));
            ensure!(same, "a worker ended with the coordinator");
            let judged = before.matches_judged;
            fleet
                .status_when("the run goes on", |status| status.matches_judged > judged)
                .await?;
        }
        // A worker is also to end when nobody is there to take its unit back.
        tell_all_to_end(&mut fleet, &[0], "TERM").await?;
        let workers = fleet.workers(None);
        tell_all_to_end(&mut fleet, &workers, "TERM").await?;
        let ends = events(&state).await?;
        let lost = ends
            .iter()
            .find(|event| matches!(event, Event::Expired { .. } | Event::Failed { .. }));
        ensure!(lost.is_none(), "work was lost: {lost:?}");
        Ok(())
    })
}

async fn tell_all_to_end(fleet: &mut Fleet, parts: &[usize], name: &str) -> anyhow::Result<()> {
    let began = Instant::now();
    let pids = parts.iter().map(|part| fleet.parts[*part].pid());
    signal(name, &pids.collect::<Option<Vec<_>>>().context("a part is down")?)?;
    for part in parts {
        fleet.wait_for_good_end(*part).await?;
    }
    let taken = began.elapsed();
    ensure!(taken < DRAINED_WITHIN, "SIG{name}: it took {taken:?} to end");
    Ok(())
}

/// Waits until every worker has looked for the coordinator a few times, and checks that none does so without a pause.
async fn wait_while_away(fleet: &Fleet) -> anyhow::Result<()> {
    let began = Instant::now();
    let before: Vec<u32> = fleet.proxies.iter().map(super::proxy::Proxy::attempts).collect();
    loop {
        let attempts = fleet
            .proxies
            .iter()
            .zip(&before)
            .map(|(proxy, before)| proxy.attempts() - before);
        let (fewest, most) = attempts.fold((u32::MAX, 0), |(fewest, most), attempts| {
            (fewest.min(attempts), most.max(attempts))
        });
        let bound = ATTEMPTS.0 + ATTEMPTS.1 * began.elapsed().as_secs() as u32;
        ensure!(most <= bound, "{most} attempts to connect in {:?}", began.elapsed());
        if fewest >= 4 {
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "a worker does not look for the coordinator");
        tokio::time::sleep(POLL).await;
    }
}

async fn events(state: &Path) -> anyhow::Result<Vec<Event>> {
    let ledger = SqliteLedger::open(&state.join("ledger.sqlite")).await?;
    let records = ledger.events(&SHAPE.run_id()).await?;
    let events = records.iter().map(|record| serde_json::from_str(&record.event));
    events.collect::<Result<_, _>>().context("an event that is no event")
}

/// Whatever the worker was given it completed or gave back.
fn check_farewell(events: &[Event], gone: &WorkerId) -> anyhow::Result<()> {
    let mut open: BTreeSet<Fence> = BTreeSet::new();
    for event in events {
        match event {
            Event::Granted { worker, fence, .. } if worker == gone => {
                open.insert(*fence);
            }
            Event::Completed { worker, fence, .. } | Event::Released { worker, fence, .. } if worker == gone => {
                open.remove(fence);
            }
            Event::Expired { unit, fence } => ensure!(!open.contains(fence), "{unit} of worker {gone} expired"),
            _ => {}
        }
    }
    ensure!(open.is_empty(), "worker {gone} left with open leases: {open:?}");
    Ok(())
}
