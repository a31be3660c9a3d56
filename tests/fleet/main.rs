//! The real binary, end to end: separate processes, the shipped small models, a few steps; then the results against the ledger.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod devices;
mod lists;
mod prompt_rubrics;
mod scores;
mod support;
mod weighted_rubrics;
mod writer;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use gavel_core::ids::{Digest, Step};
use gavel_core::run::{GroupResult, Phase};

use crate::support::{
    ONE_OF_EACH, Shape, adapter_digest, check_finished, check_looking_back, check_shared_weights, finish, gavel_run,
    ledger, ledger_of, look_back, report, results, root, short_run,
};

#[test]
fn a_run_gives_the_same_bytes_whatever_the_number_of_workers_and_threads() {
    let folder = tempfile::tempdir().expect("a folder");
    let one = folder.path().join("one");
    finish(gavel_run(&one, ONE_OF_EACH, &[]));
    check_finished(&one);
    let (adapter, expected) = (adapter_digest(&one), results(&one));

    // Together these have 1, 2 and 8 samplers, 1 and 4 judges, 1, 2 and 4 trainers, and 1, 2 and 4 threads.
    let others = [(8, 4, 4, 1), (2, 1, 2, 2), (1, 1, 1, 4)];
    for (samplers, judges, trainers, threads) in others {
        let shape = Shape {
            samplers,
            judges,
            trainers,
            threads,
        };
        let other = folder.path().join(format!("{samplers}-{judges}-{trainers}-{threads}"));
        finish(gavel_run(&other, shape, &[]));
        check_finished(&other);
        assert_eq!(adapter_digest(&other), adapter, "{shape:?}: the adapter");
        assert!(
            results(&other) == expected,
            "{shape:?}: policies, pictures, verdicts or gradients"
        );
    }

    check_looking_back(&one, folder.path());
    check_shared_weights(&folder.path().join("shared"), adapter, &expected);

    let exported = folder.path().join("exported");
    let arguments = ["export", "--step=1", "--out", &exported.display().to_string()];
    let (code, text) = look_back(&arguments, &one);
    assert_eq!(code, Some(0), "{text}");
    let bytes = std::fs::read(exported.join("adapter_model.safetensors")).expect("the adapter is exported");
    assert_eq!(Some(Digest::of(&bytes)), ledger(&one).results().policies[1].averaged);
    let (code, _) = look_back(&arguments, &one);
    assert_eq!(code, Some(1), "what is there is not overwritten");

    let exported = folder.path().join("best");
    let arguments = ["export", "--step=best", "--out", &exported.display().to_string()];
    let (code, text) = look_back(&arguments, &one);
    assert_eq!(code, Some(0), "{text}");
    let read = |folder: &Path| std::fs::read(folder.join("adapter_model.safetensors")).expect("an adapter");
    assert!(read(&exported) == read(&one.join("adapter-best")));

    let again = gavel_run(&one, ONE_OF_EACH, &[]).output().expect("gavel starts");
    assert!(!again.status.success(), "a finished run is not overwritten");
    assert!(
        String::from_utf8_lossy(&again.stderr).contains("--resume"),
        "the remedy is named"
    );
}

