//! The folder of a run: `adapter/`, `checkpoints/`, `logs/`, the reports, and `state/` with ledger and blobs.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use gavel_coordinator::blobs::Blobs;
use gavel_coordinator::ledger::{Ledger as _, SqliteLedger};
use gavel_core::RunAssets;
use gavel_core::ids::{Digest, Step};
use gavel_core::run::Run;
use gavel_core::spec::RunSpec;
use gavel_core::work::Policy;
use gavel_models::lora::{LoraConfig, write_folder};
use gavel_trainer_worker::replay::OPTIMIZER_FILE;

use super::History;
use crate::commands::coordinator::Ready;
use crate::fault::Fault;

const SPEC: &str = "spec.json";
const COORDINATOR: &str = "coordinator.json";
/// Blobs are read here, never stored.
const BLOB_BYTES_MAX: u64 = u64::MAX;

/// The folder of a run.
pub(crate) struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Makes the folder for a new run.
    ///
    /// # Errors
    /// It holds a run already, or cannot be written.
    pub(super) fn create(path: &Path, spec: &RunSpec) -> anyhow::Result<Self> {
        Self::check_new(path)?;
        let folder = Self { path: path.to_owned() };
        let unwritable = || {
            Fault::new(format!("{}: cannot write to the run's folder", path.display()))
                .with_hint("choose a folder that this user may write to, with --out")
        };
        std::fs::create_dir_all(folder.logs()).with_context(unwritable)?;
        folder.write_spec(spec).with_context(unwritable)?;
        Ok(folder)
    }

    /// Writes the spec whole or not at all.
    fn write_spec(&self, spec: &RunSpec) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(spec).context("cannot write the spec as JSON")?;
        let unfinished = self.path.join(format!("{SPEC}.new"));
        std::fs::write(&unfinished, text)?;
        Ok(std::fs::rename(unfinished, self.spec_file())?)
    }

    /// Says whether a new run may have this folder.
    ///
    /// # Errors
    /// It holds a run already.
    pub(crate) fn check_new(path: &Path) -> anyhow::Result<()> {
        let folder = Self { path: path.to_owned() };
        // Without a ledger nothing has begun: an earlier start failed, for example because a port was in use.
        if folder.ledger().exists() {
            return Err(Fault::new(format!("{} holds a run already", path.display()))
                .with_hint("go on with it by --resume, choose another folder with --out, or another `run.name` with --set run.name=NAME")
                .into());
        }
        Ok(())
    }

    /// Opens the folder of a run that is to go on, and notes where its files are now.
    ///
    /// # Errors
    /// There is none, or it was made by another configuration or from other files.
    pub(super) async fn resume(path: &Path, spec: &RunSpec, assets: &RunAssets) -> anyhow::Result<Self> {
        let file = path.join(SPEC);
        let text = std::fs::read_to_string(&file).with_context(|| {
            Fault::new(format!("{} holds no run to resume", path.display()))
                .with_hint("start it without --resume, or name its folder with --out")
        })?;
        let before: RunSpec = serde_json::from_str(&text).with_context(|| {
            Fault::new(format!("{}: not a run's configuration", file.display()))
                .with_hint("resume with the Gavel version that began the run")
        })?;
        if before.digest() != spec.digest() {
            let message = format!(
                "{} was begun with another configuration (spec {}, now {})",
                path.display(),
                before.digest().short(),
                spec.digest().short()
            );
            return Err(Fault::new(message)
                .with_hint(format!(
                    "resume with the same configuration and --set options; {} holds it",
                    file.display()
                ))
                .into());
        }
        let folder = Self { path: path.to_owned() };
        folder.check_assets(spec, assets).await?;
        let unwritable = || format!("{}: cannot write to the run's folder", path.display());
        std::fs::create_dir_all(folder.logs()).with_context(unwritable)?;
        folder.write_spec(spec).with_context(unwritable)?;
        Ok(folder)
    }

    /// Compares the files' contents with those that the run was begun with.
    async fn check_assets(&self, spec: &RunSpec, assets: &RunAssets) -> anyhow::Result<()> {
        // Without a ledger nothing has begun: an earlier start failed.
        if !self.ledger().is_file() {
            return Ok(());
        }
        let ledger = SqliteLedger::open(&self.ledger()).await?;
        let records = ledger.runs().await?;
        ledger.close().await;
        let Some(record) = records.iter().find(|record| record.run == spec.id()) else {
            return Ok(());
        };
        let before: RunAssets = serde_json::from_str(&record.assets)
            .with_context(|| format!("{}: the run's files cannot be read", self.ledger().display()))?;
        let differences = before.differences(assets);
        if differences.is_empty() {
            return Ok(());
        }
        let message = format!(
            "{} was begun with other contents of {}",
            self.path.display(),
            differences.join(", ")
        );
        Err(Fault::new(message)
            .with_hint(
                "put back what these keys named when the run was begun, or start another run with --out and run.name",
            )
            .into())
    }

    /// Opens the folder of a run that is there, to look into it. `run` is the folder, or its name in `runs/`.
    ///
    /// # Errors
    /// No such folder, or none of a run.
    pub(crate) fn open(run: &Path) -> anyhow::Result<(Self, RunSpec)> {
        let below = Path::new("runs").join(run);
        let path = if !run.is_dir() && below.is_dir() {
            below
        } else {
            run.to_owned()
        };
        let folder = Self { path };
        let file = folder.path.join(SPEC);
        let text = std::fs::read_to_string(&file).with_context(|| {
            Fault::new(format!("{} is not the folder of a run", run.display())).with_hint(
                "name the folder that `gavel run` wrote, for example runs/quickstart; it has spec.json at its root",
            )
        })?;
        let spec = serde_json::from_str(&text).with_context(|| {
            Fault::new(format!("{}: not a run's configuration", file.display()))
                .with_hint("use the Gavel version that began the run")
        })?;
        if !folder.ledger().is_file() {
            return Err(Fault::new(format!("{}: there is no ledger", folder.ledger().display()))
                .with_hint("the run has not begun, or its folder was copied without `state/`")
                .into());
        }
        Ok((folder, spec))
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The run's configuration as JSON, with the paths of its last start.
    pub(super) fn spec_file(&self) -> PathBuf {
        self.path.join(SPEC)
    }

    /// The processes' logs.
    pub(crate) fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// Ledger and blobs.
    pub(super) fn state(&self) -> PathBuf {
        self.path.join("state")
    }

    /// Notes where the run's coordinator serves, so that others find it by the folder.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn note_coordinator(&self, ready: &Ready) -> anyhow::Result<()> {
        let file = self.state().join(COORDINATOR);
        let text = serde_json::to_string(ready).context("cannot write JSON")?;
        std::fs::write(&file, text).with_context(|| format!("{}: cannot write", file.display()))
    }

    /// Where the run's coordinator serves, or did.
    pub(crate) fn coordinator(&self) -> Option<Ready> {
        let text = std::fs::read_to_string(self.state().join(COORDINATOR)).ok()?;
        serde_json::from_str(&text).ok()
    }

    fn ledger(&self) -> PathBuf {
        self.state().join("ledger.sqlite")
    }

    /// The run as its ledger tells it.
    ///
    /// # Errors
    /// The ledger cannot be read or does not hold the run.
    pub(crate) async fn read_run(&self, spec: &RunSpec) -> anyhow::Result<Run> {
        let ledger = SqliteLedger::open(&self.ledger()).await?;
        Ok(gavel_coordinator::read_run(&ledger, &spec.id()).await?)
    }

    /// Everything that the ledger holds of the run.
    ///
    /// # Errors
    /// As [`RunFolder::read_run`].
    pub(crate) async fn history(&self, spec: &RunSpec) -> anyhow::Result<History> {
        let ledger = SqliteLedger::open(&self.ledger()).await?;
        let run = spec.id();
        let record = ledger.runs().await?.into_iter().find(|record| record.run == run);
        let record = record.ok_or_else(|| {
            Fault::new(format!("{}: the ledger has no run `{run}`", self.ledger().display()))
                .with_hint("spec.json and state/ are of different runs; put the folder together again from one copy")
        })?;
        let events = ledger.events(&record.run).await?;
        ledger.close().await;
        Ok(History { record, events })
    }

    /// The run's blobs.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub(crate) async fn blobs(&self) -> anyhow::Result<Blobs> {
        Ok(Blobs::open_folder(&self.state().join("blobs"), BLOB_BYTES_MAX).await?)
    }

    /// Writes a step's adapter and optimizer state to `checkpoints/step-N/`, unless they are there.
    ///
    /// # Errors
    /// A blob cannot be read or the files not be written.
    pub(crate) async fn write_checkpoint(&self, spec: &RunSpec, step: Step, policy: &Policy) -> anyhow::Result<()> {
        let dir = self.path.join("checkpoints").join(format!("step-{step}"));
        let optimizer = dir.join(OPTIMIZER_FILE);
        // Written last, so a folder that has it is complete.
        if optimizer.exists() {
            return Ok(());
        }
        let blobs = self.blobs().await?;
        self.write_adapter(spec, &blobs, policy.adapter, &dir).await?;
        if let Some(averaged) = policy.averaged {
            self.write_adapter(spec, &blobs, averaged, &dir.join("averaged"))
                .await?;
        }
        let bytes = blobs.get(&policy.optimizer).await?;
        std::fs::write(&optimizer, &bytes).with_context(|| format!("{}: cannot write", optimizer.display()))
    }

    /// Writes the final adapter to `adapter/` and returns the SHA-256 of its PEFT file.
    ///
    /// # Errors
    /// As [`RunFolder::write_checkpoint`].
    pub(crate) async fn write_final(&self, spec: &RunSpec, policy: &Policy) -> anyhow::Result<Digest> {
        let dir = self.path.join("adapter");
        let blobs = self.blobs().await?;
        self.write_adapter(spec, &blobs, policy.averaged.unwrap_or(policy.adapter), &dir)
            .await?;
        let file = dir.join("adapter_model.safetensors");
        let bytes = std::fs::read(&file).with_context(|| format!("{}: cannot read", file.display()))?;
        Ok(Digest::of(&bytes))
    }

    /// Writes one adapter of the run as a folder of its own.
    ///
    /// # Errors
    /// As [`RunFolder::write_checkpoint`].
    pub(crate) async fn export(&self, spec: &RunSpec, adapter: Digest, dir: &Path) -> anyhow::Result<()> {
        self.write_adapter(spec, &self.blobs().await?, adapter, dir).await
    }

    async fn write_adapter(&self, spec: &RunSpec, blobs: &Blobs, adapter: Digest, dir: &Path) -> anyhow::Result<()> {
        let bytes = blobs.get(&adapter).await?;
        Ok(write_folder(&bytes, &LoraConfig::from(&spec.lora), dir)?)
    }
}

