//! The words in which a model is asked for criteria, revisions, themes and scores.

use std::path::Path;

use gavel_core::ids::Digest;
use serde::{Deserialize, Serialize};

use crate::conversation::{self, Conversation, Place, Turn, read};
use crate::data::Labelling;
use crate::{Message, TemplateError};

/// The templates of one language, or of one model.
#[derive(Debug, Clone)]
pub struct Prompts {
    /// What people call them.
    pub name: String,
    pub(super) propose: Template,
    pub(super) revise: Template,
    pub(super) structure: Template,
    /// How a single picture is scored; none where pictures are ranked.
    pub(super) score: Option<Template>,
}

/// A language of the templates that come with Gavel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// English.
    English,
    /// Chinese.
    Chinese,
}

/// One conversation with places for words and pictures.
#[derive(Debug, Clone)]
pub(super) struct Template {
    digest: Digest,
    conversation: Conversation,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTemplate {
    #[serde(rename = "name")]
    _name: String,
    messages: Vec<Turn>,
}

const VARIABLES: &str = "`caption`, `editing`, `better`, `chosen`, `undecided`, `score`, `given`, `score_min`, `score_max`, \
                         `count`, `criteria`, `themes` and `problem`";

/// The values that a template may name.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Values<'a> {
    /// The caption, or the instruction of an edit.
    pub(super) caption: &'a str,
    /// Whether a picture was edited.
    pub(super) editing: bool,
    /// The better picture, 1 or 2.
    pub(super) better: usize,
    /// The picture that the judge chose; the worse one where it did not decide.
    pub(super) chosen: usize,
    /// Whether the judge did not decide.
    pub(super) undecided: bool,
    /// The score that people gave.
    pub(super) score: i64,
    /// The score that the judge gave.
    pub(super) given: i64,
    /// The worst possible score.
    pub(super) score_min: i64,
    /// The best possible score.
    pub(super) score_max: i64,
    /// How many criteria are wanted.
    pub(super) count: usize,
    /// The criteria at hand.
    pub(super) criteria: &'a [String],
    /// How many themes are wanted.
    pub(super) themes: usize,
    /// What was wrong with the last answer; empty the first time.
    pub(super) problem: &'a str,
}

impl Prompts {
    /// The templates that come with Gavel.
    ///
    /// # Errors
    /// [`TemplateError`]: a defect of this build.
    pub fn built_in(language: Language, labelling: Labelling) -> Result<Self, TemplateError> {
        macro_rules! texts {
            ($language:literal) => {
                |name: &str| match name {
                    "propose.toml" => Some(include_str!(concat!(
                        "../../../../configs/rubric/",
                        $language,
                        "/propose.toml"
                    ))),
                    "revise.toml" => Some(include_str!(concat!(
                        "../../../../configs/rubric/",
                        $language,
                        "/revise.toml"
                    ))),
                    "propose-scored.toml" => Some(include_str!(concat!(
                        "../../../../configs/rubric/",
                        $language,
                        "/propose-scored.toml"
                    ))),
                    "revise-scored.toml" => Some(include_str!(concat!(
                        "../../../../configs/rubric/",
                        $language,
                        "/revise-scored.toml"
                    ))),
                    "score.toml" => Some(include_str!(concat!(
                        "../../../../configs/rubric/",
                        $language,
                        "/score.toml"
                    ))),
                    "structure.toml" => Some(include_str!(concat!(
                        "../../../../configs/rubric/",
                        $language,
                        "/structure.toml"
                    ))),
                    _ => None,
                }
            };
        }
        let (name, text): (_, fn(&str) -> Option<&'static str>) = match language {
            Language::English => ("en", texts!("en")),
            Language::Chinese => ("zh", texts!("zh")),
        };
        let folder = Path::new("configs/rubric").join(name);
        Self::new(name, labelling, |file| {
            let path = folder.join(file);
            Template::parse(text(file).unwrap_or_default(), &path)
        })
    }

    /// Reads `propose.toml`, `revise.toml` and `structure.toml` from a folder; for scored pictures `propose-scored.toml`,
    /// `revise-scored.toml`, `score.toml` and `structure.toml`.
    ///
    /// # Errors
    /// [`TemplateError`], which names file and key.
    pub fn load(folder: &Path, labelling: Labelling) -> Result<Self, TemplateError> {
        Self::new(&folder.display().to_string(), labelling, |file| {
            let path = folder.join(file);
            Template::parse(&read(&path)?, &path)
        })
    }

    fn new(
        name: &str,
        labelling: Labelling,
        read: impl Fn(&str) -> Result<Template, TemplateError>,
    ) -> Result<Self, TemplateError> {
        let (propose, revise) = match labelling {
            Labelling::Ranked => ("propose.toml", "revise.toml"),
            Labelling::Scored => ("propose-scored.toml", "revise-scored.toml"),
        };
        Ok(Self {
            name: name.to_owned(),
            propose: read(propose)?,
            revise: read(revise)?,
            structure: read("structure.toml")?,
            score: match labelling {
                Labelling::Ranked => None,
                Labelling::Scored => Some(read("score.toml")?),
            },
        })
    }

    /// Fingerprint of all their words.
    pub fn digest(&self) -> Digest {
        let parts: Vec<String> = [&self.propose, &self.revise, &self.structure]
            .into_iter()
            .chain(&self.score)
            .map(|template| template.digest.to_string())
            .collect();
        Digest::of(parts.join(" ").as_bytes())
    }
}

impl Template {
    /// Reads a template and tries it on every kind of example.
    fn parse(text: &str, file: &Path) -> Result<Self, TemplateError> {
        let raw: RawTemplate = conversation::parse(text, file)?;
        let template = Self {
            digest: Digest::of(text.as_bytes()),
            conversation: Conversation::new(raw.messages, VARIABLES, file)?,
        };
        let criteria = ["a criterion".to_owned()];
        for problem in ["", "a problem"] {
            let values = Values {
                criteria: &criteria,
                problem,
                ..Values::default()
            };
            template.render(&values, 2, false)?;
            template.render(
                &Values {
                    editing: true,
                    ..values
                },
                2,
                true,
            )?;
        }
        Ok(template)
    }

    /// The conversation for these values. The candidates are pictures 0 and up, the base the one after them.
    ///
    /// # Errors
    /// [`TemplateError`]: an expression fails, or the template shows a candidate that the example lacks.
    pub(super) fn render(
        &self,
        values: &Values<'_>,
        candidates: usize,
        base: bool,
    ) -> Result<Vec<Message>, TemplateError> {
        self.conversation.render(values, |place| match place {
            Place::Candidate(candidate) if candidate < candidates => Ok(candidate..candidate + 1),
            Place::Candidate(_) => Err("names an image that a scored example lacks"),
            Place::Base => Ok(candidates..candidates + usize::from(base)),
        })
    }
}
