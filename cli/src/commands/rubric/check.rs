//! `gavel rubric check`.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use gavel_core::ids::{Digest, PromptIndex};
use gavel_core::measure::Proportion;
use gavel_core::work::{Side, VerdictRecord};
use gavel_judge::Models;
use gavel_rubric::data::{LabelledSet, Labelling, RankedPair};
use gavel_rubric::{Journal, Judge, Recorded, RecordedPair, RubricSet, Rubrics, Theme};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::backend::{self, BackendArguments};
use super::measure::{Compared, Measured, ThemeMeasured};
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
    pub(super) with_rubric: Measured,
    pub(super) without_rubric: Measured,
    pub(super) compared: Compared,
    /// Of each theme alone; of a file with sets of single prompts of its general set. Empty where there is a single theme, whose figures
    /// are the rubric's, or where it was not asked for.
    pub(super) themes: Vec<ThemeMeasured>,
}

/// The verdicts that the figures come from.
pub(super) struct Verdicts {
    pub(super) with_rubric: Vec<VerdictRecord>,
    pub(super) without_rubric: Vec<VerdictRecord>,
    pub(super) themes: Vec<(String, Vec<VerdictRecord>)>,
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

fn verdicts(
    arguments: &CheckArguments,
    rubrics: &Rubrics,
    pairs: &[RankedPair<'_>],
    judge: &dyn Judge,
    journal: Option<&Journal>,
) -> Result<Verdicts> {
    let parts = parts(rubrics, arguments.no_themes);
    let bar = ProgressBar::new((pairs.len() * (2 + parts.len())) as u64);
    bar.set_style(
        ProgressStyle::with_template("{spinner} [{bar:24}] {pos}/{len} verdicts, {eta} left  {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> "),
    );
    let recorded = Recorded::new(journal);
    let threads = arguments.backend.concurrency as usize;
    let under = |rubrics: &Rubrics, about: &str| {
        bar.set_message(about.to_owned());
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
        recorded.judge_all(judge, &indexed, arguments.batch as usize, threads, &|done| {
            bar.inc(done as u64);
        })
    };
    let with_rubric = under(rubrics, "with the rubric")?;
    let without_rubric = under(&Rubrics::one(RubricSet::empty()), "without a rubric")?;
    let mut by_part = Vec::with_capacity(parts.len());
    for (name, alone) in parts {
        let records = under(&Rubrics::one(alone), &format!("by {name} alone"))?;
        by_part.push((name, records));
    }
    bar.finish_and_clear();
    Ok(Verdicts {
        with_rubric,
        without_rubric,
        themes: by_part,
    })
}

/// What is measured alone as well: the general set of a file with sets of single prompts, of any other each theme of its set.
fn parts(rubrics: &Rubrics, none: bool) -> Vec<(String, RubricSet)> {
    let general = rubrics.general();
    if !rubrics.of_prompts().is_empty() {
        return vec![("the general set".to_owned(), general.clone())];
    }
    let themes = general.themes.iter().filter(|_| !none && general.themes.len() > 1);
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
    let theme = |(name, records): &(String, Vec<VerdictRecord>)| {
        ThemeMeasured::of(name.clone(), records, &verdicts.with_rubric, &preferred)
    };
    Check {
        judge: judge.name().to_owned(),
        judge_sha256: judge.identity(),
        rubric: arguments.rubric.display().to_string(),
        rubric_sha256: rubric.digest(),
        data: arguments.data.data.display().to_string(),
        data_sha256: data.digest(),
        with_rubric: Measured::of(&verdicts.with_rubric, &preferred),
        without_rubric: Measured::of(&verdicts.without_rubric, &preferred),
        compared: Compared::of(&verdicts.with_rubric, &verdicts.without_rubric, &preferred),
        themes: verdicts.themes.iter().map(theme).collect(),
    }
}

impl Check {
    /// Each figure's name, with and without the rubric.
    pub(super) fn rows(&self) -> Vec<(&'static str, Option<Proportion>, Option<Proportion>)> {
        let (with, without) = (&self.with_rubric, &self.without_rubric);
        vec![
            ("accuracy", with.accuracy, without.accuracy),
            (
                "accuracy where decided",
                with.accuracy_decided,
                without.accuracy_decided,
            ),
            ("order consistency", with.order_consistency, without.order_consistency),
            ("first shown is chosen", with.first_chosen, without.first_chosen),
            ("abstained", with.abstained, without.abstained),
        ]
    }

    fn describe(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:<24} {:<26} without",
            format!("{} pairs", self.with_rubric.pairs),
            "with the rubric"
        );
        for (name, with, without) in self.rows() {
            let _ = writeln!(text, "{name:<24} {:<26} {}", share(with), share(without));
        }
        let failed = (self.with_rubric.failed, self.without_rubric.failed);
        if failed != (0, 0) {
            let _ = writeln!(text, "{:<24} {:<26} {}", "failed", failed.0, failed.1);
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
                "by one part alone", "accuracy"
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
