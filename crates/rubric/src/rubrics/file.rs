//! The rubric file as people and `gavel rubric write` write it.

use std::collections::BTreeMap;
use std::path::Path;

use gavel_core::bounds;
use gavel_core::ids::Digest;
use gavel_core::text;
use gavel_core::work::Task;
use serde::{Deserialize, Serialize};

use super::{Combine, Rubrics, combine};
use crate::set::VERSION;
use crate::{Provenance, RubricError, RubricSet, Theme, weight};

/// What stands in a rubric file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RubricFile {
    /// Version of the file format.
    pub version: u32,
    /// What people call the rubric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How far the general set takes part where a prompt has a set of its own.
    #[serde(default, skip_serializing_if = "Combine::is_default")]
    pub combine: Combine,
    /// Whether sets of prompts that a run does not have are meant: the file is shared by several runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
    /// Where the general set comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Provenance>,
    /// The general set.
    pub themes: Vec<Theme>,
    /// The sets of single prompts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prompts: Vec<PromptSet>,
}

/// The set of one prompt.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptSet {
    /// The prompt's words, as the run's file has them.
    pub prompt: String,
    /// SHA-256 of the pictures that it edits, in order. Without them the set is for these words, whatever is edited.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Digest>,
    /// Where the set comes from, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Criteria without a theme. `criteria` is another name for it.
    #[serde(default, alias = "criteria", skip_serializing_if = "Vec::is_empty")]
    pub tips: Vec<String>,
    /// The weights of these criteria, in order, or none at all ([`Theme::weights`]).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<f64>,
    /// Criteria in themes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub themes: Vec<Theme>,
}

impl PromptSet {
    /// The set of a task, of whose pictures it is where it has any.
    pub fn of(task: &Task, set: RubricSet) -> Self {
        let whole = Self {
            prompt: task.words.clone(),
            sources: task.sources.clone(),
            note: None,
            tips: Vec::new(),
            weights: Vec::new(),
            themes: set.themes,
        };
        whole.tidy()
    }

    /// The prompt, with the pictures that it edits if the set is for these alone.
    pub fn task(&self) -> Task {
        Task {
            words: self.prompt.clone(),
            sources: self.sources.clone(),
        }
    }

    /// What the judge reads where this set decides. `None` where it would read another set back from the text: a criterion that looks like a
    /// heading, for example.
    pub fn combined(&self, rule: Combine, general: &RubricSet) -> Option<RubricSet> {
        let set = combine(rule, self.all_themes(), general);
        (set.is_read_back() && bounds::DOCUMENT.admits(set.text().len() as u64)).then_some(set)
    }

    /// The same set, with criteria in a theme without a name as bare ones.
    pub(crate) fn tidy(mut self) -> Self {
        let unnamed = self.themes.iter().position(|theme| theme.name.is_none());
        if let Some(index) = unnamed.filter(|_| self.tips.is_empty()) {
            let theme = self.themes.remove(index);
            (self.tips, self.weights) = (theme.tips, theme.weights);
        }
        self
    }

    fn all_themes(&self) -> Vec<Theme> {
        let unnamed = Theme {
            name: None,
            tips: self.tips.clone(),
            weights: self.weights.clone(),
        };
        let unnamed = Some(unnamed).filter(|theme| !theme.tips.is_empty());
        unnamed.into_iter().chain(self.themes.iter().cloned()).collect()
    }
}

impl RubricFile {
    /// A file with the general set alone.
    pub fn of_set(set: RubricSet) -> Self {
        Self {
            version: VERSION,
            name: set.name,
            combine: Combine::default(),
            shared: false,
            provenance: set.provenance,
            themes: set.themes,
            prompts: Vec::new(),
        }
    }

    /// Reads a file. Its sets are checked by [`RubricFile::rubrics`].
    ///
    /// # Errors
    /// [`RubricError::Read`], [`RubricError::Syntax`], [`RubricError::Version`]; [`RubricError::Empty`] of bare text without a criterion.
    pub fn load(file: &Path) -> Result<Self, RubricError> {
        let text = text::of(std::fs::read(file)).map_err(|source| RubricError::Read {
            file: file.to_owned(),
            source,
        })?;
        let extension = file.extension();
        if extension.is_some_and(|extension| extension.eq_ignore_ascii_case("toml")) {
            Self::from_toml(&text, file)
        } else {
            let set = RubricSet::from_text(&text);
            set.map(Self::of_set)
                .ok_or_else(|| RubricError::Empty { file: file.to_owned() })
        }
    }

    pub(crate) fn from_toml(text: &str, file: &Path) -> Result<Self, RubricError> {
        let read: Self = toml::from_str(text).map_err(|source| RubricError::Syntax {
            file: file.to_owned(),
            source: Box::new(source),
        })?;
        if read.version != VERSION {
            return Err(RubricError::Version {
                file: file.to_owned(),
                found: read.version,
                known: VERSION,
            });
        }
        Ok(read)
    }

