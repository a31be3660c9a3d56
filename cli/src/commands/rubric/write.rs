//! `gavel rubric write`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use gavel_core::work::Task;
use gavel_judge::Models;
use gavel_rubric::data::{LabelledSet, Labelling, Picture, ReadOptions, Transparency, tasks};
use gavel_rubric::generate::{
    Examples, Language, PromptSetWriter, Verified, WantedSet, WriteOutcome, WriteSettings, WriteTemplate, WrittenSet,
};
use gavel_rubric::{Combine, Journal, RubricFile};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::backend::{self, BackendArguments, EmbeddingArguments};
use super::generate::{FOLDER_PROMPTS, LanguageArgument};
use super::now;
use crate::commands::print_json;
use crate::diagnostic::{Context as _, Diagnostic, Foreign as _, Result};
use crate::fetch::fetch;
use crate::files::{beside, write_whole};
use crate::output;

#[derive(Debug, Args)]
pub(crate) struct WriteArguments {
    /// Prompts that are to have a set of their own: files as `prompts.train` names them.
    #[arg(value_name = "PROMPTS", required = true)]
    pub(super) prompts: Vec<PathBuf>,
    /// The prompts edit pictures.
    #[arg(long)]
    pub(super) edits: bool,
    /// The general set (TOML or bare text), for prompts without one of their own [default: that of OUT, where it is there already].
    #[arg(long, value_name = "FILE")]
    pub(super) general: Option<PathBuf>,
    /// The rubric to write. Sets that it has already stay; the answers are kept beside it in OUT.journal.
    #[arg(long, value_name = "FILE")]
    pub(super) out: PathBuf,
    /// Labelled pairs (docs/rubrics.md): those near a prompt are shown to the writer, those of the prompt itself verify its set.
    #[arg(long, value_name = "FILE")]
    pub(super) examples: Option<PathBuf>,
    /// Pairs that are shown with a prompt, the nearest of other prompts; 0 writes from the prompt alone.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "examples", value_parser = clap::value_parser!(u8).range(..=16))]
    pub(super) nearest: u8,
    #[command(flatten)]
    pub(super) embedding: EmbeddingArguments,
    #[command(flatten)]
    pub(super) backend: BackendArguments,
    /// Folder of another model, which verifies the sets [default: the model that writes them].
    #[arg(long, value_name = "DIR")]
    pub(super) judge_model: Option<PathBuf>,
    /// How a prompt's own set and the general one come together [default: that of OUT, else specific].
    #[arg(long, value_enum)]
    pub(super) combine: Option<CombineArgument>,
    /// Language of question and criteria.
    #[arg(long, default_value = "en", value_enum)]
    pub(super) language: LanguageArgument,
    /// Template of the question, instead of a language [default: rubric_prompts/write.toml in the model folder, if there].
    #[arg(long, value_name = "FILE", conflicts_with = "language")]
    pub(super) write_template: Option<PathBuf>,
    /// Most criteria of a set; of an edit's in each of its themes.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=20))]
    pub(super) criteria: u8,
    /// Most tokens of an answer.
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=8192))]
    pub(super) max_tokens: u32,
    /// Temperature of the writing; 0 takes the likeliest token each time.
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub(super) temperature: f64,
    /// Seed of the writing, where the temperature is above 0.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) seed: u32,
    /// Print what was done as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// How a prompt's own set and the general one come together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum CombineArgument {
    Specific,
    SpecificThenGeneral,
}

/// Prompts without a set that are named to people, of each reason.
const NAMED: usize = 10;

/// Times that an unreadable answer is asked for.
const ATTEMPTS: usize = 3;

