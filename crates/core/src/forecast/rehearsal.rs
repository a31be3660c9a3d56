//! Results without computing: what a faultless worker would return, for simulations, load tests, planning and tests.

use crate::ids::{Candidate, Digest};
use crate::rpo;
use crate::spec::{JudgeSpec, RunSpec};
use crate::work::{
    AbstainReason, Assignment, Outcome, Pair, PictureAnswer, Policy, Sampled, ShardStatistics, Side, Task, Unit,
    Verdict, VerdictRecord, rules,
};

/// The first bytes of a made-up picture: those of a PNG file.
const PNG_SIGNATURE: [u8; 8] = *b"\x89PNG\r\n\x1a\n";

/// What a faultless worker returns for `assignment`: a function of spec and assignment and nothing else, as with real workers.
/// The blobs that it names do not exist. About a third of the pairs is not decided. `rubric` is the fingerprint of the
/// general rubric of the unit's judge.
pub fn work(spec: &RunSpec, rubric: Digest, assignment: &Assignment) -> Outcome {
    work_into(spec, rubric, assignment, |blob| Digest::of(&blob))
}

/// As [`work`], with made-up bytes for each blob that the result names: `put` stores them and returns their SHA-256.
pub fn work_into(
    spec: &RunSpec,
    rubric: Digest,
    assignment: &Assignment,
    put: impl FnMut(Vec<u8>) -> Digest,
) -> Outcome {
    let mut made_up = MadeUp {
        spec,
        seed: seed(assignment),
        put,
    };
    let manifest = Digest::of(b"manifest");
    let model = Digest::of(b"transformer");
    match assignment {
        Assignment::Initialise { adapter } => Outcome::Initialised {
            policy: made_up.policy(*adapter, manifest),
            model,
        },
        Assignment::Sample { prompts, .. } => {
            let candidates = spec.sampling.candidates;
            let mut samples = Vec::new();
            for prompt in prompts {
                let conditioning = prompt
                    .conditioning
                    .unwrap_or_else(|| made_up.conditioning(&prompt.task));
                for candidate in 0..candidates {
                    let index = u32::from(candidates) * prompt.index.0 + u32::from(candidate);
                    samples.push(Sampled {
                        prompt_index: prompt.index,
                        candidate: Candidate(candidate),
                        trajectory: Some(made_up.blob(b"trajectory", index)),
                        conditioning: Some(conditioning),
                        image: made_up.image(index),
                    });
                }
            }
            Outcome::Sampled {
                samples,
                manifest: Some(manifest),
                model,
                seconds: 1.0,
            }
        }
        Assignment::EvaluateSample { prompts, policy, .. } => {
            let samples = prompts.iter().map(|prompt| Sampled {
                prompt_index: prompt.index,
                candidate: Candidate(0),
                trajectory: None,
                conditioning: None,
                image: made_up.image(prompt.index.0),
            });
            Outcome::Sampled {
                samples: samples.collect(),
                manifest: policy.as_ref().map(|_| manifest),
                model,
                seconds: 1.0,
            }
        }
        Assignment::Judge { pairs } => Outcome::Judged {
            verdicts: pairs.iter().map(|pair| verdict(&spec.judge, rubric, pair)).collect(),
            model: Digest::of(b"judge"),
            spent: None,
            seconds: 0.5,
        },
        Assignment::WriteRubric { .. } => Outcome::RubricWritten {
            rubric: Some(made_up.blob(b"rubric", 0)),
            model: Digest::of(b"judge"),
            spent: None,
            seconds: 0.5,
        },
        Assignment::AnswerQuestions { image, questions, .. } => Outcome::QuestionsAnswered {
            answers: questions.iter().map(|question| answer(*image, question)).collect(),
            model: Digest::of(b"judge"),
            spent: None,
            seconds: 0.25,
        },
        Assignment::Gradient { groups, .. } => {
            let candidates: usize = groups.iter().map(|group| group.candidates.len()).sum();
            let terms = (candidates * spec.trained_steps().len()) as u64;
            Outcome::Gradient {
                gradient: (terms > 0).then(|| made_up.blob(b"gradient", 0)),
                manifest,
                model,
                statistics: ShardStatistics {
                    terms,
                    kl: 0.25 * terms as f64,
                    ..ShardStatistics::default()
                },
                skipped: vec![],
                seconds: 0.25,
            }
        }
        Assignment::Commit {
            step, policy, terms, ..
        } => Outcome::Committed {
            // A commit of nothing hands the policy on as it is.
            policy: if *terms == 0 {
                policy.clone()
            } else {
                made_up.policy(None, manifest)
            },
            grad_norm: 0.5,
            learning_rate: rpo::learning_rate(&spec.optimizer, *step, spec.run.steps),
            seconds: 0.125,
        },
    }
}

