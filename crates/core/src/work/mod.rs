//! Units of work: what a worker leases, what it is given, and what it returns.

mod assignment;
mod lease_key;
mod outcome;
mod policy;
pub mod rally;
mod unit;
mod unusable;
mod verdict;

pub use assignment::{Assignment, Pair, PromptText, RewardedCandidate, RewardedGroup};
pub use lease_key::LeaseKey;
pub use outcome::{Outcome, Sampled, ShardStatistics, SkippedPair};
pub use policy::Policy;
pub use unit::{Arm, Role, Unit};
pub use unusable::{Fault, Unusable};
pub use verdict::{AbstainReason, Reason, Side, Verdict, VerdictRecord, Vote, majority};
