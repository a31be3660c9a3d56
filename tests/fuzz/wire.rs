//! Messages of the fleet.

use gavel_core::ids::{Candidate, Digest, PromptIndex, Step, WorkerId};
use gavel_core::work::{
    Arm, Assignment, Orders, Outcome, Pair, Policy, PromptTask, Sampled, Side, Task, Unit, Verdict, VerdictRecord,
};
use gavel_proto::v1;
use prost::Message;

use crate::fuzz;

/// Reads changed messages; what is understood says the same when it is written again.
fn messages<W, C>(corpus: Vec<C>)
where
    W: Message + Default + From<C>,
    C: TryFrom<W> + Clone + PartialEq + std::fmt::Debug,
{
    let corpus: Vec<Vec<u8>> = corpus.into_iter().map(|value| W::from(value).encode_to_vec()).collect();
    fuzz(&corpus, |bytes| {
        let Ok(message) = W::decode(bytes) else { return };
        if let Ok(value) = C::try_from(message) {
            let again = C::try_from(W::from(value.clone()));
            assert!(again.is_ok_and(|again| format!("{again:?}") == format!("{value:?}")));
        }
    });
}

fn digest() -> Digest {
    Digest::of(b"blob")
}

fn policy() -> Policy {
    Policy {
        adapter: digest(),
        optimizer: digest(),
        averaged: Some(digest()),
        manifest: digest(),
        tensors: 44,
    }
}

fn task() -> Task {
    Task {
        words: "a circle".into(),
        sources: vec![digest()],
    }
}

#[test]
fn units() {
    messages::<v1::Unit, Unit>(vec![
        Unit::Sample {
            step: Step(1),
            chunk: 7,
        },
        Unit::EvaluateSample {
            arm: Arm::Tuned,
            chunk: 2,
        },
        Unit::Commit { step: Step(4) },
    ]);
}

#[test]
fn assignments() {
    messages::<v1::Assignment, Assignment>(vec![
        Assignment::Sample {
            step: Step(1),
            policy: policy(),
            prompts: vec![PromptTask {
                index: PromptIndex(3),
                task: task(),
                conditioning: Some(digest()),
            }],
        },
        Assignment::Judge {
            pairs: vec![Pair {
                prompt_index: PromptIndex(3),
                task: task(),
                first: digest(),
                second: digest(),
                rubric: Some(digest()),
                orders: Orders::Both,
            }],
        },
        Assignment::Commit {
            step: Step(1),
            policy: policy(),
            gradients: vec![digest()],
            holders: vec![WorkerId("a-worker".into())],
            terms: 12,
        },
    ]);
}

#[test]
fn outcomes() {
    messages::<v1::Outcome, Outcome>(vec![
        Outcome::Sampled {
            samples: vec![Sampled {
                prompt_index: PromptIndex(3),
                candidate: Candidate(1),
                trajectory: Some(digest()),
                conditioning: Some(digest()),
                image: digest(),
            }],
            manifest: Some(digest()),
            model: digest(),
            seconds: 0.5,
        },
        Outcome::Judged {
            verdicts: vec![VerdictRecord {
                prompt_index: PromptIndex(3),
                verdict: Verdict::Preferred { side: Side::First },
                probability_first: 0.9,
                order_probabilities: [0.8, 1.0],
                rubric: digest(),
                votes: Vec::new(),
                reasons: Vec::new(),
                difference: None,
                scores: None,
                orders: Orders::Both,
            }],
            model: digest(),
            spent: None,
            seconds: 0.5,
        },
        Outcome::Committed {
            policy: policy(),
            grad_norm: 1.5,
            learning_rate: 1e-4,
            seconds: 0.5,
        },
    ]);
}
