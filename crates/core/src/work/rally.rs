//! Trainers that come together to exchange gradient sums.

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, WorkerId};

/// Who takes part in an exchange, and where they meet. The commit's fence is the group's generation: another lease of the
/// same commit is another group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The first holds the commit's lease and called the others.
    pub members: Vec<WorkerId>,
    /// What the members need to find each other, as the transport writes it.
    pub rendezvous: Vec<u8>,
    /// Whether the members met at this rendezvous before, and go on with what they kept of it.
    pub kept: bool,
}

impl Group {
    /// A member's rank: its place among the names, whoever called, so that a kept group fits whoever calls next.
    pub fn rank(&self, worker: &WorkerId) -> Option<usize> {
        let is_member = self.members.contains(worker);
        is_member.then(|| self.members.iter().filter(|member| *member < worker).count())
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

/// What a worker answers that is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// It takes part as soon as everybody does.
    Ready,
    /// It no longer has these gradient sums, and does not take part.
    WithoutSums(Vec<Digest>),
    /// It does not have the kept group, and takes part in the next one.
    WithoutGroup,
}

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RallyOutcome {
    /// Everybody has joined.
    Complete {
        /// The members, as in [`Group`].
        members: Vec<WorkerId>,
    },
    /// A member does not have the kept group: the caller calls again, with a new rendezvous.
    NotKept,
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
    fn members_depend_on_the_caller_and_ranks_on_names_alone() {
        let name = |name: &str| WorkerId(name.into());
        let group = Group {
            members: members(&name("b"), &[name("c"), name("b"), name("a"), name("c")]),
            rendezvous: vec![],
            kept: false,
        };
        assert_eq!(group.members, [name("b"), name("a"), name("c")]);
        assert_eq!((group.rank(&name("c")), group.rank(&name("d"))), (Some(2), None));
        assert_eq!((group.rank(&name("a")), group.rank(&name("b"))), (Some(0), Some(1)));
        assert_eq!(members(&name("d"), &[name("a")]), [name("d"), name("a")]);
    }
}
