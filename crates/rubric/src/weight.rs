//! How much a criterion counts: bounds, and how a line of text says it.

/// The greatest weight. Weights are learnt around 1; sums of such ones stay finite.
pub(crate) const WEIGHT_MOST: f64 = 1e6;

const MARK: &str = "[weight ";

/// Whether a number can be a weight.
pub(crate) fn is_weight(number: f64) -> bool {
    (0.0..=WEIGHT_MOST).contains(&number)
}

/// What stands before a criterion's words in the text of a rubric: the shortest digits that read back as the same number.
pub(crate) fn mark(weight: f64) -> String {
    format!("{MARK}{weight}] ")
}

/// The weight that a line begins with, and the words after it; `None` where it begins with none.
pub(crate) fn marked(line: &str) -> Option<(f64, &str)> {
    let (number, words) = line.strip_prefix(MARK)?.split_once(']')?;
    let weight = number.trim().parse().ok().filter(|weight| is_weight(*weight))?;
    let words = words.trim();
    // A zero with a sign is read as the zero that is written again.
    (!words.is_empty()).then_some((weight + 0.0, words))
}
