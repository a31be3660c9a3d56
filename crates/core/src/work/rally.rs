//! Trainers that come together to exchange gradient sums.

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, WorkerId};

/// Who takes part in an exchange, and where they meet. The commit's fence is the group's generation: another lease of the
/// same commit is another group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The members in the order of their ranks; the first holds the commit's lease and called the others.
    pub members: Vec<WorkerId>,
    /// What the members need to find each other, as the transport writes it.
    pub rendezvous: Vec<u8>,
}

impl Group {
    /// A member's rank.
    pub fn rank(&self, worker: &WorkerId) -> Option<usize> {
        self.members.iter().position(|member| member == worker)
    }
}

/// The members of a group whose caller holds a commit with these holders of gradient sums: the caller first, the others by
/// name.
pub fn members(caller: &WorkerId, holders: &[WorkerId]) -> Vec<WorkerId> {
    let mut others: Vec<WorkerId> = holders.iter().filter(|holder| *holder != caller).cloned().collect();
    others.sort();
    others.dedup();
    others.insert(0, caller.clone());
    others
}

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RallyOutcome {
    /// Everybody has joined.
    Complete {
        /// The members in the order of their ranks.
        members: Vec<WorkerId>,
    },
    /// Somebody cannot take part; the group is dissolved.
    Incomplete {
        /// Workers that have left the fleet, or that did not answer in time.
        absent: Vec<WorkerId>,
        /// Gradient sums that their holders no longer have.
        lost: Vec<Digest>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_depend_on_the_caller_and_on_names_alone() {
        let name = |name: &str| WorkerId(name.into());
        let group = Group {
            members: members(&name("b"), &[name("c"), name("b"), name("a"), name("c")]),
            rendezvous: vec![],
        };
        assert_eq!(group.members, [name("b"), name("a"), name("c")]);
        assert_eq!((group.rank(&name("c")), group.rank(&name("d"))), (Some(2), None));
        assert_eq!(members(&name("d"), &[name("a")]), [name("d"), name("a")]);
    }
}