    /// The file's text, which [`RubricFile::load`] reads back.
    ///
    /// # Errors
    /// A number in the provenance that TOML cannot hold, such as NaN.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string_pretty(self)
    }

    /// The general set.
    pub fn general(&self) -> RubricSet {
        RubricSet {
            version: self.version,
            name: self.name.clone(),
            provenance: self.provenance.clone(),
            themes: self.themes.clone(),
        }
    }

    /// The sets as a judge reads them, checked; `file` is for error messages.
    ///
    /// # Errors
    /// [`RubricError`], which names the key.
    pub fn rubrics(&self, file: &Path) -> Result<Rubrics, RubricError> {
        let general = self.general();
        if let Some(key) = unfit_line(&general.themes, "") {
            return Err(RubricError::Line {
                file: file.to_owned(),
                key,
            });
        }
        for (index, theme) in general.themes.iter().enumerate() {
            check_weights_of(&theme.tips, &theme.weights, &format!("themes[{index}]."), file)?;
        }
        if general.criteria().next().is_none() {
            return Err(RubricError::Empty { file: file.to_owned() });
        }
        check_weights(&general, "themes", file)?;
        check_reading(&general, "themes", file)?;
        let mut of_prompts = BTreeMap::new();
        let mut places: BTreeMap<Task, usize> = BTreeMap::new();
        for (index, prompt) in self.prompts.iter().enumerate() {
            let set = self.set_of(prompt, index, &general, file)?;
            let task = prompt.task();
            if let Some(before) = places.insert(task.clone(), index) {
                return Err(RubricError::Prompt {
                    file: file.to_owned(),
                    index,
                    prompt: prompt.prompt.clone(),
                    problem: format!("has a set already, `prompts[{before}]`"),
                });
            }
            of_prompts.insert(task, set);
        }
        Ok(Rubrics::new(general, of_prompts))
    }

    /// The set of one prompt as a judge reads it.
    fn set_of(
        &self,
        prompt: &PromptSet,
        index: usize,
        general: &RubricSet,
        file: &Path,
    ) -> Result<RubricSet, RubricError> {
        let at = format!("prompts[{index}]");
        let fault = |problem: String| RubricError::Prompt {
            file: file.to_owned(),
            index,
            prompt: prompt.prompt.clone(),
            problem,
        };
        let tips = prompt.tips.iter().enumerate();
        let tip = tips
            .filter(|(_, tip)| !is_line(tip))
            .map(|(tip, _)| format!("{at}.tips[{tip}]"))
            .next();
        if let Some(key) = tip.or_else(|| unfit_line(&prompt.themes, &format!("{at}."))) {
            return Err(RubricError::Line {
                file: file.to_owned(),
                key,
            });
        }
        check_weights_of(&prompt.tips, &prompt.weights, &format!("{at}."), file)?;
        for (index, theme) in prompt.themes.iter().enumerate() {
            check_weights_of(&theme.tips, &theme.weights, &format!("{at}.themes[{index}]."), file)?;
        }
        let own = RubricSet::of_themes(prompt.all_themes());
        let criteria: Vec<&str> = own.criteria().collect();
        if criteria.is_empty() {
            return Err(fault("has a set without a criterion".into()));
        }
        if !bounds::CRITERIA.admits(criteria.len() as u64) {
            let most = bounds::CRITERIA.most;
            return Err(fault(format!(
                "has {} criteria, at most {most} are taken",
                criteria.len()
            )));
        }
        if let Some(twice) = (1..criteria.len()).find(|last| criteria[..*last].contains(&criteria[*last])) {
            return Err(fault(format!("has the criterion {:?} twice", criteria[twice])));
        }
        let set = combine(self.combine, own.themes, general);
        let bytes = set.text().len();
        if !bounds::DOCUMENT.admits(bytes as u64) {
            let most = bounds::DOCUMENT.most;
            return Err(fault(format!("has a set of {bytes} bytes, at most {most} are taken")));
        }
        check_weights(&set, &at, file)?;
        check_reading(&set, &at, file)?;
        Ok(set)
    }
}

/// What a run carries is the text that the judge reads: it has to be the same set when it is read back.
fn check_reading(set: &RubricSet, at: &str, file: &Path) -> Result<(), RubricError> {
    match set.is_read_back() {
        true => Ok(()),
        false => Err(RubricError::Ambiguous {
            file: file.to_owned(),
            key: at.to_owned(),
        }),
    }
}

/// A set that is judged criterion by criterion needs one that counts, and each of those costs a question.
fn check_weights(set: &RubricSet, at: &str, file: &Path) -> Result<(), RubricError> {
    let questions = set.questions();
    let problem = match bounds::CRITERIA.admits(questions as u64) {
        true if questions > 0 => return Ok(()),
        true => "has no criterion with a weight above 0".to_owned(),
        false => format!(
            "has {questions} criteria with a weight above 0, at most {} are asked about",
            bounds::CRITERIA.most
        ),
    };
    Err(RubricError::Weights {
        file: file.to_owned(),
        key: at.to_owned(),
        problem,
    })
}

