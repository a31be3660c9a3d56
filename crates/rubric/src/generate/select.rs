//! Which criteria say most with fewest.

/// How many criteria are taken, and when it is enough.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Selection {
    /// Distance below which two vectors count as the same, eps.
    pub(super) epsilon: f64,
    /// Most vectors taken.
    pub(super) count_max: usize,
    /// Least gain in coding rate, in nats.
    pub(super) gain_min: f64,
    /// Gains below it, one after another, that end the selection.
    pub(super) patience: usize,
}

/// Coding rate of n vectors of length d, in nats: `R(X) = 1/2 logdet(I + X X^T / (n eps^2))`. 0 without vectors.
///
/// # Source
/// Ma et al., "Segmentation of multivariate mixed data via lossy data coding and compression", 2007; without its factor d.
pub(super) fn coding_rate(vectors: &[&[f64]], epsilon: f64) -> f64 {
    if vectors.is_empty() {
        return 0.0;
    }
    let scale = 1.0 / (vectors.len() as f64 * epsilon * epsilon);
    // The identity makes it positive definite.
    let mut factor = gram(vectors);
    for (row, entries) in factor.iter_mut().enumerate() {
        for entry in entries.iter_mut() {
            *entry *= scale;
        }
        entries[row] += 1.0;
    }
    // Cholesky's lower triangle, row by row; what lies above the diagonal is never read.
    let mut rate = 0.0;
    for row in 0..factor.len() {
        for column in 0..=row {
            let known: f64 = (0..column).map(|k| factor[row][k] * factor[column][k]).sum();
            let rest = factor[row][column] - known;
            factor[row][column] = if column < row {
                rest / factor[column][column]
            } else {
                rest.sqrt()
            };
        }
        rate += factor[row][row].ln();
    }
    rate
}

/// Indices of the vectors taken, in the order of taking: each time the one that raises the coding rate most, the earlier of
/// two equals. During the selection n is the number that may be taken at most, so that each step is a rank-1 update of the
/// Cholesky factor and gains only fall.
pub(super) fn select(vectors: &[&[f64]], selection: &Selection) -> Vec<usize> {
    let count_max = selection.count_max.min(vectors.len());
    if count_max == 0 {
        return Vec::new();
    }
    let scale = 1.0 / (count_max as f64 * selection.epsilon * selection.epsilon);
    let gram = gram(vectors);
    // For each vector the squared diagonal entry that the factor would get by taking it, and its row of the factor.
    let mut pivots: Vec<f64> = (0..vectors.len())
        .map(|index| 1.0 + scale * gram[index][index])
        .collect();
    let mut rows: Vec<Vec<f64>> = vec![Vec::with_capacity(count_max); vectors.len()];
    let mut taken: Vec<usize> = Vec::with_capacity(count_max);
    let mut small_gains = 0;
    while taken.len() < count_max {
        let open = (0..vectors.len()).filter(|index| !taken.contains(index));
        let Some(best) = open.reduce(|best, next| if pivots[next] > pivots[best] { next } else { best }) else {
            break;
        };
        let gain = 0.5 * pivots[best].ln();
        small_gains = if gain < selection.gain_min { small_gains + 1 } else { 0 };
        taken.push(best);
        if small_gains >= selection.patience {
            // What brought nothing is not kept, beyond the first.
            taken.truncate((taken.len() - small_gains).max(1));
            break;
        }
        let root = pivots[best].sqrt();
        let row = rows[best].clone();
        for index in (0..vectors.len()).filter(|index| !taken.contains(index)) {
            let known: f64 = rows[index].iter().zip(&row).map(|(a, b)| a * b).sum();
            let entry = (scale * gram[index][best] - known) / root;
            pivots[index] -= entry * entry;
            rows[index].push(entry);
        }
    }
    taken
}

/// The inner product of each vector with each.
fn gram(vectors: &[&[f64]]) -> Vec<Vec<f64>> {
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum();
    vectors
        .iter()
        .map(|a| vectors.iter().map(|b| product(a, b)).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use nalgebra::DMatrix;
    use proptest::prelude::*;

    use super::*;

    fn slices(vectors: &[Vec<f64>]) -> Vec<&[f64]> {
        vectors.iter().map(Vec::as_slice).collect()
    }

    fn selection(count_max: usize) -> Selection {
        Selection {
            epsilon: 0.1,
            count_max,
            gain_min: 0.0,
            patience: 1,
        }
    }

    /// The rate by its definition, with n held fixed.
    fn rate(vectors: &[&[f64]], n: usize) -> f64 {
        let rows = DMatrix::from_fn(vectors.len(), vectors[0].len(), |row, column| vectors[row][column]);
        let gram = &rows * rows.transpose();
        let matrix = DMatrix::identity(vectors.len(), vectors.len()) + gram / (n as f64 * 0.01);
        0.5 * matrix.determinant().ln()
    }

    #[test]
    fn the_rate_of_orthogonal_and_of_equal_vectors_is_known() {
        let (x, y) = ([1.0, 0.0], [0.0, 1.0]);
        // Two unit vectors at right angles: 1/2 * 2 * ln(1 + 1 / (2 * 0.01)); twice the same: 1/2 ln(1 + 2 / (2 * 0.01)).
        assert!((coding_rate(&[&x, &y], 0.1) - 51.0_f64.ln()).abs() < 1e-12);
        assert!((coding_rate(&[&x, &x], 0.1) - 0.5 * 101.0_f64.ln()).abs() < 1e-12);
        assert_eq!(coding_rate(&[], 0.1), 0.0);
    }

    #[test]
    fn repeats_come_last_and_are_left_when_they_bring_little() {
        let vectors = [vec![1.0, 0.0], vec![1.0, 0.0], vec![0.0, 1.0]];
        assert_eq!(select(&slices(&vectors), &selection(3)), [0, 2, 1]);
        let strict = Selection {
            gain_min: 0.5,
            ..selection(3)
        };
        assert_eq!(select(&slices(&vectors), &strict), [0, 2]);
        assert_eq!(select(&[], &strict), Vec::<usize>::new());
    }

    proptest! {
        #[test]
        fn each_step_takes_what_raises_the_rate_most(
            vectors in proptest::collection::vec(proptest::collection::vec(-1.0_f64..1.0, 4), 1..9),
            count in 1usize..6,
        ) {
            let vectors = slices(&vectors);
            let count = count.min(vectors.len());
            let taken = select(&vectors, &selection(count));
            prop_assert_eq!(taken.len(), count);
            for step in 0..count {
                let with = |index: usize| {
                    let chosen: Vec<&[f64]> = taken[..step].iter().chain([&index]).map(|index| vectors[*index]).collect();
                    rate(&chosen, count)
                };
                let best = (0..vectors.len()).filter(|index| !taken[..step].contains(index)).map(with).fold(f64::MIN, f64::max);
                prop_assert!(best - with(taken[step]) < 1e-9);
            }
        }
    }
}
