use std::collections::VecDeque;
use std::sync::Mutex;

use gavel_core::ids::PromptIndex;
use gavel_core::work::{Orders, Side};
use image::RgbImage;

use super::*;
use crate::WeighingJudge;

type Said = Result<(Verdict, f64), AskError>;

/// Says what it was told to say.
struct Parrot(&'static str, Mutex<VecDeque<Said>>);

impl Judge for Parrot {
    fn name(&self) -> &str {
        self.0
    }

    fn identity(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }

    fn judge(&self, pairs: &[JudgedPair<'_>]) -> Result<Vec<VerdictRecord>, AskError> {
        let mut said = self.1.lock().unwrap();
        let record = |pair: &JudgedPair<'_>| {
            let (verdict, probability) = said.pop_front().unwrap()?;
            Ok(VerdictRecord {
                verdict,
                probability_first: probability,
                order_probabilities: [probability; 2],
                ..VerdictRecord::failed(pair.prompt_index, String::new(), pair.rubric.digest())
            })
        };
        pairs.iter().map(record).collect()
    }
}

fn first() -> Said {
    Ok((Verdict::Preferred { side: Side::First }, 0.9))
}

fn second() -> Said {
    Ok((Verdict::Preferred { side: Side::Second }, 0.2))
}

fn abstains() -> Said {
    let reason = AbstainReason::OrdersDisagree;
    Ok((Verdict::Abstain { reason }, 0.5))
}

fn away() -> Said {
    Err(AskError::Unavailable {
        reason: "away".into(),
        hint: None,
        said: None,
    })
}

fn wrong() -> Said {
    Err(AskError::Unanswerable {
        reason: "wrong".into(),
        hint: None,
        said: None,
    })
}

fn vote(members: [(f64, Said); 3]) -> Result<VerdictRecord, AskError> {
    vote_against([false; 3], members)
}

/// As [`vote`], where some have a veto.
fn vote_against(vetoes: [bool; 3], members: [(f64, Said); 3]) -> Result<VerdictRecord, AskError> {
    combined((Tally::Votes, 0.0), vetoes, members)
}

/// As [`vote_against`], by a rule with a margin.
fn combined(
    (combine, margin): (Tally, f64),
    vetoes: [bool; 3],
    members: [(f64, Said); 3],
) -> Result<VerdictRecord, AskError> {
    let names = ["a", "b", "c"];
    let members = names.into_iter().zip(vetoes).zip(members);
    let members = members.map(|((name, veto), (weight, said))| Member {
        weight,
        veto,
        judge: Box::new(Parrot(name, Mutex::new([said].into()))),
    });
    let image = RgbImage::new(1, 1);
    let rubric = RubricSet::from_text("Sharp.").unwrap();
    let pair = JudgedPair {
        prompt_index: PromptIndex(7),
        prompt: "",
        sources: &[],
        first: &image,
        second: &image,
        rubric: &rubric,
        orders: Orders::Both,
        list: &[],
    };
    let mut records = Ensemble::new(combine, members.collect(), margin).judge(&[pair])?;
    Ok(records.swap_remove(0))
}

#[test]
fn the_heavier_side_wins_and_probabilities_are_weighted() {
    let record = vote([(1.0, first()), (1.0, second()), (1.0, second())]).unwrap();
    assert_eq!(record.verdict, Verdict::Preferred { side: Side::Second });
    let record = vote([(3.0, first()), (1.0, second()), (1.0, second())]).unwrap();
    assert_eq!(record.verdict, Verdict::Preferred { side: Side::First });
    assert!((record.probability_first - (3.0 * 0.9 + 2.0 * 0.2) / 5.0).abs() < 1e-12);
    assert_eq!(record.prompt_index, PromptIndex(7));
    assert_eq!(record.votes.len(), 3);
}

#[test]
fn votes_whose_probabilities_speak_for_the_other_side_are_close_where_there_is_a_margin() {
    let sure: Said = Ok((Verdict::Preferred { side: Side::Second }, 0.01));
    let hesitant: Said = Ok((Verdict::Preferred { side: Side::First }, 0.51));
    let members = || [(1.0, sure.clone()), (1.1, hesitant.clone()), (0.05, abstains())];
    let by_votes = |margin| combined((Tally::Votes, margin), [false; 3], members()).unwrap().verdict;
    assert_eq!(by_votes(0.0), Verdict::Preferred { side: Side::First });
    let reason = AbstainReason::TooClose;
    assert_eq!(by_votes(0.05), Verdict::Abstain { reason });
}

#[test]
fn by_log_odds_a_member_that_is_surer_counts_for_more_and_a_small_weight_for_something() {
    let by_odds = |members| combined((Tally::Odds, 0.0), [false; 3], members).unwrap();
    let says = |side, probability| -> Said { Ok((Verdict::Preferred { side }, probability)) };
    let (first, second) = (Side::First, Side::Second);
    let record = by_odds([(1.0, says(first, 0.55)), (0.2, says(second, 0.05)), (0.2, abstains())]);
    assert_eq!(record.verdict, Verdict::Preferred { side: second });
    let odds = |probability: f64| (probability / (1.0 - probability)).ln();
    let expected = logistic((odds(0.55) + 0.2 * odds(0.05)) / 1.4);
    assert!((record.probability_first - expected).abs() < 1e-12, "{record:?}");
    let clear = by_odds([(1.0, says(first, 0.9)), (0.2, says(second, 0.05)), (0.2, abstains())]);
    assert_eq!(clear.verdict, Verdict::Preferred { side: first });
    // One that fails is left out, with its weight.
    let left = by_odds([(9.0, away()), (1.0, says(first, 0.8)), (1.0, says(first, 0.8))]);
    assert!((left.probability_first - 0.8).abs() < 1e-12);
    let vetoed = combined(
        (Tally::Odds, 0.0),
        [false, false, true],
        [
            (1.0, says(first, 0.9)),
            (1.0, says(first, 0.9)),
            (0.0, says(second, 0.4)),
        ],
    );
    let reason = AbstainReason::Vetoed;
    assert_eq!(vetoed.unwrap().verdict, Verdict::Abstain { reason });
    let close = combined(
        (Tally::Odds, 0.2),
        [false; 3],
        [(); 3].map(|()| (1.0, says(first, 0.6))),
    );
    let reason = AbstainReason::TooClose;
    assert_eq!(close.unwrap().verdict, Verdict::Abstain { reason });
}

#[test]
fn ties_abstain_and_so_does_an_ensemble_of_which_nobody_decides() {
    let no_majority = Verdict::Abstain {
        reason: AbstainReason::NoMajority,
    };
    let tie = vote([(1.0, first()), (1.0, second()), (1.0, abstains())]).unwrap();
    assert_eq!(tie.verdict, no_majority);
    let nobody = vote([(1.0, abstains()), (1.0, abstains()), (1.0, away())]).unwrap();
    assert_eq!(nobody.verdict, no_majority);
}

#[test]
fn a_member_that_fails_is_left_out_and_recorded() {
    let record = vote([(5.0, away()), (1.0, second()), (1.0, abstains())]).unwrap();
    assert_eq!(record.verdict, Verdict::Preferred { side: Side::Second });
    assert!((record.probability_first - 0.35).abs() < 1e-12);
    assert_eq!(record.votes[0].verdict, Verdict::Failed { reason: "away".into() });
}

#[test]
fn by_a_rubric_with_weights_each_member_weighs_and_has_its_votes_for_what_it_prefers() {
    let member = |name, said: [Said; 2]| Member {
        weight: 1.0,
        veto: false,
        judge: Box::new(WeighingJudge::new(Box::new(Parrot(name, Mutex::new(said.into()))), 0.0)),
    };
    // By the weights the first criterion decides, whatever the second says.
    let ensemble = Ensemble::new(
        Tally::Votes,
        vec![
            member("a", [first(), second()]),
            member("b", [first(), first()]),
            member("c", [second(), first()]),
        ],
        0.0,
    );
    let rubric = RubricSet::from_text("- [weight 2] Sharp.\n- [weight 0.5] Bright.").unwrap();
    let image = RgbImage::new(1, 1);
    let pair = JudgedPair {
        prompt_index: PromptIndex(0),
        prompt: "",
        sources: &[],
        first: &image,
        second: &image,
        rubric: &rubric,
        orders: Orders::Both,
        list: &[],
    };
    let record = ensemble.judge(&[pair]).unwrap().swap_remove(0);
    let votes: Vec<Option<Side>> = record
        .votes
        .iter()
        .map(|vote| match vote.verdict {
            Verdict::Preferred { side } => Some(side),
            _ => None,
        })
        .collect();
    assert_eq!(votes, [Some(Side::First), Some(Side::First), Some(Side::Second)]);
    assert_eq!(
        (record.verdict, record.rubric),
        (Verdict::Preferred { side: Side::First }, rubric.digest())
    );
    assert_eq!(ensemble.identity_under(&rubric.without_weights()), ensemble.identity());
    assert_ne!(ensemble.identity_under(&rubric), ensemble.identity());
}

#[test]
fn an_ensemble_without_any_member_waits_if_one_may_come_back() {
    assert!(matches!(
        vote([(1.0, wrong()), (1.0, away()), (1.0, wrong())]),
        Err(AskError::Unavailable { .. })
    ));
    assert!(matches!(
        vote([(1.0, wrong()), (1.0, wrong()), (1.0, wrong())]),
        Err(AskError::Unanswerable { .. })
    ));
}

fn fails() -> Said {
    Ok((Verdict::Failed { reason: "odd".into() }, 0.5))
}

#[test]
fn no_picture_wins_over_the_one_that_a_veto_prefers_and_a_veto_alone_decides_nothing() {
    let third = [false, false, true];
    let vetoed = Verdict::Abstain {
        reason: AbstainReason::Vetoed,
    };
    let record = vote_against(third, [(1.0, first()), (1.0, first()), (0.0, second())]).unwrap();
    assert_eq!(record.verdict, vetoed);
    assert!((record.probability_first - 0.9).abs() < 1e-12, "it has no weight");
    assert!(record.votes[2].veto && !record.votes[0].veto);
    let agrees = vote_against(third, [(1.0, first()), (1.0, first()), (0.0, first())]).unwrap();
    assert_eq!(agrees.verdict, Verdict::Preferred { side: Side::First });
    let silent = vote_against(third, [(1.0, first()), (1.0, first()), (0.0, abstains())]).unwrap();
    assert_eq!(silent.verdict, Verdict::Preferred { side: Side::First });
    let alone = vote_against(third, [(1.0, abstains()), (1.0, abstains()), (0.0, first())]).unwrap();
    assert_eq!(
        alone.verdict,
        Verdict::Abstain {
            reason: AbstainReason::NoMajority
        }
    );
    let with_weight = vote_against(third, [(1.0, first()), (1.0, abstains()), (2.0, second())]).unwrap();
    assert_eq!(with_weight.verdict, Verdict::Preferred { side: Side::Second });
}

#[test]
fn where_a_veto_failed_there_is_no_verdict() {
    let third = [false, false, true];
    let record = vote_against(third, [(1.0, first()), (1.0, first()), (0.0, fails())]).unwrap();
    assert_eq!(
        record.verdict,
        Verdict::Failed {
            reason: "c: odd".into()
        }
    );
    assert_eq!((record.probability_first, record.votes.len()), (0.5, 3));
    let only_vetoes = vote_against([true; 3], [(1.0, fails()), (0.0, first()), (0.0, first())]).unwrap();
    assert!(!only_vetoes.is_judged());
    assert!(matches!(
        vote_against(third, [(1.0, first()), (1.0, first()), (0.0, away())]),
        Err(AskError::Unavailable { .. })
    ));
}

#[test]
fn a_veto_is_part_of_what_a_verdict_depends_on_and_nothing_else_changed() {
    let identity = |veto| {
        let judge = || Box::new(Parrot("a", Mutex::default()));
        let members = [(1.0, veto), (2.0, false)].map(|(weight, veto)| Member {
            weight,
            veto,
            judge: judge(),
        });
        Ensemble::new(Tally::Votes, members.into(), 0.0).identity()
    };
    let member = Digest::of(b"a");
    let before = Digest::of(format!("ensemble 0 1x{member} 2x{member}").as_bytes());
    assert_eq!(identity(false), before);
    assert_ne!(identity(true), before);
}
