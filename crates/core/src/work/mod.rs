//! Units of work: what a worker leases, what it is given, and what it returns.

mod assignment;
mod blobs;
mod filter;
mod identity;
mod lease_key;
mod numbers;
mod orders;
mod outcome;
mod place;
mod policy;
pub mod rally;
pub mod rules;
mod spent;
mod task;
mod unit;
mod unusable;
mod usage;
mod verdict;
mod worker_status;

pub use assignment::{Assignment, Pair, PromptTask, RewardedCandidate, RewardedGroup};
pub use blobs::Part;
pub(crate) use blobs::{candidate_blobs, conditioning};
pub use filter::WorkerFilter;
pub use identity::WorkerSecret;
pub use lease_key::LeaseKey;
pub use orders::{AskedMatches, Orders};
pub use outcome::{Outcome, OutcomeKind, Sampled, ShardStatistics, SkippedPair};
pub use place::{PromptPlace, TaskList};
pub use policy::Policy;
pub use spent::{Spent, Usage};
pub use task::Task;
pub use unit::{Arm, Role, Unit};
pub use unusable::{Fault, Unusable};
pub use usage::{DeviceUse, Memory};
pub use verdict::{AbstainReason, Poll, Reason, Side, Verdict, VerdictRecord, Vote, poll};
pub use worker_status::{HeldLease, WorkerStatus};
