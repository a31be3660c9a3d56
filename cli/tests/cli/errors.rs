//! What people read when something is wrong: one clear error with its remedy, and an exit status that is not 0.
//!
//! No test here loads a model; each ends before that would happen.

use std::path::Path;
use std::process::Output;

use tempfile::TempDir;

use crate::support::{program, root};

fn gavel(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = program(arguments);
    command.env("RUST_BACKTRACE", "0").envs(environment.iter().copied());
    command.output().unwrap()
}

/// Standard error of a command that must fail, with `folder` written as `[folder]`.
fn failure(arguments: &[&str], environment: &[(&str, &str)], folder: &TempDir) -> String {
    let output = gavel(arguments, environment);
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let text = String::from_utf8(output.stderr).unwrap();
    text.replace(&folder.path().display().to_string(), "[folder]")
}

/// A run in `folder` with these overrides, which must fail.
fn failed_run(folder: &TempDir, overrides: &[&str]) -> String {
    let out = folder.path().join("out").display().to_string();
    let mut arguments = vec!["run", "configs/quickstart.toml", "--out", &out];
    for entry in overrides {
        arguments.extend(["--set", entry]);
    }
    let text = failure(&arguments, &[], folder);
    assert!(!folder.path().join("out/report.json").exists());
    text
}

