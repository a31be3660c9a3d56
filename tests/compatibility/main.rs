//! A run that an earlier Gavel wrote is still read: `run/` is the folder of a run of four steps that was stopped after two, by
//! Gavel at commit 546dba1 (ledger, blobs and trajectories in their first formats). It is audited, done again, exported and resumed.
//! `judge/` is the small judge that it was judged by; the one that ships has since learnt more.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// SHA-256 of the adapter with which the Gavel that wrote the run ended it, when it was resumed there.
const FINAL_ADAPTER: &str = "65e51690a65434c2adb6eb0f2b820683e440f272d6af9fb363a98d56a089cf03";

/// SHA-256 of the adapter of step 1, which that Gavel exported.
const FIRST_ADAPTER: &str = "49b7101f4feb4316223aa30d49dc516cd488914f0e368d2de57f97e9d0aa8b60";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder can be made");
    for entry in std::fs::read_dir(from).expect("the fixture is there") {
        let entry = entry.expect("the fixture is readable");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a file can be copied");
        }
    }
}

/// A folder that the test may change, as the repository was when the run was written.
struct Then {
    folder: tempfile::TempDir,
    run: PathBuf,
}

impl Then {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (run, small) = (folder.path().join("run"), folder.path().join("tests/compatibility"));
        copy(&root().join("tests/compatibility/run"), &run);
        std::fs::create_dir_all(&small).expect("a folder can be made");
        std::fs::create_dir(folder.path().join("models")).expect("a folder can be made");
        for (from, to) in [
            ("configs", "configs"),
            ("models/tiny-flux", "models/tiny-flux"),
            ("tests/compatibility/judge", "models/tiny-judge"),
            ("tests/compatibility/judge", "tests/compatibility/judge"),
        ] {
            let from = root().join(from).canonicalize().expect("it is there");
            std::os::unix::fs::symlink(from, folder.path().join(to)).expect("a link can be made");
        }
        let config = "tests/compatibility/small.toml";
        std::fs::copy(root().join(config), folder.path().join(config)).expect("a file can be copied");
        Self { folder, run }
    }

    fn run(&self) -> &str {
        self.run.to_str().expect("UTF-8")
    }

    /// Starts `gavel` there: the run's models are named from there.
    fn gavel(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_gavel"))
            .args(arguments)
            .current_dir(self.folder.path())
            .output()
            .expect("gavel starts")
    }

    fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.gavel(arguments);
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(output.status.success(), "{arguments:?}\n{out}\n{err}");
        out.into_owned()
    }
}

fn sha256(file: &Path) -> String {
    gavel_core::ids::Digest::of(&std::fs::read(file).expect("the file is there")).to_string()
}

#[test]
fn an_earlier_run_is_audited_and_done_again_to_the_same_bytes() {
    let then = Then::new();
    let audited = then.succeeds(&["audit", then.run()]);
    assert!(
        audited.contains("2 steps committed") && audited.contains("no findings"),
        "{audited}"
    );
    let verified = then.succeeds(&["verify", then.run()]);
    assert!(
        verified.contains("confirmed: the same bytes") && verified.contains("trajectories 8"),
        "{verified}"
    );
}

#[test]
fn an_earlier_run_gives_out_its_adapters() {
    let then = Then::new();
    let out = then.folder.path().join("exported");
    then.succeeds(&[
        "export",
        then.run(),
        "--step",
        "1",
        "--out",
        out.to_str().expect("UTF-8"),
    ]);
    assert_eq!(sha256(&out.join("adapter_model.safetensors")), FIRST_ADAPTER);
}

#[test]
fn an_earlier_run_is_resumed_to_the_adapter_that_it_would_have_had() {
    let then = Then::new();
    then.succeeds(&["run", "tests/compatibility/small.toml", "--resume", "--out", then.run()]);
    assert_eq!(
        sha256(&then.run.join("adapter/adapter_model.safetensors")),
        FINAL_ADAPTER
    );
    let audited = then.succeeds(&["audit", then.run()]);
    assert!(
        audited.contains("4 steps committed") && audited.contains("no findings"),
        "{audited}"
    );
}

#[test]
fn it_is_judged_again_as_it_was_and_by_another_rubric_and_stays_as_it_is() {
    let then = Then::new();
    let run = then.run();
    let kept = then.folder.path().join("kept.sqlite").display().to_string();
    let again = |more: &[&str]| -> serde_json::Value {
        let arguments = ["rejudge", run, "--cache", &kept, "--json"];
        serde_json::from_str(&then.succeeds(&[&arguments, more].concat())).expect("JSON")
    };
    let count = |of: &serde_json::Value, what: &str| of[what].as_u64().expect("a number");

    then.succeeds(&["rejudge", run, "--cache", &kept, "--dry-run"]);
    assert!(!Path::new(&kept).exists(), "it only says what it would ask");
    let same = again(&[]);
    let total = &same["total"];
    assert!(
        count(total, "matches") > 0 && count(total, "decided_before") > 0,
        "{same}"
    );
    assert_eq!(count(total, "same"), count(total, "decided_before"));
    assert_eq!(count(total, "decided_after"), count(total, "decided_before"));
    assert_eq!((count(total, "flipped"), count(total, "rewards_changed")), (0, 0));
    assert_eq!(same["steps"].as_array().map(Vec::len), Some(2));

    let rubric = then.folder.path().join("other.txt");
    std::fs::write(&rubric, "The background has the stated colour.\n").expect("written");
    let other = again(&["--rubric", &rubric.display().to_string(), "--by-theme", "--steps", "2"]);
    assert_ne!(other["rubric"], same["rubric"]);
    assert_eq!(other["steps"].as_array().map(Vec::len), Some(1));
    // One theme by itself is the whole rubric.
    for what in ["matches", "decided_after", "same", "flipped"] {
        assert_eq!(other["themes"][0][what], other["total"][what], "{what}");
    }
    then.succeeds(&["audit", run]);
}