#[cfg(test)]
mod tests {
    use gavel_coordinator::ledger::RunRecord;
    use gavel_core::ids::Millis;
    use serde_json::json;

    use super::*;
    use crate::commands::block_on;
    use crate::config::load_file;
    use crate::fault::render;

    fn quickstart(overrides: &[&str]) -> RunSpec {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/quickstart.toml");
        let overrides: Vec<String> = overrides.iter().map(|entry| (*entry).to_owned()).collect();
        load_file(&file, &overrides).unwrap()
    }

    fn assets(prompt: &str, template: &str) -> RunAssets {
        let rubric = gavel_core::RubricText::new("Colours match.");
        let text = json!({
            "prompts": [prompt],
            "held_out": [],
            "rubric": rubric,
            "template": template,
            "labelled": [],
        });
        serde_json::from_value(text).unwrap()
    }

    /// The folder of a run that has begun with these files.
    fn begun(folder: &Path, spec: &RunSpec, assets: &RunAssets) {
        let folder = RunFolder::create(folder, spec).unwrap();
        std::fs::create_dir_all(folder.state()).unwrap();
        let record = RunRecord {
            run: spec.id(),
            spec: serde_json::to_string(spec).unwrap(),
            assets: serde_json::to_string(assets).unwrap(),
            spec_sha256: spec.digest().to_string(),
            created: Millis(0),
        };
        block_on(async {
            let ledger = SqliteLedger::open(&folder.ledger()).await?;
            ledger.create_run(&record).await?;
            ledger.close().await;
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn a_run_goes_on_from_another_folder_and_notes_where_its_files_are_now() {
        let folder = tempfile::tempdir().unwrap();
        let there = quickstart(&["model.path=there/flux", "prompts.train=there/prompts.txt"]);
        let here = quickstart(&["model.path=here/flux", "prompts.train=here/prompts.txt"]);
        let assets = assets("a cat", "template");
        begun(folder.path(), &there, &assets);
        block_on(RunFolder::resume(folder.path(), &here, &assets)).unwrap();
        let (_, noted) = RunFolder::open(folder.path()).unwrap();
        assert_eq!(noted, here);
    }

    #[test]
    fn a_run_does_not_go_on_with_other_files_or_keys_and_says_which() {
        let folder = tempfile::tempdir().unwrap();
        let spec = quickstart(&[]);
        begun(folder.path(), &spec, &assets("a cat", "template"));
        let refused = |spec: &RunSpec, assets: &RunAssets| {
            let resumed = block_on(RunFolder::resume(folder.path(), spec, assets));
            render(&resumed.err().unwrap())
        };
        let text = refused(&spec, &assets("a dog", "template"));
        assert!(text.contains("begun with other contents of prompts.train\n"), "{text}");
        let text = refused(&spec, &assets("a dog", "another"));
        assert!(
            text.contains("other contents of prompts.train, judge.template\n"),
            "{text}"
        );
        let text = refused(&quickstart(&["run.seed=1"]), &assets("a cat", "template"));
        assert!(text.contains("begun with another configuration"), "{text}");
        let (_, noted) = RunFolder::open(folder.path()).unwrap();
        assert_eq!(noted, spec, "a refusal changes nothing");
    }
}
