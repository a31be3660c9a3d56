//! Figures that workers report.

/// The largest figure that is taken: far above whatever arithmetic in 32 bits gives, and so far below the largest float of 64
/// bits that no sum of figures overflows.
pub const FIGURE_MAX: f64 = 1e100;

/// Whether a number can be added up with others of its kind without ever becoming infinite.
pub fn is_figure(number: f64) -> bool {
    number.abs() <= FIGURE_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_overflows_in_a_sum_is_no_figure() {
        for number in [0.0, -3.5, f64::from(f32::MAX), FIGURE_MAX] {
            assert!(is_figure(number), "{number}");
        }
        for number in [f64::NAN, f64::INFINITY, -f64::INFINITY, 1e308, -1e308] {
            assert!(!is_figure(number), "{number}");
        }
        assert!((FIGURE_MAX * u64::MAX as f64).is_finite());
    }
}
