//! `gavel rejudge`.

use std::ops::{ControlFlow, RangeInclusive};
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use gavel_core::spec::{JudgeBackEnd, JudgeSpec, RunSpec};
use gavel_judge::{Models, Templates};
use gavel_review::VerdictFile;
use gavel_review::rejudge::{Again, Change, PerMatch, Rejudge, RejudgeOptions, RejudgeReport};
use gavel_rubric::{RubricSet, Rubrics, Theme};

use super::print_json;
use super::source::SourceArguments;
use crate::config;
use crate::diagnostic::{Diagnostic, Result};
use crate::output;

#[derive(Debug, Args)]
pub(crate) struct RejudgeArguments {
    #[command(flatten)]
    pub(crate) source: SourceArguments,
    /// Rubric set (TOML), or bare text with a criterion on each line [default: the run's].
    #[arg(long, value_name = "FILE")]
    pub(crate) rubric: Option<PathBuf>,
    /// Configuration whose section `judge` judges, with its template and margin; the rubric stays the run's [default: the run's judge].
    #[arg(long, value_name = "CONFIG")]
    pub(crate) judge: Option<PathBuf>,
    /// Key of the judge with another value, such as judge.endpoint=http://localhost:8000/v1; again for several.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// A step, or steps from A to B [default: all whose pictures are kept].
    #[arg(long, value_name = "A..B")]
    pub(crate) steps: Option<Steps>,
    /// Prompts of a step, from its first on.
    #[arg(long, value_name = "N", default_value_t = usize::MAX, hide_default_value = true)]
    pub(crate) prompts: usize,
    /// Have each theme of the rubric judge by itself as well.
    #[arg(long)]
    pub(crate) by_theme: bool,
    /// Keep the verdicts in this file (SQLite), and ask for nothing that it holds.
    #[arg(long, value_name = "FILE", default_value = "rejudged.sqlite")]
    pub(crate) cache: PathBuf,
    /// Say what would be asked, and ask nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print the findings as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `7`, or `5..8` with both ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Steps(RangeInclusive<u32>);

impl FromStr for Steps {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.trim().parse::<u32>().ok().filter(|step| *step > 0);
        let (first, last) = match text.split_once("..") {
            Some((first, last)) => (number(first), number(last)),
            None => (number(text), number(text)),
        };
        match (first, last) {
            (Some(first), Some(last)) if first <= last => Ok(Self(first..=last)),
            _ => Err("expected a step such as 7, or steps such as 5..8, counted from 1".into()),
        }
    }
}

