//! `gavel rubric check`.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use gavel_core::ids::{Digest, PromptIndex};
use gavel_core::measure::Proportion;
use gavel_core::work::{Side, VerdictRecord};
use gavel_judge::Models;
use gavel_rubric::data::{LabelledSet, Labelling, RankedPair};
use gavel_rubric::{AskError, Journal, Judge, Recorded, RecordedPair, RubricSet, Rubrics, Theme};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::backend::{self, BackendArguments};
use super::measure::{Compared, Measured, ThemeMeasured, Way};
use super::{DataArguments, now, page, read_data};
use crate::commands::print_json;
use crate::diagnostic::{Diagnostic, Result};
use crate::files::{beside, write_whole};
use crate::output;

#[derive(Debug, Args)]
pub(crate) struct CheckArguments {
    #[command(flatten)]
    pub(super) data: DataArguments,
    #[command(flatten)]
    pub(super) backend: BackendArguments,
    /// Rubric set (TOML), or bare text with a criterion on each line.
    #[arg(long, value_name = "FILE")]
    pub(super) rubric: PathBuf,
    /// Pairs that are judged together.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(super) batch: u32,
    /// Do not judge under each theme alone.
    #[arg(long)]
    pub(super) no_themes: bool,
    /// Write a page with the figures and the pictures.
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,
    /// Pairs on the page, wrong ones first.
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub(super) html_pairs: usize,
    /// Keep verdicts in this file, so that a check that was killed goes on [default: the page's name with .journal].
    #[arg(long, value_name = "FILE")]
    pub(super) journal: Option<PathBuf>,
    /// Print the figures as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// The figures of a check.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    pub(super) judge: String,
    pub(super) judge_sha256: Digest,
    pub(super) rubric: String,
    pub(super) rubric_sha256: Digest,
    pub(super) data: String,
    pub(super) data_sha256: Digest,
    /// Without a rubric, by the words of the general set, by those of prompts' own sets where the file has some, and criterion by criterion where
    /// it has weights.
    pub(super) ways: Vec<Way>,
    /// The last of these, in which a run uses the file.
    pub(super) with_rubric: Measured,
    /// The first of these.
    pub(super) without_rubric: Measured,
    pub(super) compared: Compared,
    /// Of each theme alone. Empty where there is a single theme, whose figures are the rubric's, of a file with sets of single prompts, or
    /// where it was not asked for.
    pub(super) themes: Vec<ThemeMeasured>,
}

/// The verdicts that the figures come from.
pub(super) struct Verdicts {
    /// In order, without a rubric first and as a run uses the file last.
    pub(super) ways: Vec<Judged>,
    pub(super) themes: Vec<(String, Vec<VerdictRecord>)>,
}

/// The verdicts of one way to judge.
pub(super) struct Judged {
    pub(super) name: &'static str,
    pub(super) records: Vec<VerdictRecord>,
    questions_per_pair: f64,
    tokens_per_pair: Option<f64>,
}

impl Verdicts {
    /// Those in which a run uses the file.
    pub(super) fn with_rubric(&self) -> &[VerdictRecord] {
        self.ways.last().map_or(&[], |judged| &judged.records)
    }

    fn without_rubric(&self) -> &[VerdictRecord] {
        self.ways.first().map_or(&[], |judged| &judged.records)
    }
}

pub(super) fn check(arguments: &CheckArguments) -> Result<()> {
    let rubrics = Rubrics::load(&arguments.rubric)?;
    let data = read_data(&arguments.data)?;
    if data.labelling == Labelling::Scored {
        let file = arguments.data.data.display();
        return Err(
            Diagnostic::new(format!("{file}: a check is on ranked pictures, these have scores"))
                .with_hint("give records with two or more pictures and `label_rank`"),
        );
    }
    let journal_file = arguments
        .journal
        .clone()
        .or_else(|| arguments.html.as_ref().map(|page| beside(page, "journal")));
    let journal = journal_file.map(|file| Journal::open(&file, &now())).transpose()?;
    let judge = backend::judge(&mut Models::default(), &arguments.backend, None)?;
    let pairs = data.pairs();
    let verdicts = verdicts(arguments, &rubrics, &pairs, &judge, journal.as_ref())?;
    let figures = figures(arguments, rubrics.general(), &data, &verdicts, &judge);
    if let Some(file) = &arguments.html {
        let html = page::render(&figures, &verdicts, &pairs, arguments.html_pairs)?;
        write_whole(file, &html)?;
    }
    if arguments.json {
        return print_json(&figures);
    }
    output::print(figures.describe())?;
    if let Some(file) = &arguments.html {
        output::print_line(format_args!("page         {}", file.display()))?;
    }
    Ok(())
}