fn file(folder: &TempDir, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn the_quickstart_configuration_passes_its_check() {
    let output = gavel(&["config", "check", "configs/quickstart.toml"], &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .starts_with("configs/quickstart.toml: ok\n")
    );
}

#[test]
fn unknown_keys_and_wrong_types_are_all_named_at_once() {
    let folder = TempDir::new().unwrap();
    let text = std::fs::read_to_string(root().join("configs/quickstart.toml")).unwrap();
    let text = text
        .replace("clip_range = 0.2", "clip_rnage = 0.2")
        .replace("seed = 0", "seed = \"zero\"");
    let config = file(&folder, "wrong.toml", &text);
    insta::assert_snapshot!(failure(&["config", "check", &config], &[], &folder));
}

#[test]
fn broken_toml_is_named_by_line() {
    let folder = TempDir::new().unwrap();
    let config = file(&folder, "broken.toml", "[run]\nname = \n");
    insta::assert_snapshot!(failure(&["config", "check", &config], &[], &folder));
}

#[test]
fn a_missing_configuration_is_named() {
    let folder = TempDir::new().unwrap();
    insta::assert_snapshot!(failure(&["config", "check", "configs/nowhere.toml"], &[], &folder));
}

#[test]
fn the_environment_overrides_the_file_and_the_command_line_overrides_both() {
    let folder = TempDir::new().unwrap();
    let environment = [("GAVEL__OBJECTIVE__CLIP_RANGE", "2")];
    insta::assert_snapshot!(failure(
        &["config", "check", "configs/quickstart.toml"],
        &environment,
        &folder
    ));
    let repaired = [
        "config",
        "check",
        "configs/quickstart.toml",
        "--set",
        "objective.clip_range=0.1",
    ];
    assert!(gavel(&repaired, &environment).status.success());
}

#[test]
fn an_override_without_a_value_is_refused() {
    let folder = TempDir::new().unwrap();
    insta::assert_snapshot!(failure(
        &["config", "check", "configs/quickstart.toml", "--set", "run.seed"],
        &[],
        &folder
    ));
}

#[test]
fn a_missing_model_folder_is_named_by_key() {
    let folder = TempDir::new().unwrap();
    insta::assert_snapshot!(failed_run(&folder, &["model.path=models/nowhere"]));
}

#[test]
fn a_folder_of_another_kind_is_no_model() {
    let folder = TempDir::new().unwrap();
    insta::assert_snapshot!(failed_run(&folder, &["model.path=models/tiny-judge"]));
}

#[test]
fn a_prompt_file_without_prompts_is_refused() {
    let folder = TempDir::new().unwrap();
    let prompts = file(&folder, "prompts.txt", "");
    insta::assert_snapshot!(failed_run(&folder, &[&format!("prompts.train={prompts}")]));
}

#[test]
fn an_empty_line_among_the_prompts_is_named_by_number() {
    let folder = TempDir::new().unwrap();
    let prompts = file(
        &folder,
        "prompts.txt",
        "a red circle on a white background\n\na blue square on a white background\n",
    );
    insta::assert_snapshot!(failed_run(&folder, &[&format!("prompts.train={prompts}")]));
}

#[test]
fn wrong_json_among_the_prompts_is_named_by_line() {
    let folder = TempDir::new().unwrap();
    let prompts = file(&folder, "prompts.jsonl", "{\"prompt\": \"a cat\"}\n{\"prompt\": 1}\n");
    insta::assert_snapshot!(failed_run(&folder, &[&format!("prompts.train={prompts}")]));
}

#[test]
fn held_out_prompts_that_the_evaluator_does_not_understand_are_named() {
    let folder = TempDir::new().unwrap();
    let prompts = file(&folder, "prompts.txt", "a photo of a cat\n");
    insta::assert_snapshot!(failed_run(&folder, &[&format!("prompts.held_out={prompts}")]));
}

#[test]
fn a_template_that_names_an_unknown_variable_is_found_before_anything_starts() {
    let folder = TempDir::new().unwrap();
    let text = std::fs::read_to_string(root().join("configs/judge/small.toml")).unwrap();
    let template = file(
        &folder,
        "judge.toml",
        &text.replace("{{ caption }}\\nImage 2", "{{ captoin }}\\nImage 2"),
    );
    insta::assert_snapshot!(failed_run(&folder, &[&format!("judge.template={template}")]));
}

#[test]
fn all_problems_of_a_start_are_told_at_once() {
    let folder = TempDir::new().unwrap();
    let prompts = file(&folder, "prompts.txt", "");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let text = failed_run(
        &folder,
        &[
            &format!("prompts.train={prompts}"),
            "lora.target_modules=[\"attn.to_z\"]",
            "judge.path=models/nowhere",
            &format!("coordinator.http=\"{address}\""),
        ],
    );
    assert!(!folder.path().join("out").exists(), "nothing is left behind");
    insta::assert_snapshot!(text.replace(&address, "[address]"));
}

#[test]
fn an_adapter_that_binds_to_nothing_is_found_before_anything_starts() {
    let folder = TempDir::new().unwrap();
    insta::assert_snapshot!(failed_run(&folder, &["lora.target_modules=[\"attn.to_qq\"]"]));
}

#[test]
fn a_template_whose_labels_are_no_tokens_of_the_judge_is_found_before_anything_starts() {
    let folder = TempDir::new().unwrap();
    let text = std::fs::read_to_string(root().join("configs/judge/small.toml")).unwrap();
    let line = text.lines().find(|line| line.starts_with("labels")).unwrap();
    let template = file(
        &folder,
        "judge.toml",
        &text.replace(line, "labels = [\"the first one\", \"the second one\"]"),
    );
    insta::assert_snapshot!(failed_run(&folder, &[&format!("judge.template={template}")]));
}

#[test]
fn a_model_whose_weights_are_cut_short_is_found_before_anything_starts() {
    let folder = TempDir::new().unwrap();
    let model = folder.path().join("model");
    copy(&root().join("models/tiny-flux"), &model);
    let weights = model.join("transformer/diffusion_pytorch_model.safetensors");
    let file = std::fs::OpenOptions::new().write(true).open(&weights).unwrap();
    file.set_len(weights.metadata().unwrap().len() - 4).unwrap();
    insta::assert_snapshot!(failed_run(&folder, &[&format!("model.path={}", model.display())]));
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn a_port_in_use_is_named_with_its_remedy() {
    let folder = TempDir::new().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let text = failed_run(&folder, &[&format!("coordinator.grpc=\"{address}\"")]);
    insta::assert_snapshot!(text.replace(&address, "[address]"));
}

#[test]
fn what_a_process_of_the_fleet_says_at_its_end_reaches_the_terminal() {
    let folder = TempDir::new().unwrap();
    // No ledger can be made below a file, which only the coordinator's process finds out.
    file(&folder, "state", "");
    let out = folder.path().display().to_string();
    let arguments = ["run", "configs/quickstart.toml", "--out", &out];
    insta::assert_snapshot!(failure(&arguments, &[], &folder));
}

#[test]
fn a_parent_process_gets_the_same_error_as_a_line_of_json() {
    let folder = TempDir::new().unwrap();
    let arguments = ["config", "check", "configs/nowhere.toml"];
    let plain = failure(&arguments, &[], &folder);
    let asked = failure(&arguments, &[("GAVEL_ERROR_FORMAT", "json")], &folder);
    let line = asked.strip_prefix(&plain).unwrap();
    let told: serde_json::Value = serde_json::from_str(line).unwrap();
    let parts = format!(
        "error: {}\ncaused by: {}\nhint: {}\n",
        told["error"].as_str().unwrap(),
        told["causes"][0].as_str().unwrap(),
        told["hint"].as_str().unwrap()
    );
    assert_eq!(parts, plain);
}

#[test]
fn an_output_folder_that_is_a_file_is_refused() {
    let folder = TempDir::new().unwrap();
    let out = file(&folder, "taken", "");
    let text = failure(
        &["run", "configs/quickstart.toml", "--out", &format!("{out}/run")],
        &[],
        &folder,
    );
    insta::assert_snapshot!(text);
}

#[test]
fn a_folder_with_a_run_is_not_overwritten() {
    let folder = TempDir::new().unwrap();
    std::fs::create_dir(folder.path().join("state")).unwrap();
    file(&folder, "state/ledger.sqlite", "");
    let out = folder.path().display().to_string();
    insta::assert_snapshot!(failure(
        &["run", "configs/quickstart.toml", "--out", &out],
        &[],
        &folder
    ));
}

#[test]
fn an_empty_folder_cannot_be_resumed() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().display().to_string();
    insta::assert_snapshot!(failure(
        &["run", "configs/quickstart.toml", "--out", &out, "--resume"],
        &[],
        &folder
    ));
}

#[test]
fn a_coordinator_that_is_not_there_is_named() {
    let folder = TempDir::new().unwrap();
    // Bound and released: nobody listens there.
    let address = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let text = failure(&["status", "--connect", &address], &[], &folder);
    let first: Vec<&str> = text.lines().filter(|line| !line.starts_with("caused by")).collect();
    insta::assert_snapshot!(first.join("\n").replace(&address, "[address]"));
}

// Every other worker took it from the environment.
#[test]
fn a_judge_finds_its_coordinator_in_the_environment_unless_it_judges_once() {
    let folder = TempDir::new().unwrap();
    let fleet = [("GAVEL_COORDINATOR", "no address")];
    let told = failure(&["judge"], &fleet, &folder);
    assert!(
        told.contains("`http://no address` is not the address of a coordinator"),
        "{told}"
    );
    let once = [
        "judge",
        "--model",
        "models/tiny-judge",
        "--rubric",
        "configs/quickstart/rubric.toml",
        "--prompt",
        "x",
    ];
    let told = failure(&[once.as_slice(), &["a.png", "b.png"]].concat(), &fleet, &folder);
    assert!(told.contains("a.png") && !told.contains("no address"), "{told}");
    let told = failure(&["judge"], &[("GAVEL_COORDINATOR", "")], &folder);
    assert!(
        told.contains("neither a coordinator to judge for nor a judge is named"),
        "{told}"
    );
}

#[test]
fn guidance_by_a_negative_prompt_needs_a_scale_above_one() {
    let folder = TempDir::new().unwrap();
    let arguments = [
        "sample",
        "--model",
        "models/tiny-flux",
        "--prompt",
        "x",
        "--negative",
        "y",
        "--true-cfg-scale",
        "1",
        "--out",
        "x.png",
    ];
    insta::assert_snapshot!(failure(&arguments, &[], &folder));
}

#[test]
fn a_picture_that_is_none_is_named() {
    let folder = TempDir::new().unwrap();
    let picture = file(&folder, "a.png", "no picture");
    let rubric = "configs/quickstart/rubric.toml";
    let arguments = [
        "judge",
        "--model",
        "models/tiny-judge",
        "--rubric",
        rubric,
        "--prompt",
        "x",
        &picture,
        &picture,
    ];
    insta::assert_snapshot!(failure(&arguments, &[], &folder));
}
