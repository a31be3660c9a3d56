//! Sparse logistic regression with weights that are not negative.
//!
//! A pair says the same whichever of its pictures stands first, so that there is no intercept, and each pair is turned so that the better
//! picture is the first: the loss of weights w is the mean of log(1 + exp(-x w)) over the pairs' leans x, plus lambda times the sum of w.
//! It is convex. Weights are found one after another, in order, each by a Newton step on its own, and by the step of a quadratic that lies
//! above the loss where Newton's would not lower it enough.
//!
//! # Source
//! G.-X. Yuan and others, "A comparison of optimization methods and software for large-scale L1-regularized linear classification", 2010,
//! section 4 (coordinate descent with Newton directions). Deviations: the bound takes the place of the line search, and no weight is negative.

/// How far weights are followed. Leans that tell the pairs apart without an error want weights without a bound as lambda goes to 0, and slowly.
#[derive(Debug, Clone, Copy)]
pub(super) struct Effort {
    /// Greatest violation of the conditions of optimality at which the weights count as found.
    pub(super) tolerance: f64,
    /// Most rounds over all weights.
    rounds: usize,
}

impl Effort {
    /// For weights that are used.
    pub(super) const WHOLE: Self = Self {
        tolerance: 1e-9,
        rounds: 20_000,
    };
    /// For weights that are only measured.
    pub(super) const TRIAL: Self = Self {
        tolerance: 1e-6,
        rounds: 1_000,
    };
}

/// Share of the decrease that the slope promises which a Newton step has to bring.
const DECREASE: f64 = 0.01;

/// How far each criterion leans to the better picture: a column for each criterion, with a lean for each pair.
#[derive(Debug, Clone)]
pub(super) struct Leans {
    columns: Vec<Vec<f64>>,
    pairs: usize,
}

/// Weights, and how far they are from the best ones.
#[derive(Debug, Clone)]
pub(super) struct Fit {
    /// A weight for each criterion.
    pub(super) weights: Vec<f64>,
    /// The greatest violation of the conditions of optimality.
    pub(super) violation: f64,
}

impl Leans {
    /// Every column has a lean for each of so many pairs, of which there is at least one.
    pub(super) fn new(columns: Vec<Vec<f64>>, pairs: usize) -> Self {
        Self { columns, pairs }
    }

    pub(super) fn pairs(&self) -> usize {
        self.pairs
    }

    /// Weights of 0, to begin with.
    pub(super) fn start(&self) -> Vec<f64> {
        vec![0.0; self.columns.len()]
    }

    /// The pairs that are wanted.
    pub(super) fn only(&self, is_wanted: impl Fn(usize) -> bool) -> Self {
        let wanted: Vec<usize> = (0..self.pairs).filter(|pair| is_wanted(*pair)).collect();
        let columns = self.columns.iter();
        let columns = columns.map(|column| wanted.iter().map(|pair| column[*pair]).collect());
        Self {
            columns: columns.collect(),
            pairs: wanted.len(),
        }
    }

    /// The least lambda at which all weights are 0. Not above 0 where no criterion leans to the better pictures.
    pub(super) fn lambda_most(&self) -> f64 {
        let slopes = self
            .columns
            .iter()
            .map(|column| 0.5 * self.mean(column.iter().copied()));
        slopes.fold(0.0, f64::max)
    }

    /// For each pair the weighted sum of its leans: above 0 where it leans to the better picture.
    pub(super) fn sums(&self, weights: &[f64]) -> Vec<f64> {
        let mut sums = vec![0.0; self.pairs];
        for (column, weight) in self.columns.iter().zip(weights) {
            for (sum, lean) in sums.iter_mut().zip(column) {
                *sum += weight * lean;
            }
        }
        sums
    }

    /// The best weights at this lambda, from these on.
    pub(super) fn fit(&self, lambda: f64, start: &[f64], effort: Effort) -> Fit {
        let mut weights = start.to_vec();
        let mut sums = self.sums(&weights);
        let mut violation = f64::INFINITY;
        for _ in 0..effort.rounds {
            violation = 0.0;
            for (column, weight) in self.columns.iter().zip(&mut weights) {
                let slope = lambda - self.mean(column.iter().zip(&sums).map(|(lean, sum)| lean * wrong(*sum)));
                violation = f64::max(violation, if *weight > 0.0 { slope.abs() } else { -slope });
                let step = self.step(column, &sums, lambda, slope, *weight);
                if step != 0.0 {
                    *weight = (*weight + step).max(0.0);
                    for (sum, lean) in sums.iter_mut().zip(column) {
                        *sum += step * lean;
                    }
                }
            }
            if violation <= effort.tolerance {
                break;
            }
        }
        Fit { weights, violation }
    }

