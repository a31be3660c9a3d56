//! A small run for tests, and results of a kind.

use super::Run;
use crate::assets::{HeldOutJudgeAssets, LabelledPair, RubricText, RunAssets};
use crate::ids::{Digest, Millis, PromptIndex, RunId};
use crate::spec::{HeldOutJudgeSpec, RunSpec};
use crate::work::{Orders, Outcome, Side, Verdict, VerdictRecord};

/// A small run whose chunks of samples, pairs and shards do not line up.
pub(crate) fn spec() -> RunSpec {
    let mut spec = RunSpec {
        evaluation: Some(Default::default()),
        ..RunSpec::default()
    };
    spec.run.name = "small".into();
    spec.run.steps = 3;
    spec.prompts.per_step = 7;
    spec.sampling.batch = 3;
    spec.judge.batch = 2;
    spec.trainer.shard = 4;
    spec.checkpoints.every = 2;
    spec.evaluation.as_mut().unwrap().batch = 2;
    spec
}

pub(crate) fn assets() -> RunAssets {
    RunAssets {
        prompts: (0..5).map(|line| format!("prompt {line}").into()).collect(),
        held_out: (0..5).map(|line| format!("held-out {line}").into()).collect(),
        annotations: Default::default(),
        questions: Vec::new(),
        rubric: RubricText::new("prefer the better one"),
        prompt_rubrics: Default::default(),
        template: String::new(),
        member_templates: Vec::new(),
        reason_template: None,
        writer_template: None,
        held_out_judge: None,
        initial_adapter: None,
        labelled: (0..3)
            .map(|pair| LabelledPair {
                task: format!("labelled {pair}").into(),
                first: Digest::of(&[pair, 0]),
                second: Digest::of(&[pair, 1]),
                preferred: Side::First,
            })
            .collect(),
        models: Default::default(),
    }
}

pub(crate) fn run() -> Run {
    run_of(spec())
}

/// A run of another spec with the same files.
pub(crate) fn run_of(spec: RunSpec) -> Run {
    Run::new(RunId("small".into()), spec, assets()).created(Millis(0))
}

/// The same run with questions about the pictures of some of its held-out prompts.
pub(crate) fn questioned(run: &Run) -> Run {
    let asks = |questions: &[&str]| questions.iter().map(|question| (*question).to_owned()).collect();
    let assets = RunAssets {
        questions: vec![asks(&["Is it red?", "Is it round?"]), asks(&[]), asks(&["Is it one?"])],
        ..run.assets().clone()
    };
    Run::new(run.id().clone(), run.spec().clone(), assets).created(Millis(0))
}

/// A run of another spec with a held-out judge that sees `share` of the pairs.
pub(crate) fn watched(mut spec: RunSpec, share: f64) -> Run {
    spec.judge.held_out = Some(Box::new(HeldOutJudgeSpec {
        share,
        ..HeldOutJudgeSpec::default()
    }));
    let assets = RunAssets {
        held_out_judge: Some(HeldOutJudgeAssets {
            rubric: RubricText::new("prefer the right one"),
            ..HeldOutJudgeAssets::default()
        }),
        ..assets()
    };
    Run::new(RunId("small".into()), spec, assets).created(Millis(0))
}

/// What a judge hands in.
pub(crate) fn judged(verdicts: Vec<VerdictRecord>) -> Outcome {
    Outcome::Judged {
        verdicts,
        model: Digest::of(b"judge"),
        spent: None,
        seconds: 0.0,
    }
}

/// A judge record for tests that need one of a kind.
pub(crate) fn record(prompt: u32, verdict: Verdict, run: &Run) -> VerdictRecord {
    VerdictRecord {
        prompt_index: PromptIndex(prompt),
        verdict,
        probability_first: 0.5,
        order_probabilities: [0.5; 2],
        orders: Orders::Both,
        rubric: run.assets().rubric.digest,
        votes: Vec::new(),
        reasons: Vec::new(),
        difference: Some(0.125),
        scores: None,
    }
}
