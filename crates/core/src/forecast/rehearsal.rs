//! Results without computing: what a faultless worker would return, for simulations, load tests and planning.

use crate::ids::{Candidate, Digest};
use crate::spec::RunSpec;
use crate::work::{AbstainReason, Side, Verdict, VerdictRecord};
use crate::work::{Assignment, Outcome, Policy, Sampled, ShardStatistics};

/// What a faultless worker returns for `assignment`: a function of the assignment and nothing else, as with real workers. The
/// blobs that it names do not exist. About a third of the pairs is not decided. `rubric` is the fingerprint of the run's rubric.
pub fn work(spec: &RunSpec, rubric: Digest, assignment: &Assignment) -> Outcome {
    // Who made a gradient sum says where it is, not what it is.
    let mut inputs = assignment.clone();
    if let Assignment::Commit { holders, .. } = &mut inputs {
        holders.clear();
    }
    let whole = serde_json::to_vec(&inputs).map_or(rubric, |text| Digest::of(&text));
    let manifest = Digest::of(b"manifest");
    let model = Digest::of(b"transformer");
    let candidates = spec.sampling.candidates;
    match assignment {
        Assignment::Initialise => Outcome::Initialised {
            policy: policy(spec, whole, manifest),
            model,
        },
        Assignment::Sample { prompts, .. } => {
            let samples = prompts.iter().flat_map(|prompt| {
                (0..candidates).map(move |candidate| {
                    let place = u32::from(candidates) * prompt.index.0 + u32::from(candidate);
                    Sampled {
                        prompt: prompt.index,
                        candidate: Candidate(candidate),
                        trajectory: Some(part(whole, b't', place)),
                        image: part(whole, b'i', place),
                    }
                })
            });
            Outcome::Sampled {
                samples: samples.collect(),
                manifest: Some(manifest),
                model,
                seconds: 1.0,
            }
        }
        Assignment::EvaluateSample { prompts, policy, .. } => {
            let samples = prompts.iter().map(|prompt| Sampled {
                prompt: prompt.index,
                candidate: Candidate(0),
                trajectory: None,
                image: part(whole, b'i', prompt.index.0),
            });
            Outcome::Sampled {
                samples: samples.collect(),
                manifest: policy.as_ref().map(|_| manifest),
                model,
                seconds: 1.0,
            }
        }
        Assignment::Judge { pairs } => {
            let verdicts = pairs.iter().map(|pair| {
                let digest = Digest::of(&[pair.first.0, pair.second.0].concat());
                let probability = f64::from(digest.0[0]) / 255.0;
                VerdictRecord {
                    prompt: pair.prompt,
                    verdict: match probability {
                        p if p > 0.7 => Verdict::Preferred { side: Side::First },
                        p if p < 0.4 => Verdict::Preferred { side: Side::Second },
                        _ => Verdict::Abstain {
                            reason: AbstainReason::TooClose,
                        },
                    },
                    probability_first: probability,
                    order_probabilities: [probability; 2],
                    rubric,
                    votes: Vec::new(),
                    reasons: Vec::new(),
                }
            });
            Outcome::Judged {
                verdicts: verdicts.collect(),
                model: Digest::of(b"judge"),
                seconds: 0.5,
            }
        }
        Assignment::Gradient { groups, .. } => {
            let candidates: usize = groups.iter().map(|group| group.candidates.len()).sum();
            let terms = (candidates * spec.trained_steps().len()) as u64;
            Outcome::Gradient {
                gradient: Some(whole),
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
        Assignment::Commit { .. } => Outcome::Committed {
            policy: policy(spec, whole, manifest),
            grad_norm: 0.5,
            learning_rate: 1e-4,
            seconds: 0.125,
        },
    }
}

fn policy(spec: &RunSpec, of: Digest, manifest: Digest) -> Policy {
    Policy {
        adapter: of,
        optimizer: Digest::of(&of.0),
        averaged: spec.optimizer.averages().then(|| part(of, b'a', 0)),
        manifest,
        tensors: 4,
    }
}

/// The blob of this kind and place that belongs to the result `whole`.
fn part(whole: Digest, kind: u8, place: u32) -> Digest {
    let mut text = [0; 37];
    text[..32].copy_from_slice(&whole.0);
    text[32] = kind;
    text[33..].copy_from_slice(&place.to_le_bytes());
    Digest::of(&text)
}
