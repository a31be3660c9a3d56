//! Labelled examples: prompts with pictures, and what people thought of these.
//!
//! Pairs (or more pictures) carry `label_rank`, single pictures `label_score`; an edit names the picture that was edited.

use std::path::Path;

use gavel_core::ids::Digest;
use gavel_core::work::Side;

use super::error::Expected;
use super::picture::Picture;
use super::{DataError, Place, ReadOptions, example, file};

/// Examples of one kind: all of them edits or none, all ranked or all scored.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelledSet {
    /// The examples in the file's order; never empty.
    pub examples: Vec<Example>,
    /// What the pictures are.
    pub task: Task,
    /// How they are labelled.
    pub labelling: Labelling,
}

/// What the pictures were made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// A prompt.
    TextToImage,
    /// A picture and an instruction.
    Editing,
}

/// What people said of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Labelling {
    /// Which is better.
    Ranked,
    /// How good each is.
    Scored,
}

/// A prompt with its pictures and their label.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// Where it stands in its file.
    pub place: Place,
    /// The prompt's words: a description, or the instruction of an edit.
    pub prompt: String,
    /// The picture that was edited; `None` for text-to-image.
    pub source: Option<Picture>,
    /// The candidates: at least two with ranks, one with a score.
    pub responses: Vec<Picture>,
    /// What people thought.
    pub label: Label,
}

/// What people thought of an example's pictures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Label {
    /// A rank for each picture, 1 being the best. Two pictures never share one; of more, at least two differ.
    Rank(Vec<u32>),
    /// How good the picture is, `min <= value <= max` and `min < max`.
    Score {
        /// The score.
        value: i64,
        /// The worst possible.
        min: i64,
        /// The best possible.
        max: i64,
    },
}

/// Two pictures of an example, of which one is better.
#[derive(Debug, Clone, Copy)]
pub struct RankedPair<'a> {
    /// The example.
    pub example: &'a Example,
    /// The candidates in the example's order.
    pub pictures: [&'a Picture; 2],
    /// Which of them is better.
    pub preferred: Side,
}

impl LabelledSet {
    /// Reads a file of examples with all their pictures. A name that ends in `.yaml` or `.yml` is YAML; other files are a JSON
    /// array when they begin with `[`, and JSON Lines otherwise. Paths in it are absolute or relative to the file's folder.
    ///
    /// # Errors
    /// [`DataError`], which names file, record and field.
    pub fn read(file: &Path, options: &ReadOptions<'_>) -> Result<Self, DataError> {
        let records = file::records(file, Expected::Examples)?;
        let mut examples = Vec::with_capacity(records.len());
        for (place, value) in records {
            examples.push(example::read(file, place, value, options)?);
        }
        let Some(first) = examples.first() else {
            return Err(DataError::Empty {
                file: file.to_owned(),
                expected: Expected::Examples,
            });
        };
        let (task, labelling) = (first.task(), first.labelling());
        for example in &examples {
            if example.task() != task || example.labelling() != labelling {
                return Err(DataError::Mixed {
                    file: file.to_owned(),
                    first: first.place,
                    other: example.place,
                    difference: if example.task() == task {
                        "are labelled in different ways"
                    } else {
                        "are of different kinds: only one has a base image"
                    },
                });
            }
        }
        Ok(Self {
            examples,
            task,
            labelling,
        })
    }

    /// Every two pictures of an example that differ in rank, in the file's order.
    pub fn pairs(&self) -> Vec<RankedPair<'_>> {
        self.examples.iter().flat_map(Example::pairs).collect()
    }

    /// Fingerprint of prompts, pictures and labels, wherever the files lie.
    pub fn digest(&self) -> Digest {
        let mut words = String::new();
        for example in &self.examples {
            let pictures: Vec<Digest> = example
                .source
                .iter()
                .chain(&example.responses)
                .map(|p| p.digest)
                .collect();
            // Debug text quotes the prompt, so that no prompt can pass for what follows it.
            words.push_str(&format!("{:?} {pictures:?} {:?}\n", example.prompt, example.label));
        }
        Digest::of(words.as_bytes())
    }
}

impl Example {
    fn task(&self) -> Task {
        if self.source.is_some() {
            Task::Editing
        } else {
            Task::TextToImage
        }
    }

    fn labelling(&self) -> Labelling {
        match self.label {
            Label::Rank(_) => Labelling::Ranked,
            Label::Score { .. } => Labelling::Scored,
        }
    }

    /// Every two pictures that differ in rank; none for a score.
    fn pairs(&self) -> Vec<RankedPair<'_>> {
        let Label::Rank(ranks) = &self.label else {
            return Vec::new();
        };
        let mut pairs = Vec::new();
        for (first, first_rank) in ranks.iter().enumerate() {
            for (second, second_rank) in ranks.iter().enumerate().skip(first + 1) {
                let preferred = match first_rank.cmp(second_rank) {
                    std::cmp::Ordering::Less => Side::First,
                    std::cmp::Ordering::Greater => Side::Second,
                    std::cmp::Ordering::Equal => continue,
                };
                pairs.push(RankedPair {
                    example: self,
                    pictures: [&self.responses[first], &self.responses[second]],
                    preferred,
                });
            }
        }
        pairs
    }
}
