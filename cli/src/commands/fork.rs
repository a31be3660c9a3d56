//! `gavel fork`.

use clap::Args;
use gavel_core::ids::{RunId, Step};
use gavel_core::run::Run;
use gavel_core::work::Policy;
use gavel_review::{RunSource as _, ServedRun};

use super::connect::Connect;
use crate::config;
use crate::diagnostic::{Context as _, Diagnostic, Result};
use crate::output;
use crate::runtime::block_on;

#[derive(Debug, Args)]
pub(crate) struct ForkArguments {
    /// The run to start from, by its name.
    pub(crate) run: String,
    /// The step whose adapter the new run starts from [default: the latest].
    #[arg(long, value_name = "N")]
    pub(crate) step: Option<u32>,
    /// The new run's name.
    #[arg(long, value_name = "NAME")]
    pub(crate) name: String,
    /// What the new run does otherwise, for example --set optimizer.learning_rate=1e-5.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    #[command(flatten)]
    pub(crate) connect: Connect,
}

/// Submits a run with the files of another one, which begins with one of its adapters.
pub(super) fn fork(arguments: &ForkArguments) -> Result<()> {
    block_on(async {
        let coordinator = arguments.connect.open().await?;
        let run = RunId(arguments.run.clone());
        let origin = coordinator.runs().spec(&run).await?;
        let there = ServedRun::open(coordinator.clone(), &run).await?.run().await?;
        let (step, policy) = policy(&there, arguments.step)?;
        let adapter = policy.adapter;
        if !coordinator.blobs().missing(&[adapter]).await?.is_empty() {
            return Err(
                Diagnostic::new(format!("the adapter of step {step} is not kept any more"))
                    .with_hint("the latest step and those of `checkpoints.every` are"),
            );
        }
        let own = [
            format!("run.name={}", arguments.name),
            format!("lora.init={run}, step {step}"),
        ];
        let spec = config::changed(&origin.spec, &[own.as_slice(), &arguments.overrides].concat())?;
        spec.check_fork(&origin.spec).context("this is no fork")?;
        let mut assets = origin.assets;
        assets.initial_adapter = Some(adapter);
        let submitted = coordinator.runs().submit(&spec.id(), &spec, &assets).await?;
        let what = if submitted.existed {
            "was there already, with this configuration"
        } else {
            "is submitted"
        };
        output::tell(format_args!(
            "run {} {what}: it starts from step {step} of run {run}, with a fresh optimizer state",
            spec.run.name
        ));
        Ok(())
    })
}

/// The policy of a step, or of the latest.
fn policy(run: &Run, step: Option<u32>) -> Result<(Step, &Policy)> {
    let committed = run.committed();
    let step = step.map_or(committed, Step);
    let policy = run.results().policies.get(step.0 as usize);
    let found = policy.map(|policy| (step, policy));
    found.ok_or_else(|| {
        Diagnostic::new(format!("run `{}` has no policy of step {step}", run.id())).with_hint(format!(
            "steps 0 (before the first update) to {committed} are committed"
        ))
    })
}
