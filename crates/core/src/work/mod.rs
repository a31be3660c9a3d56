//! Units of work: what a worker leases, what it is given, and what it returns.

mod assignment;
mod blobs;
mod identity;
mod lease_key;
mod numbers;
mod outcome;
mod policy;
pub mod rally;
pub mod rules;
mod task;
mod unit;
mod unusable;
mod verdict;

pub use assignment::{Assignment, Pair, PromptTask, RewardedCandidate, RewardedGroup};
pub use blobs::Part;
pub(crate) use blobs::candidate_blobs;
pub use identity::WorkerSecret;
pub use lease_key::LeaseKey;
pub use outcome::{Outcome, OutcomeKind, Sampled, ShardStatistics, SkippedPair};
pub use policy::Policy;
pub use task::Task;
pub use unit::{Arm, Role, Unit};
pub use unusable::{Fault, Unusable};
pub use verdict::{AbstainReason, Reason, Side, Verdict, VerdictRecord, Vote, majority};
