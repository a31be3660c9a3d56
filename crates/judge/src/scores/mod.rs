//! Judges that give each picture a score: of a pair the one with the higher score is preferred.
//!
//! A score belongs to one picture and its prompt, so that the order in which two are shown plays no part.

mod clip;
mod evaluator;
mod server;

#[cfg(test)]
mod tests;

use gavel_core::bounds::is_figure;
use gavel_core::ids::Digest;
use gavel_core::work::{AbstainReason, Side, Spent, Verdict, VerdictRecord};
use gavel_rubric::{AskError, Judge, JudgedPair};

use crate::Error;

pub use server::ScoreServer;

/// What gives pictures their scores.
pub(crate) trait Scorer: Send + Sync {
    /// Its name, for people and for records.
    fn name(&self) -> &str;

    /// Fingerprint of everything that a score depends on but prompt and pictures.
    fn identity(&self) -> Digest;

    /// The scores of both pictures of each pair, in order. The inner error says, in words that may be told, why a pair has none.
    ///
    /// # Errors
    /// [`AskError`] when nothing can be scored, after the scorer's own attempts.
    fn scores(&self, pairs: &[JudgedPair<'_>]) -> Result<Vec<Result<[f64; 2], String>>, AskError>;

    /// What has been used so far; nothing for a scorer in this process.
    fn spent(&self) -> Spent {
        Spent::default()
    }
}

/// A judge that prefers the picture with the higher score.
pub(crate) struct ScoreJudge<S> {
    scorer: S,
    identity: Digest,
    temperature: f64,
    margin: f64,
}

impl<S: Scorer> ScoreJudge<S> {
    /// The difference of two scores counts in units of `temperature`; the judge abstains where the probability is closer than
    /// `margin` to one half.
    pub(crate) fn new(scorer: S, temperature: f64, margin: f64) -> Self {
        let identity = Digest::of(format!("scores {} {temperature} {margin}", scorer.identity()).as_bytes());
        Self {
            scorer,
            identity,
            temperature,
            margin,
        }
    }

    fn record(&self, pair: &JudgedPair<'_>, scores: Result<[f64; 2], String>) -> VerdictRecord {
        let decided = scores.and_then(|scores| Ok((scores, decide(scores, self.temperature, self.margin)?)));
        let failed = |reason| VerdictRecord::failed(pair.prompt_index, reason, pair.rubric.digest());
        match decided {
            Ok((scores, (verdict, probability_first))) => VerdictRecord {
                scores: Some(scores),
                verdict,
                probability_first,
                order_probabilities: [probability_first; 2],
                orders: pair.orders,
                ..failed(String::new())
            },
            Err(reason) => failed(reason),
        }
    }
}

impl<S: Scorer> Judge for ScoreJudge<S> {
    fn name(&self) -> &str {
        self.scorer.name()
    }

    fn identity(&self) -> Digest {
        self.identity
    }

    fn judge(&self, pairs: &[JudgedPair<'_>]) -> Result<Vec<VerdictRecord>, AskError> {
        let scores = self.scorer.scores(pairs)?.into_iter();
        Ok(pairs
            .iter()
            .zip(scores)
            .map(|(pair, scores)| self.record(pair, scores))
            .collect())
    }

    fn spent(&self) -> Spent {
        self.scorer.spent()
    }
}

/// The verdict of two scores, and the probability that the first picture is better: the logistic of their difference over
/// `temperature`. Equal scores are too close, whatever the margin, and so are those whose difference is lost in the probability.
///
/// # Errors
/// Says which score is no number that can be compared.
fn decide(scores: [f64; 2], temperature: f64, margin: f64) -> Result<(Verdict, f64), String> {
    if let Some(index) = scores.iter().position(|score| !is_figure(*score)) {
        return Err(format!(
            "the score of picture {} is not finite, or too large",
            index + 1
        ));
    }
    let difference = scores[0] - scores[1];
    // Formed of the larger score and taken from 1 for the other side, so that swapped pictures give the very same distance.
    let probability_higher = 1.0 / (1.0 + (-difference.abs() / temperature).exp());
    let (side, probability_first) = match difference > 0.0 {
        true => (Side::First, probability_higher),
        false => (Side::Second, 1.0 - probability_higher),
    };
    let distance = probability_higher - 0.5;
    let verdict = match distance > 0.0 && distance >= margin {
        true => Verdict::Preferred { side },
        false => Verdict::Abstain {
            reason: AbstainReason::TooClose,
        },
    };
    Ok((verdict, probability_first))
}

/// For judges that have nothing to write with.
fn writes_nothing() -> Error {
    Error::Unfit {
        problem: "a judge that gives scores does not write".into(),
        hint: "name a model that writes: a folder, or a server's endpoint and model",
    }
}
