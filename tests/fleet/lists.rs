//! A judge that is shown all candidates of a prompt at once.

use gavel_core::run::GroupResult;

use crate::support::{ONE_OF_EACH, Shape, adapter_digest, finish, ledger, look_back, short_run};

/// Words that the small judge never learnt: it answers with one of the labels all the same.
const TEMPLATE: &str = r#"
name = "list"
labels = ["1", "2", "3"]

[[messages]]
role = "user"
content = [{ each = "Image {{ label }}: " }, { text = " Caption: {{ caption }}\nWhich image is better?" }]
"#;

#[test]
fn lists_give_the_same_bytes_on_any_fleet_and_are_confirmed() {
    let folder = tempfile::tempdir().expect("a folder");
    let template = folder.path().join("list.toml");
    std::fs::write(&template, TEMPLATE).expect("a template");
    let template = format!("judge.template={}", template.display());
    let run = |name: &str, shape, batch: &str, candidates: &str| {
        let out = folder.path().join(name);
        let mut command = short_run("quickstart", &out, shape);
        for setting in ["run.steps=2", "prompts.per_step=4", &template, batch, candidates] {
            command.args(["--set", setting]);
        }
        (command, out)
    };
    let (command, one) = run("one", ONE_OF_EACH, "judge.batch=1", "sampling.candidates=3");
    finish(command);
    let many = Shape {
        judges: 3,
        samplers: 2,
        ..ONE_OF_EACH
    };
    let (command, other) = run("many", many, "judge.batch=4", "sampling.candidates=3");
    finish(command);
    assert_eq!(adapter_digest(&other), adapter_digest(&one));
    let groups = |out| -> Vec<GroupResult> {
        let run = ledger(out);
        run.results()
            .steps
            .iter()
            .flat_map(|step| step.groups.clone())
            .collect()
    };
    let (found, expected) = (groups(&other), groups(&one));
    assert!(found == expected, "verdicts depend on the fleet");
    let verdicts: Vec<_> = found.iter().flat_map(|group| &group.verdicts).collect();
    assert_eq!(verdicts.len(), 3 * found.len(), "each pair of three has a verdict");
    for arguments in [["verify", "--step=2"].as_slice(), &["audit"]] {
        let (code, text) = look_back(arguments, &one);
        assert_eq!(code, Some(0), "{arguments:?}: {text}");
    }

    let (mut command, _) = run("more", ONE_OF_EACH, "judge.batch=1", "sampling.candidates=4");
    let refused = command.output().expect("gavel starts");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("has 3 labels, and `sampling.candidates` is 4"),
        "{said}"
    );
}
