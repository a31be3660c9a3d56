//! Several judges that vote.

use gavel_core::Diagnostic;
use gavel_core::ids::Digest;
use gavel_core::spec::{EnsembleSpec, Tally};
use gavel_core::work::{AbstainReason, Poll, Side, Spent, Verdict, VerdictRecord, Vote, poll, poll_for};
use gavel_rubric::weigh::{leans, logistic};
use gavel_rubric::{AskError, Chat, Judge, JudgedPair, RubricSet};

use crate::Error;
use crate::answer::{agreement, mean};
use crate::open::{BackEnd, Models, OpenOptions, back_end};

/// Judges with their weights.
pub(crate) struct Ensemble {
    name: String,
    identity: Digest,
    combine: Tally,
    members: Vec<Member>,
    margin: f64,
}

/// A judge that votes.
struct Member {
    weight: f64,
    veto: bool,
    judge: Box<dyn Judge>,
}

impl BackEnd for EnsembleSpec {
    fn fingerprint(&self) -> Result<Digest, Error> {
        let mut text = format!("ensemble{}", rule(self.combine));
        for member in &self.members {
            let fingerprint = back_end(&member.back_end).fingerprint()?;
            text += &format!(" {}x{fingerprint}{}", member.weight, mark(member.veto));
        }
        Ok(Digest::of(text.as_bytes()))
    }

    fn judge(&self, options: &OpenOptions<'_>, models: &mut Models) -> Result<Box<dyn Judge>, Error> {
        let members = self.members.iter().enumerate().map(|(index, member)| {
            let of_member = OpenOptions {
                template: options.templates.member(index),
                templates: options.templates,
                margin: member.margin,
            };
            Ok(Member {
                weight: member.weight,
                veto: member.veto,
                judge: back_end(&member.back_end).judge(&of_member, models)?,
            })
        });
        let members = members.collect::<Result<_, Error>>()?;
        Ok(Box::new(Ensemble::new(self.combine, members, options.margin)))
    }

    fn chat(&self, _: &mut Models) -> Result<Box<dyn Chat>, Error> {
        Err(Error::Unfit {
            problem: "an ensemble gives verdicts and does not write".into(),
            hint: "name one model: a folder, or a server's endpoint and model",
        })
    }
}

/// What a fingerprint has of a veto; nothing without one, as in fingerprints of before there were any.
fn mark(veto: bool) -> &'static str {
    if veto { " with a veto" } else { "" }
}

/// The same of the rule by which members come to a verdict; nothing for votes.
fn rule(combine: Tally) -> &'static str {
    match combine {
        Tally::Votes => "",
        Tally::Odds => " by log-odds",
    }
}

impl Ensemble {
    fn new(combine: Tally, members: Vec<Member>, margin: f64) -> Self {
        let identity = identity(combine, margin, &members, |judge| judge.identity());
        let names: Vec<&str> = members.iter().map(|member| member.judge.name()).collect();
        Self {
            name: names.join(" + "),
            identity,
            combine,
            members,
            margin,
        }
    }

    /// The error of a member without which there is no verdict.
    fn lacks_a_veto(&self, judged: &[Result<Vec<VerdictRecord>, AskError>]) -> Option<AskError> {
        let mut vetoes = self.members.iter().zip(judged).filter(|(member, _)| member.veto);
        vetoes.find_map(|(_, judged)| judged.as_ref().err().cloned())
    }

    /// `records` are the members' about the same pair, in their order.
    fn tally(&self, pair: &JudgedPair<'_>, records: Vec<VerdictRecord>) -> VerdictRecord {
        let rubric = pair.rubric.digest();
        let mut weights = 0.0;
        let mut sums = [0.0; 2];
        let mut votes = Vec::with_capacity(records.len());
        for (member, record) in self.members.iter().zip(records) {
            let opinion = match self.combine {
                Tally::Votes => record.is_judged().then_some(record.order_probabilities),
                Tally::Odds => leans(&record),
            };
            if let Some(opinion) = opinion {
                weights += member.weight;
                for (sum, of_order) in sums.iter_mut().zip(opinion) {
                    *sum += member.weight * of_order;
                }
            }
            votes.push(Vote {
                judge: member.judge.name().to_owned(),
                weight: member.weight,
                verdict: record.verdict,
                veto: member.veto,
            });
        }
        let order_probabilities = sums.map(|sum| match self.combine {
            // Weights that are not powers of two may round a mean of ones above one.
            Tally::Votes => (sum / weights).clamp(0.0, 1.0),
            Tally::Odds => logistic(sum / weights),
        });
        let probability_first = mean(order_probabilities);
        let together = agreement(order_probabilities, self.margin);
        let polled = match (self.combine, &together) {
            (Tally::Votes, _) => poll(&votes),
            (Tally::Odds, Verdict::Preferred { side }) => poll_for(&votes, Some(*side)),
            (Tally::Odds, _) => poll_for(&votes, None),
        };
        let abstain = |reason| Verdict::Abstain { reason };
        let verdict = match (polled, self.combine) {
            (Poll::Void, _) => return void(pair, votes),
            (Poll::Vetoed, _) => abstain(AbstainReason::Vetoed),
            (_, Tally::Odds) => together,
            (Poll::Tied, Tally::Votes) => abstain(AbstainReason::NoMajority),
            (Poll::For(side), Tally::Votes) if is_close(probability_first, side, self.margin) => {
                abstain(AbstainReason::TooClose)
            }
            (Poll::For(side), Tally::Votes) => Verdict::Preferred { side },
        };
        VerdictRecord {
            prompt_index: pair.prompt_index,
            verdict,
            probability_first,
            order_probabilities,
            orders: pair.orders,
            rubric,
            votes,
            reasons: Vec::new(),
            difference: None,
            scores: None,
        }
    }
}

