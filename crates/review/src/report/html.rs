//! `report.html`: one file that asks nobody for anything. Charts and gallery are the dashboard's, of figures and pictures that the page carries.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gavel_coordinator::web;
use gavel_core::run::StepRecord;
use gavel_core::work::{Reason, Side, Verdict};
use minijinja::{Environment, context};
use serde::Serialize;
use serde_json::Value;

use super::data::Report;
use super::difference;
use super::gallery::Gallery;
use super::pictures::{Comparison, Picture, Pictures};
use super::probes::{ProbedStep, Probes};
use crate::Error;

/// Prompts in the grid; every one counts in the figures.
const GRID: usize = 36;

/// What the page's script reads.
#[derive(Serialize)]
struct Data<'a> {
    steps: &'a [StepRecord],
    probes: &'a [ProbedStep],
    probes_base: Option<f64>,
    #[serde(flatten)]
    gallery: &'a Gallery,
}

#[derive(Serialize)]
struct Cell {
    prompt: String,
    /// PNG of the pictures that are edited; empty where nothing is.
    sources: Vec<String>,
    /// PNG of what the task's file says it should come to.
    target: Option<String>,
    /// PNG of what the task's file says may change.
    mask: Option<String>,
    /// The other fields of the task's record, by name.
    fields: Vec<(String, String)>,
    before: PictureCell,
    after: PictureCell,
    /// PNG of what the tuned policy changed of the first source.
    difference: Option<String>,
    verdict: &'static str,
    /// The prompt's own rubric, if it has one.
    own_rubric: Option<String>,
    reasons: Vec<ThemeVerdict>,
}

/// What a theme of the rubric says.
#[derive(Serialize)]
struct ThemeVerdict {
    theme: String,
    verdict: &'static str,
    sentence: Option<String>,
}

#[derive(Serialize)]
struct PictureCell {
    png: String,
    /// Facts that hold, as `4/5`.
    facts: Option<String>,
    /// What is preserved of the source, in percent.
    kept: Option<String>,
}

/// Fills the page.
///
/// # Errors
/// A picture cannot be read; the template does not render: a defect.
pub(super) fn render(
    report: &Report,
    pictures: &Pictures,
    probes: &Probes,
    gallery: &Gallery,
) -> Result<String, Error> {
    let mut environment = Environment::new();
    environment.add_template("report.html", include_str!("report.html"))?;
    let grid: Vec<Cell> = pictures
        .0
        .iter()
        .take(GRID)
        .map(|one| cell(one, gallery))
        .collect::<Result<_, _>>()?;
    let axes = report.evaluation.as_ref().and_then(|evaluation| evaluation.axes);
    let page = context! {
        report,
        style => [web::CHARTS_STYLE, web::PAGE_STYLE].concat(),
        icon => STANDARD.encode(web::FAVICON),
        draws => web::CHARTS,
        script => web::bundle("report_page.js"),
        data => data(report, gallery)?,
        pairs => gallery.pairs.len(),
        more_pairs => gallery.has_more,
        probe_columns => probes.columns,
        probe_rows => probes.rows.iter().map(probe_row).collect::<Vec<_>>(),
        edits => grid.iter().any(|cell| !cell.sources.is_empty()),
        statement => axes.map(|axes| axes.statement()),
        amplification => difference::AMPLIFICATION,
        grid,
        held_out => pictures.0.len(),
    };
    Ok(environment.get_template("report.html")?.render(page)?)
}

/// JSON that stands in a script element: `<` would begin the end of it.
fn data(report: &Report, gallery: &Gallery) -> Result<String, Error> {
    let data = Data {
        steps: &report.steps,
        probes: &report.probes,
        probes_base: report.probes_base,
        gallery,
    };
    Ok(serde_json::to_string(&data)?.replace('<', "\\u003c"))
}

/// A prompt with its pictures as PNG, `None` where there is none yet.
fn probe_row((words, pictures): &(String, Vec<Option<Picture>>)) -> (String, Vec<Option<String>>) {
    let png = |picture: &Option<Picture>| picture.as_ref().map(|picture| STANDARD.encode(&picture.png));
    (words.clone(), pictures.iter().map(png).collect())
}

fn cell(comparison: &Comparison, gallery: &Gallery) -> Result<Cell, Error> {
    let verdict = comparison.verdict.as_ref();
    let rubric = verdict.and_then(|record| gallery.rubrics.get(&record.rubric));
    Ok(Cell {
        own_rubric: rubric
            .filter(|rubric| rubric.of_prompt)
            .map(|rubric| rubric.text.clone()),
        prompt: comparison.prompt.clone(),
        sources: comparison
            .sources
            .iter()
            .map(|source| STANDARD.encode(&source.png))
            .collect(),
        target: comparison.target.as_ref().map(|target| STANDARD.encode(&target.png)),
        mask: comparison.mask.as_ref().map(|mask| STANDARD.encode(&mask.png)),
        fields: comparison.fields.iter().map(field).collect(),
        before: picture_cell(&comparison.base),
        after: picture_cell(&comparison.tuned),
        difference: match comparison.sources.first() {
            Some(source) => Some(change(source, &comparison.tuned)?),
            None => None,
        },
        reasons: comparison
            .verdict
            .iter()
            .flat_map(|record| &record.reasons)
            .map(theme_verdict)
            .collect(),
        verdict: match comparison.verdict.as_ref().map(|record| &record.verdict) {
            Some(Verdict::Preferred { side: Side::Second }) => "judge: after",
            Some(Verdict::Preferred { side: Side::First }) => "judge: before",
            Some(Verdict::Abstain { .. }) => "judge: no preference",
            Some(Verdict::Failed { .. }) => "judge: failed",
            None => "not judged",
        },
    })
}

/// A field as people read it: a text without its quotation marks, all else as JSON.
fn field((name, value): (&String, &Value)) -> (String, String) {
    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    (name.clone(), value)
}

fn change(source: &Picture, edited: &Picture) -> Result<String, Error> {
    let fault = |source: image::ImageError| Error::Picture {
        image: edited.digest,
        source: source.into(),
    };
    let png = difference::png(&source.decode()?, &edited.decode()?).map_err(fault)?;
    Ok(STANDARD.encode(png))
}

fn theme_verdict(reason: &Reason) -> ThemeVerdict {
    ThemeVerdict {
        theme: reason.theme.clone().unwrap_or_else(|| "rubric".into()),
        verdict: match reason.verdict {
            Verdict::Preferred { side: Side::First } => "before",
            Verdict::Preferred { side: Side::Second } => "after",
            Verdict::Abstain { .. } | Verdict::Failed { .. } => "undecided",
        },
        sentence: reason.sentence.clone(),
    }
}

fn picture_cell(picture: &Picture) -> PictureCell {
    let answer = picture.answer.as_ref();
    let facts = answer.map(|answer| {
        let holding = answer.facts.iter().filter(|fact| fact.holds).count();
        format!("{holding}/{}", answer.facts.iter().count())
    });
    let kept = answer.and_then(|answer| answer.preservation);
    PictureCell {
        png: STANDARD.encode(&picture.png),
        facts,
        kept: kept.map(|share| format!("{:.1} %", 100.0 * share)),
    }
}
