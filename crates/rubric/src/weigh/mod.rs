//! How much each criterion of a rubric counts, learnt from labelled pairs.
//!
//! A judge is asked about every pair under each criterion alone, and says how far it leans ([`leans`]). Weights are those by which the
//! leans together say best what people preferred; criteria that add nothing are dropped. Everything asked goes through a journal, and the
//! weights depend on the answers alone.

mod error;
mod lean;
mod regression;
mod strength;
#[cfg(test)]
mod tests;

use gavel_core::ids::PromptIndex;
use gavel_core::work::Side;

pub use error::WeighError;
pub use lean::{LEAN_MOST, leans, logistic};

use crate::data::{LabelledSet, Labelling, RankedPair};
use crate::{
    DroppedCriterion, Journal, Judge, Provenance, Recorded, RecordedPair, RubricSet, Theme, Weighing, WhyDropped,
};
use lean::lean;
use regression::{Effort, Leans, loss};

/// A criterion that leans by no more than this on any pair, in nats, is turned on by none: a probability of 0.525.
pub const LEAN_LEAST: f64 = 0.1;

/// Weights are rounded to so many places; one that is 0 then is none.
const PLACES: u32 = 4;

/// Who is asked, and how weights are learnt.
pub struct Weigher<'a> {
    /// Judges each pair under each criterion.
    pub judge: &'a dyn Judge,
    /// Keeps the verdicts.
    pub journal: Option<&'a Journal>,
    /// Pairs in a question.
    pub batch: usize,
    /// Questions under way at a time.
    pub threads: usize,
    /// How strongly weights are kept small.
    pub strength: Strength,
    /// Told how many pairs were judged under one criterion more.
    pub progress: &'a (dyn Fn(usize) + Sync),
}

/// How strongly weights are kept small: the lambda that is multiplied with their sum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Strength {
    /// This lambda, above 0.
    Given(f64),
    /// The one that does best on pairs that were left out, in so many folds.
    CrossValidated(usize),
}

/// A rubric with weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Weighed {
    /// The criteria that count, with their weights; its provenance says how these came about.
    pub rubric: RubricSet,
    /// Verdicts that were asked for.
    pub asked: usize,
    /// Verdicts that the journal held.
    pub found: usize,
}

