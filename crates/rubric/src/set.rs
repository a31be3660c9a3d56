//! Rubric sets: criteria in themes.

use gavel_core::ids::Digest;
use serde::{Deserialize, Serialize};

use crate::Provenance;

pub(crate) const VERSION: u32 = 1;

/// Criteria that a judge decides by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RubricSet {
    /// Version of the file format.
    pub version: u32,
    /// What people call the set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Provenance>,
    /// The criteria, grouped.
    pub themes: Vec<Theme>,
}

/// Criteria that belong together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Theme {
    /// The heading that the judge reads; without one, only the criteria.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The criteria, one line each. `criteria` is another name for it.
    #[serde(alias = "criteria")]
    pub tips: Vec<String>,
}

impl RubricSet {
    /// Reads bare text, also what [`RubricSet::text`] wrote. Where some lines begin with `-` or `*`, these are the criteria and
    /// the others are headings; else every line is a criterion. `None` without a criterion.
    pub fn from_text(text: &str) -> Option<Self> {
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let bullet = |line: &str| line.strip_prefix(['-', '*']).map(|rest| rest.trim().to_owned());
        let all_criteria = !lines.iter().any(|line| bullet(line).is_some());
        let mut themes: Vec<Theme> = Vec::new();
        for line in lines {
            let criterion = if all_criteria {
                Some(line.to_owned())
            } else {
                bullet(line)
            };
            match (criterion, themes.last_mut()) {
                (Some(criterion), Some(theme)) => theme.tips.push(criterion),
                (Some(criterion), None) => themes.push(Theme {
                    name: None,
                    tips: vec![criterion],
                }),
                (None, _) => themes.push(Theme {
                    name: Some(line.to_owned()),
                    tips: Vec::new(),
                }),
            }
        }
        let set = Self::of_themes(themes);
        let empty = set.criteria().next().is_none();
        if empty { None } else { Some(set) }
    }

    /// A set without criteria: a judge under it decides by its own lights.
    pub fn empty() -> Self {
        Self::of_themes(Vec::new())
    }

    /// A set of these themes.
    pub fn of_themes(themes: Vec<Theme>) -> Self {
        Self {
            version: VERSION,
            name: None,
            provenance: None,
            themes,
        }
    }

    /// All criteria in order.
    pub fn criteria(&self) -> impl Iterator<Item = &str> {
        self.themes.iter().flat_map(|theme| &theme.tips).map(|tip| tip.trim())
    }

    /// What the judge reads: each theme's name on a line, its criteria as `- ` lines, a blank line between themes. Names and
    /// provenance of the set do not reach the judge.
    pub fn text(&self) -> String {
        let themes: Vec<String> = self.themes.iter().map(Theme::text).collect();
        themes.join("\n")
    }

    /// Whether the text that the judge reads is this very set when it is read back.
    pub fn is_read_back(&self) -> bool {
        Self::from_text(&self.text()).is_some_and(|again| again.digest() == self.digest())
    }

    /// Fingerprint of [`RubricSet::text`]: two sets with the same words for the judge have the same.
    pub fn digest(&self) -> Digest {
        Digest::of(self.text().as_bytes())
    }
}

impl Theme {
    /// The name as the judge reads it.
    pub(crate) fn heading(&self) -> Option<&str> {
        self.name.as_deref().map(str::trim)
    }

    fn text(&self) -> String {
        let heading = self.name.iter().map(|name| format!("{}\n", name.trim()));
        heading
            .chain(self.tips.iter().map(|tip| format!("- {}\n", tip.trim())))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{RubricError, RubricFile};

    fn toml(text: &str) -> Result<RubricSet, RubricError> {
        let file = Path::new("rubric.toml");
        let rubrics = RubricFile::from_toml(text, file)?.rubrics(file)?;
        Ok(rubrics.general().clone())
    }

    #[test]
    fn a_set_reads_back_from_the_text_that_the_judge_reads() {
        let set = toml(
            "version = 1\nname = \"x\"\n[provenance]\nauthor = \"us\"\n[[themes]]\nname = \"Content\"\ntips = [\"All objects.\", \"No others.\"]\n\
             [[themes]]\nname = \"Style\"\ncriteria = [\"As asked.\"]\n",
        )
        .unwrap();
        assert_eq!(
            set.text(),
            "Content\n- All objects.\n- No others.\n\nStyle\n- As asked.\n"
        );
        let again = RubricSet::from_text(&set.text()).unwrap();
        assert_eq!(again.themes, set.themes);
        assert_eq!(again.digest(), set.digest());
    }

    #[test]
    fn bare_lines_are_criteria() {
        let set = RubricSet::from_text("Sharp.\n\n  Well lit. \n").unwrap();
        assert_eq!(set.criteria().collect::<Vec<_>>(), ["Sharp.", "Well lit."]);
        assert_eq!(set.text(), "- Sharp.\n- Well lit.\n");
        assert_eq!(RubricSet::from_text(" \n\n"), None);
    }

    #[test]
    fn provenance_does_not_change_the_fingerprint() {
        let plain = toml("version = 1\n[[themes]]\ntips = [\"Sharp.\"]").unwrap();
        let noted =
            toml("version = 1\nname = \"n\"\n[provenance]\nnote = \"x\"\n[[themes]]\ntips = [\"Sharp.\"]").unwrap();
        assert_eq!(plain.digest(), noted.digest());
    }

    #[test]
    fn faults_are_named_by_file_and_key() {
        for (text, message) in [
            (
                "version = 2\nthemes = []",
                "rubric.toml: `version` is 2, this program reads version 1",
            ),
            ("version = 1\nthemes = []", "rubric.toml: the rubric has no criterion"),
            (
                "version = 1\n[[themes]]\ntips = [\"a\", \" \"]",
                "rubric.toml: `themes[0].tips[1]` is blank or spans lines",
            ),
            ("version = 1\n[[theme]]", "rubric.toml: not a rubric set"),
        ] {
            assert_eq!(toml(text).unwrap_err().to_string(), message);
        }
    }
}
