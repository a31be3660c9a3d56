use gavel_core::bounds::InvalidName;
use gavel_core::ids::{Candidate, Digest, Fence, PromptIndex, RunId, Step, WorkerId};
use gavel_core::spec::Device;
use gavel_core::work::rally::{Group, RallyOutcome};
use gavel_core::work::*;
use gavel_core::work::{AbstainReason, Orders, Reason, Side, Verdict, VerdictRecord};
use prost::Message;

use super::Malformed;
use crate::v1;

/// Sends `core` over the wire as bytes and expects the same value back.
fn check<C, W>(core: C)
where
    C: Clone + std::fmt::Debug + PartialEq + TryFrom<W, Error = Malformed>,
    W: Message + Default + From<C>,
{
    let wire = W::from(core.clone()).encode_to_vec();
    let back = C::try_from(W::decode(wire.as_slice()).unwrap());
    assert_eq!(back, Ok(core));
}

fn digest(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

fn policy(averaged: Option<Digest>) -> Policy {
    Policy {
        adapter: digest("adapter"),
        optimizer: digest("optimizer"),
        averaged,
        manifest: digest("manifest"),
        tensors: 44,
    }
}

fn units() -> Vec<Unit> {
    vec![
        Unit::Initialise,
        Unit::Sample {
            step: Step(1),
            chunk: 0,
        },
        Unit::Judge {
            step: Step(2),
            chunk: 7,
        },
        Unit::HeldOutJudge {
            step: Step(2),
            chunk: 7,
        },
        Unit::WriteRubric {
            place: PromptPlace {
                list: TaskList::HeldOut,
                index: 9,
            },
        },
        Unit::Gradient {
            step: Step(3),
            shard: u32::MAX,
        },
        Unit::Commit { step: Step(4) },
        Unit::EvaluateSample {
            arm: Arm::Base,
            chunk: 1,
        },
        Unit::EvaluateSample {
            arm: Arm::Tuned,
            chunk: 2,
        },
        Unit::EvaluateSample {
            arm: Arm::Probe(Step(4)),
            chunk: 2,
        },
        Unit::EvaluateJudge { probe: None, chunk: 3 },
        Unit::EvaluateJudge {
            probe: Some(Step(4)),
            chunk: 3,
        },
        Unit::CalibrateJudge { chunk: 4 },
        Unit::AnswerQuestions {
            arm: Arm::Tuned,
            prompt_index: PromptIndex(5),
        },
    ]
}

fn verdicts() -> Vec<VerdictRecord> {
    [
        Verdict::Preferred { side: Side::First },
        Verdict::Preferred { side: Side::Second },
        Verdict::Abstain {
            reason: AbstainReason::OrdersDisagree,
        },
        Verdict::Abstain {
            reason: AbstainReason::TooClose,
        },
        Verdict::Abstain {
            reason: AbstainReason::OutsideLabels,
        },
        Verdict::Abstain {
            reason: AbstainReason::TooAlike,
        },
        Verdict::Failed {
            reason: "out of memory".into(),
        },
    ]
    .into_iter()
    .enumerate()
    .map(|(index, verdict)| VerdictRecord {
        prompt_index: PromptIndex(index as u32),
        verdict,
        probability_first: 0.1 + 0.2,
        order_probabilities: [0.3, 1.0],
        orders: [Orders::Both, Orders::Straight, Orders::Swapped][index % 3],
        rubric: digest("rubric"),
        votes: Vec::new(),
        reasons: reasons(),
        difference: (index > 0).then_some(0.1 * index as f64),
        scores: (index > 1).then_some([-1.5, 0.1 * index as f64]),
    })
    .collect()
}

fn reasons() -> Vec<Reason> {
    let decided = Reason {
        theme: Some("Light".into()),
        verdict: Verdict::Preferred { side: Side::Second },
        probability_first: 0.25,
        sentence: Some("Image 1 is dark.".into()),
    };
    let undecided = Reason {
        theme: None,
        verdict: Verdict::Abstain {
            reason: AbstainReason::TooClose,
        },
        probability_first: 0.5,
        sentence: None,
    };
    vec![decided, undecided]
}

#[test]
fn every_unit_survives_the_wire() {
    for unit in units() {
        check::<_, v1::Unit>(unit);
        check::<_, v1::LeaseKey>(LeaseKey {
            run: RunId("run".into()),
            unit,
            fence: Fence(u64::MAX),
        });
    }
}

#[test]
fn every_role_survives_the_wire() {
    for role in [Role::Sampler, Role::Judge, Role::Trainer] {
        assert_eq!(Role::try_from(v1::Role::from(role)), Ok(role));
    }
    assert_eq!(
        Role::try_from(v1::Role::Unspecified),
        Err(Malformed::Missing { field: "role" })
    );
}

#[test]
fn every_assignment_survives_the_wire() {
    let prompt = |index, conditioning| PromptTask {
        index: PromptIndex(index),
        task: "a \u{1f9ca} on a hill".into(),
        conditioning,
    };
    let prompts = vec![prompt(3, Some(digest("conditioning"))), prompt(4, None)];
    let pairs = [Orders::Both, Orders::Straight, Orders::Swapped].map(|orders| Pair {
        prompt_index: PromptIndex(0),
        task: Task {
            words: "x".into(),
            sources: vec![digest("source")],
        },
        first: digest("a"),
        second: digest("b"),
        rubric: Some(digest("rubric of the prompt")),
        orders,
    });
    let pairs = pairs.to_vec();
    let rewarded = vec![RewardedGroup {
        prompt_index: PromptIndex(5),
        conditioning: Some(digest("conditioning")),
        candidates: vec![
            RewardedCandidate {
                trajectory: digest("a"),
                reward: 1.0,
            },
            RewardedCandidate {
                trajectory: digest("b"),
                reward: -0.1,
            },
        ],
    }];
    for assignment in [
        Assignment::Initialise { adapter: None },
        Assignment::Initialise {
            adapter: Some(digest("initial adapter")),
        },
        Assignment::Sample {
            step: Step(1),
            policy: policy(None),
            prompts: prompts.clone(),
        },
        Assignment::EvaluateSample {
            arm: Arm::Base,
            policy: None,
            prompts: prompts.clone(),
        },
        Assignment::EvaluateSample {
            arm: Arm::Probe(Step(4)),
            policy: Some(policy(None)),
            prompts: prompts.clone(),
        },
        Assignment::EvaluateSample {
            arm: Arm::Tuned,
            policy: Some(policy(Some(digest("mean")))),
            prompts,
        },
        Assignment::Judge { pairs },
        Assignment::AnswerQuestions {
            prompt_index: PromptIndex(7),
            task: Task {
                words: "x".into(),
                sources: vec![digest("source")],
            },
            image: digest("a"),
            questions: vec!["Is it red?".into(), "Is it round?".into()],
        },
        Assignment::Gradient {
            step: Step(2),
            policy: policy(None),
            groups: rewarded,
            policy_lag: 1,
        },
        Assignment::Commit {
            step: Step(2),
            policy: policy(None),
            gradients: vec![digest("0"), digest("1")],
            holders: vec![WorkerId("trainer-2".into()), WorkerId("trainer-1".into())],
            terms: 96,
        },
        Assignment::Commit {
            step: Step(2),
            policy: policy(None),
            gradients: vec![],
            holders: vec![],
            terms: 0,
        },
    ] {
        check::<_, v1::Assignment>(assignment);
    }
}

#[test]
fn a_commit_with_a_gradient_that_nobody_made_is_refused() {
    let commit = v1::assignment::Commit {
        step: 1,
        policy: Some(policy(None).into()),
        gradients: vec![vec![0; 32]],
        terms: 2,
        holders: vec![],
    };
    let assignment = v1::Assignment {
        kind: Some(v1::assignment::Kind::Commit(commit)),
    };
    assert_eq!(
        Assignment::try_from(assignment),
        Err(Malformed::Range {
            field: "Assignment.Commit.holders",
            found: 0
        })
    );
}

#[test]
fn a_group_and_every_rally_s_outcome_survive_the_wire() {
    let members = vec![WorkerId("trainer-2".into()), WorkerId("trainer-1".into())];
    let group = Group {
        members: members.clone(),
        rendezvous: vec![0, 255],
        kept: true,
    };
    let wire = v1::Group::from(group.clone()).encode_to_vec();
    assert_eq!(Group::from(v1::Group::decode(wire.as_slice()).unwrap()), group);
    for outcome in [
        RallyOutcome::Complete {
            members: members.clone(),
        },
        RallyOutcome::Incomplete {
            absent: members,
            lost: vec![digest("sum")],
        },
        RallyOutcome::NotKept,
    ] {
        check::<_, v1::RallyResponse>(outcome);
    }
    assert_eq!(
        RallyOutcome::try_from(v1::RallyResponse { outcome: None }),
        Err(Malformed::Missing {
            field: "RallyResponse.outcome"
        })
    );
}

#[test]
fn every_outcome_survives_the_wire() {
    let sampled = |trajectory| Sampled {
        prompt_index: PromptIndex(1),
        candidate: Candidate(255),
        trajectory,
        conditioning: trajectory.map(|_| digest("conditioning")),
        image: digest("png"),
    };
    let statistics = ShardStatistics {
        terms: 6,
        kl: 0.25,
        clipped: 1,
        ratio_deviation: 1e-9,
        loss: -0.5,
    };
    let skipped = vec![SkippedPair {
        prompt_index: PromptIndex(9),
        reason: "loss is NaN".into(),
    }];
    let unanswered = PictureAnswer::Unanswered {
        reason: "too large".into(),
    };
    let answers = [Some(true), Some(false), None].map(PictureAnswer::said);
    for outcome in [
        Outcome::QuestionsAnswered {
            answers: answers.into_iter().chain([unanswered]).collect(),
            model: digest("judge"),
            spent: None,
            seconds: 0.5,
        },
        Outcome::Initialised {
            policy: policy(None),
            model: digest("model"),
        },
        Outcome::Sampled {
            samples: vec![sampled(Some(digest("t"))), sampled(None)],
            manifest: Some(digest("m")),
            model: digest("model"),
            seconds: 0.1,
        },
        Outcome::Sampled {
            samples: vec![],
            manifest: None,
            model: digest("model"),
            seconds: 0.0,
        },
        Outcome::Judged {
            verdicts: verdicts(),
            model: digest("model"),
            spent: Some(Spent {
                requests: 4,
                failures: 1,
                usage: Usage {
                    prompt_tokens: u64::MAX,
                    completion_tokens: 3,
                },
                cost: Some(0.1 + 0.2),
            }),
            seconds: 2.5,
        },
        Outcome::Judged {
            verdicts: vec![],
            model: digest("model"),
            spent: Some(Spent::default()),
            seconds: 0.0,
        },
        Outcome::Judged {
            verdicts: vec![],
            model: digest("model"),
            spent: None,
            seconds: 0.0,
        },
        Outcome::Gradient {
            gradient: Some(digest("g")),
            manifest: digest("m"),
            model: digest("model"),
            statistics,
            skipped,
            seconds: 3.0,
        },
        Outcome::Gradient {
            gradient: None,
            manifest: digest("m"),
            model: digest("model"),
            statistics: ShardStatistics::default(),
            skipped: vec![],
            seconds: 0.0,
        },
        Outcome::Committed {
            policy: policy(Some(digest("mean"))),
            grad_norm: 0.7,
            learning_rate: 1e-3,
            seconds: 0.2,
        },
    ] {
        check::<_, v1::Outcome>(outcome);
    }
}

#[test]
fn a_message_without_a_required_part_is_named() {
    assert_eq!(
        Unit::try_from(v1::Unit { kind: None }),
        Err(Malformed::Missing { field: "Unit.kind" })
    );
    assert_eq!(
        Assignment::try_from(v1::Assignment::default()),
        Err(Malformed::Missing {
            field: "Assignment.kind"
        })
    );
    assert_eq!(
        Outcome::try_from(v1::Outcome::default()),
        Err(Malformed::Missing { field: "Outcome.kind" })
    );
    let key = v1::LeaseKey {
        run_id: "run".into(),
        unit: None,
        fence: 1,
    };
    assert_eq!(
        LeaseKey::try_from(key),
        Err(Malformed::Missing { field: "LeaseKey.unit" })
    );
    let key = v1::LeaseKey {
        run_id: String::new(),
        unit: Some(Unit::Initialise.into()),
        fence: 1,
    };
    assert_eq!(
        LeaseKey::try_from(key),
        Err(Malformed::Name(InvalidName::Empty { at: "LeaseKey.run_id" }))
    );
}

#[test]
fn a_short_digest_is_refused_with_its_length() {
    let mut wire = v1::Policy::from(policy(None));
    wire.optimizer.truncate(31);
    assert_eq!(
        Policy::try_from(wire),
        Err(Malformed::Digest {
            field: "Policy.optimizer",
            found: 31
        })
    );
}

#[test]
fn an_unknown_enum_value_is_refused() {
    let wire = v1::Verdict {
        kind: Some(v1::verdict::Kind::Preferred(7)),
    };
    assert_eq!(
        Verdict::try_from(wire),
        Err(Malformed::Range {
            field: "Verdict.preferred",
            found: 7
        })
    );
    let wire = v1::Verdict {
        kind: Some(v1::verdict::Kind::Abstain(0)),
    };
    assert_eq!(
        Verdict::try_from(wire),
        Err(Malformed::Missing {
            field: "Verdict.abstain"
        })
    );
    let wire = v1::Sample {
        candidate: 256,
        image: vec![0; 32],
        ..v1::Sample::default()
    };
    assert_eq!(
        Sampled::try_from(wire),
        Err(Malformed::Range {
            field: "Sample.candidate",
            found: 256
        })
    );
}

#[test]
fn the_descriptor_set_names_every_service() {
    let text = String::from_utf8_lossy(crate::FILE_DESCRIPTOR_SET).into_owned();
    for service in ["Fleet", "Runs", "Blobs"] {
        assert!(text.contains(service), "{service} is missing");
    }
}

#[test]
fn what_a_worker_uses_survives_the_wire_and_a_text_that_names_no_device_is_refused() {
    let memory = Memory {
        used_bytes: 1,
        total_bytes: u64::MAX,
    };
    let full = (Device::Cuda(7), Some(memory), Some(100));
    for (device, memory, busy_percent) in [(Device::Cpu, None, None), (Device::CpuCandle, None, Some(0)), full] {
        check::<_, v1::DeviceUse>(DeviceUse {
            device,
            memory,
            busy_percent,
        });
    }
    let overworked = v1::DeviceUse {
        device: "cpu".into(),
        memory: None,
        busy_percent: Some(101),
    };
    assert_eq!(
        DeviceUse::try_from(overworked),
        Err(Malformed::Range {
            field: "DeviceUse.busy_percent",
            found: 101
        })
    );
    let toaster = v1::DeviceUse {
        device: "toaster".into(),
        memory: None,
        busy_percent: None,
    };
    assert_eq!(
        DeviceUse::try_from(toaster),
        Err(Malformed::Device {
            field: "DeviceUse.device"
        })
    );
}