impl Weigher<'_> {
    /// How many verdicts are needed: each pair under each criterion.
    pub fn verdicts(data: &LabelledSet, rubric: &RubricSet) -> usize {
        data.pairs().len() * rubric.criteria().count()
    }

    /// Learns the weights of a rubric's criteria; weights that it has are not looked at. `examples` is what the provenance calls the data.
    ///
    /// # Errors
    /// [`WeighError`].
    pub fn weigh(&self, data: &LabelledSet, rubric: &RubricSet, examples: &str) -> Result<Weighed, WeighError> {
        if data.labelling == Labelling::Scored {
            return Err(WeighError::Scored);
        }
        let pairs = data.pairs();
        let criteria: Vec<RubricSet> = rubric.by_criterion().map(|(_, alone)| alone).collect();
        let recorded = Recorded::new(self.journal);
        let leans = self.ask(&recorded, &pairs, &criteria)?;
        // A pair that could not be judged under some criterion says too little.
        let whole: Vec<usize> = (0..pairs.len())
            .filter(|pair| leans.iter().all(|column| column[*pair].is_some()))
            .collect();
        if whole.is_empty() {
            return Err(WeighError::NoPairs { failed: pairs.len() });
        }
        let column = |leans: &Vec<Option<f64>>| -> Vec<f64> { whole.iter().filter_map(|pair| leans[*pair]).collect() };
        let columns: Vec<Vec<f64>> = leans.iter().map(column).collect();
        let is_on = |column: &Vec<f64>| column.iter().any(|lean| lean.abs() > LEAN_LEAST);
        let on: Vec<usize> = (0..criteria.len()).filter(|index| is_on(&columns[*index])).collect();
        let leans = Leans::new(on.iter().map(|index| columns[*index].clone()).collect(), whole.len());
        let prompts: Vec<&str> = whole.iter().map(|pair| pairs[*pair].example.prompt.as_str()).collect();
        let (lambda, left_out) = self.lambda(&leans, &prompts)?;
        let fit = leans.fit(lambda, &leans.start(), Effort::WHOLE);
        if fit.violation > Effort::WHOLE.tolerance {
            return Err(WeighError::Unsettled {
                lambda,
                violation: fit.violation,
            });
        }
        let mut weights = vec![0.0; criteria.len()];
        let learnt: Vec<f64> = fit.weights.into_iter().map(rounded).collect();
        for (index, weight) in on.iter().zip(&learnt) {
            weights[*index] = *weight;
        }
        let sums = leans.sums(&learnt);
        let (rubric_of_weights, dropped) = kept(rubric, &weights, |index| match on.contains(&index) {
            true => WhyDropped::NoWeight,
            false => WhyDropped::NeverTurnedOn,
        });
        if rubric_of_weights.themes.is_empty() {
            return Err(WeighError::NothingCounts { lambda });
        }
        let weighing = Weighing {
            rubric_sha256: rubric.without_weights().digest(),
            judge: self.judge.name().to_owned(),
            judge_sha256: self.judge.identity(),
            examples: examples.to_owned(),
            data_sha256: data.digest(),
            pairs: whole.len(),
            failed: pairs.len() - whole.len(),
            lambda,
            folds: left_out.map(|(folds, _)| folds),
            left_out_log_loss: left_out.map(|(_, found)| found.log_loss),
            left_out_accuracy: left_out.map(|(_, found)| found.accuracy),
            log_loss: sums.iter().copied().map(loss).sum::<f64>() / whole.len() as f64,
            dropped,
        };
        let rubric = RubricSet {
            provenance: Some(Provenance {
                weighing: Some(weighing),
                ..rubric.provenance.clone().unwrap_or_default()
            }),
            ..rubric_of_weights
        };
        Ok(Weighed {
            rubric,
            asked: recorded.asked(),
            found: recorded.found(),
        })
    }

    /// For each criterion and pair, the lean to the better picture.
    fn ask(
        &self,
        recorded: &Recorded<'_>,
        pairs: &[RankedPair<'_>],
        criteria: &[RubricSet],
    ) -> Result<Vec<Vec<Option<f64>>>, WeighError> {
        let under = |rubric| {
            pairs.iter().enumerate().map(move |(index, pair)| RecordedPair {
                index: PromptIndex(index as u32),
                pair: *pair,
                rubric,
            })
        };
        let questions: Vec<RecordedPair<'_>> = criteria.iter().flat_map(under).collect();
        let records = recorded.judge_all(self.judge, &questions, self.batch, self.threads, self.progress)?;
        let mut leans = records.iter().zip(&questions).map(|(record, question)| {
            let towards_first = lean(record)?;
            Some(match question.pair.preferred {
                Side::First => towards_first,
                Side::Second => -towards_first,
            })
        });
        Ok(criteria
            .iter()
            .map(|_| leans.by_ref().take(pairs.len()).collect())
            .collect())
    }

    /// Lambda, and with cross-validation the number of folds and what it did on pairs that were left out.
    fn lambda(&self, leans: &Leans, prompts: &[&str]) -> Result<(f64, Option<(usize, strength::Trial)>), WeighError> {
        match self.strength {
            Strength::Given(lambda) => Ok((lambda, None)),
            Strength::CrossValidated(wanted) => {
                let (folds, count) = strength::folds(prompts, wanted.max(2));
                if count < 2 {
                    return Err(WeighError::OnePrompt);
                }
                let found = strength::cross_validate(leans, &folds, count).ok_or(WeighError::NothingLeans)?;
                Ok((found.lambda, Some((count, found))))
            }
        }
    }
}

/// The criteria with a weight above 0, in their themes, and the others.
fn kept(rubric: &RubricSet, weights: &[f64], why: impl Fn(usize) -> WhyDropped) -> (RubricSet, Vec<DroppedCriterion>) {
    let mut dropped = Vec::new();
    let mut themes = Vec::new();
    let mut index = 0;
    for theme in &rubric.themes {
        let mut left = Theme {
            name: theme.name.clone(),
            ..Theme::default()
        };
        for tip in &theme.tips {
            if weights[index] > 0.0 {
                left.tips.push(tip.clone());
                left.weights.push(weights[index]);
            } else {
                dropped.push(DroppedCriterion {
                    theme: theme.name.clone(),
                    criterion: tip.trim().to_owned(),
                    why: why(index),
                });
            }
            index += 1;
        }
        if !left.tips.is_empty() {
            themes.push(left);
        }
    }
    let set = RubricSet {
        themes,
        ..rubric.clone()
    };
    (set, dropped)
}

fn rounded(weight: f64) -> f64 {
    let scale = f64::from(10_u32.pow(PLACES));
    (weight * scale).round() / scale
}
