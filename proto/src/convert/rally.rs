//! Who exchanges gradient sums.

use gavel_core::ids::WorkerId;
use gavel_core::work::rally::{Group, Muster};

use super::{Malformed, bytes, digests};
use crate::v1;
use crate::v1::rally_response::Muster as Wire;

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
        }
    }
}

impl From<v1::Group> for Group {
    fn from(group: v1::Group) -> Self {
        Self {
            members: workers(group.members),
            rendezvous: group.rendezvous,
        }
    }
}

impl From<Muster> for v1::RallyResponse {
    fn from(muster: Muster) -> Self {
        let muster = match muster {
            Muster::Complete { members } => Wire::Complete(v1::rally_response::Complete {
                members: names(members),
            }),
            Muster::Incomplete { absent, lost } => Wire::Incomplete(v1::rally_response::Incomplete {
                absent: names(absent),
                lost: lost.into_iter().map(bytes).collect(),
            }),
        };
        Self { muster: Some(muster) }
    }
}

impl TryFrom<v1::RallyResponse> for Muster {
    type Error = Malformed;

    fn try_from(response: v1::RallyResponse) -> Result<Self, Malformed> {
        Ok(match super::required(response.muster, "RallyResponse.muster")? {
            Wire::Complete(complete) => Self::Complete {
                members: workers(complete.members),
            },
            Wire::Incomplete(incomplete) => Self::Incomplete {
                absent: workers(incomplete.absent),
                lost: digests(&incomplete.lost, "RallyResponse.Incomplete.lost")?,
            },
        })
    }
}
