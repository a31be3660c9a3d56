//! `gavel rubric generate`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use gavel_judge::Models;
use gavel_rubric::data::Labelling;
use gavel_rubric::generate::{Generator, Language, Progress, Prompts, Settings};
use gavel_rubric::{Journal, RubricFile};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::backend::{self, BackendArguments, EmbeddingArguments};
use super::{DataArguments, now, read_data};
use crate::commands::print_json;
use crate::diagnostic::{Context as _, Foreign as _, Result};
use crate::files::{beside, write_whole};
use crate::output;

#[derive(Debug, Args)]
pub(crate) struct GenerateArguments {
    #[command(flatten)]
    pub(super) data: DataArguments,
    #[command(flatten)]
    pub(super) backend: BackendArguments,
    /// Folder of another model, which verifies the criteria [default: the model that writes them].
    #[arg(long, value_name = "DIR")]
    pub(super) judge_model: Option<PathBuf>,
    #[command(flatten)]
    pub(super) embedding: EmbeddingArguments,
    /// The rubric set to write; the answers are kept beside it in OUT.journal.
    #[arg(long, value_name = "FILE")]
    pub(super) out: PathBuf,
    /// What the set is called.
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<String>,
    /// Language of prompts and criteria.
    #[arg(long, default_value = "en", value_enum)]
    pub(super) language: LanguageArgument,
    /// Folder of prompt templates, instead of a language [default: rubric_prompts in the model folder, if there].
    #[arg(long, value_name = "DIR", conflicts_with = "language")]
    pub(super) prompts: Option<PathBuf>,
    /// Criteria that are written for an example.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(super) criteria: usize,
    /// Most revisions of an example's criteria.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(super) rounds: usize,
    /// Most themes.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(super) themes: usize,
    /// Examples beyond which criteria are selected by what they add.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(super) select_above: usize,
    /// Most criteria that are selected.
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub(super) criteria_max: usize,
    /// Greatest difference between scores that counts as recovered.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) score_tolerance: u32,
    /// Temperature of the writing; 0 takes the likeliest token each time.
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub(super) temperature: f64,
    /// Most tokens of an answer.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub(super) max_tokens: u32,
    /// Seed of the writing and of the order of many examples.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) seed: u32,
    /// Print what was done as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// A language of the prompts that come with Gavel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LanguageArgument {
    En,
    Zh,
}

impl From<LanguageArgument> for Language {
    fn from(language: LanguageArgument) -> Self {
        match language {
            LanguageArgument::En => Self::English,
            LanguageArgument::Zh => Self::Chinese,
        }
    }
}

/// A model folder may hold the words that its model was trained on.
pub(super) const FOLDER_PROMPTS: &str = "rubric_prompts";

pub(super) fn generate(arguments: &GenerateArguments) -> Result<()> {
    let data = read_data(&arguments.data)?;
    let prompts = prompts(arguments, data.labelling)?;
    let journal_file = beside(&arguments.out, "journal");
    let journal = Journal::open(&journal_file, &now())?;
    if journal.answers() > 0 {
        output::note(format_args!(
            "goes on with {} answers of {}",
            journal.answers(),
            journal_file.display()
        ));
    }
    let mut models = Models::default();
    let chat = backend::chat(&mut models, &arguments.backend)?;
    let judge = backend::judge(&mut models, &arguments.backend, arguments.judge_model.as_deref())?;
    let embed = backend::embedding(&mut models, &arguments.embedding, &arguments.backend)?;
    let bar = ProgressBar::new(0);
    bar.set_style(
        ProgressStyle::with_template("{spinner} [{bar:24}] {pos}/{len} examples, {eta} left  {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> "),
    );
    let progress = |progress| match progress {
        Progress::Examples { count } => bar.set_length(count as u64),
        Progress::Example { verified } => {
            bar.set_message(if verified { "verified" } else { "dropped" });
            bar.inc(1);
        }
        Progress::Structuring { criteria } => bar.set_message(format!("{criteria} criteria into themes")),
    };
    let generator = Generator {
        chat: &chat,
        judge: &judge,
        embed: embed.as_ref(),
        prompts: &prompts,
        journal: Some(&journal),
        threads: arguments.backend.concurrency as usize,
        settings: settings(arguments),
        progress: &progress,
    };
    let examples = arguments.data.data.display().to_string();
    let made = generator.generate(&data, arguments.name.as_deref(), &examples)?;
    bar.finish_and_clear();
    let text = RubricFile::of_set(made.rubric.clone())
        .to_toml()
        .foreign()
        .context("cannot write the rubric as TOML")?;
    write_whole(&arguments.out, &text)?;
    let criteria = made.rubric.criteria().count();
    if arguments.json {
        return print_json(&json!({
            "rubric": arguments.out,
            "sha256": made.rubric.digest(),
            "themes": made.rubric.themes.len(),
            "criteria": criteria,
            "answers_asked": made.asked,
            "answers_from_journal": made.found,
            "provenance": made.rubric.provenance,
        }));
    }
    let verification = made
        .rubric
        .provenance
        .as_ref()
        .and_then(|provenance| provenance.verification.as_ref());
    if let Some(found) = verification {
        output::tell(format_args!(
            "verified     {} of {} examples, {} dropped",
            found.verified, found.examples_used, found.dropped
        ));
    }
    output::tell(format_args!(
        "answers      {} asked, {} from {}",
        made.asked,
        made.found,
        journal_file.display()
    ));
    output::tell(format_args!(
        "rubric       {criteria} criteria in {} themes ({})",
        made.rubric.themes.len(),
        made.rubric.digest().short()
    ));
    output::tell(format_args!("written      {}", arguments.out.display()));
    Ok(())
}

fn settings(arguments: &GenerateArguments) -> Settings {
    Settings {
        criteria: arguments.criteria,
        rounds: arguments.rounds,
        themes: arguments.themes,
        select_above: arguments.select_above,
        criteria_max: arguments.criteria_max,
        score_tolerance: i64::from(arguments.score_tolerance),
        temperature: arguments.temperature,
        max_tokens: arguments.max_tokens,
        seed: arguments.seed,
        ..Settings::default()
    }
}

fn prompts(arguments: &GenerateArguments, labelling: Labelling) -> Result<Prompts> {
    let of_folder = arguments.backend.model.as_ref().map(|model| model.join(FOLDER_PROMPTS));
    Ok(match (&arguments.prompts, of_folder) {
        (Some(folder), _) => Prompts::load(folder, labelling)?,
        (None, Some(folder)) if folder.is_dir() => Prompts::load(&folder, labelling)?,
        _ => Prompts::built_in(Language::from(arguments.language), labelling)?,
    })
}