#[test]
fn an_interrupted_run_goes_on_and_ends_with_the_adapter_of_an_undisturbed_one() {
    let folder = tempfile::tempdir().expect("a folder");
    // A shell has to be told where such a name ends.
    let (disturbed, undisturbed) = (folder.path().join("disturbed it is"), folder.path().join("undisturbed"));
    let mut child = gavel_run(&disturbed, ONE_OF_EACH, &[]).spawn().expect("gavel starts");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
    let first_step = lines.find(|line| line.as_ref().is_ok_and(|line| line.starts_with("step 1/")));
    assert!(first_step.is_some(), "the first step is shown");
    let second = gavel_run(&disturbed, ONE_OF_EACH, &["--resume"])
        .output()
        .expect("gavel starts");
    let told = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "two runs in one folder: {told}");
    assert!(
        told.contains("a run goes on here already") && told.contains(&format!("process {}", child.id())),
        "{told}"
    );
    let interrupt = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .expect("kill starts");
    assert!(interrupt.success());
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    let status = child.wait().expect("gavel ends");
    assert_eq!(status.code(), Some(130), "Ctrl-C is told by the exit status: {rest:?}");
    let again = rest.iter().find_map(|line| Some(line.split_once("go on with: ")?.1));
    let again = again.unwrap_or_else(|| panic!("how to go on is told: {rest:?}"));

    let (code, text) = look_back(&["audit"], &disturbed);
    assert_eq!(code, Some(0), "the books of a stopped run are right too: {text}");

    let mut child = pasted(again).spawn().expect("a shell starts");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
    let serves = lines.find(|line| line.as_ref().is_ok_and(|line| line.starts_with("dashboard")));
    assert!(serves.is_some(), "the dashboard is shown");
    for what in ["a run that goes on", "one that has ended"] {
        let (code, text) = look_back(&["watch"], &disturbed);
        assert_eq!(code, Some(0), "{what} is followed to its end: {text}");
        assert!(text.contains("finished  step 3 of 3"), "{what}: {text}");
    }
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    assert!(child.wait().expect("gavel ends").success(), "{rest:?}");
    check_finished(&disturbed);
    let (code, text) = look_back(&["audit"], &disturbed);
    assert_eq!(code, Some(0), "{text}");
    // Nobody reads what this one tells.
    let mut unread = gavel_run(&undisturbed, ONE_OF_EACH, &[]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    unread.stdout(writer);
    finish(unread);
    assert_eq!(adapter_digest(&disturbed), adapter_digest(&undisturbed));
}

/// What a shell makes of this line, with the program of this test as `gavel`.
fn pasted(line: &str) -> Command {
    let program = Path::new(env!("CARGO_BIN_EXE_gavel"));
    let folder = program.parent().expect("a folder").display();
    let mut shell = Command::new("sh");
    shell
        .current_dir(root())
        .args(["-c", &format!("exec {line}")])
        .env(
            "PATH",
            format!("{folder}:{}", std::env::var("PATH").unwrap_or_default()),
        )
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .stdout(Stdio::piped());
    shell
}

#[test]
fn a_run_of_edits_gives_the_same_bytes_on_any_fleet_and_is_confirmed() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, many) = (folder.path().join("one"), folder.path().join("many"));
    let shape = Shape {
        samplers: 3,
        judges: 2,
        trainers: 2,
        threads: 2,
    };
    finish(short_run("quickstart-edit", &one, ONE_OF_EACH));
    finish(short_run("quickstart-edit", &many, shape));
    assert_eq!(adapter_digest(&one), adapter_digest(&many), "{shape:?}: the adapter");

    let run = ledger_of("quickstart-edit", &one);
    assert_eq!(run.phase(), Phase::Finished);
    assert!(run.assets().prompts.iter().all(|task| task.sources.len() == 1));
    let (code, text) = look_back(&["verify", "--step=2"], &one);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = look_back(&["audit"], &one);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("trajectories 48 of 48") && text.contains("no findings"),
        "{text}"
    );

    let axes = &report(&one)["evaluation"]["axes"];
    for axis in ["fulfilment", "preservation"] {
        for moment in ["before", "after", "copy"] {
            let value = axes[axis][moment].as_f64().expect("a share");
            assert!((0.0..=1.0).contains(&value), "{axis}, {moment}: {value}");
        }
    }
    assert_eq!(
        axes["fulfilment"]["copy"], 0.0,
        "a copy of the source does nothing that was asked"
    );
    assert_eq!(
        axes["preservation"]["copy"], 1.0,
        "a copy of the source keeps everything"
    );

    for file in [
        "adapter_model.safetensors",
        "pytorch_lora_weights.safetensors",
        "adapter_config.json",
    ] {
        assert!(one.join("adapter").join(file).is_file(), "{file}");
    }
}

/// `gavel` with these arguments, which must succeed.
fn gavel(arguments: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gavel"));
    command.current_dir(root()).args(arguments);
    finish(command);
}

