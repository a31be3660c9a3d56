//! The page of an evaluation: one file, no outside assets, nothing in it runs.

use std::io::Cursor;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gavel_coordinator::web;
use gavel_core::work::{Side, Verdict};
use gavel_eval::Facts;
use gavel_rubric::data::Picture;
use image::{DynamicImage, ImageFormat};
use minijinja::{Environment, context};
use serde::Serialize;

use super::figures::Figures;
use super::rows::{interval, nothing, proportion};
use super::{Error, Evaluation, EvaluationReport, PairVerdict, PictureAnswers, PromptAnswers};

/// Longest side, in pixels, of a picture on the page.
const SIDE: u32 = 384;

#[derive(Serialize)]
struct Row {
    name: String,
    values: Vec<String>,
}

#[derive(Serialize)]
struct Pair {
    names: String,
    win_rate: String,
    counts: String,
    first_shown: String,
    orders_agree: String,
}

#[derive(Serialize)]
struct Table {
    title: String,
    rows: Vec<Row>,
    differences: Vec<[String; 3]>,
    pairs: Vec<Pair>,
}

#[derive(Serialize)]
struct Card {
    prompt: String,
    sources: Vec<String>,
    pictures: Vec<Shown>,
    verdicts: Vec<String>,
}

#[derive(Serialize)]
struct Shown {
    subject: String,
    sample: Option<u8>,
    url: String,
    about: String,
}

/// Fills the page with the figures and the pictures of the first `prompts_max` prompts.
///
/// # Errors
/// A picture is not there or cannot be scaled; the template does not render: a defect.
pub fn render(evaluation: &Evaluation<'_>, report: &EvaluationReport, prompts_max: usize) -> Result<String, Error> {
    let fault = |error: minijinja::Error| Error::Page(error.into());
    let mut tables = vec![table(format!("All {}", report.figures.title()), &report.figures)];
    tables.extend(report.groups.iter().map(|group| {
        let value = group.value.as_deref().unwrap_or("without a value");
        table(format!("{value}: {}", group.figures.title()), &group.figures)
    }));
    let mut cards = Vec::new();
    for (index, answers) in report.prompts.iter().enumerate().take(prompts_max) {
        cards.push(card(evaluation, index, answers)?);
    }
    let mut environment = Environment::new();
    environment
        .add_template("page.html", include_str!("page.html"))
        .map_err(fault)?;
    let page = context! {
        report,
        style => web::PAGE_STYLE,
        icon => STANDARD.encode(web::FAVICON),
        tables,
        cards,
        prompts => report.prompts.len(),
    };
    environment
        .get_template("page.html")
        .and_then(|template| template.render(page))
        .map_err(fault)
}

fn table(title: String, figures: &Figures) -> Table {
    let pairs = figures.pairs.iter().map(|pair| {
        let [first, second] = &pair.subjects;
        Pair {
            names: format!("{second} over {first}"),
            win_rate: pair
                .win_rate
                .map_or_else(nothing, |rate| interval(rate.value, rate.low, rate.high)),
            counts: pair.win_rate.map_or_else(nothing, |rate| {
                format!(
                    "{} won, {} lost, {} without preference, {} failed",
                    rate.wins, rate.losses, rate.abstained, rate.failed
                )
            }),
            first_shown: pair.first_shown_chosen.map_or_else(nothing, proportion),
            orders_agree: pair.order_consistency.map_or_else(nothing, proportion),
        }
    });
    Table {
        title,
        rows: figures
            .rows()
            .into_iter()
            .map(|(name, values)| Row { name, values })
            .collect(),
        differences: figures.difference_lines(),
        pairs: pairs.collect(),
    }
}

fn card(evaluation: &Evaluation<'_>, index: usize, answers: &PromptAnswers) -> Result<Card, Error> {
    let mut pictures = Vec::new();
    let mut shown = Vec::with_capacity(answers.pictures.len());
    for subject in 0..evaluation.subjects.len() {
        shown.extend(evaluation.pictures.open(subject, index)?);
    }
    for (answer, picture) in answers.pictures.iter().zip(&shown) {
        pictures.push(Shown {
            subject: answer.subject.clone(),
            sample: answer.sample,
            url: data_url(picture)?,
            about: about(answer),
        });
    }
    let sources = evaluation.tasks[index].sources.iter().map(data_url);
    Ok(Card {
        prompt: answers.prompt.clone(),
        sources: sources.collect::<Result<_, _>>()?,
        pictures,
        verdicts: answers.verdicts.iter().map(said).collect(),
    })
}

fn about(answer: &PictureAnswers) -> String {
    let mut parts = Vec::new();
    if let Some(facts) = &answer.facts {
        let missing: Vec<&str> = failing(facts).collect();
        parts.push(match missing.is_empty() {
            true => "every fact holds".to_owned(),
            false => format!("does not hold: {}", missing.join(", ")),
        });
    }
    for (yes, said) in [(Some(false), "no"), (None, "unanswered")] {
        let answered = answer.asked().filter(|answer| answer.yes == yes);
        parts.extend(answered.map(|answer| format!("{said}: {}", answer.question.question)));
    }
    if answer.asked().next().is_some() && answer.asked().all(|answer| answer.yes == Some(true)) {
        parts.push("every question is answered yes".to_owned());
    }
    if let Some(kept) = answer.preservation {
        parts.push(format!("kept {:.1} %", 100.0 * kept));
    }
    if let Some(outside) = answer.source.and_then(|source| source.outside) {
        parts.push(format!("L1 outside the edit {:.4}", outside.l1));
    }
    parts.join("; ")
}

fn failing(facts: &Facts) -> impl Iterator<Item = &str> {
    facts.iter().filter(|fact| !fact.holds).map(|fact| fact.name.as_str())
}

fn said(verdict: &PairVerdict) -> String {
    let [first, second] = &verdict.subjects;
    let record = &verdict.record;
    let decision = match &record.verdict {
        Verdict::Preferred { side: Side::First } => first.clone(),
        Verdict::Preferred { side: Side::Second } => second.clone(),
        Verdict::Abstain { .. } => "no preference".to_owned(),
        Verdict::Failed { reason } => format!("failed: {reason}"),
    };
    let [straight, swapped] = record.order_probabilities;
    let sample = verdict.sample.map(|sample| format!(", sample {sample}"));
    format!(
        "{first} or {second}{}: {decision} (probability of {first}: {straight:.2} shown first, {swapped:.2} shown second)",
        sample.unwrap_or_default()
    )
}

/// The picture as it is when it is small, and scaled down otherwise.
fn data_url(picture: &Picture) -> Result<String, Error> {
    let fault = |error: image::ImageError| Error::Page(error.into());
    let image = picture.image();
    if image.width().max(image.height()) <= SIDE {
        let format = image::guess_format(&picture.encoded).map_err(fault)?;
        return Ok(url(format, &picture.encoded));
    }
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::from(image)
        .thumbnail(SIDE, SIDE)
        .write_to(&mut bytes, ImageFormat::Jpeg)
        .map_err(fault)?;
    Ok(url(ImageFormat::Jpeg, bytes.get_ref()))
}

fn url(format: ImageFormat, bytes: &[u8]) -> String {
    format!("data:{};base64,{}", format.to_mime_type(), STANDARD.encode(bytes))
}