/// There is a weight for each criterion, or none at all, and no criterion's words could be taken for a weight.
fn check_weights_of(tips: &[String], weights: &[f64], at: &str, file: &Path) -> Result<(), RubricError> {
    let fault = |key: String, problem: String| {
        Err(RubricError::Weights {
            file: file.to_owned(),
            key: format!("{at}{key}"),
            problem,
        })
    };
    if !weights.is_empty() && weights.len() != tips.len() {
        let (found, criteria) = (weights.len(), tips.len());
        return fault("weights".to_owned(), format!("has {found} for {criteria} criteria"));
    }
    if let Some(index) = weights.iter().position(|weight| !weight::is_weight(*weight)) {
        let problem = format!("is {}, a weight lies in 0 to {}", weights[index], weight::WEIGHT_MOST);
        return fault(format!("weights[{index}]"), problem);
    }
    match tips.iter().position(|tip| weight::marked(tip.trim()).is_some()) {
        Some(index) => fault(format!("tips[{index}]"), "begins with a weight".to_owned()),
        None => Ok(()),
    }
}

/// The key of the first name or criterion of these themes that is no line.
fn unfit_line(themes: &[Theme], at: &str) -> Option<String> {
    for (index, theme) in themes.iter().enumerate() {
        if theme.name.as_ref().is_some_and(|name| !is_line(name)) {
            return Some(format!("{at}themes[{index}].name"));
        }
        if let Some(tip) = theme.tips.iter().position(|tip| !is_line(tip)) {
            return Some(format!("{at}themes[{index}].tips[{tip}]"));
        }
    }
    None
}

fn is_line(text: &str) -> bool {
    let text = text.trim();
    !text.is_empty() && !text.contains('\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Rubrics, RubricError> {
        let file = Path::new("rubric.toml");
        RubricFile::from_toml(text, file)?.rubrics(file)
    }

    const GENERAL: &str =
        "version = 1\ncombine = \"specific_then_general\"\nthemes = [{ name = \"Content\", tips = [\"As asked.\"] }]\n";

    #[test]
    fn a_file_reads_back_as_it_was_written_and_names_and_notes_change_no_fingerprint() {
        let text = format!(
            "{GENERAL}[[prompts]]\nprompt = \"a red cube\"\nnote = \"by hand\"\ntips = [\"The cube is red.\"]\n\
             [[prompts]]\nprompt = \"make it blue\"\nthemes = [{{ name = \"Content\", tips = [\"It is blue.\"] }}]\n"
        );
        let rubrics = read(&text).unwrap();
        assert_eq!(
            rubrics.of("a red cube", &[]).text(),
            "- The cube is red.\n\nContent\n- As asked.\n"
        );
        assert_eq!(
            rubrics.of("make it blue", &[]).text(),
            "Content\n- It is blue.\n- As asked.\n"
        );
        assert_eq!(rubrics.of("a dog", &[]), rubrics.general());
        let file = RubricFile::from_toml(&text, Path::new("rubric.toml")).unwrap();
        let again = RubricFile::from_toml(&file.to_toml().unwrap(), Path::new("rubric.toml")).unwrap();
        assert_eq!(again, file);
        let unnoted = read(&text.replace("note = \"by hand\"\n", "")).unwrap();
        assert_eq!(unnoted, rubrics);
    }

    #[test]
    fn faults_are_named_by_file_and_key() {
        let many: Vec<String> = (0..65).map(|index| format!("\"{index}\"")).collect();
        let many = format!("tips = [{}]", many.join(", "));
        for (set, message) in [
            ("tips = []", "`prompts[0]` (a red cube) has a set without a criterion"),
            ("tips = [\"a\", \" \"]", "`prompts[0].tips[1]` is blank or spans lines"),
            (
                "themes = [{ name = \"a\\nb\", tips = [\"a\"] }]",
                "`prompts[0].themes[0].name` is blank or spans lines",
            ),
            (
                "tips = [\"a\", \"b\", \" a\"]",
                "`prompts[0]` (a red cube) has the criterion \"a\" twice",
            ),
            (
                many.as_str(),
                "`prompts[0]` (a red cube) has 65 criteria, at most 64 are taken",
            ),
            (
                "tips = [\"a\"]\n[[prompts]]\nprompt = \"a red cube\"\ntips = [\"b\"]",
                "`prompts[1]` (a red cube) has a set already, `prompts[0]`",
            ),
        ] {
            let text = format!("{GENERAL}[[prompts]]\nprompt = \"a red cube\"\n{set}");
            assert_eq!(read(&text).unwrap_err().to_string(), format!("rubric.toml: {message}"));
        }
        let own = "version = 1\nthemes = [{ tips = [\"a\"] }]\n[[prompts]]\nprompt = \"b\"\n\
                   themes = [{ name = \"A\", tips = [\"a\"] }, { tips = [\"b\"] }]";
        let message = "rubric.toml: `prompts[0]`: a judge would read other themes than these";
        assert_eq!(read(own).unwrap_err().to_string(), message);
        let two = "version = 1\nthemes = [{ name = \"A\", tips = [\"a\"] }, { tips = [\"b\"] }]";
        let message = "rubric.toml: `themes`: a judge would read other themes than these";
        assert_eq!(read(two).unwrap_err().to_string(), message);
    }
}