/// Whether the mean probability speaks for the side that the votes chose by less than the margin, where there is one.
fn is_close(probability_first: f64, side: Side, margin: f64) -> bool {
    let lead = match side {
        Side::First => probability_first - 0.5,
        Side::Second => 0.5 - probability_first,
    };
    margin > 0.0 && lead < margin
}

/// Of a pair that not enough members have judged.
fn void(pair: &JudgedPair<'_>, votes: Vec<Vote>) -> VerdictRecord {
    let reasons = votes.iter().filter_map(|vote| match &vote.verdict {
        Verdict::Failed { reason } => Some(format!("{}: {reason}", vote.judge)),
        _ => None,
    });
    let reason = reasons.collect::<Vec<_>>().join("; ");
    VerdictRecord {
        votes,
        ..VerdictRecord::failed(pair.prompt_index, reason, pair.rubric.digest())
    }
}

impl Judge for Ensemble {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> Digest {
        self.identity
    }

    fn identity_under(&self, rubric: &RubricSet) -> Digest {
        identity(self.combine, self.margin, &self.members, |judge| {
            judge.identity_under(rubric)
        })
    }

    fn sees_lists(&self) -> bool {
        self.members.iter().any(|member| member.judge.sees_lists())
    }

    fn judge(&self, pairs: &[JudgedPair<'_>]) -> Result<Vec<VerdictRecord>, AskError> {
        // Beside each other: some wait for a server while others compute.
        let judged: Vec<Result<Vec<VerdictRecord>, AskError>> = std::thread::scope(|scope| {
            let members: Vec<_> = self
                .members
                .iter()
                .map(|member| scope.spawn(move || member.judge.judge(pairs)))
                .collect();
            members
                .into_iter()
                .map(|member| member.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        if let Some(error) = nobody(&judged).or_else(|| self.lacks_a_veto(&judged)) {
            return Err(error);
        }
        let mut records: Vec<_> = judged
            .into_iter()
            .map(|member| match member {
                Ok(records) => records.into_iter(),
                Err(error) => {
                    tracing::warn!(reason = %Diagnostic::foreign(&error), "a member of the ensemble is left out");
                    let failed = |pair: &JudgedPair<'_>| {
                        VerdictRecord::failed(pair.prompt_index, error.to_string(), pair.rubric.digest())
                    };
                    pairs.iter().map(failed).collect::<Vec<_>>().into_iter()
                }
            })
            .collect();
        Ok(pairs
            .iter()
            .map(|pair| {
                let votes = records.iter_mut().filter_map(Iterator::next).collect();
                self.tally(pair, votes)
            })
            .collect())
    }

    fn spent(&self) -> Spent {
        let mut sum = Spent::default();
        for member in &self.members {
            sum.add(&member.judge.spent());
        }
        sum
    }
}

/// Tells these members with this margin from others; `of` one of them.
fn identity(combine: Tally, margin: f64, members: &[Member], of: impl Fn(&dyn Judge) -> Digest) -> Digest {
    let member = |one: &Member| format!(" {}x{}{}", one.weight, of(one.judge.as_ref()), mark(one.veto));
    let members: String = members.iter().map(member).collect();
    // Before, a margin was passed by a mean that spoke for the other side too.
    let lead = match combine {
        Tally::Votes if margin > 0.0 => " for the side that won",
        Tally::Votes | Tally::Odds => "",
    };
    Digest::of(format!("ensemble{} {margin}{lead}{members}", rule(combine)).as_bytes())
}

/// The error when no member judged anything: one that may pass, if there is any.
fn nobody(judged: &[Result<Vec<VerdictRecord>, AskError>]) -> Option<AskError> {
    let errors: Vec<&AskError> = judged
        .iter()
        .map(|member| member.as_ref().err())
        .collect::<Option<_>>()?;
    let passing = errors
        .iter()
        .find(|error| matches!(error, AskError::Unavailable { .. }));
    passing.or(errors.first()).map(|error| (*error).clone())
}

#[cfg(test)]
mod tests {
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
}
