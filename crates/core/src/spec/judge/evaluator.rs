//! Judges that are the rules of an evaluator: of two pictures the one for which more of the task holds is preferred.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::back_end::BackEnd;
use crate::spec::EvaluatorName;
use crate::spec::problems::Problems;

/// The one kind of judge that follows rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EvaluatorFamily {
    /// An evaluator's pixel rules, in the judge worker.
    #[default]
    Evaluator,
}

/// An evaluator's rules as a judge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluatorSpec {
    /// The one kind.
    pub family: EvaluatorFamily,
    /// How far apart two scores are that make a probability of 0.73: it is the logistic of their difference over this.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub temperature: f64,
    /// Whose rules.
    pub evaluator: EvaluatorName,
}

impl Default for EvaluatorSpec {
    fn default() -> Self {
        Self {
            family: EvaluatorFamily::default(),
            temperature: 1.0,
            evaluator: EvaluatorName::Scenes,
        }
    }
}

impl BackEnd for EvaluatorSpec {
    const FAMILIES: &'static [&'static str] = &["evaluator"];

    fn check(&self, at: &str, problems: &mut Problems) {
        problems.positive(self.temperature, &format!("{at}.temperature"));
    }
}
