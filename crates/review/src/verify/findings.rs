//! What a verification found, for people and as JSON.

use std::collections::BTreeMap;

use gavel_core::ids::{Digest, RunId, Step};
use gavel_core::run::Run;
use serde::Serialize;

use super::Part;
use super::compare::Equal;
use super::store::Damage;

/// What came of doing a step again.
#[derive(Debug, Serialize)]
pub struct VerifyReport {
    run: RunId,
    step: Step,
    spec_sha256: Digest,
    #[serde(skip)]
    committed: Step,
    /// Part by part, what was equal.
    pub(super) parts: Vec<PartReport>,
    /// The first difference; nothing was done after it.
    pub(super) difference: Option<String>,
    /// Blobs that are gone or damaged.
    damages: Vec<Damage>,
    /// Units that could not be done again because a blob is gone.
    pub(super) unchecked: Vec<Unchecked>,
    /// Steps that can be done again; only filled when this one could not.
    #[serde(skip)]
    pub(super) retained: Vec<Step>,
    /// Whether everything that was asked for came out the same and all stored bytes are right.
    pub confirmed: bool,
}

/// One part of a step.
#[derive(Debug, Serialize)]
pub struct PartReport {
    pub(super) part: Part,
    /// Units that the ledger accepted.
    units: usize,
    /// Units that came out the same.
    equal_units: usize,
    /// What of them was equal.
    equal: BTreeMap<&'static str, usize>,
    pub(super) seconds: f64,
}

/// A unit that could not be done again.
#[derive(Debug, Serialize)]
pub(super) struct Unchecked {
    pub(super) unit: String,
    /// What it lacks.
    pub(super) blobs: Vec<String>,
}

impl PartReport {
    pub(super) fn new(part: Part, units: usize) -> Self {
        Self {
            part,
            units,
            equal_units: 0,
            equal: BTreeMap::new(),
            seconds: 0.0,
        }
    }

    pub(super) fn add(&mut self, equal: &Equal) {
        self.equal_units += 1;
        for (what, count) in equal {
            *self.equal.entry(what).or_default() += count;
        }
    }

    /// The part in one line.
    pub fn line(&self) -> String {
        let equal: Vec<String> = self
            .equal
            .iter()
            .map(|(what, count)| format!("{what} {count}"))
            .collect();
        let equal = if equal.is_empty() {
            "nothing".to_owned()
        } else {
            equal.join(", ")
        };
        format!(
            "{:<12} {} of {} units; equal: {equal}  ({:.1} s)",
            self.part.name(),
            self.equal_units,
            self.units,
            self.seconds
        )
    }
}

impl VerifyReport {
    pub(super) fn new(run: &Run, step: Step) -> Self {
        Self {
            run: run.id().clone(),
            step,
            spec_sha256: run.spec_sha256(),
            committed: run.committed(),
            parts: Vec::new(),
            difference: None,
            damages: Vec::new(),
            unchecked: Vec::new(),
            retained: Vec::new(),
            confirmed: false,
        }
    }

    /// What is looked at.
    pub fn head(&self) -> String {
        let Self {
            run, step, committed, ..
        } = self;
        format!(
            "run {run}, step {step} ({committed} committed), spec {}",
            self.spec_sha256.short()
        )
    }

    pub(super) fn conclude(&mut self, damages: Vec<Damage>) {
        self.damages = damages;
        let corrupt = self.damages.iter().any(|damage| damage.found.is_some());
        let checked = self.parts.iter().any(|part| part.equal_units > 0);
        self.confirmed = self.difference.is_none() && self.unchecked.is_empty() && !corrupt && checked;
    }

    /// What it comes to, with what to do.
    pub fn conclusion(&self) -> String {
        let mut text = String::new();
        for damage in &self.damages {
            if let Some(found) = damage.found {
                text += &format!(
                    "DAMAGED      {}: blob {} holds bytes that hash to {found}\n",
                    damage.what, damage.sha256
                );
            }
        }
        let gone: Vec<&Damage> = self.damages.iter().filter(|damage| damage.found.is_none()).collect();
        if let Some(first) = gone.first() {
            let again = gone.iter().filter(|damage| damage.made_again).count();
            text += &format!(
                "gone         {} blobs, {again} of them made again with the recorded hash; the first: {}, {}\n",
                gone.len(),
                first.what,
                first.sha256
            );
        }
        for unchecked in &self.unchecked {
            let more = match unchecked.blobs.len() {
                0 | 1 => String::new(),
                count => format!(" and {} more", count - 1),
            };
            let first = unchecked.blobs.first().map_or("", String::as_str);
            text += &format!("not checked  {}: it needs {first}{more}\n", unchecked.unit);
        }
        if let Some(difference) = &self.difference {
            text += &format!("DIFFERENT    {difference}\n");
        }
        text + &self.verdict()
    }

    fn verdict(&self) -> String {
        if self.confirmed {
            return "confirmed: the same bytes\n".to_owned();
        }
        if self.difference.is_some() {
            return "not confirmed: the record does not come out again\n\
                    hint: `gavel audit` says whether the ledger fits together; with the same Gavel version, models and kind of \
                    machine each step must come out the same\n"
                .to_owned();
        }
        if self.damages.iter().any(|damage| damage.found.is_some()) {
            return "not confirmed: stored bytes are damaged\n\
                    hint: restore these files of state/blobs from a copy; the disk may be failing\n"
                .to_owned();
        }
        if self.unchecked.is_empty() {
            return "not confirmed: there was nothing of that part to do again\n".to_owned();
        }
        let steps: Vec<String> = self.retained.iter().map(Step::to_string).collect();
        format!(
            "not confirmed: not everything could be done again\n\
             hint: the blobs were collected or deleted; leave out --part, so that earlier parts make them again, or choose a step \
             whose policy is kept: --step {}\n",
            steps.join(", ")
        )
    }
}
