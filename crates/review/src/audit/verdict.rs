//! Whether a verdict is what its evidence says.

use gavel_core::ids::Digest;
use gavel_core::run::Run;
use gavel_core::spec::{JudgeBackEnd, Tally};
use gavel_core::work::{AbstainReason, Orders, Poll, Side, Unit, Verdict, VerdictRecord, poll, poll_for, rules};

/// What does not fit between a verdict of a judge unit and its probabilities, the rubric that decides about its prompt, the image orders in
/// which it was to be asked, and the margin of the unit's judge. The labels' share of the probability is not in the record, so
/// `outside_labels` is taken as told.
pub(super) fn problem(record: &VerdictRecord, unit: &Unit, asked: (Digest, Orders), run: &Run) -> Option<String> {
    let judge = &run.spec().judge;
    let (rubric, orders) = asked;
    let (margin, back_end) = match (unit, &judge.held_out) {
        (Unit::HeldOutJudge { .. }, Some(held_out)) => (held_out.margin, &held_out.back_end),
        _ => (judge.margin, &judge.back_end),
    };
    if record.rubric != rubric {
        return Some(format!(
            "is judged by rubric {}, the run's is {rubric} for this prompt",
            record.rubric
        ));
    }
    if let Some(problem) = rules::asked_otherwise(judge, unit, orders, record) {
        return Some(problem);
    }
    let [shown_first, shown_second] = record.order_probabilities;
    let mean = 0.5 * (shown_first + shown_second);
    if record.is_judged() && record.probability_first != mean {
        return Some(format!(
            "its probability is {}, the mean of both orders {mean}",
            record.probability_first
        ));
    }
    if record.is_too_alike() {
        return None;
    }
    let by_votes = !matches!(back_end, JudgeBackEnd::Ensemble(ensemble) if ensemble.combine == Tally::Odds);
    if !record.votes.is_empty() && by_votes {
        return votes_problem(record, mean, margin);
    }
    let leading = match record.order_probabilities.map(side) {
        [Some(first), Some(second)] if first == second && (mean - 0.5).abs() >= margin => Some(first),
        _ => None,
    };
    let polled = (!record.votes.is_empty()).then(|| poll_for(&record.votes, leading));
    match polled {
        Some(Poll::Vetoed)
            if record.verdict
                == (Verdict::Abstain {
                    reason: AbstainReason::Vetoed,
                }) =>
        {
            return None;
        }
        Some(Poll::Vetoed | Poll::Void) if record.is_judged() => return Some(unsupported_votes(record)),
        _ => {}
    }
    let sides = record.order_probabilities.map(side);
    let close = (mean - 0.5).abs() < margin || sides.contains(&None);
    let supported = match &record.verdict {
        Verdict::Preferred { side } => sides == [Some(*side); 2] && !close,
        Verdict::Abstain {
            reason: AbstainReason::OrdersDisagree,
        } => matches!(sides, [Some(first), Some(second)] if first != second),
        Verdict::Abstain {
            reason: AbstainReason::TooClose,
        } => close,
        Verdict::Abstain {
            reason: AbstainReason::NoMajority | AbstainReason::Vetoed | AbstainReason::TooAlike,
        } => false,
        Verdict::Abstain {
            reason: AbstainReason::OutsideLabels,
        }
        | Verdict::Failed { .. } => true,
    };
    (!supported).then(|| {
        format!(
            "says {}, which its probabilities {shown_first} and {shown_second} do not support",
            in_words(&record.verdict)
        )
    })
}

/// The same for an ensemble's, which follows from its members' votes.
fn votes_problem(record: &VerdictRecord, mean: f64, margin: f64) -> Option<String> {
    let lead = |side| match side {
        Side::First => mean - 0.5,
        Side::Second => 0.5 - mean,
    };
    let abstains = |reason| record.verdict == Verdict::Abstain { reason };
    let supported = match poll(&record.votes) {
        Poll::For(side) if margin > 0.0 && lead(side) < margin => abstains(AbstainReason::TooClose),
        Poll::For(side) => record.verdict == Verdict::Preferred { side },
        Poll::Tied => abstains(AbstainReason::NoMajority),
        Poll::Vetoed => abstains(AbstainReason::Vetoed),
        Poll::Void => matches!(record.verdict, Verdict::Failed { .. }),
    };
    (!supported).then(|| unsupported_votes(record))
}

fn unsupported_votes(record: &VerdictRecord) -> String {
    format!(
        "says {}, which the votes of its {} members do not support",
        in_words(&record.verdict),
        record.votes.len()
    )
}

fn side(probability_first: f64) -> Option<Side> {
    match probability_first.partial_cmp(&0.5)? {
        std::cmp::Ordering::Greater => Some(Side::First),
        std::cmp::Ordering::Less => Some(Side::Second),
        std::cmp::Ordering::Equal => None,
    }
}

fn in_words(verdict: &Verdict) -> String {
    serde_json::to_string(verdict).unwrap_or_else(|_| format!("{verdict:?}"))
}
