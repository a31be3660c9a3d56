//! The page of a check: one file, no outside assets, readable in light and dark.

use std::io::Cursor;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gavel_core::measure::is_right;
use gavel_core::work::{Side, Verdict, VerdictRecord};
use gavel_rubric::data::{Picture, RankedPair};
use image::ImageFormat;
use minijinja::{Environment, context};
use serde::Serialize;

use super::check::{Check, Verdicts, share};
use crate::diagnostic::{Context as _, Foreign as _, Result};

/// Longest side, in pixels, of a picture on the page.
const SIDE: u32 = 384;

#[derive(Serialize)]
struct Row {
    name: String,
    accuracy: String,
    agreement: String,
}

#[derive(Serialize)]
struct Figure {
    name: &'static str,
    cells: Vec<String>,
}

#[derive(Serialize)]
struct Cell {
    prompt: String,
    base: Option<String>,
    pictures: [Shown; 2],
    right: bool,
    /// What each of the ways says, the last one first.
    ways: Vec<(String, String)>,
    themes: Vec<(String, String)>,
}

#[derive(Serialize)]
struct Shown {
    url: String,
    better: bool,
}

/// Fills the page; of the pairs the wrong ones come first.
///
/// # Errors
/// A picture cannot be scaled, or the template does not render: a defect.
pub(super) fn render(check: &Check, verdicts: &Verdicts, pairs: &[RankedPair<'_>], pairs_max: usize) -> Result<String> {
    let rows = check.rows().into_iter().map(|(name, cells)| Figure { name, cells });
    let rows: Vec<Figure> = rows.collect();
    let themes: Vec<Row> = check
        .themes
        .iter()
        .map(|theme| Row {
            name: theme.theme.clone(),
            accuracy: share(theme.accuracy),
            agreement: share(theme.agreement),
        })
        .collect();
    let mut order: Vec<usize> = (0..pairs.len()).collect();
    order.sort_by_key(|index| is_right(&verdicts.with_rubric()[*index], pairs[*index].preferred));
    let mut cells = Vec::new();
    for index in order.into_iter().take(pairs_max) {
        cells.push(cell(&pairs[index], index, verdicts)?);
    }
    let mut environment = Environment::new();
    environment
        .add_template("check.html", include_str!("check.html"))
        .foreign()
        .context("the check's template is wrong")?;
    let template = environment
        .get_template("check.html")
        .foreign()
        .context("the check's template is wrong")?;
    template
        .render(context! { check, rows, themes, cells, pairs => pairs.len() })
        .foreign()
        .context("the check's template does not render")
}

fn cell(pair: &RankedPair<'_>, index: usize, verdicts: &Verdicts) -> Result<Cell> {
    let shown = |picture: &Picture, side: Side| -> Result<Shown> {
        Ok(Shown {
            url: data_url(picture)?,
            better: pair.preferred == side,
        })
    };
    let themes = verdicts.themes.iter();
    let ways = verdicts.ways.iter().rev();
    Ok(Cell {
        prompt: pair.example.prompt.clone(),
        base: pair.example.source.as_ref().map(data_url).transpose()?,
        pictures: [
            shown(pair.pictures[0], Side::First)?,
            shown(pair.pictures[1], Side::Second)?,
        ],
        right: is_right(&verdicts.with_rubric()[index], pair.preferred),
        ways: ways
            .map(|judged| (judged.name.to_owned(), said(&judged.records[index])))
            .collect(),
        themes: themes
            .map(|(name, records)| (name.clone(), said(&records[index])))
            .collect(),
    })
}

fn said(record: &VerdictRecord) -> String {
    match &record.verdict {
        Verdict::Preferred { side: Side::First } => format!("the left one ({:.2})", record.probability_first),
        Verdict::Preferred { side: Side::Second } => format!("the right one ({:.2})", 1.0 - record.probability_first),
        Verdict::Abstain { .. } => "no decision".to_owned(),
        Verdict::Failed { reason } => format!("failed: {reason}"),
    }
}

/// The picture as it is when it is small, and scaled down otherwise.
fn data_url(picture: &Picture) -> Result<String> {
    let image = picture.image();
    let format = image::guess_format(&picture.encoded)
        .foreign()
        .context("a picture without a format")?;
    if image.width().max(image.height()) <= SIDE {
        return Ok(url(format, &picture.encoded));
    }
    let mut bytes = Cursor::new(Vec::new());
    image::DynamicImage::from(image)
        .thumbnail(SIDE, SIDE)
        .write_to(&mut bytes, ImageFormat::Jpeg)
        .foreign()
        .context("cannot scale a picture")?;
    Ok(url(ImageFormat::Jpeg, bytes.get_ref()))
}

fn url(format: ImageFormat, bytes: &[u8]) -> String {
    format!("data:{};base64,{}", format.to_mime_type(), STANDARD.encode(bytes))
}
