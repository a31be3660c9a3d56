//! `[judge.writer]`: a rubric for each prompt, written while the run goes on.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bounds;
use crate::spec::problems::Problems;

/// `[judge.writer]`: before a prompt's first comparison the judge's model writes what is to decide about it, from the prompt alone or
/// from labelled pairs of prompts near it. Prompts for which `judge.rubric` has a set of their own keep that one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["template"]))]
pub struct WriterSpec {
    /// How the model is asked for a prompt's criteria.
    pub template: PathBuf,
    /// Most criteria of a set; of an edit's in each theme.
    #[schemars(range(min = 1, max = bounds::CRITERIA.most))]
    pub criteria: u32,
    /// Labelled pairs of other prompts that the model is shown, the nearest ones; 0 for the prompt alone.
    #[schemars(range(max = bounds::NEAREST.most))]
    pub nearest: u32,
    /// Most tokens of an answer.
    #[schemars(range(min = 1, max = bounds::TOKENS.most))]
    pub max_tokens: u32,
    /// How a prompt's own set and the general one come together.
    pub combine: Combine,
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
            max_tokens: 1024,
            combine: Combine::default(),
        }
    }
}

impl WriterSpec {
    pub(super) fn check(&self, at: &str, problems: &mut Problems) {
        problems.require_set(
            &self.template,
            &format!("{at}.template"),
            "a template such as configs/rubric/en/write.toml",
        );
        problems.count(self.criteria.into(), bounds::CRITERIA, &format!("{at}.criteria"));
        problems.at_most(self.nearest.into(), bounds::NEAREST, &format!("{at}.nearest"));
        problems.count(self.max_tokens.into(), bounds::TOKENS, &format!("{at}.max_tokens"));
    }
}