pub(super) fn write(arguments: &WriteArguments) -> Result<()> {
    let mut file = begun(arguments)?;
    let general = file.rubrics(&arguments.out)?.general().clone();
    let prompts = prompts(arguments)?;
    let present: BTreeSet<Task> = file.prompts.iter().map(|set| set.task()).collect();
    let wanted = prompts.iter().map(|prompt| WantedSet {
        prompt: &prompt.words,
        source: prompt.source.as_ref(),
    });
    let mut tasks = BTreeSet::new();
    let wanted: Vec<WantedSet<'_>> = wanted.filter(|wanted| tasks.insert(wanted.task())).collect();
    let missing: Vec<WantedSet<'_>> = wanted
        .iter()
        .copied()
        .filter(|wanted| !present.contains(&wanted.task()))
        .collect();
    let examples = arguments.examples.as_deref().map(read_examples).transpose()?;
    let template = template(arguments)?;
    let journal_file = beside(&arguments.out, "journal");
    let journal = Journal::open(&journal_file, &now())?;
    let mut models = Models::default();
    let chat = backend::chat(&mut models, &arguments.backend)?;
    let judge = backend::judge(&mut models, &arguments.backend, arguments.judge_model.as_deref())?;
    let embed = backend::embedding(&mut models, &arguments.embedding, &arguments.backend)?;
    let bar = ProgressBar::new(missing.len() as u64);
    bar.set_style(
        ProgressStyle::with_template("{spinner} [{bar:24}] {pos}/{len} prompts, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> "),
    );
    let writer = PromptSetWriter {
        chat: &chat,
        judge: &judge,
        template: &template,
        journal: Some(&journal),
        threads: arguments.backend.concurrency as usize,
        settings: WriteSettings {
            criteria: arguments.criteria.into(),
            nearest: arguments.nearest.into(),
            max_tokens: arguments.max_tokens,
            attempts: ATTEMPTS,
            temperature: arguments.temperature,
            seed: arguments.seed,
            combine: file.combine,
        },
        progress: &|_| bar.inc(1),
    };
    let labelled = examples.as_ref();
    let examples = labelled.map(|labelled| Examples {
        labelled,
        embed: embed.as_ref(),
    });
    let written = writer.write(&missing, examples, &general)?;
    bar.finish_and_clear();
    file.prompts
        .extend(written.sets.iter().filter_map(|one| match &one.outcome {
            WriteOutcome::Written(set) => Some(set.clone()),
            WriteOutcome::Worse | WriteOutcome::Unreadable => None,
        }));
    file.rubrics(&arguments.out)?;
    let text = file.to_toml().foreign().context("cannot write the rubric as TOML")?;
    write_whole(&arguments.out, &text)?;
    let told = Told {
        out: &arguments.out,
        prompts: wanted.len(),
        present: wanted.len() - missing.len(),
        sets: &written.sets,
        embedding: (arguments.nearest > 0).then(|| embed.name()),
    };
    if arguments.json {
        return print_json(&told.json(written.asked, written.found));
    }
    output::tell(told.describe());
    output::tell(format_args!(
        "answers      {} asked, {} from {}",
        written.asked,
        written.found,
        journal_file.display()
    ));
    output::tell(format_args!("written      {}", arguments.out.display()));
    Ok(())
}

/// The file as it is before a set is written: OUT itself, or one with the general set alone.
fn begun(arguments: &WriteArguments) -> Result<RubricFile> {
    let is_there = arguments.out.is_file();
    let general = arguments.general.as_deref().map(RubricFile::load).transpose()?;
    let mut file = match (is_there, general) {
        (true, None) => RubricFile::load(&arguments.out)?,
        (true, Some(general)) => RubricFile {
            themes: general.themes,
            name: general.name,
            provenance: general.provenance,
            ..RubricFile::load(&arguments.out)?
        },
        // The sets are those of the prompts at hand, and other runs may have other prompts.
        (false, Some(general)) => RubricFile {
            shared: true,
            ..general
        },
        (false, None) => {
            return Err(Diagnostic::new("there is no general set").with_hint(
                "name one with --general FILE: it decides about prompts without a set of their own, and a set that does worse is dropped",
            ));
        }
    };
    if let Some(combine) = arguments.combine {
        file.combine = match combine {
            CombineArgument::Specific => Combine::Specific,
            CombineArgument::SpecificThenGeneral => Combine::SpecificThenGeneral,
        };
    }
    Ok(file)
}

struct Prompt {
    words: String,
    source: Option<Picture>,
}

/// The prompts of all files. Of an edit of several pictures the writer is shown none, and its set is for the words.
fn prompts(arguments: &WriteArguments) -> Result<Vec<Prompt>> {
    let options = ReadOptions {
        fetch: &fetch,
        transparency: Transparency::Dropped,
        ..ReadOptions::local()
    };
    let mut prompts = Vec::new();
    for file in &arguments.prompts {
        for record in tasks::read(file, arguments.edits, &options)? {
            let mut sources = record.sources;
            prompts.push(Prompt {
                words: record.words,
                source: sources.pop().filter(|_| sources.is_empty()),
            });
        }
    }
    Ok(prompts)
}