#[test]
fn a_run_starts_from_an_exported_adapter_on_any_fleet_and_is_confirmed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let text = |name: &str| path(name).display().to_string();
    finish(short_run("quickstart", &path("before"), ONE_OF_EACH));
    for format in ["peft", "diffusers", "kohya", "merged"] {
        gavel(&["export", &text("before"), "--format", format, "--out", &text(format)]);
        let card = std::fs::read_to_string(path(format).join("README.md")).expect("a model card");
        assert!(
            card.starts_with("---\n") && card.contains("win rate against the base | "),
            "{card}"
        );
    }
    let exported = std::fs::read(path("peft").join("adapter_model.safetensors")).expect("the adapter is exported");
    let exported = Digest::of(&exported);

    let warm = |out: &str, format: &str, shape: Shape| {
        let mut command = short_run("quickstart", &path(out), shape);
        command.arg("--set").arg(format!("lora.init={}", text(format)));
        command
    };
    let shape = Shape {
        samplers: 2,
        judges: 2,
        trainers: 2,
        threads: 2,
    };
    finish(warm("one", "peft", ONE_OF_EACH));
    finish(warm("many", "kohya", shape));
    assert_eq!(
        adapter_digest(&path("one")),
        adapter_digest(&path("many")),
        "{shape:?}: the adapter"
    );
    assert!(
        results(&path("one")) == results(&path("many")),
        "{shape:?}: what it was made from"
    );

    let run = ledger(&path("one"));
    assert_eq!(run.phase(), Phase::Finished);
    assert_eq!(run.assets().initial_adapter, Some(exported));
    assert_eq!(
        run.results().policies[0].adapter,
        exported,
        "policy 0 is the adapter, to the bit"
    );
    assert_ne!(run.results().policies[1].adapter, exported, "it is trained on");
    assert!(
        run.results().steps[0].record.kl > 0.0,
        "the KL measures from the base, from the first step on"
    );
    let (code, text) = look_back(&["verify", "--step=1"], &path("one"));
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = look_back(&["audit"], &path("one"));
    assert_eq!(code, Some(0), "{text}");

    let other = path("other");
    let mut refused = warm("other", "diffusers", ONE_OF_EACH);
    refused.args(["--set", "lora.rank=8"]);
    let refused = refused.output().expect("gavel starts");
    let problem = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && !other.join("state").exists(), "{problem}");
    assert!(
        problem.contains("`lora.rank`: 8 asked for, the adapter has 4"),
        "{problem}"
    );
}

#[test]
fn a_run_that_hacks_a_bad_rubric_is_held_by_the_judge_that_nothing_is_rewarded_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    // As it ships: the policy that this judge rewards forgets its captions within a few steps more.
    let mut command = Command::new(env!("CARGO_BIN_EXE_gavel"));
    command
        .current_dir(root())
        .args(["run", "configs/quickstart-hacked.toml", "--out"])
        .arg(&out)
        .stdin(Stdio::null());
    let output = command.output().expect("gavel starts");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "the run should have been paused\n{told}");
    assert!(
        told.contains("stop.agreement_min") && told.contains("gavel resume"),
        "{told}"
    );

    let run = ledger_of("quickstart-hacked", &out);
    let Phase::Paused { reason } = run.phase() else {
        panic!("the run is {}", run.phase());
    };
    assert!(
        reason.starts_with("`stop.agreement_min`: in steps 1 to 4 the held-out judge"),
        "{reason}"
    );
    assert_eq!(
        run.committed(),
        Step(4),
        "the rule looks as soon as its steps are committed"
    );
    for step in &run.results().steps {
        assert!(
            step.groups.iter().all(|group| group.held_out.len() == 1),
            "each pair has a second verdict"
        );
        let both = step.groups.iter().map(GroupResult::agreement);
        let (pairs, alike) = both.fold((0, 0), |(pairs, alike), of| (pairs + of.0, alike + of.1));
        assert_eq!(step.record.held_out_pairs, Some(pairs));
        let share = (pairs > 0).then(|| f64::from(alike) / f64::from(pairs));
        assert_eq!(step.record.held_out_agreement, share);
    }
    let (code, text) = look_back(&["audit"], &out);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = look_back(&["verify", "--step=2", "--part=judge", "--part=held_out"], &out);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("held_out") && text.contains("confirmed"), "{text}");
}
