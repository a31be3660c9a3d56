//! Short runs by the real binary, and what came of them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gavel_coordinator::ledger::{EventRecord, Ledger as _, SqliteLedger};
use gavel_coordinator::read_run;
use gavel_core::ids::{Digest, PromptIndex, RunId, Step};
use gavel_core::run::{GroupResult, Phase, Results, Run, StepSeconds};
use gavel_core::work::{Orders, Pair, Verdict};
use serde_json::Value;

pub(crate) const STEPS: usize = 3;
pub(crate) const PAIRS: usize = 8;

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// How many processes share a run, and how many threads each has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) samplers: usize,
    pub(crate) judges: usize,
    pub(crate) trainers: usize,
    pub(crate) threads: usize,
}

pub(crate) const ONE_OF_EACH: Shape = Shape {
    samplers: 1,
    judges: 1,
    trainers: 1,
    threads: 1,
};

/// `gavel run` on the quickstart, cut down to a few steps.
pub(crate) fn gavel_run(out: &Path, shape: Shape, more: &[&str]) -> Command {
    let mut command = short_run("quickstart", out, shape);
    for setting in [
        "judge.reasons.fraction=0.5",
        "judge.reasons.template=configs/rubric/small/reason.toml",
        "evaluation.every=1",
        "evaluation.subset=2",
    ] {
        command.args(["--set", setting]);
    }
    command.args(more);
    command
}

/// A run gives the same bytes where a trainer samples with the same weights, in fewer processes.
pub(crate) fn check_shared_weights(out: &Path, adapter: Digest, expected: &Results) {
    let shape = Shape {
        samplers: 2,
        ..ONE_OF_EACH
    };
    finish(gavel_run(out, shape, &["--set", "fleet.share_weights=true"]));
    check_finished(out);
    assert_eq!(adapter_digest(out), adapter);
    assert!(results(out) == *expected);
    let logs = std::fs::read_dir(out.join("logs")).expect("logs");
    let mut logs: Vec<String> = logs
        .map(|log| log.expect("a log").file_name().to_string_lossy().into_owned())
        .collect();
    logs.sort();
    assert_eq!(
        logs,
        ["coordinator.log", "judge-0.log", "sampler-1.log", "trainer-0.log"]
    );
    let trainer = std::fs::read_to_string(out.join("logs/trainer-0.log")).expect("a log");
    assert_eq!(
        trainer.matches("registered").count(),
        2,
        "a sampler and a trainer:\n{trainer}"
    );
}

/// `gavel run` on one of the quickstarts, cut down to a few steps.
pub(crate) fn short_run(quickstart: &str, out: &Path, shape: Shape) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gavel"));
    command
        .current_dir(root())
        .args(["run", &format!("configs/{quickstart}.toml"), "--out"])
        .arg(out);
    for (option, count) in [
        ("--samplers", shape.samplers),
        ("--judges", shape.judges),
        ("--trainers", shape.trainers),
        ("--threads", shape.threads),
    ] {
        command.arg(option).arg(count.to_string());
    }
    let settings = [
        format!("run.steps={STEPS}"),
        format!("prompts.per_step={PAIRS}"),
        "sampling.batch=2".to_owned(),
        "judge.batch=2".to_owned(),
        "trainer.shard=2".to_owned(),
        "checkpoints.every=2".to_owned(),
        "evaluation.prompts=4".to_owned(),
        "evaluation.batch=2".to_owned(),
    ];
    for setting in settings {
        command.arg("--set").arg(setting);
    }
    command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

pub(crate) fn finish(mut command: Command) -> String {
    let output = command.output().expect("gavel starts");
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "gavel run failed\n{stdout}\n{stderr}");
    stdout.into_owned()
}

pub(crate) fn report(out: &Path) -> Value {
    let text = std::fs::read_to_string(out.join("report.json")).expect("report.json is written");
    serde_json::from_str(&text).expect("report.json is JSON")
}

pub(crate) fn ledger(out: &Path) -> Run {
    ledger_of("quickstart", out)
}

pub(crate) fn ledger_of(run: &str, out: &Path) -> Run {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let ledger = SqliteLedger::open(&out.join("state/ledger.sqlite"))
            .await
            .expect("the ledger opens");
        read_run(&ledger, &RunId(run.into()))
            .await
            .expect("the ledger holds the run")
    })
}

