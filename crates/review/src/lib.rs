//! Looks back at a run: what its ledger and its blobs hold, whether that fits together, and what it comes to.
//!
//! A [`RunSource`] is where a run is read from: a [`RunFolder`], a [`StoredRun`] or a [`ServedRun`]. [`audit`] proves from the record alone that each pair was sampled, judged and trained on once; [`verify`] does a step
//! again with the workers' code and compares every byte; [`rejudge`] asks another judge; [`report`] sums a finished run up; [`export`] writes one of its
//! adapters as a folder of its own, [`rubrics()`] the sets that its judge decided by. [`evaluate`] looks at adapters and pictures outside a run, and at those of runs.
//!
//! Nothing here changes a ledger or a blob, prints, or parses arguments: results are values that the caller shows. Reports,
//! checkpoints and adapters are written to the run's folder, or to where the caller says, and nowhere else.

#![forbid(unsafe_code)]

pub mod audit;
mod error;
pub mod evaluate;
mod export;
mod folder;
mod history;
mod machine;
pub mod metrics;
pub mod rejudge;
pub mod report;
mod rubrics;
mod source;
mod verdict_file;
pub mod verify;

pub use error::Error;
pub use export::{Export, ExportedAdapter, Format, Weights, export};
pub use folder::{CoordinatorAddresses, RunFolder};
pub use history::History;
pub use machine::{Machine, Usage, peak_memory_bytes, usage};
pub use rubrics::rubrics;
pub use source::{Derived, RunSource, ServedRun, StoredRun};
pub use verdict_file::VerdictFile;
