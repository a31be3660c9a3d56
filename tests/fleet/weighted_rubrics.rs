//! Rubrics whose criteria are judged one by one, and weighed.

use std::path::Path;

use gavel_core::ids::Digest;
use gavel_core::run::GroupResult;
use serde_json::Value;

use crate::support::{ONE_OF_EACH, Shape, adapter_digest, finish, ledger, look_back, root, short_run};

/// The quickstart's four criteria, one of which counts for nothing.
const WEIGHTS: &str = "weights = [0.9, 1.4, 0, 0.5]";

#[test]
fn a_run_weighs_criteria_the_same_on_any_fleet_and_audit_and_verify_agree() {
    let folder = tempfile::tempdir().expect("a folder");
    let words =
        std::fs::read_to_string(root().join("configs/quickstart/rubric.toml")).expect("the quickstart's rubric");
    let file = folder.path().join("rubric.toml");
    std::fs::write(&file, format!("{words}{WEIGHTS}\n")).expect("the rubric is written");
    let run = |name: &str, rubric: &Path, shape| {
        let out = folder.path().join(name);
        let mut command = short_run("quickstart", &out, shape);
        let rubric = format!("judge.rubric={}", rubric.display());
        command.args(["--set", "run.steps=2", "--set", &rubric]);
        finish(command);
        out
    };
    let out = run("one", &file, ONE_OF_EACH);
    let shape = Shape {
        samplers: 2,
        judges: 2,
        trainers: 2,
        threads: 2,
    };
    assert_eq!(adapter_digest(&run("many", &file, shape)), adapter_digest(&out));

    let run = ledger(&out);
    let text = &run.assets().rubric.text;
    assert!(
        text.starts_with("- [weight 0.9] The background has the stated colour.\n"),
        "{text}"
    );
    assert!(
        text.contains("- [weight 0] The objects are placed as stated.\n"),
        "{text}"
    );
    let groups: Vec<&GroupResult> = run.results().steps.iter().flat_map(|step| &step.groups).collect();
    let verdicts: Vec<_> = groups.iter().flat_map(|group| &group.verdicts).collect();
    assert!(
        verdicts
            .iter()
            .all(|record| record.rubric == Digest::of(text.as_bytes()))
    );
    // Leans of at most 5 in criteria that weigh 2.8 together keep every probability away from 0 and 1.
    let least = 1.0 / (1.0 + f64::exp(14.0));
    for record in &verdicts {
        assert!(record.is_judged(), "{record:?}");
        let probabilities = record.order_probabilities.iter();
        assert!(
            probabilities
                .copied()
                .all(|one| (least - 1e-12..=1.0 - least + 1e-12).contains(&one))
        );
    }

    let (code, text) = look_back(&["audit"], &out);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = look_back(&["verify", "--step=2", "--part=judge"], &out);
    assert_eq!(code, Some(0), "{text}");
    let cache = folder.path().join("kept.sqlite").display().to_string();
    let again = |more: &[&str]| -> Value {
        let arguments = [&["rejudge", "--json", "--cache", &cache], more].concat();
        let (code, text) = look_back(&arguments, &out);
        assert_eq!(code, Some(0), "{text}");
        serde_json::from_str(&text).expect("findings as JSON")
    };
    let same = again(&[]);
    assert_eq!(
        (&same["total"]["flipped"], &same["total"]["rewards_changed"]),
        (&0.into(), &0.into())
    );
    // The same words, read at once, are another rubric.
    let plain = root().join("configs/quickstart/rubric.toml").display().to_string();
    let other = again(&["--rubric", &plain]);
    assert_ne!(other["rubric"], same["rubric"]);
    assert_eq!(other["total"]["matches"], same["total"]["matches"]);
}
