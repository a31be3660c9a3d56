//! The words in which a model is asked for criteria, revisions, themes and scores.

use std::path::{Path, PathBuf};

use gavel_core::ids::Digest;
use minijinja::{Environment, UndefinedBehavior};
use serde::{Deserialize, Serialize};

use crate::data::Labelling;
use crate::{Message, Part, TemplateError};

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
    file: PathBuf,
    messages: Vec<RawMessage>,
    environment: Environment<'static>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTemplate {
    #[serde(rename = "name")]
    _name: String,
    messages: Vec<RawMessage>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMessage {
    role: String,
    content: Vec<RawPart>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "a part is `{ text = \"...\" }`, `{ image = 1 }` or `{ base = true }`"
)]
enum RawPart {
    Text {
        text: String,
    },
    /// A candidate, counted from 1.
    Image {
        image: usize,
    },
    /// The picture that was edited; nothing for text-to-image.
    Base {
        #[serde(rename = "base")]
        _base: bool,
    },
}

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
            let text = std::fs::read_to_string(&path).map_err(|source| TemplateError::Read {
                file: path.clone(),
                source,
            })?;
            Template::parse(&text, &path)
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
        let raw: RawTemplate = toml::from_str(text).map_err(|source| TemplateError::Syntax {
            file: file.to_owned(),
            source: Box::new(source),
        })?;
        let mut environment = Environment::empty();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_keep_trailing_newline(true);
        let mut template = Self {
            digest: Digest::of(text.as_bytes()),
            file: file.to_owned(),
            messages: raw.messages,
            environment,
        };
        for (message, part) in template.places() {
            let key = key(message, part);
            match &template.messages[message].content[part] {
                RawPart::Text { text } => template
                    .environment
                    .add_template_owned(key.clone(), text.clone())
                    .map_err(|source| template.render_error(key, source))?,
                RawPart::Image { image } if !(1..=2).contains(image) => {
                    return Err(template.value_error(key, "names an image that is neither 1 nor 2"));
                }
                RawPart::Image { .. } | RawPart::Base { .. } => {}
            }
        }
        for (index, message) in template.messages.iter().enumerate() {
            if !["system", "user", "assistant"].contains(&message.role.as_str()) {
                let key = format!("messages[{index}].role");
                return Err(template.value_error(key, "must be `system`, `user` or `assistant`"));
            }
        }
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
        let mut messages: Vec<Message> = self
            .messages
            .iter()
            .map(|message| Message {
                role: message.role.clone(),
                content: Vec::with_capacity(message.content.len()),
            })
            .collect();
        for (message, part) in self.places() {
            let key = key(message, part);
            let rendered = match &self.messages[message].content[part] {
                RawPart::Text { .. } => self
                    .environment
                    .get_template(&key)
                    .and_then(|template| template.render(values))
                    .map(Part::Text)
                    .map_err(|source| self.render_error(key, source))?,
                RawPart::Image { image } if *image <= candidates => Part::Image(image - 1),
                RawPart::Image { .. } => {
                    return Err(self.value_error(key, "names an image that a scored example lacks"));
                }
                RawPart::Base { .. } if base => Part::Image(candidates),
                RawPart::Base { .. } => continue,
            };
            messages[message].content.push(rendered);
        }
        Ok(messages)
    }

    fn places(&self) -> Vec<(usize, usize)> {
        let parts = |(index, message): (usize, &RawMessage)| (0..message.content.len()).map(move |part| (index, part));
        self.messages.iter().enumerate().flat_map(parts).collect()
    }

    fn render_error(&self, key: String, source: minijinja::Error) -> TemplateError {
        TemplateError::Render {
            file: self.file.clone(),
            key,
            source: Box::new(source),
        }
    }

    fn value_error(&self, key: String, problem: &str) -> TemplateError {
        TemplateError::Value {
            file: self.file.clone(),
            key,
            problem: problem.to_owned(),
        }
    }
}

fn key(message: usize, part: usize) -> String {
    format!("messages[{message}].content[{part}]")
}
