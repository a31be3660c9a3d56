//! Judges that are several judges.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::{Table, Value};

use super::JudgeBackEnd;
use super::back_end::BackEnd;
use super::check_margin;
use super::table::{self, Leftovers};
use crate::bounds;
use crate::spec::problems::Problems;
use crate::spec::section;

/// The one kind of ensemble that there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EnsembleFamily {
    /// The members vote, each with its weight.
    #[default]
    Ensemble,
}

/// How the members' opinions come to one verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tally {
    /// The heavier votes win, however sure their members are.
    #[default]
    Votes,
    /// In each image order the members' log-odds are averaged by weight; both orders decide together, as one judge's do.
    Odds,
}

impl Tally {
    fn is_votes(&self) -> bool {
        *self == Self::Votes
    }
}

/// Several judges that vote.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EnsembleSpec {
    /// How the members decide.
    pub family: EnsembleFamily,
    /// How the members' opinions come to one verdict.
    #[serde(skip_serializing_if = "Tally::is_votes")]
    pub combine: Tally,
    /// The judges that vote.
    #[schemars(length(min = 2, max = bounds::MEMBERS.most))]
    pub members: Vec<MemberSpec>,
}

/// A judge of an ensemble. Rubric, batch, cache and reasons are the ensemble's.
//
// `remote = "Self"`: as for `JudgeSpec`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[schemars(transform = super::schema::of_a_member)]
pub struct MemberSpec {
    /// Its votes, or by what its log-odds are weighed; 0 only where it has a veto.
    #[schemars(range(min = 0))]
    pub weight: f64,
    /// Whether no picture wins over the one that it prefers.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub veto: bool,
    /// Its own prompt template. Where this is empty, the member is asked with the template of the ensemble.
    pub template: PathBuf,
    /// The member abstains when its mean probability is closer than this to one half.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 0.5))]
    pub margin: f64,
    /// What answers. No ensemble.
    #[serde(skip)]
    pub back_end: JudgeBackEnd,
}

impl Default for MemberSpec {
    fn default() -> Self {
        Self {
            weight: 1.0,
            veto: false,
            template: PathBuf::new(),
            margin: 0.0,
            back_end: JudgeBackEnd::default(),
        }
    }
}

impl Serialize for MemberSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct OneTable<'a> {
            #[serde(flatten)]
            back_end: &'a JudgeBackEnd,
            #[serde(flatten, serialize_with = "MemberSpec::serialize")]
            own: &'a MemberSpec,
        }
        let table = OneTable {
            back_end: &self.back_end,
            own: self,
        };
        Serialize::serialize(&table, serializer)
    }
}

impl<'de> Deserialize<'de> for MemberSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        table::deserialize(deserializer, |table, problems| {
            table::member(table, "judge.members", problems, Leftovers::Dropped)
        })
    }
}

impl BackEnd for EnsembleSpec {
    const FAMILIES: &'static [&'static str] = &["ensemble"];

    fn read(mut table: Table, at: &str, problems: &mut Problems, leftovers: Leftovers) -> Self {
        let members = table.remove("members");
        let mut spec: Self = section::read(table, at, problems, |value| Self::deserialize(value));
        match members {
            None => {}
            Some(Value::Array(members)) => {
                for (index, member) in members.into_iter().enumerate() {
                    let at = format!("{at}.members[{index}]");
                    match member {
                        Value::Table(table) => spec.members.push(table::member(table, &at, problems, leftovers)),
                        other => problems.add(at, format!("must be a table, not {}", other.type_str()), None),
                    }
                }
            }
            Some(other) => problems.add(
                format!("{at}.members"),
                format!("must be a list of tables, not {}", other.type_str()),
                None,
            ),
        }
        spec
    }

    fn check(&self, at: &str, problems: &mut Problems) {
        problems.require(self.members.len() >= 2, &format!("{at}.members"), || {
            format!("an ensemble needs two members or more, not {}", self.members.len())
        });
        let count = self.members.len() as u64;
        problems.at_most(count, bounds::MEMBERS, &format!("{at}.members"));
        let votes = self.members.iter().any(|member| member.weight != 0.0);
        problems.require(self.members.is_empty() || votes, &format!("{at}.members"), || {
            "nobody has a vote: give a member a weight above 0".into()
        });
        for (index, member) in self.members.iter().enumerate() {
            member.check(&format!("{at}.members[{index}]"), problems);
        }
    }
}

impl MemberSpec {
    fn check(&self, at: &str, problems: &mut Problems) {
        let weight = format!("{at}.weight");
        match self.veto {
            true => problems.not_negative(self.weight, &weight),
            false => problems.positive(self.weight, &weight),
        }
        problems.path(&self.template, &format!("{at}.template"));
        check_margin(self.margin, at, problems);
        match &self.back_end {
            JudgeBackEnd::Ensemble(_) => problems.require(false, &format!("{at}.family"), || {
                "a member is no ensemble itself".into()
            }),
            back_end => back_end.check(at, problems),
        }
    }
}
