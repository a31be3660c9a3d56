//! Files of a run as they arrive: counted before they are read, since what is short as JSON may be large in memory.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

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
    questions: Questions,
    prompt_rubrics: Count,
    member_templates: Count,
    held_out_judge: Option<OfHeldOutJudge>,
    annotations: Values,
}

/// The lengths of the lists of [`HeldOutJudgeAssets`](super::HeldOutJudgeAssets).
#[derive(Default, Deserialize)]
#[serde(default)]
struct OfHeldOutJudge {
    prompt_rubrics: Count,
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
        bounds::HELD_OUT.check("prompts.held_out", counts.questions.prompts)?;
        bounds::QUESTIONS.check("prompts.held_out", counts.questions.questions)?;
        bounds::PROMPT_RUBRICS.check("judge.rubric", counts.prompt_rubrics.0)?;
        bounds::MEMBERS.check("judge.members", counts.member_templates.0)?;
        let held_out = counts.held_out_judge.unwrap_or_default();
        bounds::PROMPT_RUBRICS.check("judge.held_out.rubric", held_out.prompt_rubrics.0)?;
        bounds::MEMBERS.check("judge.held_out.members", held_out.member_templates.0)?;
        bounds::ANNOTATIONS.check("prompts.train", counts.annotations.0)?;
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

/// How many prompts are asked about, and how many questions there are.
#[derive(Default)]
struct Questions {
    prompts: usize,
    questions: usize,
}

impl<'de> Deserialize<'de> for Questions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Counting;

        impl<'de> Visitor<'de> for Counting {
            type Value = Questions;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of lists")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Questions, A::Error> {
                let mut counts = Questions::default();
                while let Some(Count(questions)) = list.next_element()? {
                    counts.prompts += 1;
                    counts.questions += questions;
                }
                Ok(counts)
            }
        }

        deserializer.deserialize_seq(Counting)
    }
}

/// The number of values in a value, at whatever depth.
#[derive(Default)]
struct Values(usize);

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Counting;

        impl<'de> Visitor<'de> for Counting {
            type Value = Values;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Values, A::Error> {
                let mut count = 1;
                while let Some(Values(more)) = list.next_element()? {
                    count += more;
                }
                Ok(Values(count))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Values, A::Error> {
                let mut count = 1;
                while let Some((_, Values(more))) = fields.next_entry::<IgnoredAny, Values>()? {
                    count += 1 + more;
                }
                Ok(Values(count))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Values, E> {
                Ok(Values(1))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Values, E> {
                Ok(Values(1))
            }

            fn visit_u64<E>(self, _: u64) -> Result<Values, E> {
                Ok(Values(1))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Values, E> {
                Ok(Values(1))
            }

            fn visit_str<E>(self, _: &str) -> Result<Values, E> {
                Ok(Values(1))
            }

            fn visit_unit<E>(self) -> Result<Values, E> {
                Ok(Values(1))
            }
        }

        deserializer.deserialize_any(Counting)
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

    #[test]
    fn questions_are_counted_over_all_prompts_before_they_are_read() {
        let of_one = format!("[{}0]", "0,".repeat(99_999));
        let text = format!("{{\"questions\": [{}[0]]}}", format!("{of_one},").repeat(4));
        let refused = RunAssets::from_stranger(&text).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "`prompts.held_out`: 400001 questions, at most 400000 are taken"
        );
    }

    #[test]
    fn values_within_values_are_counted_before_they_are_read() {
        let count = |text: &str| serde_json::from_str::<Values>(text).unwrap().0;
        assert_eq!(count("[]"), 1);
        assert_eq!(count(r#"{"a": [1, -2, 0.5, null, true, "x"], "b": {}}"#), 11);
        let text = format!(
            "{{\"annotations\": {{\"prompts\": {{\"0\": {{\"fields\": {{\"a\": [{}0]}}}}}}}}}}",
            "0,".repeat(500_000)
        );
        let refused = RunAssets::from_stranger(&text).unwrap_err();
        assert!(
            refused.to_string().contains("values, at most 500000 are taken"),
            "{refused}"
        );
    }
}
