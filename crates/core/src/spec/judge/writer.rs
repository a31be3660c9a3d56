//! `[judge.writer]`: a rubric for each prompt, written while the run goes on.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::table::{self, Leftovers};
use super::{EmbeddingSpec, JudgeBackEnd, schema};
use crate::bounds;
use crate::spec::problems::Problems;

/// `[judge.writer]`: before a prompt's first comparison a model writes what is to decide about it, from the prompt alone or from labelled
/// pairs of prompts near it. It is the judge's own model unless `family` names another one. Prompts for which `judge.rubric` has a set of
/// their own keep that one.
//
// `remote = "Self"`: as for `JudgeSpec`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[schemars(transform = schema::of_a_writer)]
pub struct WriterSpec {
    /// How the model is asked for a prompt's criteria.
    pub template: PathBuf,
    /// Most criteria of a set; of an edit's in each theme.
    #[schemars(range(min = 1, max = bounds::CRITERIA.most))]
    pub criteria: u32,
    /// Labelled pairs of other prompts that the model is shown, the nearest ones; 0 for the prompt alone.
    #[schemars(range(max = bounds::NEAREST.most))]
    pub nearest: u32,
    /// What finds the labelled pairs whose prompts are near in meaning; without it near is what is alike in spelling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedding: Option<EmbeddingSpec>,
    /// Most tokens of an answer.
    #[schemars(range(min = 1, max = bounds::TOKENS.most))]
    pub max_tokens: u32,
    /// How a prompt's own set and the general one come together.
    pub combine: Combine,
    /// What writes, with the keys that only its kind has; the judge's own model without it.
    #[serde(skip)]
    pub back_end: Option<JudgeBackEnd>,
}

/// The rule by which a general rubric takes part where a prompt has a set of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Combine {
    /// It does not: the prompt's own set decides alone.
    #[default]
    Specific,
    /// The prompt's own criteria come first, the general ones after them. Themes of one name become one, and a criterion that
    /// stands in both stands once, among the prompt's own. Themes without a name come first.
    SpecificThenGeneral,
}

impl Combine {
    /// Whether this is the rule where none is named.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for WriterSpec {
    fn default() -> Self {
        Self {
            template: PathBuf::new(),
            criteria: 5,
            nearest: 0,
            embedding: None,
            max_tokens: 1024,
            combine: Combine::default(),
            back_end: None,
        }
    }
}

impl Serialize for WriterSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct OneTable<'a> {
            #[serde(flatten)]
            back_end: &'a Option<JudgeBackEnd>,
            #[serde(flatten, serialize_with = "WriterSpec::serialize")]
            own: &'a WriterSpec,
        }
        let table = OneTable {
            back_end: &self.back_end,
            own: self,
        };
        Serialize::serialize(&table, serializer)
    }
}

impl<'de> Deserialize<'de> for WriterSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        table::deserialize(deserializer, |table, problems| {
            table::writer(table, "judge.writer", problems, Leftovers::Dropped)
        })
    }
}

impl WriterSpec {
    /// Whether a judge worker opens more for it than the judge: another model, or an embedding.
    pub fn has_models(&self) -> bool {
        self.back_end.is_some() || self.embedding.is_some()
    }

    pub(super) fn check(&self, at: &str, problems: &mut Problems) {
        problems.require_set(
            &self.template,
            &format!("{at}.template"),
            "a template such as configs/rubric/en/write.toml",
        );
        problems.count(self.criteria.into(), bounds::CRITERIA, &format!("{at}.criteria"));
        problems.at_most(self.nearest.into(), bounds::NEAREST, &format!("{at}.nearest"));
        problems.count(self.max_tokens.into(), bounds::TOKENS, &format!("{at}.max_tokens"));
        if let Some(embedding) = &self.embedding {
            embedding.check(&format!("{at}.embedding"), problems);
            problems.require(self.nearest > 0, &format!("{at}.embedding"), || {
                "finds the nearest labelled pairs, of which none is shown: set `judge.writer.nearest`, or remove it"
                    .into()
            });
        }
        match &self.back_end {
            None => {}
            Some(JudgeBackEnd::Ensemble(_)) => problems.require(false, &format!("{at}.family"), || {
                "an ensemble does not write: name one model".into()
            }),
            Some(back_end) if back_end.writer().is_none() => problems.require(false, &format!("{at}.family"), || {
                "gives scores alone and does not write: name a model that answers in words".into()
            }),
            Some(back_end) => back_end.check(at, problems),
        }
    }
}
