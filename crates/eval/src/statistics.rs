//! Proportions with their uncertainty.

use serde::{Deserialize, Serialize};

/// A share with its 95 % Wilson score interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Proportion {
    /// The share itself, in [0, 1].
    pub value: f64,
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
}

/// The 97.5 % quantile of the standard normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// The share `successes / trials` with its 95 % Wilson score interval; `None` without trials. Half successes are allowed, so
/// that an undecided comparison can count half for each side.
///
/// # Source
/// E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
pub fn wilson(successes: f64, trials: usize) -> Option<Proportion> {
    if trials == 0 {
        return None;
    }
    let n = trials as f64;
    let p = (successes / n).clamp(0.0, 1.0);
    let denominator = 1.0 + Z * Z / n;
    let centre = (p + Z * Z / (2.0 * n)) / denominator;
    let half = Z / denominator * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    // The bounds meet 0 and 1 only up to rounding; the interval always contains the share itself.
    Some(Proportion {
        value: p,
        low: (centre - half).clamp(0.0, p),
        high: (centre + half).clamp(p, 1.0),
    })
}

/// Two-sided exact p value of McNemar's test: how likely a split as uneven as `only_first` to `only_second`, or more so, is when
/// each of these pairs falls to either side like a coin. 1 without such pairs.
///
/// # Source
/// Q. McNemar, "Note on the sampling error of the difference between correlated proportions or percentages", 1947, in its
/// exact binomial form.
pub fn mcnemar(only_first: u64, only_second: u64) -> f64 {
    let (fewer, n) = (only_first.min(only_second), only_first + only_second);
    // ln of C(n, k) / 2^n, from k to k + 1: powers of a half would underflow.
    let mut term = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for k in 0..=fewer {
        tail += term.exp();
        term += ((n - k) as f64 / (k + 1) as f64).ln();
    }
    (2.0 * tail).min(1.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn wilson_gives_the_published_figures() {
        // R: prop.test(81, 263, correct = FALSE)$conf.int, as in Newcombe 1998, table I.
        let found = wilson(81.0, 263).unwrap();
        assert!(
            (found.low - 0.2553).abs() < 5e-5 && (found.high - 0.3662).abs() < 5e-5,
            "{found:?}"
        );
        let none = wilson(0.0, 20).unwrap();
        assert!(none.low == 0.0 && (none.high - 0.1611).abs() < 5e-5, "{none:?}");
        assert_eq!(wilson(0.0, 0), None);
    }

    #[test]
    fn mcnemar_gives_the_binomial_tail() {
        // R: binom.test(c(1, 9))$p.value, binom.test(c(5, 15))$p.value.
        assert!((mcnemar(1, 9) - 0.021_484_375).abs() < 1e-12);
        assert!((mcnemar(15, 5) - 0.041_389_465_332).abs() < 1e-9);
        assert_eq!((mcnemar(0, 0), mcnemar(3, 3)), (1.0, 1.0));
        assert!(mcnemar(900, 1100) > 0.0 && mcnemar(900, 1100) < 1e-4);
    }

    proptest! {
        #[test]
        fn the_interval_holds_the_share_and_mirrors(trials in 1usize..500, part in 0.0f64..=1.0) {
            let successes = (part * trials as f64).round();
            let p = wilson(successes, trials).unwrap();
            prop_assert!(0.0 <= p.low && p.low <= p.value && p.value <= p.high && p.high <= 1.0);
            let mirrored = wilson(trials as f64 - successes, trials).unwrap();
            prop_assert!((mirrored.low - (1.0 - p.high)).abs() < 1e-12);
        }
    }
}
