//! A labelled example's record.

use std::path::Path;

use serde_json::Value;

use super::error::Expected;
use super::record::{Fault, Record, of_type};
use super::{DataError, Example, Label, Place, ReadOptions, RecordFault};

const QUERY: &[&str] = &["query"];
const RESPONSES: &[&str] = &[
    "response",
    "responses",
    "images",
    "image_paths",
    "generated_images",
    "edited_images",
    "target_images",
    "output_images",
    "result_images",
];
const BASE: &[&str] = &[
    "source_image",
    "base_image",
    "original_image",
    "input_image",
    "reference_image",
];
const RANK: &[&str] = &["label_rank"];
const SCORE: &[&str] = &["label_score"];
const LABELS: &[&str] = &["label_rank", "label_score"];
const SCORE_MIN: &[&str] = &["min_score", "score_min"];
const SCORE_MAX: &[&str] = &["max_score", "score_max"];

/// Reads one record with its pictures.
pub(crate) fn read(file: &Path, place: Place, value: Value, options: &ReadOptions<'_>) -> Result<Example, DataError> {
    let record = Record::new(file, place, value, Expected::Examples, options)?;
    record.example(place).map_err(|(field, fault)| DataError::Field {
        file: file.to_owned(),
        place,
        field,
        fault: Box::new(fault),
    })
}

impl Record<'_> {
    fn example(&self, place: Place) -> Result<Example, Fault> {
        let prompt = self.text(QUERY)?;
        // Before the pictures: a wrong label is told without reading megabytes.
        let sources = self.responses()?;
        let label = self.label(sources.len())?;
        let mut responses = Vec::with_capacity(sources.len());
        for (name, source) in &sources {
            responses.push(self.picture(name, source)?);
        }
        let source = match self.optional(BASE)? {
            Some((name, Value::String(source))) => Some(self.picture(name, source)?),
            Some((name, _)) => return Err(of_type(name, "a path, an address or a data URL")),
            None => None,
        };
        Ok(Example {
            place,
            prompt,
            source,
            responses,
            label,
        })
    }

    /// Where the pictures come from, each with the field's name.
    fn responses(&self) -> Result<Vec<(String, &str)>, Fault> {
        let (name, value) = self.required(RESPONSES)?;
        Self::sources(name, value)
    }

    fn label(&self, pictures: usize) -> Result<Label, Fault> {
        let (name, _) = self.required(RESPONSES)?;
        let counted = |needed| {
            (
                name.to_owned(),
                RecordFault::Pictures {
                    found: pictures,
                    needed,
                },
            )
        };
        match (self.optional(RANK)?, self.optional(SCORE)?) {
            (Some(_), Some((score, _))) => Err((
                score.to_owned(),
                RecordFault::Twice {
                    other: RANK[0].to_owned(),
                },
            )),
            (Some((rank, value)), None) if pictures >= 2 => ranks(rank, value, pictures).map(Label::Rank),
            (Some(_), None) => Err(counted("ranks need two or more")),
            (None, Some((score, value))) if pictures == 1 => self.score(score, value),
            (None, Some(_)) => Err(counted("a score is for one")),
            (None, None) => Err((LABELS[0].to_owned(), RecordFault::Missing { names: LABELS })),
        }
    }

    fn score(&self, name: &str, value: &Value) -> Result<Label, Fault> {
        let value = whole(value).ok_or_else(|| of_type(name, "a whole number"))?;
        let bound = |names: &'static [&'static str], given: Option<i64>| match self.optional(names)? {
            Some((name, bound)) => whole(bound).ok_or_else(|| of_type(name, "a whole number")),
            None => given.ok_or((names[0].to_owned(), RecordFault::Missing { names })),
        };
        let min = bound(SCORE_MIN, self.scores().map(|range| range.0))?;
        let max = bound(SCORE_MAX, self.scores().map(|range| range.1))?;
        if min >= max {
            return Err((SCORE_MIN[0].to_owned(), RecordFault::Range { min, max }));
        }
        if !(min..=max).contains(&value) {
            return Err((name.to_owned(), RecordFault::Score { value, min, max }));
        }
        Ok(Label::Score { value, min, max })
    }
}

fn ranks(name: &str, value: &Value, pictures: usize) -> Result<Vec<u32>, Fault> {
    let expected = || of_type(name, "a list of whole numbers from 1, 1 being the best");
    let ranks: Vec<u32> = value
        .as_array()
        .and_then(|ranks| {
            let rank = |rank| {
                whole(rank)
                    .and_then(|rank| u32::try_from(rank).ok())
                    .filter(|rank| *rank >= 1)
            };
            ranks.iter().map(rank).collect()
        })
        .ok_or_else(expected)?;
    if ranks.len() != pictures {
        return Err((
            name.to_owned(),
            RecordFault::Ranks {
                found: ranks.len(),
                pictures,
            },
        ));
    }
    if ranks.iter().all(|rank| *rank == ranks[0]) {
        return Err((name.to_owned(), RecordFault::Tie));
    }
    Ok(ranks)
}

/// A whole number, also one that is written as `4.0`.
fn whole(value: &Value) -> Option<i64> {
    // Beyond 2^53 a float no longer says which number was meant.
    let exact = |number: f64| number.fract() == 0.0 && number.abs() <= 9.0e15;
    value.as_i64().or_else(|| {
        value
            .as_f64()
            .filter(|number| exact(*number))
            .map(|number| number as i64)
    })
}
