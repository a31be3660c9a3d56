//! `gavel rubric generate`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use gavel_judge::Models;
use gavel_rubric::Journal;
use gavel_rubric::data::Labelling;
use gavel_rubric::generate::{Generator, Language, Progress, Prompts, Settings};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::arguments::{GenerateArguments, LanguageArgument};
use super::{backend, now, print_json, read_data};

/// A model folder may hold the words that its model was trained on.
const FOLDER_PROMPTS: &str = "rubric_prompts";

pub(super) fn generate(arguments: &GenerateArguments) -> anyhow::Result<()> {
    let data = read_data(&arguments.data)?;
    let prompts = prompts(arguments, data.labelling)?;
    let journal_file = beside(&arguments.out, "journal");
    let journal = Journal::open(&journal_file, &now())?;
    if journal.answers() > 0 {
        eprintln!(
            "goes on with {} answers of {}",
            journal.answers(),
            journal_file.display()
        );
    }
    let mut models = Models::default();
    let chat = backend::chat(&mut models, &arguments.backend)?;
    let judge = backend::judge(&mut models, &arguments.backend, arguments.judge_model.as_deref())?;
    let embed = backend::embedding(arguments)?;
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
    let text = made.rubric.to_toml().context("cannot write the rubric as TOML")?;
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
        println!(
            "verified     {} of {} examples, {} dropped",
            found.verified, found.examples_used, found.dropped
        );
    }
    println!(
        "answers      {} asked, {} from {}",
        made.asked,
        made.found,
        journal_file.display()
    );
    println!(
        "rubric       {criteria} criteria in {} themes ({})",
        made.rubric.themes.len(),
        made.rubric.digest().short()
    );
    println!("written      {}", arguments.out.display());
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

fn prompts(arguments: &GenerateArguments, labelling: Labelling) -> anyhow::Result<Prompts> {
    let of_folder = arguments.backend.model.as_ref().map(|model| model.join(FOLDER_PROMPTS));
    Ok(match (&arguments.prompts, of_folder) {
        (Some(folder), _) => Prompts::load(folder, labelling)?,
        (None, Some(folder)) if folder.is_dir() => Prompts::load(&folder, labelling)?,
        _ => {
            let language = match arguments.language {
                LanguageArgument::En => Language::English,
                LanguageArgument::Zh => Language::Chinese,
            };
            Prompts::built_in(language, labelling)?
        }
    })
}

/// `rubric.toml` -> `rubric.toml.journal`.
pub(super) fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    PathBuf::from(name)
}

/// Writes a file by way of another: a kill leaves the old one or the new one.
pub(super) fn write_whole(file: &Path, text: &str) -> anyhow::Result<()> {
    let part = beside(file, "part");
    std::fs::write(&part, text)
        .and_then(|()| std::fs::rename(&part, file))
        .with_context(|| format!("{}: cannot write", file.display()))
}
