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
mod tests;
