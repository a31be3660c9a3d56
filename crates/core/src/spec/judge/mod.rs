//! `[judge]`: who gives the verdicts, and by what.
//!
//! The keys that every judge has are fields of [`JudgeSpec`]; those that only one kind of judge has are fields of that kind,
//! which is a variant of [`JudgeBackEnd`]. In the file both stand side by side in one table, and `family` says which kind it is.

mod address;
mod back_end;
mod ensemble;
mod in_process;
mod reasons;
mod schema;
mod server;
mod table;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::Table;

use super::problems::Problems;
use super::section::Section;
use crate::bounds;
pub use address::{ServerAddress, ServerAddressError};
pub use back_end::JudgeBackEnd;
pub use ensemble::{EnsembleFamily, EnsembleSpec, MemberSpec};
pub use in_process::{InProcessFamily, InProcessSpec};
pub use reasons::ReasonsSpec;
pub use server::{ServerFamily, ServerSpec};
use table::Leftovers;
#[cfg(test)]
pub(super) use table::defaults;

/// `[judge]`: judge, template and rubric.
//
// `remote = "Self"` makes serde derive functions for the common keys alone; the traits below add those of the back end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[schemars(transform = schema::of_a_judge)]
pub struct JudgeSpec {
    /// The prompt template around pair, prompt and rubric.
    pub template: PathBuf,
    /// The rubric set: TOML, or a bare text of criteria.
    pub rubric: PathBuf,
    /// The judge abstains when the mean probability is closer than this to one half.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 0.5))]
    pub margin: f64,
    /// Pairs that a judge leases at a time.
    #[schemars(range(min = 1, max = bounds::PER_STEP.most))]
    pub batch: u32,
    /// Whether verdicts are kept and not asked for twice; `None` does so where the judge or a member is a server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<bool>,
    /// Which pairs are explained to people; none without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasons: Option<ReasonsSpec>,
    /// What answers, with the keys that only its kind has.
    #[serde(skip)]
    pub back_end: JudgeBackEnd,
}

/// A model that judge workers load, and where the configuration says so.
#[derive(Debug, Clone)]
pub struct NamedJudge<'a> {
    /// Its table: `judge` or `judge.members[0]`.
    pub at: String,
    /// Its index among an ensemble's members.
    pub member: Option<usize>,
    /// Its keys.
    pub spec: &'a InProcessSpec,
}

impl Default for JudgeSpec {
    fn default() -> Self {
        Self {
            template: PathBuf::new(),
            rubric: PathBuf::new(),
            margin: 0.0,
            batch: 1,
            cache: None,
            reasons: None,
            back_end: JudgeBackEnd::default(),
        }
    }
}

impl Serialize for JudgeSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct OneTable<'a> {
            #[serde(flatten)]
            back_end: &'a JudgeBackEnd,
            #[serde(flatten, serialize_with = "JudgeSpec::serialize")]
            common: &'a JudgeSpec,
        }
        let table = OneTable {
            back_end: &self.back_end,
            common: self,
        };
        Serialize::serialize(&table, serializer)
    }
}

/// Reads what earlier versions wrote too: a table with the keys of every kind of judge.
impl<'de> Deserialize<'de> for JudgeSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        table::deserialize(deserializer, "judge", |table, problems| {
            table::judge(table, "judge", problems, Leftovers::Dropped)
        })
    }
}

impl Section for JudgeSpec {
    fn keys() -> Vec<&'static str> {
        table::keys()
    }

    fn read(table: Option<Table>, at: &str, problems: &mut Problems) -> Self {
        table.map_or_else(Self::default, |table| {
            table::judge(table, at, problems, Leftovers::Refused)
        })
    }

    fn check(&self, problems: &mut Problems) {
        self.back_end.check("judge", problems);
        check_margin(self.margin, "judge", problems);
        problems.require_set(
            &self.template,
            "judge.template",
            "a judge template such as configs/judge/instruct.toml",
        );
        problems.require_set(&self.rubric, "judge.rubric", "a rubric set, or a text file of criteria");
        problems.count(self.batch.into(), bounds::PER_STEP, "judge.batch");
        if let Some(reasons) = &self.reasons {
            reasons.check("judge.reasons", problems);
        }
    }
}

impl JudgeSpec {
    /// The judge's back end and, of an ensemble, those of its members.
    pub fn back_ends(&self) -> impl Iterator<Item = &JudgeBackEnd> {
        let members = self.back_end.members().iter();
        std::iter::once(&self.back_end).chain(members.map(|member| &member.back_end))
    }

    /// The models among these that judge workers load.
    pub fn hosted(&self) -> impl Iterator<Item = NamedJudge<'_>> {
        self.back_ends()
            .enumerate()
            .filter_map(|(index, back_end)| match back_end {
                JudgeBackEnd::InProcess(spec) => {
                    let member = index.checked_sub(1);
                    let at = member.map_or_else(|| "judge".into(), |member| format!("judge.members[{member}]"));
                    Some(NamedJudge { at, member, spec })
                }
                _ => None,
            })
    }

    /// The same, to change them.
    pub fn hosted_mut(&mut self) -> impl Iterator<Item = &mut InProcessSpec> {
        let (own, members) = match &mut self.back_end {
            JudgeBackEnd::InProcess(spec) => (Some(spec), None),
            JudgeBackEnd::Ensemble(ensemble) => (None, Some(&mut ensemble.members)),
            JudgeBackEnd::Server(_) => (None, None),
        };
        let members = members.into_iter().flatten();
        own.into_iter()
            .chain(members.filter_map(|member| match &mut member.back_end {
                JudgeBackEnd::InProcess(spec) => Some(spec),
                _ => None,
            }))
    }

    /// The servers among these.
    pub fn servers(&self) -> impl Iterator<Item = &ServerSpec> {
        self.back_ends().filter_map(|back_end| match back_end {
            JudgeBackEnd::Server(spec) => Some(spec),
            _ => None,
        })
    }

    /// Whether verdicts are kept in the coordinator's store and not asked for twice.
    pub fn caches(&self) -> bool {
        self.cache.unwrap_or_else(|| self.servers().next().is_some())
    }
}

fn check_margin(margin: f64, at: &str, problems: &mut Problems) {
    problems.require((0.0..0.5).contains(&margin), &format!("{at}.margin"), || {
        format!("must lie in 0 to 0.5, 0.5 excluded, not {margin}")
    });
}
