//! Facts about pictures, and their means.

use serde::{Deserialize, Serialize};

/// One thing that a prompt says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// What it is about, for example `background` or `shape0`.
    pub name: String,
    /// Whether the picture shows it.
    pub holds: bool,
}

impl Fact {
    pub(crate) fn new(name: &str, holds: bool) -> Self {
        Self {
            name: name.to_owned(),
            holds,
        }
    }
}

/// The facts of one picture, in the evaluator's order; never empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Facts(Vec<Fact>);

impl Facts {
    /// Collects the facts of one picture.
    pub(crate) fn new(facts: Vec<Fact>) -> Self {
        Self(facts)
    }

    /// The facts in order.
    pub fn iter(&self) -> impl Iterator<Item = &Fact> {
        self.0.iter()
    }

    /// Share of the facts that hold, in [0, 1].
    pub fn share(&self) -> f64 {
        let holding = self.0.iter().filter(|fact| fact.holds).count();
        holding as f64 / self.0.len().max(1) as f64
    }

    /// Whether every fact holds.
    pub fn all(&self) -> bool {
        self.0.iter().all(|fact| fact.holds)
    }
}

/// How well a set of pictures follows its prompts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Adherence {
    /// Number of pictures.
    pub prompts: usize,
    /// Mean over the pictures of the share of facts that hold, in [0, 1].
    pub mean: f64,
    /// Share of the pictures in which every fact holds, in [0, 1].
    pub all: f64,
}

impl Adherence {
    /// Averages over pictures; `None` without any.
    pub fn of<'a>(pictures: impl IntoIterator<Item = &'a Facts>) -> Option<Self> {
        let (mut prompts, mut mean, mut all) = (0, 0.0, 0.0);
        for facts in pictures {
            prompts += 1;
            mean += facts.share();
            all += f64::from(u8::from(facts.all()));
        }
        (prompts > 0).then(|| Self {
            prompts,
            mean: mean / prompts as f64,
            all: all / prompts as f64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(holds: &[bool]) -> Facts {
        Facts::new(holds.iter().map(|&holds| Fact::new("fact", holds)).collect())
    }

    #[test]
    fn adherence_is_the_mean_of_shares_not_the_share_of_all_facts() {
        let pictures = [facts(&[true, true]), facts(&[true, false, false, false])];
        assert_eq!(
            Adherence::of(&pictures),
            Some(Adherence {
                prompts: 2,
                mean: 0.625,
                all: 0.5
            })
        );
        assert_eq!(Adherence::of(&[]), None);
    }
}
