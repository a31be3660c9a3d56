//! Several checks, whose problems are all told together.

use crate::diagnostic::{Diagnostic, Result};

/// The checks so far.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    count: usize,
    problems: Vec<Diagnostic>,
}

impl Checks {
    /// Notes what a check gave.
    pub(crate) fn note<T, E: Into<Diagnostic>>(&mut self, checked: Result<T, E>) -> Option<T> {
        self.count += 1;
        match checked {
            Ok(value) => Some(value),
            Err(problem) => {
                self.problems.push(problem.into());
                None
            }
        }
    }

    /// How many there were.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// What they have against the run, in their order.
    pub(crate) fn problems(self) -> Vec<Diagnostic> {
        self.problems
    }
}
