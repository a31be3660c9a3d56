//! The two halves of an edit, and what they say together.

use std::cmp::Ordering;

use gavel_eval::Answer;
use serde::{Deserialize, Serialize};

use super::pictures::{Comparison, Pictures};

/// Means over the held-out edits. Neither half says anything alone: a copy of the source preserves everything, and a picture
/// that is painted anew may fulfil everything.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Axes {
    /// Share of an instruction's facts that hold, in [0, 1].
    pub(super) fulfilment: Axis,
    /// Share of what an instruction leaves alone that is as it was in the source, in [0, 1].
    pub(super) preservation: Axis,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Axis {
    /// Base.
    pub(super) before: f64,
    /// Tuned.
    pub(super) after: f64,
    /// The source itself, as if it were the edited picture.
    pub(super) copy: f64,
}

/// What the two halves say together.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Statement {
    pub(super) text: String,
    /// Whether fulfilment was bought with what should have been left alone.
    pub(super) is_repainting: bool,
}

impl Axes {
    /// Averages over the pictures; `None` without any, and where the evaluator knows no edits.
    pub(super) fn new(pictures: &Pictures) -> Option<Self> {
        let axis = |value: fn(&Answer) -> Option<f64>| {
            Some(Axis {
                before: mean(pictures, |comparison| value(comparison.base.answer.as_ref()?))?,
                after: mean(pictures, |comparison| value(comparison.tuned.answer.as_ref()?))?,
                copy: mean(pictures, |comparison| {
                    value(comparison.sources.first()?.answer.as_ref()?)
                })?,
            })
        };
        Some(Self {
            fulfilment: axis(|answer| Some(answer.facts.share()))?,
            preservation: axis(|answer| answer.preservation)?,
        })
    }

    /// Says in words what changed.
    pub(super) fn statement(&self) -> Statement {
        use Ordering::{Equal, Greater, Less};
        let [fulfilment, preservation] = [self.fulfilment, self.preservation].map(Axis::change);
        let by = |change: Change| format!("{:.3}", change.thousandths.abs() as f64 / 1000.0);
        let (rise, kept) = (by(fulfilment), by(preservation));
        let directions = (fulfilment.direction(), preservation.direction());
        let text = match directions {
            (Greater, Less) => format!(
                "Failure: fulfilment rose by {rise} while preservation fell by {kept}. The adapter pays for its edits with what \
                 they should leave alone; one that repaints everything is no editor, however well it follows instructions."
            ),
            (Greater, Equal) => format!("Fulfilment rose by {rise}, and preservation is unchanged."),
            (Greater, Greater) => format!("Fulfilment rose by {rise}, and preservation by {kept}."),
            (Equal, Equal) => "Neither fulfilment nor preservation changed.".to_owned(),
            (Equal, Greater) => format!("Preservation rose by {kept}, and fulfilment is unchanged."),
            (Equal, Less) => {
                format!("The adapter is worse than the base: preservation fell by {kept}, and fulfilment is unchanged.")
            }
            (Less, Less) => {
                format!("The adapter is worse than the base: fulfilment fell by {rise}, and preservation by {kept}.")
            }
            (Less, Equal) => {
                format!("The adapter is worse than the base: fulfilment fell by {rise}, and preservation is unchanged.")
            }
            (Less, Greater) => format!(
                "Fulfilment fell by {rise} while preservation rose by {kept}: the adapter has come closer to a copy of the \
                 source, which keeps everything and edits nothing."
            ),
        };
        Statement {
            text,
            is_repainting: directions == (Greater, Less),
        }
    }
}

impl Axis {
    fn change(self) -> Change {
        let thousandths = |value: f64| (value * 1000.0).round() as i64;
        Change {
            thousandths: thousandths(self.after) - thousandths(self.before),
        }
    }
}

/// From before to after, in the three digits that a reader sees: what shows as the same counts as unchanged.
#[derive(Clone, Copy)]
struct Change {
    thousandths: i64,
}

impl Change {
    fn direction(self) -> Ordering {
        self.thousandths.cmp(&0)
    }
}

/// `None` without pictures, and when one of them has no value.
fn mean(pictures: &Pictures, value: impl Fn(&Comparison) -> Option<f64>) -> Option<f64> {
    let values: Vec<f64> = pictures.0.iter().map(value).collect::<Option<_>>()?;
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(fulfilment: [f64; 2], preservation: [f64; 2]) -> Statement {
        let axis = |[before, after]: [f64; 2], copy| Axis { before, after, copy };
        Axes {
            fulfilment: axis(fulfilment, 0.0),
            preservation: axis(preservation, 1.0),
        }
        .statement()
    }

    #[test]
    fn a_rise_in_fulfilment_that_is_paid_for_with_preservation_is_called_a_failure() {
        let found = statement([0.25, 0.75], [0.95, 0.4]);
        assert!(found.is_repainting);
        let start = "Failure: fulfilment rose by 0.500 while preservation fell by 0.550. ";
        assert!(found.text.starts_with(start), "{}", found.text);
    }

    #[test]
    fn nothing_else_is_called_so() {
        for (fulfilment, preservation, start) in [
            (
                [0.2, 0.4],
                [0.9, 0.9],
                "Fulfilment rose by 0.200, and preservation is unchanged.",
            ),
            (
                [0.2, 0.4],
                [0.9, 0.95],
                "Fulfilment rose by 0.200, and preservation by 0.050.",
            ),
            ([0.2, 0.2], [0.9, 0.9], "Neither"),
            (
                [0.2, 0.2],
                [0.8, 0.9],
                "Preservation rose by 0.100, and fulfilment is unchanged.",
            ),
            (
                [0.2, 0.2],
                [0.9, 0.8],
                "The adapter is worse than the base: preservation fell by 0.100",
            ),
            (
                [0.4, 0.2],
                [0.9, 0.8],
                "The adapter is worse than the base: fulfilment fell by 0.200",
            ),
            (
                [0.4, 0.2],
                [0.9, 0.9],
                "The adapter is worse than the base: fulfilment fell by 0.200",
            ),
            (
                [0.4, 0.2],
                [0.8, 0.9],
                "Fulfilment fell by 0.200 while preservation rose by 0.100",
            ),
        ] {
            let found = statement(fulfilment, preservation);
            assert!(!found.is_repainting, "{}", found.text);
            assert!(found.text.starts_with(start), "{}", found.text);
        }
    }

    #[test]
    fn what_shows_as_the_same_figure_has_not_changed() {
        assert!(!statement([0.2, 0.4], [0.900_4, 0.899_6]).is_repainting);
        assert!(statement([0.2, 0.4], [0.9, 0.899]).is_repainting);
    }
}
