//! What an audit has against a run.

use serde::Serialize;

/// One thing that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which promise is broken.
    pub rule: Rule,
    /// Where: an event, a unit, a pair, a file.
    #[serde(rename = "place")]
    pub location: String,
    /// What is wrong there.
    pub problem: String,
}

/// The promises that an audit proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// The ledger's rows are as they were written.
    Checksums,
    /// Events are complete, in order, and the state machine accepts them.
    Events,
    /// Fences count grants; what is handed in lies within an open lease of its worker.
    Leases,
    /// Each unit has one accepted result.
    Once,
    /// Work is done under the policy version that its step starts from.
    Policy,
    /// Each prompt of a step has all its candidates, from one result each.
    Samples,
    /// Each pair has one verdict, which its evidence supports.
    Verdicts,
    /// Exactly the decided pairs are trained on, with the rewards of their verdicts, and terms add up.
    Gradients,
    /// A commit adds all of the step's gradients.
    Commits,
    /// What the run's state says is what was accepted.
    State,
    /// What the ledger keeps of a replay is what a replay gives.
    Derived,
    /// A trajectory's metadata and noise are those of its place.
    Trajectories,
    /// Named blobs are there, with the right bytes.
    Blobs,
    /// The files of the run's folder hold what the ledger names.
    Files,
}

/// All findings so far.
#[derive(Debug, Default)]
pub(super) struct Findings(pub(super) Vec<Finding>);

impl Findings {
    pub(super) fn add(&mut self, rule: Rule, location: impl ToString, problem: impl Into<String>) {
        self.0.push(Finding {
            rule,
            location: location.to_string(),
            problem: problem.into(),
        });
    }

    /// Adds a finding unless two things are equal.
    pub(super) fn equal<T: PartialEq + std::fmt::Debug>(
        &mut self,
        rule: Rule,
        location: impl ToString,
        what: &str,
        expected: &T,
        found: &T,
    ) {
        if expected != found {
            self.add(
                rule,
                location,
                format!("{what}: expected {expected:?}, found {found:?}"),
            );
        }
    }
}

impl Rule {
    /// The promise in a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Checksums => "checksums",
            Self::Events => "events",
            Self::Leases => "leases",
            Self::Once => "once",
            Self::Policy => "policy",
            Self::Samples => "samples",
            Self::Verdicts => "verdicts",
            Self::Gradients => "gradients",
            Self::Commits => "commits",
            Self::State => "state",
            Self::Derived => "derived",
            Self::Trajectories => "trajectories",
            Self::Blobs => "blobs",
            Self::Files => "files",
        }
    }
}
