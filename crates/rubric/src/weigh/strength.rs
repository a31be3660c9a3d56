//! How strongly weights are kept small: lambda, by cross-validation.

use std::collections::BTreeMap;

use super::regression::{Effort, Leans, loss};

/// Lambdas that are tried, from the least at which all weights are 0 down to a thousandth of it, each the same factor below the one before.
const TRIED: usize = 25;
const RANGE: f64 = 1e-3;

/// What a lambda did on pairs that its weights were not learnt from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Trial {
    pub(super) lambda: f64,
    /// Mean over these pairs, in nats.
    pub(super) log_loss: f64,
    /// Share of these pairs that lean to the better picture.
    pub(super) accuracy: f64,
}

/// The lambda with the least loss on pairs of folds that were left out, the greater one of equals. `folds` has the fold of each pair; each
/// of so many folds is left out once. `None` where no criterion leans to the better pictures.
pub(super) fn cross_validate(leans: &Leans, folds: &[usize], count: usize) -> Option<Trial> {
    let most = leans.lambda_most();
    if most <= 0.0 {
        return None;
    }
    let parts: Vec<(Leans, Leans)> = (0..count)
        .map(|fold| {
            (
                leans.only(|pair| folds[pair] != fold),
                leans.only(|pair| folds[pair] == fold),
            )
        })
        .filter(|(learnt, left_out)| learnt.pairs() > 0 && left_out.pairs() > 0)
        .collect();
    let mut weights: Vec<Vec<f64>> = parts.iter().map(|(learnt, _)| learnt.start()).collect();
    let mut best: Option<Trial> = None;
    for index in 0..TRIED {
        let lambda = most * libm::pow(RANGE, index as f64 / (TRIED - 1) as f64);
        let mut sums = Vec::with_capacity(leans.pairs());
        for ((learnt, left_out), weights) in parts.iter().zip(&mut weights) {
            *weights = learnt.fit(lambda, weights, Effort::TRIAL).weights;
            sums.extend(left_out.sums(weights));
        }
        let count = sums.len().max(1) as f64;
        let tried = Trial {
            lambda,
            log_loss: sums.iter().copied().map(loss).sum::<f64>() / count,
            accuracy: sums.iter().filter(|sum| **sum > 0.0).count() as f64 / count,
        };
        if best.is_none_or(|best| tried.log_loss < best.log_loss) {
            best = Some(tried);
        }
    }
    best
}

/// The fold of each pair: those of one prompt are in one fold, so that no prompt is learnt from and tried at once. Prompts go to the folds in
/// turn, in the order of their first pair. Also how many folds have a pair.
pub(super) fn folds(prompts: &[&str], count: usize) -> (Vec<usize>, usize) {
    let mut turns = BTreeMap::new();
    let mut folds = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        let next = turns.len();
        folds.push(*turns.entry(*prompt).or_insert(next) % count);
    }
    (folds, turns.len().min(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_one_prompt_are_in_one_fold() {
        let (folds, count) = folds(&["a", "b", "a", "c", "d", "b"], 3);
        assert_eq!((folds, count), (vec![0, 1, 0, 2, 0, 1], 3));
        assert_eq!(super::folds(&["a", "b", "a"], 5), (vec![0, 1, 0], 2));
    }

    /// The first criterion leans to the better picture in eight of ten pairs, the second as chance has it.
    fn leans() -> Leans {
        let first = (0..40).map(|pair| if pair % 5 == 0 { -1.0 } else { 1.0 });
        let second = (0..40).map(|pair| if (pair * 7) % 4 < 2 { -1.0 } else { 1.0 });
        Leans::new(vec![first.collect(), second.collect()], 40)
    }

    #[test]
    fn the_lambda_is_the_one_that_does_best_on_pairs_that_were_left_out() {
        let leans = leans();
        let folds: Vec<usize> = (0..40).map(|pair| pair / 10).collect();
        let found = cross_validate(&leans, &folds, 4).unwrap();
        assert_eq!(found, cross_validate(&leans, &folds, 4).unwrap());
        // The sign of the first alone is right in 80 % of every fold.
        assert_eq!(found.accuracy, 0.8);
        assert!(found.log_loss < 0.51, "{found:?}");
        let weights = leans.fit(found.lambda, &[0.0; 2], Effort::WHOLE).weights;
        assert!(weights[0] > 1.0 && weights[1] < 0.1, "{weights:?}");
    }

    #[test]
    fn criteria_that_lean_to_the_worse_pictures_give_no_lambda() {
        let leans = Leans::new(vec![vec![-1.0, -2.0]], 2);
        assert_eq!(cross_validate(&leans, &[0, 1], 2), None);
    }
}
