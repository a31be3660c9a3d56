//! Answers to prompts that have their beginnings in common.

use rayon::prelude::*;

use super::Seen;
use super::decoder::{Decoder, Past, Prompt};
use super::expand;
use super::head::Head;
use super::prefix::Branch;
use crate::ModelError;
use crate::ops::candle::Calls;

/// The number of a prompt, and the logits (vocabulary,) float32 of the token that follows it.
pub(super) type Answer<T> = (usize, T);

/// What prompts are read with.
pub(super) struct Reader<'a, T: Calls> {
    pub(super) decoder: &'a Decoder<T>,
    pub(super) head: &'a Head<T>,
    pub(super) image_token: u32,
    /// Pictures by their numbers.
    pub(super) seen: &'a [Seen<T>],
    pub(super) work: Work,
}

/// Who works on what can be done apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Threads of the CPU.
    Shared,
    /// The calling thread, one after another: what it queues on a device.
    Alone,
}

impl Work {
    /// The results of all items, in their order.
    pub(super) fn each<I: Sync, O: Send>(
        self,
        items: &[I],
        compute: impl Fn(&I) -> Result<O, ModelError> + Send + Sync,
    ) -> Result<Vec<O>, ModelError> {
        match self {
            Self::Shared => items.par_iter().map(compute).collect(),
            Self::Alone => items.iter().map(compute).collect(),
        }
    }
}

impl<T: Calls> Reader<'_, T> {
    /// The answers to all prompts that go on from `past` by these branches. Nothing waits for the device.
    pub(super) fn answers(&self, branches: &[Branch], past: Option<&Past<T>>) -> Result<Vec<Answer<T>>, ModelError> {
        let answers = self.work.each(branches, |branch| self.of_branch(branch, past))?;
        Ok(answers.concat())
    }

    fn of_branch(&self, branch: &Branch, past: Option<&Past<T>>) -> Result<Vec<Answer<T>>, ModelError> {
        let Branch { segment, ends, next } = branch;
        let images: Vec<&Seen<T>> = segment.pictures.iter().map(|picture| &self.seen[*picture]).collect();
        let grids: Vec<_> = images.iter().map(|image| image.grid).collect();
        let prompt = Prompt {
            ids: &expand(&segment.tokens, self.image_token, &grids)?,
            image_token: self.image_token,
            images: &images,
        };
        let mut answers = Vec::new();
        if !ends.is_empty() {
            let logits = self.head.logits(&self.decoder.last_state(&prompt, past)?)?;
            answers.extend(ends.iter().map(|end| (*end, logits.clone())));
        }
        if !next.is_empty() {
            let past = self.decoder.extended(&prompt, past)?;
            answers.extend(self.answers(next, Some(&past))?);
        }
        Ok(answers)
    }
}