/// Prints, step by step, what another judge or rubric would have changed.
pub(super) fn rejudge(arguments: &RejudgeArguments) -> Result<()> {
    let source = arguments.source.open()?;
    let spec = asked_for(source.spec(), arguments)?;
    let options = RejudgeOptions {
        steps: arguments.steps.as_ref().map(|steps| steps.0.clone()),
        prompts: arguments.prompts,
    };
    let rejudge = Rejudge::read(source.as_ref(), &options)?;
    let (rubrics, templates) = words(&source.spec().judge, &rejudge, &spec.judge)?;
    let cost = cost(&rejudge, &spec, &rubrics, arguments.by_theme);
    if arguments.dry_run {
        return output::print_line(cost);
    }
    output::note(cost);
    if rejudge.matches() == 0 {
        return Err(Diagnostic::new("there is nothing to judge again").with_hint(
            "pictures of the latest `coordinator.keep_steps` steps are kept; of --steps and --prompts, name others",
        ));
    }
    let judge = Models::default().open(&spec.judge, &templates)?;
    let again = Again {
        judge: judge.as_ref(),
        rubrics: &rubrics,
        kept: &VerdictFile::open(&arguments.cache)?,
        by_theme: arguments.by_theme,
    };
    let mut printed = Ok(());
    let report = rejudge.judge(&again, |step| {
        printed = match arguments.json {
            true => Ok(()),
            false => output::print_line(format_args!("step {:<5}  {}", step.step, line(&step.change))),
        };
        match printed {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    printed?;
    match arguments.json {
        true => print_json(&report),
        false => output::print(conclusion(&report)),
    }
}

/// The run's configuration with another judge or rubric.
fn asked_for(spec: &RunSpec, arguments: &RejudgeArguments) -> Result<RunSpec> {
    let other = |key: &&String| !key.starts_with("judge.");
    if let Some(key) = arguments.overrides.iter().find(other) {
        return Err(Diagnostic::new(format!("`{key}` is no key of the judge"))
            .with_hint("only keys of the section [judge] can be other ones here, such as judge.path=DIR"));
    }
    let mut spec = spec.clone();
    if let Some(file) = &arguments.judge {
        let rubric = std::mem::take(&mut spec.judge.rubric);
        spec.judge = config::load_file(file, &[])?.judge;
        spec.judge.rubric = rubric;
    }
    let mut spec = config::changed(&spec, &arguments.overrides)?;
    if let Some(rubric) = &arguments.rubric {
        spec.judge.rubric.clone_from(rubric);
    }
    Ok(spec)
}

/// The rubrics and the judge's words: those that the run carries, and from files what is another one.
fn words(of_run: &JudgeSpec, rejudge: &Rejudge<'_>, spec: &JudgeSpec) -> Result<(Rubrics, Templates)> {
    let rubrics = match spec.rubric == of_run.rubric {
        true => rejudge.rubrics()?,
        false => Rubrics::load(&spec.rubric)?,
    };
    let members = |back_end: &JudgeBackEnd| -> Vec<PathBuf> {
        let members = back_end.members().iter();
        members.map(|member| member.template.clone()).collect()
    };
    let same = spec.template == of_run.template && members(&spec.back_end) == members(&of_run.back_end);
    let templates = match same {
        true => Templates::of_run(spec, rejudge.assets())?,
        false => Templates::load(spec)?,
    };
    Ok((rubrics, templates))
}

/// What is going to be asked.
fn cost(rejudge: &Rejudge<'_>, spec: &RunSpec, rubrics: &Rubrics, by_theme: bool) -> String {
    let matches = rejudge.matches();
    let models = spec.judge.back_end.members().len().max(1) as u64;
    let of_theme = |theme: &Theme| RubricSet::of_themes(vec![theme.clone()]).questions();
    let of_set = |set: &RubricSet| {
        let themes = set.themes.iter().filter(|_| by_theme);
        set.questions() + themes.map(of_theme).sum::<usize>()
    };
    let rounds = rubrics.sets().map(of_set).max().unwrap_or(1) as u64;
    let questions = matches * 2 * models * rounds;
    let mut text = format!(
        "{}: {matches} matches, at most {questions} questions (both picture orders",
        rejudge.run()
    );
    if models > 1 {
        text += &format!(", {models} judges");
    }
    if rubrics.is_weighted() {
        text += ", each criterion by itself";
    }
    if by_theme {
        text += ", the rubric and each of its themes";
    }
    text += "); what the file of verdicts holds is not asked again";
    text += &as_the_run(&rejudge.per_match(), (matches * rounds) as f64);
    if rejudge.lost() > 0 {
        text += &format!("; the pictures of {} more are not kept any more", rejudge.lost());
    }
    text
}

/// What as many matches would take as the run's own judges took.
fn as_the_run(one: &PerMatch, matches: f64) -> String {
    let parts = [
        one.seconds
            .map(|seconds| format!("{:.1} s of one worker", seconds * matches)),
        one.tokens.map(|tokens| format!("{:.0} tokens", tokens * matches)),
        one.cost.map(|cost| format!("{:.2} by its prices", cost * matches)),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    match parts.is_empty() {
        true => String::new(),
        false => format!("; at what a match took in the run, that is {}", parts.join(", ")),
    }
}

fn line(change: &Change) -> String {
    let agreement = change
        .agreement()
        .map_or_else(|| "-".to_owned(), |share| format!("{share:.2}"));
    let mut text = format!(
        "{} matches  decided {} before, {} now  agreement {agreement} ({} flipped)",
        change.matches, change.decided_before, change.decided_after, change.flipped
    );
    if change.candidates > 0 {
        text += &format!("  rewards changed {} of {}", change.rewards_changed, change.candidates);
    }
    if change.failed > 0 {
        text += &format!("  {} not judged", change.failed);
    }
    text
}

fn conclusion(report: &RejudgeReport) -> String {
    let mut text = format!("in all     {}\n", line(&report.total));
    for theme in &report.themes {
        text += &format!("  {}: {}\n", theme.theme, line(&theme.change));
    }
    text += &format!("judge      {}, rubric {}", report.judge, report.rubric.short());
    if report.groups_by_own_rubric > 0 {
        text += &format!(", {} groups by a rubric of their prompt", report.groups_by_own_rubric);
    }
    text += "\n";
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_one_or_several() {
        assert_eq!("7".parse(), Ok(Steps(7..=7)));
        assert_eq!("5..8".parse(), Ok(Steps(5..=8)));
        for wrong in ["", "0", "8..5", "a..b", "1..", "-1"] {
            assert!(wrong.parse::<Steps>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn costs_are_told_as_far_as_the_run_has_counted_them() {
        let nothing = PerMatch {
            seconds: None,
            tokens: None,
            cost: None,
        };
        assert_eq!(as_the_run(&nothing, 100.0), "");
        let all = PerMatch {
            seconds: Some(0.25),
            tokens: Some(1200.0),
            cost: Some(0.004),
        };
        assert_eq!(
            as_the_run(&all, 100.0),
            "; at what a match took in the run, that is 25.0 s of one worker, 120000 tokens, 0.40 by its prices"
        );
    }

    #[test]
    fn a_change_is_told_in_a_line() {
        let change = Change {
            matches: 64,
            decided_before: 38,
            decided_after: 41,
            same: 33,
            flipped: 3,
            failed: 0,
            candidates: 128,
            rewards_changed: 22,
        };
        assert_eq!(
            line(&change),
            "64 matches  decided 38 before, 41 now  agreement 0.92 (3 flipped)  rewards changed 22 of 128"
        );
    }
}
