//! Files of a run as they arrive: counted before they are read, since what is short as JSON may be large in memory.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};

use super::RunAssets;
use crate::bounds::{self, Exceeded};

/// Why a text is no run's files.
#[derive(Debug, thiserror::Error)]
pub enum UnreadableAssets {
    /// It is no JSON of this form.
    #[error("the run's files cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// A list is longer than is taken.
    #[error(transparent)]
    Long(#[from] Exceeded),
}

/// The lengths of the lists of [`RunAssets`].
#[derive(Default, Deserialize)]
#[serde(default)]
struct Counts {
    prompts: Count,
    held_out: Count,
    labelled: Count,
    member_templates: Count,
}

impl RunAssets {
    /// Reads what somebody sent. Lists that are too long are refused before any memory is taken for them.
    ///
    /// # Errors
    /// [`UnreadableAssets`].
    pub fn from_stranger(text: &str) -> Result<Self, UnreadableAssets> {
        let counts: Counts = serde_json::from_str(text)?;
        bounds::PROMPTS.check("prompts.train", counts.prompts.0)?;
        bounds::HELD_OUT.check("prompts.held_out", counts.held_out.0)?;
        bounds::LABELLED.check("evaluation.labelled", counts.labelled.0)?;
        bounds::MEMBERS.check("judge.members", counts.member_templates.0)?;
        Ok(serde_json::from_str(text)?)
    }
}

/// The length of a list, whatever it holds.
#[derive(Default)]
struct Count(usize);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Counting;

        impl<'de> Visitor<'de> for Counting {
            type Value = Count;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Count, A::Error> {
                let mut count = 0;
                while list.next_element::<IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(Count(count))
            }
        }

        deserializer.deserialize_seq(Counting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::fixtures::assets;

    #[test]
    fn files_that_fit_are_read_as_they_were_written() {
        let text = serde_json::to_string(&assets()).unwrap();
        assert_eq!(RunAssets::from_stranger(&text).unwrap(), assets());
    }

    #[test]
    fn a_list_that_is_too_long_is_refused_by_its_key_before_it_is_read() {
        // The list's elements are no prompts: whoever read them would say so.
        let text = format!("{{\"held_out\": [{}0]}}", "0,".repeat(20_000));
        let refused = RunAssets::from_stranger(&text).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "`prompts.held_out`: 20001 prompts, at most 20000 are taken"
        );
        assert!(RunAssets::from_stranger("[]").is_err());
    }
}
