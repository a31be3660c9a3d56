//! Which run a folder goes on with: the same keys and the same files, from wherever it is started.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use gavel_coordinator::ledger::{Ledger as _, RunRecord, SqliteLedger};
use gavel_core::ids::Millis;
use gavel_core::spec::RunSpec;
use gavel_core::{Diagnostic, RubricText, RunAssets};
use gavel_review::RunFolder;

fn quickstart(change: impl FnOnce(&mut RunSpec)) -> RunSpec {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/quickstart.toml");
    let text = std::fs::read_to_string(file).unwrap();
    let mut spec = RunSpec::from_value(toml::from_str(&text).unwrap()).unwrap();
    change(&mut spec);
    spec
}

fn assets(prompt: &str, template: &str) -> RunAssets {
    RunAssets {
        prompts: vec![prompt.into()],
        rubric: RubricText::new("Colours match."),
        prompt_rubrics: Default::default(),
        template: template.into(),
        ..RunAssets::default()
    }
}

/// The folder of a run that has begun with these files.
async fn begun(path: &Path, spec: &RunSpec, assets: &RunAssets) {
    let folder = RunFolder::create(path, spec).unwrap();
    std::fs::create_dir_all(folder.state()).unwrap();
    let record = RunRecord::new(
        spec.id(),
        serde_json::to_string(spec).unwrap(),
        serde_json::to_string(assets).unwrap(),
        spec.digest().to_string(),
        Millis(0),
    );
    let ledger = SqliteLedger::open(&folder.state().join("ledger.sqlite")).await.unwrap();
    ledger.create_run(&record).await.unwrap();
    ledger.close().await;
}

#[tokio::test]
async fn a_run_goes_on_from_another_folder_and_notes_where_its_files_are_now() {
    let folder = tempfile::tempdir().unwrap();
    let there = quickstart(|spec| spec.model.path = "there/flux".into());
    let here = quickstart(|spec| spec.model.path = "here/flux".into());
    let assets = assets("a cat", "template");
    begun(folder.path(), &there, &assets).await;
    RunFolder::resume(folder.path(), &here, &assets).await.unwrap();
    assert_eq!(RunFolder::open(folder.path()).unwrap().spec(), &here);
}

#[tokio::test]
async fn a_run_does_not_go_on_with_other_files_or_keys_and_says_which() {
    let folder = tempfile::tempdir().unwrap();
    let spec = quickstart(|_| {});
    begun(folder.path(), &spec, &assets("a cat", "template")).await;

    let refused = async |spec: &RunSpec, assets: &RunAssets| {
        let resumed = RunFolder::resume(folder.path(), spec, assets).await;
        Diagnostic::of(&resumed.err().unwrap()).render()
    };
    let text = refused(&spec, &assets("a dog", "template")).await;
    assert!(
        text.contains("other contents of prompts.train (quickstart/prompts.txt)"),
        "{text}"
    );
    let text = refused(&spec, &assets("a cat", "another")).await;
    assert!(text.contains("other contents of judge.template"), "{text}");
    let other = quickstart(|spec| spec.run.seed = 9);
    let text = refused(&other, &assets("a cat", "template")).await;
    assert!(text.contains("was begun with another run.seed"), "{text}");
    let longer = quickstart(|spec| spec.run.steps += 8);
    RunFolder::resume(folder.path(), &longer, &assets("a cat", "template"))
        .await
        .unwrap();
    RunFolder::resume(folder.path(), &spec, &assets("a cat", "template"))
        .await
        .unwrap();
}