    /// By how much to change one weight whose slope is this.
    fn step(&self, column: &[f64], sums: &[f64], lambda: f64, slope: f64, weight: f64) -> f64 {
        let within = |step: f64| step.max(-weight);
        let curvature = self.mean(column.iter().zip(sums).map(|(lean, sum)| {
            let wrong = wrong(*sum);
            lean * lean * wrong * (1.0 - wrong)
        }));
        if curvature > 0.0 {
            let step = within(-slope / curvature);
            let change = self.mean(
                column
                    .iter()
                    .zip(sums)
                    .map(|(lean, sum)| loss(sum + step * lean) - loss(*sum)),
            );
            if change + lambda * step <= DECREASE * slope * step {
                return step;
            }
        }
        // The curvature of log(1 + exp) is nowhere more than a quarter.
        let bound = 0.25 * self.mean(column.iter().map(|lean| lean * lean));
        if bound > 0.0 { within(-slope / bound) } else { 0.0 }
    }

    fn mean(&self, values: impl Iterator<Item = f64>) -> f64 {
        values.sum::<f64>() / self.pairs as f64
    }
}

/// What a pair with this sum costs: minus the logarithm of the probability of the better picture.
pub(super) fn loss(sum: f64) -> f64 {
    // exp of what is never above 0 does not overflow.
    libm::log1p(libm::exp(-sum.abs())) + f64::max(-sum, 0.0)
}

/// The probability of the worse picture.
fn wrong(sum: f64) -> f64 {
    super::logistic(-sum)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Golden {
        made_with: String,
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        name: String,
        by: String,
        lambda: f64,
        leans: Vec<Vec<f64>>,
        weights: Vec<f64>,
    }

    fn of_rows(rows: &[Vec<f64>]) -> Leans {
        let columns = (0..rows[0].len()).map(|column| rows.iter().map(|row| row[column]).collect());
        Leans::new(columns.collect(), rows.len())
    }

    #[test]
    fn weights_are_those_of_scikit_learn_and_scipy() {
        let golden: Golden = serde_json::from_str(include_str!("../../../../tests/golden/weights.json")).unwrap();
        assert!(golden.made_with.contains("scikit-learn"));
        assert!(golden.cases.len() >= 6);
        for case in golden.cases {
            let leans = of_rows(&case.leans);
            let fit = leans.fit(case.lambda, &vec![0.0; case.weights.len()], Effort::WHOLE);
            assert!(
                fit.violation <= Effort::WHOLE.tolerance,
                "{}: {}",
                case.name,
                fit.violation
            );
            for (index, (found, expected)) in fit.weights.iter().zip(&case.weights).enumerate() {
                // The solvers stop at 1e-10 of their own measures; weights are about 1.
                assert!(
                    (found - expected).abs() < 1e-5,
                    "{} by {}: weight {index} is {found}, expected {expected}",
                    case.name,
                    case.by
                );
            }
        }
    }

    fn rows() -> impl Strategy<Value = Vec<Vec<f64>>> {
        (1..5_usize).prop_flat_map(|criteria| prop::collection::vec(prop::collection::vec(-5.0..5.0, criteria), 1..30))
    }

    proptest! {
        #[test]
        fn no_other_weights_are_better(rows in rows(), others in prop::collection::vec(0.0..3.0, 4), lambda in 0.01..0.5) {
            let leans = of_rows(&rows);
            let criteria = rows[0].len();
            let fit = leans.fit(lambda, &vec![0.0; criteria], Effort::WHOLE);
            prop_assert!(fit.violation <= Effort::WHOLE.tolerance);
            prop_assert!(fit.weights.iter().all(|weight| *weight >= 0.0));
            let cost = |weights: &[f64]| {
                let losses = leans.sums(weights).into_iter().map(loss).sum::<f64>() / rows.len() as f64;
                losses + lambda * weights.iter().sum::<f64>()
            };
            // A violation of 1e-9 in weights of at most some hundreds.
            prop_assert!(cost(&fit.weights) <= cost(&others[..criteria]) + 1e-6);
            // From elsewhere it comes to a place that is as good.
            let again = leans.fit(lambda, &others[..criteria], Effort::WHOLE);
            prop_assert!((cost(&again.weights) - cost(&fit.weights)).abs() < 1e-6);
        }

        #[test]
        fn above_the_greatest_slope_all_weights_are_zero_and_below_it_one_is_not(rows in rows()) {
            let leans = of_rows(&rows);
            let most = leans.lambda_most();
            let start = vec![0.0; rows[0].len()];
            prop_assert!(leans.fit(most + 1e-6, &start, Effort::WHOLE).weights.iter().all(|weight| *weight == 0.0));
            if most > 1e-3 {
                prop_assert!(leans.fit(0.9 * most, &start, Effort::WHOLE).weights.iter().any(|weight| *weight > 0.0));
            }
        }
    }

    #[test]
    fn a_loss_is_finite_however_sure_a_sum_is() {
        assert!((loss(0.0) - std::f64::consts::LN_2).abs() < 1e-15);
        assert_eq!((loss(1e6), loss(-1e6)), (0.0, 1e6));
    }
}