/// The ways that the pairs are judged in.
fn ways(rubrics: &Rubrics) -> Vec<(&'static str, Rubrics)> {
    let words = rubrics.without_weights();
    let mut ways = vec![
        ("no rubric", Rubrics::one(RubricSet::empty())),
        ("general rubric", Rubrics::one(words.general().clone())),
    ];
    if !words.of_prompts().is_empty() {
        ways.push(("prompts' own sets", words));
    }
    if rubrics.is_weighted() {
        ways.push(("criteria by weight", rubrics.clone()));
    }
    ways
}

fn verdicts(
    arguments: &CheckArguments,
    rubrics: &Rubrics,
    pairs: &[RankedPair<'_>],
    judge: &dyn Judge,
    journal: Option<&Journal>,
) -> Result<Verdicts> {
    let ways = ways(rubrics);
    let themes = themes(rubrics, arguments.no_themes);
    let bar = ProgressBar::new((pairs.len() * (ways.len() + themes.len())) as u64);
    bar.set_style(
        ProgressStyle::with_template("{spinner} [{bar:24}] {pos}/{len} verdicts, {eta} left  {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> "),
    );
    let recorded = Recorded::new(journal);
    let threads = arguments.backend.concurrency as usize;
    let under = |rubrics: &Rubrics, name: &'static str, about: String| {
        bar.set_message(about);
        let indexed: Vec<RecordedPair<'_>> = pairs
            .iter()
            .enumerate()
            .map(|(index, pair)| RecordedPair {
                index: PromptIndex(index as u32),
                pair: *pair,
                rubric: rubrics.of(
                    &pair.example.prompt,
                    pair.example.source.as_ref().map(|source| source.digest).as_slice(),
                ),
            })
            .collect();
        let questions: usize = indexed.iter().map(|pair| 2 * pair.rubric.questions()).sum();
        let (asked, tokens) = (recorded.asked(), tokens(judge));
        let done = |done| bar.inc(done as u64);
        let records = recorded.judge_all(judge, &indexed, arguments.batch as usize, threads, &done)?;
        let (asked, tokens) = (recorded.asked() - asked, self::tokens(judge) - tokens);
        Ok::<_, AskError>(Judged {
            name,
            records,
            questions_per_pair: questions as f64 / pairs.len().max(1) as f64,
            tokens_per_pair: (tokens > 0).then(|| tokens as f64 / asked.max(1) as f64),
        })
    };
    let mut judged = Vec::with_capacity(ways.len());
    for (name, rubrics) in ways {
        judged.push(under(&rubrics, name, format!("by {name}"))?);
    }
    let mut by_theme = Vec::with_capacity(themes.len());
    for (theme, alone) in themes {
        let records = under(&Rubrics::one(alone), "one theme", format!("by {theme} alone"))?.records;
        by_theme.push((theme, records));
    }
    bar.finish_and_clear();
    Ok(Verdicts {
        ways: judged,
        themes: by_theme,
    })
}

/// Tokens that a judge has read and written so far; 0 where nobody counts them.
fn tokens(judge: &dyn Judge) -> u64 {
    let usage = judge.spent().usage;
    usage.prompt_tokens + usage.completion_tokens
}

/// The themes that are measured alone as well: those of a file without sets of single prompts that has several.
fn themes(rubrics: &Rubrics, none: bool) -> Vec<(String, RubricSet)> {
    let general = rubrics.general();
    let is_wanted = !none && general.themes.len() > 1 && rubrics.of_prompts().is_empty();
    let themes = general.themes.iter().filter(|_| is_wanted);
    let named = |(index, theme): (usize, &Theme)| {
        let name = theme.name.clone().unwrap_or_else(|| format!("theme {}", index + 1));
        (name, RubricSet::of_themes(vec![theme.clone()]))
    };
    themes.enumerate().map(named).collect()
}