/// What a judge says of a pair. Where the spec has some pairs left out, some are too alike ([`left_out`]); where it has some asked in one
/// image order, the orders of some disagree.
fn verdict(judge: &JudgeSpec, rubric: Digest, pair: &Pair) -> VerdictRecord {
    let digest = Digest::of(&[pair.first.0, pair.second.0].concat());
    let share = |index: usize| f64::from(digest.0[index]) / 255.0;
    let rubric = pair.rubric.unwrap_or(rubric);
    let difference = judge
        .min_distance
        .map_or(0.125, |least| (4.0 * least * share(2)).min(1.0));
    let probability = share(0);
    let flips = judge.adaptive_orders().is_some() && pair.orders.is_both() && share(1) < 0.1;
    let abstain = |reason| Verdict::Abstain { reason };
    VerdictRecord {
        verdict: match probability {
            _ if flips => abstain(AbstainReason::OrdersDisagree),
            p if p > 0.7 => Verdict::Preferred { side: Side::First },
            p if p < 0.4 => Verdict::Preferred { side: Side::Second },
            _ => abstain(AbstainReason::TooClose),
        },
        probability_first: if flips { 0.5 } else { probability },
        order_probabilities: if flips { [1.0, 0.0] } else { [probability; 2] },
        orders: pair.orders,
        difference: Some(difference),
        ..VerdictRecord::failed(pair.prompt_index, String::new(), rubric)
    }
}

/// What a model answers to a question about a picture; now and then it says neither yes nor no, or cannot be asked.
fn answer(image: Digest, question: &str) -> PictureAnswer {
    let asked = Digest::of(&[&image.0, question.as_bytes()].concat());
    match asked.0[0] % 16 {
        0 => PictureAnswer::said(None),
        1 => PictureAnswer::Unanswered {
            reason: "the picture is too large".into(),
        },
        other => PictureAnswer::said(Some(other % 2 == 0)),
    }
}

/// The same result with every pair decided: then every shard has a gradient.
pub fn decided(mut outcome: Outcome) -> Outcome {
    if let Outcome::Judged { verdicts, .. } = &mut outcome {
        for record in verdicts {
            record.verdict = Verdict::Preferred { side: Side::First };
        }
    }
    outcome
}

/// The same result with a step's pairs left out whose pictures are too alike for a question.
pub fn left_out(judge: &JudgeSpec, unit: &Unit, mut outcome: Outcome) -> Outcome {
    if let Outcome::Judged { verdicts, .. } = &mut outcome {
        for record in verdicts.iter_mut() {
            if rules::is_too_alike(judge, unit, record.difference) {
                *record = VerdictRecord {
                    difference: record.difference,
                    ..VerdictRecord::too_alike(record.prompt_index, record.rubric)
                };
            }
        }
    }
    outcome
}

/// The same result, if it is one of a held-out judge, with another opinion on about a third of the pairs: the two judges of a run do
/// not always agree.
pub fn second_opinion(unit: &Unit, mut outcome: Outcome) -> Outcome {
    if let (Unit::HeldOutJudge { .. }, Outcome::Judged { verdicts, .. }) = (unit, &mut outcome) {
        for record in verdicts {
            let turned = 1.0 - record.probability_first;
            let side = match &record.verdict {
                Verdict::Preferred { side: Side::First } if turned > 0.15 => Side::Second,
                Verdict::Preferred { side: Side::Second } if turned > 0.8 => Side::First,
                _ => continue,
            };
            record.verdict = Verdict::Preferred { side };
            record.probability_first = turned;
            record.order_probabilities = [turned; 2];
        }
    }
    outcome
}

/// Names an assignment: equal for equal work.
fn seed(assignment: &Assignment) -> Digest {
    // Who made a gradient sum says where it is, not what it is.
    let mut inputs = assignment.encoded_anew();
    if let Assignment::Commit { holders, .. } = &mut inputs {
        holders.clear();
    }
    // An assignment always has a JSON form; without one all made-up blobs would be alike, and the first test would say so.
    serde_json::to_vec(&inputs).map_or(Digest([0; 32]), |text| Digest::of(&text))
}

/// The blobs of one result.
struct MadeUp<'a, P> {
    spec: &'a RunSpec,
    seed: Digest,
    put: P,
}

impl<P: FnMut(Vec<u8>) -> Digest> MadeUp<'_, P> {
    /// A policy of this adapter, or of a made-up one.
    fn policy(&mut self, adapter: Option<Digest>, manifest: Digest) -> Policy {
        Policy {
            adapter: adapter.unwrap_or_else(|| self.blob(b"adapter", 0)),
            optimizer: self.blob(b"optimizer", 0),
            averaged: self.spec.optimizer.averages().then(|| self.blob(b"averaged", 0)),
            manifest,
            tensors: 4,
        }
    }

    /// What follows from the task alone.
    fn conditioning(&mut self, task: &Task) -> Digest {
        let mut bytes = b"conditioning".to_vec();
        bytes.extend(serde_json::to_vec(task).unwrap_or_default());
        (self.put)(bytes)
    }

    fn image(&mut self, index: u32) -> Digest {
        let mut bytes = PNG_SIGNATURE.to_vec();
        bytes.extend(self.bytes(b"image", index));
        (self.put)(bytes)
    }

    fn blob(&mut self, kind: &[u8], index: u32) -> Digest {
        let bytes = self.bytes(kind, index);
        (self.put)(bytes)
    }

    fn bytes(&self, kind: &[u8], index: u32) -> Vec<u8> {
        [&self.seed.0, kind, &index.to_le_bytes()].concat()
    }
}
