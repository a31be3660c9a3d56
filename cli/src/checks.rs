//! Several checks, whose problems are all told together.

/// The checks so far.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    count: usize,
    problems: Vec<anyhow::Error>,
}

impl Checks {
    /// Notes what a check gave.
    pub(crate) fn note<T>(&mut self, checked: anyhow::Result<T>) -> Option<T> {
        self.count += 1;
        match checked {
            Ok(value) => Some(value),
            Err(problem) => {
                self.problems.push(problem);
                None
            }
        }
    }

    /// How many there were.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// What they have against the run, in their order.
    pub(crate) fn problems(self) -> Vec<anyhow::Error> {
        self.problems
    }
}