fn figures(
    arguments: &CheckArguments,
    rubric: &RubricSet,
    data: &LabelledSet,
    verdicts: &Verdicts,
    judge: &dyn Judge,
) -> Check {
    let preferred: Vec<Side> = data.pairs().iter().map(|pair| pair.preferred).collect();
    let (with, without) = (verdicts.with_rubric(), verdicts.without_rubric());
    let theme =
        |(name, records): &(String, Vec<VerdictRecord>)| ThemeMeasured::of(name.clone(), records, with, &preferred);
    let before = std::iter::once(None).chain(verdicts.ways.iter().map(Some));
    let way = |(judged, before): (&Judged, Option<&Judged>)| Way {
        name: judged.name,
        measured: Measured::of(&judged.records, &preferred),
        questions_per_pair: judged.questions_per_pair,
        tokens_per_pair: judged.tokens_per_pair,
        against_before: before.map(|before| Compared::of(&judged.records, &before.records, &preferred)),
    };
    Check {
        judge: judge.name().to_owned(),
        judge_sha256: judge.identity(),
        rubric: arguments.rubric.display().to_string(),
        rubric_sha256: rubric.digest(),
        data: arguments.data.data.display().to_string(),
        data_sha256: data.digest(),
        ways: verdicts.ways.iter().zip(before).map(way).collect(),
        with_rubric: Measured::of(with, &preferred),
        without_rubric: Measured::of(without, &preferred),
        compared: Compared::of(with, without, &preferred),
        themes: verdicts.themes.iter().map(theme).collect(),
    }
}

impl Check {
    /// Each figure's name, with what it is in each of the ways.
    pub(super) fn rows(&self) -> Vec<(&'static str, Vec<String>)> {
        let row = |name, figure: &dyn Fn(&Way) -> String| (name, self.ways.iter().map(figure).collect());
        let mut rows = vec![
            row("accuracy", &|way| share(way.measured.accuracy)),
            row("accuracy where decided", &|way| share(way.measured.accuracy_decided)),
            row("order consistency", &|way| share(way.measured.order_consistency)),
            row("first shown is chosen", &|way| share(way.measured.first_chosen)),
            row("abstained", &|way| share(way.measured.abstained)),
            row("questions for a pair", &|way| {
                let questions = format!("{:.1}", way.questions_per_pair);
                questions.trim_end_matches(".0").to_owned()
            }),
        ];
        if self.ways.iter().any(|way| way.tokens_per_pair.is_some()) {
            rows.push(row("tokens for a pair", &|way| {
                way.tokens_per_pair
                    .map_or_else(|| "-".to_owned(), |tokens| format!("{tokens:.0}"))
            }));
        }
        if self.ways.iter().any(|way| way.measured.failed > 0) {
            rows.push(row("could not be judged", &|way| way.measured.failed.to_string()));
        }
        rows.push(row("gained, lost", &|way| {
            way.against_before.as_ref().map_or_else(
                || "-".to_owned(),
                |Compared {
                     only_with,
                     only_without,
                     p_value,
                 }| format!("{only_with}, {only_without} (p {p_value:.4})"),
            )
        }));
        rows
    }

    fn describe(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let mut line = |name: &str, cells: &[String]| {
            let cells: String = cells.iter().map(|cell| format!(" {cell:<24}")).collect();
            let _ = writeln!(text, "{}", format!("{name:<22}{cells}").trim_end());
        };
        let names: Vec<String> = self.ways.iter().map(|way| way.name.to_owned()).collect();
        line(&format!("{} pairs", self.with_rubric.pairs), &names);
        for (name, cells) in self.rows() {
            line(name, &cells);
        }
        let _ = writeln!(
            text,
            "right only with the rubric {}, only without {}: McNemar p = {:.4}",
            self.compared.only_with, self.compared.only_without, self.compared.p_value
        );
        if !self.themes.is_empty() {
            let _ = writeln!(
                text,
                "\n{:<24} {:<26} agrees with the whole",
                "by one theme alone", "accuracy"
            );
            for theme in &self.themes {
                let _ = writeln!(
                    text,
                    "{:<24} {:<26} {}",
                    theme.theme,
                    share(theme.accuracy),
                    share(theme.agreement)
                );
            }
        }
        text
    }
}

/// A share with its interval, in percent.
pub(super) fn share(share: Option<Proportion>) -> String {
    match share {
        Some(share) => format!(
            "{:.1} % [{:.1}, {:.1}]",
            100.0 * share.value,
            100.0 * share.low,
            100.0 * share.high
        ),
        None => "-".to_owned(),
    }
}
