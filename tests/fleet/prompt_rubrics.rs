//! Prompts that are judged by rubrics of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use gavel_core::ids::Digest;
use gavel_core::run::GroupResult;
use gavel_core::work::{PromptPlace, TaskList};
use serde_json::Value;

use crate::support::{ONE_OF_EACH, Shape, adapter_digest, finish, ledger, look_back, report, root, short_run};

/// A rubric file in `folder` by which every other prompt of the quickstart is judged by a set of its own.
fn rubric_of_prompts(folder: &Path) -> PathBuf {
    let prompts =
        std::fs::read_to_string(root().join("configs/quickstart/prompts.txt")).expect("the quickstart's prompts");
    let general =
        std::fs::read_to_string(root().join("configs/quickstart/rubric.toml")).expect("the quickstart's rubric");
    let mut text = format!("combine = \"specific_then_general\"\n{general}");
    let prompts: BTreeSet<&str> = prompts.lines().filter(|prompt| has_own_rubric(prompt)).collect();
    for prompt in prompts {
        text += &format!("\n[[prompts]]\nprompt = \"{prompt}\"\ntips = [\"{OWN}\"]\n");
    }
    let file = folder.join("rubric.toml");
    std::fs::write(&file, text).expect("the rubric is written");
    file
}

/// A criterion that the small judge knows, and that its general rubric has not.
const OWN: &str = "The image has nothing extra.";

fn has_own_rubric(prompt: &str) -> bool {
    prompt.len().is_multiple_of(2)
}

/// Has the small judge write a rubric for each prompt from the labelled pair that is nearest to it.
const WRITES: &str = "judge.writer={ template = \"configs/rubric/small/write.toml\", nearest = 1, max_tokens = 400 }";

#[test]
fn rubrics_that_a_run_writes_are_the_same_on_any_fleet_and_decide() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = |name: &str, shape| {
        let out = folder.path().join(name);
        let mut command = short_run("quickstart", &out, shape);
        command.args(["--set", "run.steps=2", "--set", WRITES]);
        finish(command);
        out
    };
    let out = run("one", ONE_OF_EACH);
    let shape = Shape {
        samplers: 2,
        judges: 2,
        trainers: 2,
        threads: 2,
    };
    let many = run("many", shape);
    assert_eq!(adapter_digest(&many), adapter_digest(&out));
    let (run, other) = (ledger(&out), ledger(&many));
    let written: BTreeMap<PromptPlace, Option<Digest>> = run.written_rubrics().collect();
    assert_eq!(written, other.written_rubrics().collect());
    assert!(written.values().any(Option::is_some), "{written:?}");

    let general = run.assets().rubric.digest;
    for group in run.results().steps.iter().flat_map(|step| &step.groups) {
        let place = PromptPlace {
            list: TaskList::Prompts,
            index: group.line,
        };
        let own = match run.assets().task(place) {
            // A prompt that stands twice in the file has what was written for the first.
            Some(task) => written
                .iter()
                .find(|(place, _)| run.assets().task(**place) == Some(task)),
            None => None,
        };
        let expected = own.and_then(|(_, rubric)| *rubric).unwrap_or(general);
        assert_eq!(group.verdicts[0].rubric, expected, "line {}", group.line);
    }
    let (code, text) = look_back(&["audit"], &out);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = look_back(&["verify", "--step=2"], &out);
    assert_eq!(code, Some(0), "{text}");
    let report = report(&out);
    assert_eq!(report["rubrics_of_prompts"], written.values().flatten().count());
}

#[test]
fn each_prompt_is_judged_by_its_own_rubric_on_any_fleet_and_people_see_which() {
    let folder = tempfile::tempdir().expect("a folder");
    let rubric = format!("judge.rubric={}", rubric_of_prompts(folder.path()).display());
    let run = |name: &str, shape| {
        let out = folder.path().join(name);
        let mut command = short_run("quickstart", &out, shape);
        command.args(["--set", "run.steps=2", "--set", &rubric]);
        finish(command);
        out
    };
    let out = run("one", ONE_OF_EACH);
    let shape = Shape {
        samplers: 2,
        judges: 2,
        trainers: 2,
        threads: 2,
    };
    assert_eq!(adapter_digest(&run("many", shape)), adapter_digest(&out));

    let run = ledger(&out);
    let general = run.assets().rubric.digest;
    let own = Digest::of(format!("- {OWN}\n{}", run.assets().rubric.text).as_bytes());
    let groups: Vec<&GroupResult> = run.results().steps.iter().flat_map(|step| &step.groups).collect();
    let by_own = |group: &&&GroupResult| has_own_rubric(&run.assets().prompts[group.line as usize].words);
    for group in &groups {
        let expected = if by_own(&group) { own } else { general };
        assert_eq!(group.verdicts[0].rubric, expected);
    }
    let count = groups.iter().filter(by_own).count();
    assert!(
        count > 0 && count < groups.len(),
        "{count} of {} prompts have their own",
        groups.len()
    );

    let (code, text) = look_back(&["audit"], &out);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = look_back(&["verify", "--step=2", "--part=judge"], &out);
    assert_eq!(code, Some(0), "{text}");
    let cache = folder.path().join("kept.sqlite").display().to_string();
    let (code, text) = look_back(&["rejudge", "--json", "--cache", &cache], &out);
    assert_eq!(code, Some(0), "{text}");
    let again: Value = serde_json::from_str(&text).expect("findings as JSON");
    assert_eq!(again["groups_by_own_rubric"], count);
    assert_eq!(
        (&again["total"]["flipped"], &again["total"]["rewards_changed"]),
        (&0.into(), &0.into())
    );

    // The page carries the lines by which each pair was decided.
    let page = std::fs::read_to_string(out.join("report.html")).expect("report.html is written");
    let data = page
        .split_once("<script type=\"application/json\" id=\"data\">")
        .expect("the page carries its data")
        .1;
    let data: Value = serde_json::from_str(data.split_once("</script>").expect("its end").0).expect("data as JSON");
    let shown = &data["rubrics"][own.to_string()];
    assert_eq!(shown["of_prompt"], true);
    assert!(
        shown["text"]
            .as_str()
            .is_some_and(|text| text.starts_with(&format!("- {OWN}\n"))),
        "{shown}"
    );
    assert_eq!(data["rubrics"][general.to_string()]["of_prompt"], false);
}
