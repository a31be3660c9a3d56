//! Labelled examples near a prompt.

use std::cmp::Ordering;

use crate::AskError;
use crate::data::RankedPair;
use crate::generate::Embed;
use crate::generate::embed::cosine;

use super::WantedSet;

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
        let (places, wanted) = (embed.embed(&texts)?, prompts.iter().map(|wanted| wanted.prompt));
        let wanted = embed.embed(&wanted.collect::<Vec<_>>())?;
        let nearest = |(prompt, vector): (&WantedSet<'_>, &Vec<f64>)| {
            let others = candidates.iter().zip(&places).filter(|(pair, _)| !prompt.is_of(pair));
            let mut near: Vec<(f64, &RankedPair<'a>)> =
                others.map(|(pair, place)| (cosine(vector, place), pair)).collect();
            near.sort_by(|(one, _), (other, _)| other.partial_cmp(one).unwrap_or(Ordering::Equal));
            near.into_iter().take(count).map(|(_, pair)| *pair).collect()
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