pub(crate) fn adapter_digest(out: &Path) -> Digest {
    Digest::of(&std::fs::read(out.join("adapter/adapter_model.safetensors")).expect("the adapter is written"))
}

/// Checks that a pair has reasons exactly where the specification wants them.
pub(crate) fn check_reasons(run: &Run, group: &GroupResult) {
    let [first, second] = group.candidates.as_slice() else {
        panic!("a group of two");
    };
    let pair = Pair {
        prompt_index: PromptIndex(0),
        task: Default::default(),
        first: first.image,
        second: second.image,
        rubric: None,
        orders: Orders::Both,
    };
    let record = &group.verdicts[0];
    let spec = run.spec().judge.reasons.as_ref().expect("the runs ask for reasons");
    if !spec.covers(&pair) {
        assert_eq!(record.reasons, []);
        return;
    }
    let [reason] = record.reasons.as_slice() else {
        panic!("the quickstart's rubric has one theme: {:?}", record.reasons);
    };
    // With one theme it is the whole rubric that was asked about again.
    assert_eq!(reason.verdict, record.verdict);
    assert_eq!(reason.probability_first, record.probability_first);
    let decides = matches!(reason.verdict, Verdict::Preferred { .. });
    assert_eq!(
        reason.sentence.as_ref().is_some_and(|text| text.starts_with("Image ")),
        decides
    );
}

/// Checks what a finished run left against what its ledger says.
pub(crate) fn check_finished(out: &Path) {
    let run = ledger(out);
    assert_eq!(run.phase(), Phase::Finished);
    let results = run.results();
    assert_eq!(results.steps.len(), STEPS);
    assert_eq!(
        results.policies.len(),
        STEPS + 1,
        "the initial policy and one for each step"
    );
    for (number, step) in results.steps.iter().enumerate() {
        assert_eq!(step.record.step, Step(number as u32 + 1));
        assert_eq!(step.groups.len(), PAIRS);
        let preferred = step.groups.iter().filter(|group| {
            assert_eq!(group.verdicts.len(), 1, "every pair is judged");
            matches!(group.verdicts[0].verdict, Verdict::Preferred { .. })
        });
        let decided = preferred.count();
        step.groups.iter().for_each(|group| check_reasons(&run, group));
        assert_eq!(step.record.decided as usize, decided);
        let trained_steps = run.spec().trained_steps().len() as u64;
        assert_eq!(
            step.record.terms,
            decided as u64 * 2 * trained_steps,
            "each decided pair is trained on once"
        );
        assert!(
            step.record.ratio_deviation < 1e-3,
            "sampler and trainer agree: {}",
            step.record.ratio_deviation
        );
    }
    let last = results.policies.last().expect("a policy");
    let expected = last.averaged.expect("the quickstart averages its adapter");
    assert_eq!(
        adapter_digest(out),
        expected,
        "the adapter folder holds what the last commit recorded"
    );

    let report = report(out);
    assert_eq!(report["adapter_sha256"], Value::String(expected.to_string()));
    assert_eq!(report["spec_sha256"], Value::String(run.spec_sha256().to_string()));
    assert_eq!(report["steps"].as_array().map(Vec::len), Some(STEPS));
    assert_eq!(report["evaluation"]["prompts"], 4);
    for key in ["before", "after", "all_before", "all_after"] {
        let value = report["evaluation"][key].as_f64().expect(key);
        assert!((0.0..=1.0).contains(&value), "{key} is {value}");
    }
    assert!(
        report["judge"]["accuracy"].as_f64().expect("accuracy") > 0.85,
        "{}",
        report["judge"]
    );
    let probes = report["probes"].as_array().expect("probes");
    let steps: Vec<u64> = probes.iter().filter_map(|probe| probe["step"].as_u64()).collect();
    assert_eq!(steps, [1, 2, 3], "each step is measured, the last one at the end");
    for probe in probes {
        assert!(probe["compared"] == 2 && probe["score"].is_f64(), "{probe}");
    }
    let best = run.best().expect("a step is the best");
    let bytes = std::fs::read(out.join("adapter-best/adapter_model.safetensors")).expect("the best adapter");
    assert_eq!(Some(Digest::of(&bytes)), results.policies[best.0 as usize].averaged);
    let metrics = std::fs::read_to_string(out.join("metrics.jsonl")).expect("metrics.jsonl is written");
    assert_eq!(metrics.matches("\"probe\":").count(), STEPS);
    assert!(out.join("report.html").is_file());
    assert!(out.join("checkpoints/step-2/adapter_model.safetensors").is_file());
    assert!(out.join("adapter/adapter_config.json").is_file());
}