fn read_examples(file: &Path) -> Result<LabelledSet> {
    let options = ReadOptions {
        fetch: &fetch,
        transparency: Transparency::Dropped,
        ..ReadOptions::local()
    };
    let set = LabelledSet::read(file, &options)?;
    match set.labelling {
        Labelling::Ranked => Ok(set),
        Labelling::Scored => Err(
            Diagnostic::new(format!("{}: these pictures have scores", file.display()))
                .with_hint("give records with two or more pictures and `label_rank`"),
        ),
    }
}

fn template(arguments: &WriteArguments) -> Result<WriteTemplate> {
    let folder = arguments.backend.model.as_ref();
    let of_folder = folder.map(|model| model.join(FOLDER_PROMPTS).join("write.toml"));
    Ok(match (&arguments.write_template, of_folder) {
        (Some(file), _) => WriteTemplate::load(file)?,
        (None, Some(file)) if file.is_file() => WriteTemplate::load(&file)?,
        _ => WriteTemplate::built_in(Language::from(arguments.language))?,
    })
}

/// What was done, for people and programs.
struct Told<'a> {
    out: &'a Path,
    prompts: usize,
    present: usize,
    sets: &'a [WrittenSet],
    embedding: Option<&'a str>,
}

impl Told<'_> {
    fn with(&self, is_wanted: impl Fn(&WriteOutcome) -> bool) -> Vec<&str> {
        let sets = self.sets.iter().filter(|one| is_wanted(&one.outcome));
        sets.map(|one| one.task.words.as_str()).collect()
    }

    fn written(&self) -> usize {
        self.with(|outcome| matches!(outcome, WriteOutcome::Written(_))).len()
    }

    fn worse(&self) -> Vec<&str> {
        self.with(|outcome| *outcome == WriteOutcome::Worse)
    }

    fn unreadable(&self) -> Vec<&str> {
        self.with(|outcome| *outcome == WriteOutcome::Unreadable)
    }

    /// Of all sets together.
    fn verified(&self) -> Verified {
        let mut sum = Verified::default();
        for one in self.sets.iter().filter_map(|one| one.verified) {
            sum.pairs += one.pairs;
            sum.by_own += one.by_own;
            sum.by_general += one.by_general;
        }
        sum
    }

    fn json(&self, asked: usize, found: usize) -> serde_json::Value {
        let Verified {
            pairs,
            by_own,
            by_general,
        } = self.verified();
        json!({
            "rubric": self.out,
            "prompts": self.prompts,
            "present_before": self.present,
            "written": self.written(),
            "worse_than_general": self.worse(),
            "unreadable": self.unreadable(),
            "verified": { "pairs": pairs, "right_by_own": by_own, "right_by_general": by_general },
            "embedding": self.embedding,
            "answers_asked": asked,
            "answers_from_journal": found,
        })
    }

    fn describe(&self) -> String {
        let mut lines = vec![format!(
            "sets         {} of {} prompts written, {} there before",
            self.written(),
            self.prompts,
            self.present
        )];
        if let Some(embedding) = self.embedding {
            lines.push(format!("nearest      by {embedding}"));
        }
        let Verified {
            pairs,
            by_own,
            by_general,
        } = self.verified();
        if pairs > 0 {
            lines.push(format!(
                "verified     right on {by_own} of {pairs} labelled pairs of their own prompts, the general set on {by_general}"
            ));
        }
        let left_out = [
            (self.worse(), "decides worse than the general set"),
            (self.unreadable(), "no answer held a criterion"),
        ];
        for (prompts, why) in left_out {
            lines.extend(
                prompts
                    .iter()
                    .take(NAMED)
                    .map(|prompt| format!("left out     {prompt}: {why}")),
            );
            if prompts.len() > NAMED {
                lines.push(format!(
                    "left out     {} more, which --json names: {why}",
                    prompts.len() - NAMED
                ));
            }
        }
        lines.join("\n")
    }
}
