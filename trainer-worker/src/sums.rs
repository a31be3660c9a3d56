//! Gradient sums that stay with the trainer that made them.

use std::collections::{BTreeMap, VecDeque};

use gavel_core::ids::{Digest, RunId, Step};

/// Runs whose sums are kept. A trainer rarely serves more at a time; what is given up too early is made again.
const RUNS_MAX: usize = 2;

/// The sums of the step that each run is at, until its next step begins.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    /// The run that was worked for last comes first.
    runs: VecDeque<OfStep>,
}

#[derive(Debug)]
struct OfStep {
    run: RunId,
    step: Step,
    sums: BTreeMap<Digest, Vec<f32>>,
}

impl Sums {
    /// Keeps a sum, and lets go of the run's other steps.
    pub(crate) fn keep(&mut self, run: &RunId, step: Step, name: Digest, sum: Vec<f32>) {
        let index = self.runs.iter().position(|kept| kept.run == *run);
        let kept = index.and_then(|index| self.runs.remove(index));
        let mut sums = kept
            .filter(|kept| kept.step == step)
            .map_or_else(BTreeMap::new, |kept| kept.sums);
        sums.insert(name, sum);
        self.runs.truncate(RUNS_MAX - 1);
        self.runs.push_front(OfStep {
            run: run.clone(),
            step,
            sums,
        });
    }

    pub(crate) fn get(&self, name: &Digest) -> Option<&[f32]> {
        self.runs.iter().find_map(|kept| kept.sums.get(name)).map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_kept_until_the_runs_next_step_or_until_other_runs_need_the_room() {
        let (run, name) = (|name: &str| RunId(name.into()), |byte| Digest([byte; 32]));
        let mut sums = Sums::default();
        sums.keep(&run("a"), Step(1), name(1), vec![1.0]);
        sums.keep(&run("b"), Step(7), name(2), vec![2.0]);
        sums.keep(&run("a"), Step(1), name(3), vec![3.0]);
        assert_eq!(sums.get(&name(1)), Some(&[1.0][..]));
        sums.keep(&run("a"), Step(2), name(4), vec![4.0]);
        assert_eq!((sums.get(&name(1)), sums.get(&name(3))), (None, None));
        assert!(sums.get(&name(2)).is_some() && sums.get(&name(4)).is_some());
        sums.keep(&run("c"), Step(1), name(5), vec![5.0]);
        assert_eq!(sums.get(&name(2)), None);
    }
}
