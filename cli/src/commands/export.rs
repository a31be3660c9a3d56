//! `gavel export`.

use anyhow::Context as _;
use gavel_coordinator::blobs::BlobError;
use gavel_core::ids::Step;

use super::block_on;
use crate::args::{ExportArguments, ExportWeights};
use crate::fault::Fault;
use crate::run::RunFolder;

pub(super) fn export(arguments: &ExportArguments) -> anyhow::Result<()> {
    let out = &arguments.out;
    if out.is_dir() && out.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Fault::new(format!("{} is not empty", out.display()))
            .with_hint("name a new folder with --out")
            .into());
    }
    let (folder, spec) = RunFolder::open(&arguments.run)?;
    let (step, digest) = block_on(async {
        let run = folder.read_run(&spec).await?;
        let committed = run.committed();
        let step = arguments.step.map_or(committed, Step);
        let policy = run.results().policies.get(step.0 as usize).ok_or_else(|| {
            Fault::new(format!("run `{}` has no policy of step {step}", run.id())).with_hint(format!(
                "steps 0 (before the first update) to {committed} are committed"
            ))
        })?;
        let digest = match arguments.weights {
            ExportWeights::Averaged => policy.evaluated(),
            ExportWeights::Trained => policy.adapter,
        };
        let written = folder.export(&spec, digest, out).await;
        written.map_err(|error| match error.downcast_ref::<BlobError>() {
            Some(BlobError::Missing { .. }) => error.context(
                Fault::new(format!("the adapter of step {step} is not kept any more"))
                    .with_hint("the latest step and those of `checkpoints.every` are; leave --step out for the latest"),
            ),
            _ => error,
        })?;
        anyhow::Ok((step, digest))
    })
    .with_context(|| format!("{}: nothing was exported", arguments.run.display()))?;
    println!("step {step}, adapter {digest}");
    println!("{}", out.display());
    Ok(())
}
