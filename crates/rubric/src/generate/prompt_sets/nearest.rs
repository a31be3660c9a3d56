//! Labelled examples near a prompt.

use std::cmp::Ordering;

use crate::AskError;
use crate::data::RankedPair;
use crate::generate::Embed;
use crate::generate::embed::cosine;

use super::WantedSet;

/// Prompts with their vectors, among which the nearest to another one are looked for.
#[derive(Debug, Clone, Default)]
pub struct Neighbours {
    /// Of each prompt its vector's index.
    places: Vec<usize>,
    /// One for each that is another text than the others.
    vectors: Vec<Vec<f64>>,
}

impl Neighbours {
    /// Takes these prompts, in order.
    ///
    /// # Errors
    /// The embedding does not answer.
    pub fn new(prompts: &[&str], embed: &dyn Embed) -> Result<Self, AskError> {
        let mut texts = prompts.to_vec();
        texts.sort_unstable();
        texts.dedup();
        let places = prompts.iter().map(|prompt| texts.partition_point(|text| text < prompt));
        Ok(Self {
            places: places.collect(),
            vectors: embed.embed(&texts)?,
        })
    }

    /// The indexes of those that `admits` lets in, the nearest to this vector first; of two that are equally near the earlier.
    pub fn nearest(&self, vector: &[f64], admits: impl Fn(usize) -> bool) -> Vec<usize> {
        let near: Vec<f64> = self.vectors.iter().map(|other| cosine(vector, other)).collect();
        let admitted = self.places.iter().enumerate().filter(|(index, _)| admits(*index));
        let mut near: Vec<(f64, usize)> = admitted.map(|(index, place)| (near[*place], index)).collect();
        near.sort_by(|(one, _), (other, _)| other.partial_cmp(one).unwrap_or(Ordering::Equal));
        near.into_iter().map(|(_, index)| index).collect()
    }
}

/// The examples that are nearest to each of some prompts, by the cosine of their vectors.
pub(super) struct Nearest<'a> {
    by_prompt: Vec<Vec<RankedPair<'a>>>,
}

impl<'a> Nearest<'a> {
    /// Finds `count` pairs for each prompt, each of another example and none of the prompt itself; of two that are equally near the earlier.
    ///
    /// # Errors
    /// The embedding does not answer.
    pub(super) fn new(
        pairs: &[RankedPair<'a>],
        prompts: &[WantedSet<'_>],
        count: usize,
        embed: &dyn Embed,
    ) -> Result<Self, AskError> {
        let mut candidates: Vec<RankedPair<'a>> = pairs.to_vec();
        candidates.dedup_by(|later, first| std::ptr::eq(later.example, first.example));
        let texts: Vec<&str> = candidates.iter().map(|pair| pair.example.prompt.as_str()).collect();
        let neighbours = Neighbours::new(&texts, embed)?;
        let wanted = prompts.iter().map(|wanted| wanted.prompt);
        let wanted = embed.embed(&wanted.collect::<Vec<_>>())?;
        let nearest = |(prompt, vector): (&WantedSet<'_>, &Vec<f64>)| {
            let near = neighbours.nearest(vector, |index| !prompt.is_of(&candidates[index]));
            near.into_iter().take(count).map(|index| candidates[index]).collect()
        };
        Ok(Self {
            by_prompt: prompts.iter().zip(&wanted).map(nearest).collect(),
        })
    }

    /// Those for the prompt of this index, the nearest last: it stands right before what is asked.
    pub(super) fn to(&self, index: usize) -> Vec<RankedPair<'a>> {
        self.by_prompt[index].iter().rev().copied().collect()
    }
}
