//! Rubric sets: criteria in themes.

use gavel_core::ids::Digest;
use serde::{Deserialize, Serialize};

use crate::{Provenance, weight};

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
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Theme {
    /// The heading that the judge reads; without one, only the criteria.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The criteria, one line each. `criteria` is another name for it.
    #[serde(alias = "criteria")]
    pub tips: Vec<String>,
    /// The criteria's weights, in the same order, or none at all. A set in which some theme has weights is judged criterion by
    /// criterion; a criterion without a weight counts 1 there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<f64>,
}

impl RubricSet {
    /// Reads bare text, also what [`RubricSet::text`] wrote. Where some lines begin with `-` or `*`, these are the criteria and
    /// the others are headings; else every line is a criterion. `None` without a criterion.
    pub fn from_text(text: &str) -> Option<Self> {
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let bullet = |line| str::strip_prefix(line, ['-', '*']).map(str::trim);
        let all_criteria = !lines.iter().any(|line| bullet(line).is_some());
        let mut themes: Vec<Theme> = Vec::new();
        for line in lines {
            let criterion = if all_criteria { Some(line) } else { bullet(line) };
            match (criterion, themes.last_mut()) {
                (Some(criterion), Some(theme)) => theme.push_line(criterion),
                (Some(criterion), None) => {
                    let mut theme = Theme::default();
                    theme.push_line(criterion);
                    themes.push(theme);
                }
                (None, _) => themes.push(Theme {
                    name: Some(line.to_owned()),
                    ..Theme::default()
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

    /// Whether its criteria are judged one by one, and weighed.
    pub fn is_weighted(&self) -> bool {
        self.themes.iter().any(|theme| !theme.weights.is_empty())
    }

    /// The same words without weights: a judge reads all of them at once.
    pub fn without_weights(&self) -> Self {
        let mut set = self.clone();
        for theme in &mut set.themes {
            theme.weights.clear();
        }
        set
    }

    /// Each criterion in order, alone under its theme's name, with its weight.
    pub fn by_criterion(&self) -> impl Iterator<Item = (f64, Self)> {
        self.themes.iter().flat_map(|theme| {
            theme.weighted().map(|(tip, weight)| {
                let alone = Theme {
                    name: theme.name.clone(),
                    tips: vec![tip.to_owned()],
                    weights: Vec::new(),
                };
                (weight, Self::of_themes(vec![alone]))
            })
        })
    }

    /// How often a judge is asked about a pair, in each image order: once, or once for each criterion that counts.
    pub fn questions(&self) -> usize {
        let weights = self.themes.iter().flat_map(Theme::weighted);
        match self.is_weighted() {
            true => weights.filter(|(_, weight)| *weight > 0.0).count(),
            false => 1,
        }
    }

    /// What a run carries, and, of a set without weights, what the judge reads: each theme's name on a line, its criteria as `- ` lines, a
    /// blank line between themes. In a theme with weights these stand before the words, as in `- [weight 0.8] It is red.`; a judge is then asked
    /// about one criterion at a time and reads no number. Names and provenance of the set do not reach the judge.
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

    /// The criteria with their weights, which are 1 where the theme has none.
    pub fn weighted(&self) -> impl Iterator<Item = (&str, f64)> {
        let weights = self.weights.iter().copied().chain(std::iter::repeat(1.0));
        self.tips.iter().map(|tip| tip.trim()).zip(weights)
    }

    /// Takes criteria with their weights from another theme, which may have weights where this one has none.
    pub(crate) fn extend<'a>(&mut self, criteria: impl Iterator<Item = (&'a str, f64)>, are_weighted: bool) {
        let is_weighted = are_weighted || !self.weights.is_empty();
        if is_weighted {
            self.weights.resize(self.tips.len(), 1.0);
        }
        for (tip, weight) in criteria {
            self.tips.push(tip.to_owned());
            if is_weighted {
                self.weights.push(weight);
            }
        }
    }

    /// Takes a criterion as a line of text has it.
    fn push_line(&mut self, line: &str) {
        let (weight, tip) = match weight::marked(line) {
            Some((weight, tip)) => (Some(weight), tip),
            None => (None, line),
        };
        self.extend([(tip, weight.unwrap_or(1.0))].into_iter(), weight.is_some());
    }

    fn text(&self) -> String {
        let heading = self.name.iter().map(|name| format!("{}\n", name.trim()));
        let line = |(tip, weight): (&str, f64)| match self.weights.is_empty() {
            true => format!("- {tip}\n"),
            false => format!("- {}{tip}\n", weight::mark(weight)),
        };
        heading.chain(self.weighted().map(line)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::weight::WEIGHT_MOST;
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
    fn weights_stand_in_the_text_and_read_back() {
        let file = "version = 1\n[[themes]]\nname = \"Content\"\ntips = [\"All objects.\", \"No others.\"]\nweights = [0.8, 0]\n\
                    [[themes]]\nname = \"Style\"\ntips = [\"As asked.\"]\n";
        let set = toml(file).unwrap();
        assert_eq!(
            set.text(),
            "Content\n- [weight 0.8] All objects.\n- [weight 0] No others.\n\nStyle\n- As asked.\n"
        );
        let again = RubricSet::from_text(&set.text()).unwrap();
        assert_eq!((&again.themes, again.digest()), (&set.themes, set.digest()));
        let plain = toml(&file.replace("weights = [0.8, 0]\n", "")).unwrap();
        assert_eq!(set.without_weights(), plain);
        assert!(set.is_weighted() && !plain.is_weighted() && set.digest() != plain.digest());
        assert_eq!((set.questions(), plain.questions()), (2, 1));
        let alone: Vec<(f64, String)> = set.by_criterion().map(|(weight, set)| (weight, set.text())).collect();
        let expected = [
            (0.8, "Content\n- All objects.\n"),
            (0.0, "Content\n- No others.\n"),
            (1.0, "Style\n- As asked.\n"),
        ];
        assert_eq!(alone, expected.map(|(weight, text)| (weight, text.to_owned())));
    }

    #[test]
    fn a_line_of_bare_text_may_say_its_weight_and_the_others_of_its_theme_count_one() {
        let set = RubricSet::from_text("[weight 2.50] Sharp.\nWell lit.\n[weight -1] Calm.").unwrap();
        assert_eq!(
            set.themes[0].weighted().collect::<Vec<_>>(),
            [("Sharp.", 2.5), ("Well lit.", 1.0), ("[weight -1] Calm.", 1.0)]
        );
        let text = set.text();
        assert_eq!(
            text,
            "- [weight 2.5] Sharp.\n- [weight 1] Well lit.\n- [weight 1] [weight -1] Calm.\n"
        );
        assert_eq!(RubricSet::from_text(&text).unwrap(), set);
    }

    proptest! {
        #[test]
        fn any_weights_read_back_to_the_last_bit(weights in prop::collection::vec(0.0..WEIGHT_MOST, 1..8), tiny in 0.0..1e-300) {
            let mut theme = Theme { name: Some("T".into()), ..Theme::default() };
            theme.extend(weights.iter().chain([&tiny]).map(|weight| ("It is red.", *weight)), true);
            let set = RubricSet::of_themes(vec![theme]);
            prop_assert_eq!(RubricSet::from_text(&set.text()), Some(set));
        }
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
            (
                "version = 1\n[[themes]]\ntips = [\"a\", \"b\"]\nweights = [1]",
                "rubric.toml: `themes[0].weights` has 1 for 2 criteria",
            ),
            (
                "version = 1\n[[themes]]\ntips = [\"a\"]\nweights = [nan]",
                "rubric.toml: `themes[0].weights[0]` is NaN, a weight lies in 0 to 1000000",
            ),
            (
                "version = 1\n[[themes]]\ntips = [\"a\", \"b\"]\nweights = [1, -0.5]",
                "rubric.toml: `themes[0].weights[1]` is -0.5, a weight lies in 0 to 1000000",
            ),
            (
                "version = 1\n[[themes]]\ntips = [\"a\"]\nweights = [0.0]",
                "rubric.toml: `themes` has no criterion with a weight above 0",
            ),
            (
                "version = 1\n[[themes]]\ntips = [\"[weight 2] a\"]",
                "rubric.toml: `themes[0].tips[0]` begins with a weight",
            ),
        ] {
            assert_eq!(toml(text).unwrap_err().to_string(), message);
        }
    }
}
