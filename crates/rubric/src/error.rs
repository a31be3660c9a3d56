//! What can be wrong with rubric and template files.

use std::io;
use std::path::PathBuf;

use gavel_core::{Hint, text};

/// A rubric that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RubricError {
    /// The file cannot be read.
    #[error("{}: cannot read the rubric", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A `.toml` file that is no rubric set.
    #[error("{}: not a rubric set", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// Where and what.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A version that this program does not know.
    #[error("{}: `version` is {found}, this program reads version {known}", file.display())]
    Version {
        /// The file.
        file: PathBuf,
        /// The version in the file.
        found: u32,
        /// The version that can be read.
        known: u32,
    },
    /// No criterion at all.
    #[error("{}: the rubric has no criterion", file.display())]
    Empty {
        /// The file.
        file: PathBuf,
    },
    /// A criterion that a line cannot hold.
    #[error("{}: `{key}` is blank or spans lines", file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// The key, for example `themes[0].tips[2]`.
        key: String,
    },
    /// Weights that do not go with the criteria.
    #[error("{}: `{key}` {problem}", file.display())]
    Weights {
        /// The file.
        file: PathBuf,
        /// The key, for example `themes[0].weights[2]`.
        key: String,
        /// What is wrong.
        problem: String,
    },
    /// A set of a single prompt that cannot be used.
    #[error("{}: `prompts[{index}]` ({prompt:.60}) {problem}", file.display())]
    Prompt {
        /// The file.
        file: PathBuf,
        /// Its index among the file's prompts.
        index: usize,
        /// The prompt's words.
        prompt: String,
        /// What is wrong.
        problem: String,
    },
    /// A set whose text says other themes than the file.
    #[error("{}: `{key}`: a judge would read other themes than these", file.display())]
    Ambiguous {
        /// The file.
        file: PathBuf,
        /// The key, for example `prompts[3]`.
        key: String,
    },
}

impl Hint for RubricError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Read { source, .. } => {
                text::remedy(source).unwrap_or_else(|| "check `judge.rubric`, or the path after `--rubric`".to_owned())
            }
            Self::Syntax { .. } => {
                "a rubric set has `version`, and `[[themes]]` with `name` and `tips`; a file that does not end \
                                    in .toml is read as bare text, a criterion per line"
                    .to_owned()
            }
            Self::Version { known, .. } => format!("write `version = {known}`"),
            Self::Empty { .. } => "write at least one criterion: a tip of a theme, or a line of bare text".to_owned(),
            Self::Line { .. } => "write each name and criterion as one line of text".to_owned(),
            Self::Weights { .. } => {
                "give `weights` beside `tips`, a number for each criterion and one above 0 at least, or leave them out"
                    .to_owned()
            }
            Self::Prompt { .. } => "docs/rubrics.md says what the set of a single prompt may be".to_owned(),
            Self::Ambiguous { .. } => "give every theme but the first a name".to_owned(),
        })
    }
}

/// A judge template that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The file cannot be read.
    #[error("{}: cannot read the judge template", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not TOML, or keys that a template does not have.
    #[error("{}: not a judge template", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// Where and what.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A value that does not fit.
    #[error("{}: `{key}` {problem}", file.display())]
    Value {
        /// The file.
        file: PathBuf,
        /// The key, for example `labels` or `messages[0].content[2].image`.
        key: String,
        /// What is wrong.
        problem: String,
    },
    /// A text that is no minijinja template, or that names an unknown variable.
    #[error("{}: `{key}` cannot be rendered", file.display())]
    Render {
        /// The file.
        file: PathBuf,
        /// The key, for example `messages[0].content[2].text`.
        key: String,
        /// The variables that a template of its kind may name.
        variables: &'static str,
        /// Where and what.
        #[source]
        source: Box<minijinja::Error>,
    },
}

impl Hint for TemplateError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Read { source, .. } => text::remedy(source).unwrap_or_else(|| {
                "check `judge.template`; configs/judge/ holds the templates that come with Gavel".to_owned()
            }),
            Self::Syntax { .. } => "a template has `name`, `labels` and `[[messages]]` with `role` and `content`; \
                                    configs/judge/small.toml shows one"
                .to_owned(),
            Self::Value { .. } => return None,
            Self::Render { variables, .. } => format!("the variables are {variables}"),
        })
    }
}