/// Everything that a run produced, as hashes and figures, without times.
pub(crate) fn results(out: &Path) -> Results {
    let mut results = ledger(out).results().clone();
    for step in &mut results.steps {
        step.record.seconds = StepSeconds::default();
    }
    results
}

/// `gavel verify` or `gavel audit` as (exit status, standard output).
pub(crate) fn look_back(arguments: &[&str], out: &Path) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_gavel"))
        .current_dir(root())
        .args(arguments)
        .arg(out)
        .output()
        .expect("gavel starts");
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).expect("a copy");
        }
    }
}

/// Copies a run with its ledger changed: each event's text goes through `change`.
pub(crate) fn copy_changed(from: &Path, to: &Path, change: impl Fn(&mut Value)) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    copy(from, to);
    std::fs::remove_file(to.join("state/ledger.sqlite")).expect("the ledger is there");
    runtime.block_on(async {
        let id = RunId("quickstart".into());
        let before = SqliteLedger::open(&from.join("state/ledger.sqlite"))
            .await
            .expect("the ledger opens");
        let after = SqliteLedger::open(&to.join("state/ledger.sqlite"))
            .await
            .expect("a new ledger");
        let run = before.run(&id).await.expect("an answer").expect("the run");
        after.create_run(&run).await.expect("a new run");
        let mut events = before.events(&id).await.expect("events");
        let mut chain = run.chain;
        for event in &mut events {
            let mut value = serde_json::from_str(&event.event).expect("an event is JSON");
            change(&mut value);
            // By somebody who knows how checksums are made.
            let changed = EventRecord::new(
                &chain,
                id.clone(),
                event.sequence,
                event.at,
                event.kind.clone(),
                value.to_string(),
            );
            chain = changed.chain;
            *event = changed;
        }
        after.append(&events).await.expect("new events");
        before.close().await;
        after.close().await;
    });
}

/// A finished run is confirmed by doing a step again and by its books; one that somebody changed is not.
pub(crate) fn check_looking_back(out: &Path, folder: &Path) {
    let step = "--step=2";
    let (code, text) = look_back(&["verify", step], out);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("trajectories 16") && text.contains("verdicts 8") && text.contains("confirmed"),
        "{text}"
    );
    let (code, text) = look_back(&["verify", "--step=1", "--json"], out);
    let found: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, &found["confirmed"]), (Some(0), &Value::Bool(true)), "{text}");
    assert_eq!(
        found["parts"].as_array().map(Vec::len),
        Some(5),
        "the first step has the initial policy too: {text}"
    );
    let (code, text) = look_back(&["audit"], out);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("trajectories 48 of 48") && text.contains("no findings"),
        "{text}"
    );

    let run = ledger(out);
    let second = &run.results().steps[1];
    let name = second.groups[0].candidates[0].trajectory.to_string();
    let damaged = folder.join("damaged");
    copy(out, &damaged);
    let blob = damaged.join("state/blobs").join(&name[..2]).join(&name[2..]);
    let mut bytes = std::fs::read(&blob).expect("the trajectory is there");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&blob, bytes).expect("a changed trajectory");
    for arguments in [&["verify", step][..], &["audit"]] {
        let (code, text) = look_back(arguments, &damaged);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains(&name) && text.contains("prompt 0, candidate 0"), "{text}");
    }

    let changed = folder.join("changed");
    let decided = second
        .groups
        .iter()
        .position(|group| group.is_decided())
        .expect("a decided pair") as u64;
    copy_changed(out, &changed, |event| {
        if event["kind"] != "completed" || event["unit"]["kind"] != "judge" || event["unit"]["step"] != 2 {
            return;
        }
        for record in event["outcome"]["verdicts"].as_array_mut().expect("verdicts") {
            if record["prompt"] == decided {
                let other = if record["verdict"]["side"] == "first" {
                    "second"
                } else {
                    "first"
                };
                record["verdict"]["side"] = other.into();
            }
        }
    });
    for arguments in [&["verify", step][..], &["audit"]] {
        let (code, text) = look_back(arguments, &changed);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains(&format!("pair {decided}")), "{text}");
    }
}
