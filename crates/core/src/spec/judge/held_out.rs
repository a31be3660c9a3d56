//! `[judge.held_out]`: another judge that watches the one whose verdicts are rewarded.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::table::{self, Leftovers};
use super::{JudgeBackEnd, JudgeSpec, check_margin, schema};
use crate::spec::problems::Problems;

/// `[judge.held_out]`: a judge with a model, a template and a rubric of its own, that judges a share of each step's pairs too.
/// Nothing is rewarded for what it says: a policy that learns to please the judge and nobody else shows in how seldom the two agree.
///
/// It takes nothing over from `[judge]` but the pairs that are judged together (`judge.batch`), and gives no reasons.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[schemars(transform = schema::of_a_judge)]
pub struct HeldOutJudgeSpec {
    /// Share of each step's prompts whose pairs it judges, in (0, 1]; at least one of them. Which ones follows from seed and step.
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0))]
    pub share: f64,
    /// The prompt template around pair, prompt and rubric.
    pub template: PathBuf,
    /// The rubric set: TOML, or a bare text of criteria.
    pub rubric: PathBuf,
    /// The judge abstains when the mean probability is closer than this to one half.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 0.5))]
    pub margin: f64,
    /// Whether verdicts are kept and not asked for twice; `None` does so where the judge or a member is a server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<bool>,
    /// What answers, with the keys that only its kind has.
    #[serde(skip)]
    pub back_end: JudgeBackEnd,
}

impl Default for HeldOutJudgeSpec {
    fn default() -> Self {
        Self {
            share: 0.25,
            template: PathBuf::new(),
            rubric: PathBuf::new(),
            margin: 0.0,
            cache: None,
            back_end: JudgeBackEnd::default(),
        }
    }
}

impl Serialize for HeldOutJudgeSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct OneTable<'a> {
            #[serde(flatten)]
            back_end: &'a JudgeBackEnd,
            #[serde(flatten, serialize_with = "HeldOutJudgeSpec::serialize")]
            own: &'a HeldOutJudgeSpec,
        }
        let table = OneTable {
            back_end: &self.back_end,
            own: self,
        };
        Serialize::serialize(&table, serializer)
    }
}

impl<'de> Deserialize<'de> for HeldOutJudgeSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        table::deserialize(deserializer, |table, problems| {
            table::held_out(table, "judge.held_out", problems, Leftovers::Dropped)
        })
    }
}

impl HeldOutJudgeSpec {
    /// How many of so many prompts it judges.
    pub fn prompts(&self, per_step: u32) -> u32 {
        let share = (self.share * f64::from(per_step)).round() as u32;
        share.clamp(1, per_step.max(1))
    }

    /// The same as a judge that stands by itself, for whoever opens it or asks what it is.
    pub fn judge(&self) -> JudgeSpec {
        JudgeSpec {
            template: self.template.clone(),
            rubric: self.rubric.clone(),
            margin: self.margin,
            cache: self.cache,
            back_end: self.back_end.clone(),
            ..JudgeSpec::default()
        }
    }

    pub(super) fn check(&self, at: &str, problems: &mut Problems) {
        problems.require(self.share > 0.0 && self.share <= 1.0, &format!("{at}.share"), || {
            format!(
                "must lie in (0, 1], not {}: leave [{at}] out for no held-out judge",
                self.share
            )
        });
        self.back_end.check(at, problems);
        check_margin(self.margin, at, problems);
        problems.require_set(
            &self.template,
            &format!("{at}.template"),
            "a judge template such as configs/judge/instruct.toml",
        );
        problems.require_set(
            &self.rubric,
            &format!("{at}.rubric"),
            "a rubric set, or a text file of criteria",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_at_least_one_prompt_and_at_most_all() {
        let prompts = |share, per_step| {
            HeldOutJudgeSpec {
                share,
                ..HeldOutJudgeSpec::default()
            }
            .prompts(per_step)
        };
        assert_eq!([prompts(0.25, 8), prompts(0.3, 8), prompts(1.0, 8)], [2, 2, 8]);
        assert_eq!([prompts(0.01, 8), prompts(0.5, 1)], [1, 1]);
    }
}
