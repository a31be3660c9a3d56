//! Who exchanges gradient sums.

use gavel_core::ids::WorkerId;
use gavel_core::work::rally::{Group, RallyOutcome};

use super::{Malformed, bytes, digests};
use crate::v1;
use crate::v1::rally_response::Outcome as Wire;

fn names(workers: Vec<WorkerId>) -> Vec<String> {
    workers.into_iter().map(|worker| worker.0).collect()
}

fn workers(names: Vec<String>) -> Vec<WorkerId> {
    names.into_iter().map(WorkerId).collect()
}

impl From<Group> for v1::Group {
    fn from(group: Group) -> Self {
        Self {
            members: names(group.members),
            rendezvous: group.rendezvous,
            kept: group.kept,
        }
    }
}

impl From<v1::Group> for Group {
    fn from(group: v1::Group) -> Self {
        Self {
            members: workers(group.members),
            rendezvous: group.rendezvous,
            kept: group.kept,
        }
    }
}

impl From<RallyOutcome> for v1::RallyResponse {
    fn from(outcome: RallyOutcome) -> Self {
        let outcome = match outcome {
            RallyOutcome::Complete { members } => Wire::Complete(v1::rally_response::Complete {
                members: names(members),
            }),
            RallyOutcome::Incomplete { absent, lost } => Wire::Incomplete(v1::rally_response::Incomplete {
                absent: names(absent),
                lost: lost.into_iter().map(bytes).collect(),
            }),
            RallyOutcome::NotKept => Wire::NotKept(v1::rally_response::NotKept {}),
        };
        Self { outcome: Some(outcome) }
    }
}

impl TryFrom<v1::RallyResponse> for RallyOutcome {
    type Error = Malformed;

    fn try_from(response: v1::RallyResponse) -> Result<Self, Malformed> {
        Ok(match super::required(response.outcome, "RallyResponse.outcome")? {
            Wire::Complete(complete) => Self::Complete {
                members: workers(complete.members),
            },
            Wire::Incomplete(incomplete) => Self::Incomplete {
                absent: workers(incomplete.absent),
                lost: digests(&incomplete.lost, "RallyResponse.Incomplete.lost")?,
            },
            Wire::NotKept(_) => Self::NotKept,
        })
    }
}
