//! Real chaos: the real binary's parts as separate processes, killed, stopped, cut off and robbed of bytes and disk at seeded
//! moments; then adapter, verdicts and steps against those of an undisturbed run.
//!
//! `cargo test` runs the short form. The long one, with its report:
//! `cargo test -p gavel --test chaos -- --kills 1000 --seed 7 --report chaos-report.md`

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is a program that talks to people"
)]

mod clock;
mod dice;
mod disk;
mod faults;
mod fleet;
mod outcome;
mod polite;
mod process;
mod proxy;
mod report;
mod round;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Parser;
use libtest_mimic::{Failed, Trial};

use fleet::Shape;
use report::Report;
use round::{Chaos, Round};

/// Kills of the short form, at least.
const KILLS: u32 = 20;
const SEED: u64 = 1;
/// Steps of a run: enough for the faults of the short form.
const STEPS: u32 = 16;

/// Disturbs runs until so many processes were killed.
#[derive(Debug, Parser)]
struct Long {
    /// Processes to kill with -9, at least.
    #[arg(long)]
    kills: u32,
    /// Chooses faults, victims and moments.
    #[arg(long, default_value_t = SEED)]
    seed: u64,
    /// Where the report goes, as Markdown.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn main() -> ExitCode {
    disk::enter_own_mounts();
    let is_long = std::env::args().any(|argument| argument.starts_with("--kills"));
    if is_long {
        let long = Long::parse();
        return match disturb("quickstart", long.kills, long.seed, long.report.as_deref()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let mut arguments = libtest_mimic::Arguments::from_args();
    // Each test starts a fleet of its own.
    arguments.test_threads.get_or_insert(1);
    let trial = |name: &str, test: fn() -> anyhow::Result<()>| {
        Trial::test(name, move || test().map_err(|error| Failed::from(format!("{error:#}"))))
    };
    let trials = vec![
        trial(
            "a_run_whose_parts_are_killed_stopped_and_cut_off_ends_with_the_bytes_of_an_undisturbed_one",
            || disturb("quickstart", KILLS, SEED, None),
        ),
        trial(
            "a_run_of_edits_whose_parts_are_killed_stopped_and_cut_off_ends_with_the_bytes_of_an_undisturbed_one",
            || disturb("quickstart-edit", KILLS, SEED, None),
        ),
        trial(
            "a_worker_that_is_told_to_end_finishes_or_gives_back_its_unit",
            polite::worker,
        ),
        trial(
            "a_worker_whose_unit_does_not_end_in_time_gives_it_back",
            polite::long_unit,
        ),
        trial(
            "a_coordinator_that_is_told_to_end_comes_back_to_the_same_workers",
            polite::coordinator,
        ),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// What cuts a quickstart down. The one of captions writes the rubrics of its prompts while it goes on; the small judge of edits was not taught to.
fn settings(run: &str) -> Vec<String> {
    let settings = [
        "prompts.per_step=12",
        "sampling.batch=4",
        "judge.batch=4",
        "trainer.shard=4",
        "checkpoints.every=4",
        "evaluation.prompts=12",
        "evaluation.batch=4",
    ];
    let mut settings: Vec<String> = settings.map(str::to_owned).to_vec();
    settings.push(format!("run.steps={STEPS}"));
    if run == "quickstart" {
        settings.push(
            "judge.writer={ template = \"configs/rubric/small/write.toml\", nearest = 1, max_tokens = 400 }".into(),
        );
    }
    settings
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("no runtime")?
        .block_on(work)
}

fn disturb(run: &'static str, kills: u32, seed: u64, report: Option<&Path>) -> anyhow::Result<()> {
    block_on(async {
        let folder = tempfile::Builder::new().prefix("gavel-chaos-").tempdir()?;
        let result = rounds(run, folder.path(), kills, seed, report).await;
        if result.is_err() {
            println!("logs are kept in {}", folder.keep().display());
        }
        result
    })
}

async fn rounds(run: &'static str, folder: &Path, kills: u32, seed: u64, report: Option<&Path>) -> anyhow::Result<()> {
    let shape = Shape {
        run,
        samplers: 3,
        judges: 2,
        trainers: 3,
        heartbeat: Duration::from_millis(300),
        lease: Duration::from_secs(2),
    };
    let settings = settings(shape.run);
    let began = Instant::now();
    let undisturbed = round::run(&shape, &folder.join("undisturbed"), &settings, None)
        .await
        .context("the undisturbed run")?;
    println!(
        "undisturbed: {:.0} s, {} units",
        undisturbed.wall.as_secs_f64(),
        undisturbed.tally.accepted
    );
    let mut chaos = Chaos::new(seed, kills);
    let mut rounds: Vec<Round> = Vec::new();
    let mut failure = None;
    while failure.is_none() && (rounds.is_empty() || chaos.goes_on()) {
        let number = rounds.len() + 1;
        let place = folder.join(format!("round-{number}"));
        match round::run(&shape, &place, &settings, Some(&mut chaos)).await {
            Ok(round) => {
                println!(
                    "round {number}: {} killed, {} started again, {} leases expired, {:.0} s",
                    round.kills,
                    round.restarts,
                    round.tally.expired,
                    round.wall.as_secs_f64()
                );
                failure = undisturbed.outcome.difference(&round.outcome);
                rounds.push(round);
                if failure.is_none() {
                    // A long one would fill the disk with what it has compared.
                    std::fs::remove_dir_all(&place).context("cannot remove a compared run")?;
                }
            }
            Err(error) => failure = Some(format!("round {number}: {error:#}")),
        }
        if let Some(file) = report {
            let report = Report {
                command: format!("cargo test -p gavel --test chaos -- --kills {kills} --seed {seed}"),
                undisturbed: &undisturbed,
                rounds: &rounds,
                chaos: &chaos,
                wall: began.elapsed(),
                failure: failure.clone(),
            };
            std::fs::write(file, report.markdown()).with_context(|| format!("{}: cannot write", file.display()))?;
        }
    }
    match failure {
        Some(failure) => bail!(failure),
        None => Ok(()),
    }
}
