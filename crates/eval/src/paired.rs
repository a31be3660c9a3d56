//! Whether one thing is better than another on the same prompts.

use serde::{Deserialize, Serialize};

/// Of a normal variable 95 % lie within so many standard deviations of its mean.
const DEVIATIONS: f64 = 1.959_963_984_540_054;

/// The mean difference of two figures that were taken of the same things, with what chance could make of it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PairedDifference {
    /// Things of which both figures were taken.
    pub count: usize,
    /// Mean of the second minus the first.
    pub mean: f64,
    /// The ends of the mean's 95 % interval, in which the true mean would lie by the normal approximation; `None` of one thing alone.
    pub interval: Option<[f64; 2]>,
    /// Things whose second figure is the greater.
    pub more: usize,
    /// Things whose second figure is the smaller.
    pub fewer: usize,
}

impl PairedDifference {
    /// Of these pairs of figures; `None` of none.
    pub fn of(figures: impl Iterator<Item = [f64; 2]>) -> Option<Self> {
        let differences: Vec<f64> = figures.map(|[first, second]| second - first).collect();
        let count = differences.len();
        if count == 0 {
            return None;
        }
        let mean = differences.iter().sum::<f64>() / count as f64;
        let squares: f64 = differences.iter().map(|one| (one - mean) * (one - mean)).sum();
        let interval = (count > 1).then(|| {
            let error = (squares / (count - 1) as f64 / count as f64).sqrt();
            [mean - DEVIATIONS * error, mean + DEVIATIONS * error]
        });
        Some(Self {
            count,
            mean,
            interval,
            more: differences.iter().filter(|one| **one > 0.0).count(),
            fewer: differences.iter().filter(|one| **one < 0.0).count(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_has_the_interval_that_one_computes_by_hand() {
        let figures = [[0.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 1.0]];
        let found = PairedDifference::of(figures.into_iter()).unwrap();
        assert_eq!((found.count, found.mean, found.more, found.fewer), (4, 0.25, 2, 1));
        // Differences 1, 0, -1, 1: variance 11 / 12, standard error (11 / 48)^0.5.
        let [low, high] = found.interval.unwrap();
        let half = 1.959_963_984_540_054 * (11.0_f64 / 48.0).sqrt();
        assert!((low - (0.25 - half)).abs() < 1e-12 && (high - (0.25 + half)).abs() < 1e-12);
        let one = PairedDifference::of([[0.0, 0.5]].into_iter()).unwrap();
        assert_eq!((one.mean, one.interval), (0.5, None));
        assert_eq!(PairedDifference::of(std::iter::empty()), None);
    }
}
