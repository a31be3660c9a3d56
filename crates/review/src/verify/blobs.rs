//! The blobs of a unit, each with what it is.

use gavel_core::ids::Digest;
use gavel_core::work::{Assignment, Outcome, Policy};

/// A blob, with what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) what: String,
    pub(super) digest: Digest,
}

impl Named {
    fn new(what: impl Into<String>, digest: Digest) -> Self {
        Self {
            what: what.into(),
            digest,
        }
    }
}

/// The blobs that a worker needs for an assignment.
pub(super) fn inputs(assignment: &Assignment) -> Vec<Named> {
    let adapter = |policy: &Policy| Named::new("the policy's adapter", policy.adapter);
    let optimizer = |policy: &Policy| Named::new("the policy's optimizer state", policy.optimizer);
    match assignment {
        // A commit of nothing hands the policy on as it is.
        Assignment::Initialise | Assignment::Commit { terms: 0, .. } => Vec::new(),
        Assignment::Sample { policy, .. } => vec![adapter(policy)],
        Assignment::EvaluateSample { policy, .. } => policy
            .iter()
            .map(|policy| Named::new("the policy's adapter", policy.averaged.unwrap_or(policy.adapter)))
            .collect(),
        Assignment::Judge { pairs } => pairs
            .iter()
            .flat_map(|pair| {
                [("first", pair.first), ("second", pair.second)]
                    .map(|(which, image)| Named::new(format!("the {which} image of pair {}", pair.prompt), image))
            })
            .collect(),
        Assignment::Gradient { policy, groups, .. } => {
            let trajectories = groups.iter().flat_map(|group| {
                group.candidates.iter().enumerate().map(|(index, candidate)| {
                    Named::new(
                        format!("the trajectory of prompt {}, candidate {index}", group.prompt),
                        candidate.trajectory,
                    )
                })
            });
            [adapter(policy), optimizer(policy)]
                .into_iter()
                .chain(trajectories)
                .collect()
        }
        Assignment::Commit { policy, gradients, .. } => {
            let gradients = gradients
                .iter()
                .enumerate()
                .map(|(index, gradient)| Named::new(format!("gradient sum {index}"), *gradient));
            [adapter(policy), optimizer(policy)]
                .into_iter()
                .chain(gradients)
                .collect()
        }
    }
}

/// The blobs that an outcome names.
pub(super) fn outputs(outcome: &Outcome) -> Vec<Named> {
    match outcome {
        Outcome::Initialised { policy, .. } | Outcome::Committed { policy, .. } => [
            Some(Named::new("the new adapter", policy.adapter)),
            Some(Named::new("the new optimizer state", policy.optimizer)),
            policy
                .averaged
                .map(|averaged| Named::new("the new averaged adapter", averaged)),
        ]
        .into_iter()
        .flatten()
        .collect(),
        Outcome::Sampled { samples, .. } => samples
            .iter()
            .flat_map(|sampled| {
                let position = format!("prompt {}, candidate {}", sampled.prompt, sampled.candidate);
                let trajectory = sampled
                    .trajectory
                    .map(|trajectory| Named::new(format!("the trajectory of {position}"), trajectory));
                let image = Named::new(format!("the image of {position}"), sampled.image);
                trajectory.into_iter().chain([image])
            })
            .collect(),
        Outcome::Judged { .. } => Vec::new(),
        Outcome::Gradient { gradient, .. } => gradient
            .iter()
            .map(|gradient| Named::new("the gradient sum", *gradient))
            .collect(),
    }
}
