//! Line charts as SVG, in the page's colours.

use std::fmt::Write as _;

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 180.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 24.0;

/// Draws `points` (step, value) as a line with its extremes at the axes. Values that are not finite leave a gap.
pub(super) fn line(points: &[(f64, f64)]) -> String {
    let finite: Vec<f64> = points
        .iter()
        .map(|point| point.1)
        .filter(|value| value.is_finite())
        .collect();
    let (mut low, mut high) = finite
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), point| {
            (low.min(*point), high.max(*point))
        });
    if low == high {
        let room = if low == 0.0 { 1.0 } else { low.abs() * 0.1 };
        (low, high) = (low - room, high + room);
    }
    draw(points, &[], (low, high))
}

/// Draws shares (step, value) as a line between 0 and 1, each with the interval (low, high) in which it lies.
pub(super) fn shares(points: &[(f64, f64)], intervals: &[(f64, f64)]) -> String {
    draw(points, intervals, (0.0, 1.0))
}

fn draw(points: &[(f64, f64)], intervals: &[(f64, f64)], (low, high): (f64, f64)) -> String {
    let mut finite = points.iter().filter(|point| point.1.is_finite());
    let Some(first) = finite.next() else {
        return String::new();
    };
    let last = finite.next_back().unwrap_or(first);
    let span = (last.0 - first.0).max(1.0);
    let x = |step: f64| LEFT + (step - first.0) / span * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM);
    let mut path = String::new();
    let mut pen = 'M';
    for (step, value) in points {
        if value.is_finite() {
            // Writing to a string cannot fail.
            let _ = write!(path, "{pen}{:.1} {:.1}", x(*step), y(*value));
            pen = 'L';
        } else {
            pen = 'M';
        }
    }
    let mut bars = String::new();
    for ((step, _), (from, to)) in points.iter().zip(intervals) {
        let _ = write!(bars, "M{:.1} {:.1}V{:.1}", x(*step), y(*from), y(*to));
    }
    if !bars.is_empty() {
        bars = format!("<path class=\"interval\" d=\"{bars}\"/>");
    }
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\
         <path class=\"axis\" d=\"M{LEFT} {TOP}V{bottom}H{right}\"/>\
         <text x=\"{tick}\" y=\"{high_at:.1}\" text-anchor=\"end\">{}</text>\
         <text x=\"{tick}\" y=\"{bottom}\" text-anchor=\"end\">{}</text>\
         <text x=\"{LEFT}\" y=\"{label}\">step {}</text>\
         <text x=\"{right}\" y=\"{label}\" text-anchor=\"end\">{}</text>\
         {bars}<path class=\"line\" d=\"{path}\"/></svg>",
        number(high),
        number(low),
        first.0,
        last.0,
        tick = LEFT - 6.0,
        high_at = TOP + 8.0,
        label = HEIGHT - 8.0,
    )
}

/// A number in few characters.
fn number(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        "0".to_owned()
    } else if (1e-3..1e4).contains(&size) {
        format!("{value:.3}")
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned()
    } else {
        format!("{value:.1e}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_left_where_a_value_is_not_finite() {
        let svg = line(&[(1.0, 0.0), (2.0, f64::NAN), (3.0, 1.0), (4.0, 0.5)]);
        let path = svg.split("class=\"line\" d=\"").nth(1).unwrap();
        assert_eq!(path.matches('M').count(), 2);
        assert!(!svg.contains("NaN"));
    }

    #[test]
    fn one_point_and_constants_are_drawn_within_the_frame() {
        for points in [vec![(1.0, 0.0)], vec![(1.0, 2.0), (2.0, 2.0)]] {
            let svg = line(&points);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
        assert_eq!(line(&[]), "");
    }

    #[test]
    fn shares_stand_between_0_and_1_with_their_intervals() {
        let svg = shares(&[(10.0, 0.5), (20.0, 0.75)], &[(0.25, 0.75), (0.5, 1.0)]);
        assert!(
            svg.contains("<path class=\"interval\" d=\"M58.0 119.5V46.5M410.0 83.0V10.0\"/>"),
            "{svg}"
        );
        assert!(svg.contains(">1</text>") && svg.contains(">0</text>"));
        assert_eq!(shares(&[], &[]), "");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0.0, 0.25, 1.0, 1e-5, -12.5].map(number),
            ["0", "0.25", "1", "1.0e-5", "-12.5"]
        );
    }
}
