//! Strengths of several, from how often each was preferred to each other.

use serde::{Deserialize, Serialize};

/// Comparisons that each is taken to have had, half of them won, with one of strength 1: the prior. Without it one that always
/// wins would be infinitely strong, and two that were never compared with each other by any way would have no ratio.
pub const PRIOR_COMPARISONS: f64 = 1.0;

/// How often one was preferred to another; an undecided comparison counts half for each.
#[derive(Debug, Clone, PartialEq)]
pub struct Wins(Vec<Vec<f64>>);

/// The strength of one against that of the first.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Strength {
    /// Natural logarithm of the ratio of both strengths; 0 for the first itself.
    pub log_ratio: f64,
    /// Lower bound of its 95 % interval.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
}

/// Change of every strength, relative to it, at which the iteration ends.
const SETTLED: f64 = 1e-13;
/// Iterations at most; the prior bounds how slow they can be, and a hundred comparisons take some dozens.
const ITERATIONS_MAX: usize = 100_000;
/// The 97.5 % quantile of the standard normal distribution.
const Z: f64 = 1.959_963_984_540_054;

impl Wins {
    /// None yet, among so many.
    pub fn new(count: usize) -> Self {
        Self(vec![vec![0.0; count]; count])
    }

    /// Adds comparisons of two different ones, of which `wins` were won by `winner`; half comparisons are allowed. What names none of
    /// them, or one twice, is left out.
    pub fn add(&mut self, winner: usize, loser: usize, wins: f64) {
        if winner == loser {
            return;
        }
        if let Some(count) = self.0.get_mut(winner).and_then(|row| row.get_mut(loser)) {
            *count += wins;
        }
    }

    fn compared(&self, one: usize, other: usize) -> f64 {
        self.0[one][other] + self.0[other][one]
    }

    /// The strengths of the Bradley-Terry model, in which one of strength p is preferred to one of strength q with probability
    /// p / (p + q): those of the highest posterior under [`PRIOR_COMPARISONS`]. Intervals are those of the normal distribution whose
    /// precision is the observed information at that point; they take the comparisons for independent.
    ///
    /// # Source
    /// R. A. Bradley, M. E. Terry, "Rank analysis of incomplete block designs", 1952; D. R. Hunter, "MM algorithms for generalized
    /// Bradley-Terry models", 2004.
    pub fn strengths(&self) -> Vec<Strength> {
        let strengths = self.most_likely();
        let covariance = inverse(self.information(&strengths));
        let against_first = |index: usize| {
            let log_ratio = libm::log(strengths[index] / strengths[0]);
            let variance = covariance[index][index] + covariance[0][0] - 2.0 * covariance[index][0];
            let half = if index == 0 { 0.0 } else { Z * variance.max(0.0).sqrt() };
            Strength {
                log_ratio,
                low: log_ratio - half,
                high: log_ratio + half,
            }
        };
        (0..strengths.len()).map(against_first).collect()
    }

    fn most_likely(&self) -> Vec<f64> {
        let count = self.0.len();
        let mut strengths = vec![1.0_f64; count];
        for _ in 0..ITERATIONS_MAX {
            let mut change = 0.0_f64;
            for one in 0..count {
                let won: f64 = self.0[one].iter().sum::<f64>() + PRIOR_COMPARISONS / 2.0;
                let among: f64 = (0..count)
                    .map(|other| self.compared(one, other) / (strengths[one] + strengths[other]))
                    .sum::<f64>()
                    + PRIOR_COMPARISONS / (strengths[one] + 1.0);
                let better = won / among;
                change = change.max((better / strengths[one] - 1.0).abs());
                strengths[one] = better;
            }
            if change < SETTLED {
                break;
            }
        }
        strengths
    }

    /// The negative Hessian of the log posterior in the logarithms of the strengths.
    fn information(&self, strengths: &[f64]) -> Vec<Vec<f64>> {
        let count = strengths.len();
        let spread = |one: f64, other: f64| one * other / ((one + other) * (one + other));
        let mut information = vec![vec![0.0; count]; count];
        for one in 0..count {
            information[one][one] += PRIOR_COMPARISONS * spread(strengths[one], 1.0);
            for other in (0..count).filter(|other| *other != one) {
                let of_pair = self.compared(one, other) * spread(strengths[one], strengths[other]);
                information[one][one] += of_pair;
                information[one][other] -= of_pair;
            }
        }
        information
    }
}

/// The inverse of a matrix whose diagonal outweighs the rest of each row, as the prior sees to; Gauss and Jordan's way needs no
/// pivots then.
fn inverse(mut matrix: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let count = matrix.len();
    let mut inverse: Vec<Vec<f64>> = (0..count)
        .map(|row| (0..count).map(|column| if row == column { 1.0 } else { 0.0 }).collect())
        .collect();
    for pivot in 0..count {
        let scale = matrix[pivot][pivot];
        for column in 0..count {
            matrix[pivot][column] /= scale;
            inverse[pivot][column] /= scale;
        }
        for row in (0..count).filter(|row| *row != pivot) {
            let factor = matrix[row][pivot];
            for column in 0..count {
                matrix[row][column] -= factor * matrix[pivot][column];
                inverse[row][column] -= factor * inverse[pivot][column];
            }
        }
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_always_wins_has_a_finite_strength_and_who_was_never_compared_the_priors() {
        let mut wins = Wins::new(3);
        wins.add(1, 0, 40.0);
        let strengths = wins.strengths();
        assert_eq!(strengths[0].log_ratio, 0.0);
        assert!(
            strengths[1].log_ratio > 2.0 && strengths[1].log_ratio < 20.0,
            "{strengths:?}"
        );
        assert!(strengths[1].low < strengths[1].log_ratio && strengths[1].high.is_finite());
        let spread = strengths[2].high - strengths[2].low;
        assert!(spread > 6.0, "nothing is known about the third: {spread}");
        assert_eq!(Wins::new(0).strengths(), Vec::new());
    }

    #[test]
    fn equals_are_equally_strong_and_what_names_nobody_is_left_out() {
        let mut wins = Wins::new(3);
        for (one, other) in [(0, 1), (1, 0), (1, 2), (2, 1), (0, 2), (2, 0)] {
            wins.add(one, other, 5.0);
        }
        wins.add(1, 1, 9.0);
        wins.add(7, 0, 9.0);
        wins.add(0, 7, 9.0);
        for strength in wins.strengths() {
            assert!(strength.log_ratio.abs() < 1e-9, "{strength:?}");
        }
    }
}
