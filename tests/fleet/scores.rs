//! Scores beside a model's verdict: in an ensemble, with a veto, and as the held-out judge.

use gavel_core::run::GroupResult;
use gavel_core::work::{AbstainReason, Poll, Verdict, poll};

use crate::support::{ONE_OF_EACH, Shape, adapter_digest, finish, ledger, look_back, short_run};

/// The small judge has the votes, the rules of the scenes a veto.
const MEMBERS: &str = concat!(
    "judge.members=[{ path = \"models/tiny-judge\", dtype = \"f32\" }, ",
    "{ family = \"evaluator\", evaluator = \"scenes\", temperature = 0.1, weight = 0.0, veto = true }]",
);

#[test]
fn rules_beside_the_judge_stop_what_they_are_against_on_any_fleet_and_an_audit_counts_their_votes_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = |name: &str, shape| {
        let out = folder.path().join(name);
        let mut command = short_run("quickstart", &out, shape);
        for setting in [
            "run.steps=2",
            "judge.family=ensemble",
            "judge.path=",
            MEMBERS,
            "judge.held_out={ family = \"evaluator\", evaluator = \"scenes\", share = 1.0, template = \"configs/judge/small.toml\", \
             rubric = \"configs/quickstart/rubric.toml\" }",
        ] {
            command.args(["--set", setting]);
        }
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
    let groups: Vec<&GroupResult> = run.results().steps.iter().flat_map(|step| &step.groups).collect();
    let mut stopped = 0;
    for group in &groups {
        let record = &group.verdicts[0];
        let [model, rules] = record.votes.as_slice() else {
            panic!("two votes: {record:?}");
        };
        assert!(rules.veto && !model.veto && rules.weight == 0.0);
        assert_eq!(rules.judge, "rules of scenes");
        match poll(&record.votes) {
            Poll::For(side) => assert_eq!(record.verdict, Verdict::Preferred { side }),
            Poll::Vetoed => {
                let reason = AbstainReason::Vetoed;
                assert_eq!(record.verdict, Verdict::Abstain { reason });
                stopped += 1;
            }
            Poll::Tied | Poll::Void => assert!(!matches!(record.verdict, Verdict::Preferred { .. })),
        }
        let held_out = group.held_out.as_slice();
        assert_eq!(held_out.len(), 1, "the held-out judge sees every pair");
        assert_eq!(held_out[0].verdict, rules.verdict, "it follows the same rules");
    }
    assert!(stopped > 0, "the rules are against some of {} verdicts", groups.len());
    for step in &run.results().steps {
        // What the rules are against is decided by nobody, so that of what is decided they are against nothing.
        assert!(step.record.held_out_agreement.is_none_or(|agreement| agreement == 1.0));
    }

    for command in [&["audit"][..], &["verify", "--step=2", "--part=judge"]] {
        let (code, text) = look_back(command, &out);
        assert_eq!(code, Some(0), "{text}");
    }
}
