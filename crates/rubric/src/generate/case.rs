//! One question of a labelled set: what is to be explained, and what templates may say of it.

use gavel_core::work::Side;

use super::prompts::Values;
use crate::data::{Example, Picture, RankedPair};
use crate::recorded::number;

/// What is to be explained: a pair, or a scored picture.
#[derive(Clone, Copy)]
pub(super) enum Case<'a> {
    Pair(RankedPair<'a>),
    Score {
        example: &'a Example,
        value: i64,
        min: i64,
        max: i64,
    },
}

impl<'a> Case<'a> {
    pub(super) fn example(&self) -> &'a Example {
        match self {
            Self::Pair(pair) => pair.example,
            Self::Score { example, .. } => example,
        }
    }

    /// The candidates, then the base.
    pub(super) fn pictures(&self) -> Vec<&'a Picture> {
        let candidates: Vec<&Picture> = match self {
            Self::Pair(pair) => pair.pictures.to_vec(),
            Self::Score { example, .. } => example.responses.iter().take(1).collect(),
        };
        candidates.into_iter().chain(&self.example().source).collect()
    }

    /// What a template may say of the case; `given` is what the judge said.
    pub(super) fn values(&self, given: Option<i64>) -> Values<'a> {
        let example = self.example();
        let values = Values {
            caption: &example.prompt,
            editing: example.source.is_some(),
            ..Values::default()
        };
        match *self {
            Self::Pair(pair) => Values {
                better: number(pair.preferred),
                chosen: number(match pair.preferred {
                    Side::First => Side::Second,
                    Side::Second => Side::First,
                }),
                ..values
            },
            Self::Score { value, min, max, .. } => Values {
                score: value,
                given: given.unwrap_or(min),
                score_min: min,
                score_max: max,
                ..values
            },
        }
    }
}
