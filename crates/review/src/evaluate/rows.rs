//! Figures as people read them, on a terminal and on the page.

use std::collections::BTreeSet;

use gavel_core::measure::Proportion;
use gavel_eval::PairedDifference;

use super::figures::{Figures, MeanDistance, SubjectFigures};
use super::questions::QuestionFigures;

/// A figure's name, and its value for each subject.
type Row = (String, Vec<String>);

impl Figures {
    /// What they are of.
    pub fn title(&self) -> String {
        let samples = self.samples.map(|samples| format!(", {samples} pictures of each"));
        format!("{} prompts{}", self.prompts, samples.unwrap_or_default())
    }

    /// The figures of the subjects: a name, and the value of each subject. What no subject has is left out.
    pub fn rows(&self) -> Vec<Row> {
        [
            self.adherence(),
            self.questions("questions answered yes", |one| one.questions.as_ref()),
            self.questions("fulfilment, answered yes", |one| one.fulfilment.as_ref()),
            self.questions("quality, answered yes", |one| one.quality.as_ref()),
            self.sources(),
            self.row("score by the judge", |one| Some(format!("{:.4}", one.score?))),
            self.row("diversity", |one| Some(format!("{:.4}", one.diversity?))),
            self.row("diversity within prompts", |one| {
                Some(format!("{:.4}", one.diversity_within?))
            }),
            self.row("strength", |one| {
                let strength = one.strength?;
                Some(interval(strength.log_ratio, strength.low, strength.high))
            }),
        ]
        .concat()
    }

    /// Lines about each two subjects on the same prompts: who over whom, which figure, and by how much it differs.
    pub fn difference_lines(&self) -> Vec<[String; 3]> {
        let lines = self.differences.iter().flat_map(|two| {
            let [first, second] = &two.subjects;
            two.named()
                .map(move |(name, found)| [format!("{second} over {first}"), name.to_owned(), difference(found)])
        });
        lines.collect()
    }

    /// One row, or none.
    fn row(&self, name: &str, value: impl Fn(&SubjectFigures) -> Option<String>) -> Vec<Row> {
        let values: Vec<Option<String>> = self.subjects.iter().map(value).collect();
        if values.iter().all(Option::is_none) {
            return Vec::new();
        }
        let values = values.into_iter().map(|value| value.unwrap_or_else(nothing));
        vec![(name.to_owned(), values.collect())]
    }

    /// A row for each of the names that a subject has.
    fn kinds<'a, N>(
        &'a self,
        names: impl Fn(&'a SubjectFigures) -> Option<N>,
        value: impl Fn(&SubjectFigures, &str) -> Option<Proportion>,
    ) -> Vec<Row>
    where
        N: Iterator<Item = &'a String>,
    {
        let kinds: BTreeSet<&String> = self.subjects.iter().filter_map(names).flatten().collect();
        let row = |kind: &&String| self.row(&format!("  {kind}"), |one| value(one, kind).map(proportion));
        kinds.iter().flat_map(row).collect()
    }

    fn adherence(&self) -> Vec<Row> {
        [
            self.row("facts that hold", |one| {
                Some(format!("{:.3}", one.adherence.as_ref()?.mean))
            }),
            self.row("every fact holds", |one| Some(proportion(one.adherence.as_ref()?.all))),
            self.kinds(
                |one| Some(one.adherence.as_ref()?.facts.keys()),
                |one, kind| one.adherence.as_ref()?.facts.get(kind).copied(),
            ),
        ]
        .concat()
    }

    /// Rows about one list of questions, of which the first has this name.
    fn questions(&self, name: &str, of: fn(&SubjectFigures) -> Option<&QuestionFigures>) -> Vec<Row> {
        let unanswered = |one: &SubjectFigures| Some(of(one)?.unanswered).filter(|count| *count > 0);
        [
            self.row(name, |one| of(one)?.yes.map(proportion)),
            self.kinds(
                |one| Some(of(one)?.kinds.keys()),
                |one, kind| of(one)?.kinds.get(kind).copied(),
            ),
            self.row("  every one yes", |one| of(one)?.all.map(proportion)),
            self.row("  score", |one| Some(format!("{:.3}", of(one)?.score?))),
            self.row("  unanswered", |one| Some(unanswered(one)?.to_string())),
        ]
        .concat()
    }

    fn sources(&self) -> Vec<Row> {
        let mut rows = [
            self.row("preservation, by the rules", |one| {
                Some(format!("{:.3}", one.preservation?))
            }),
            self.row("pixels changed", |one| {
                Some(format!("{:.1} %", 100.0 * one.source.as_ref()?.changed))
            }),
            self.row("from the source: L1", |one| {
                Some(format!("{:.4}", one.source.as_ref()?.whole.l1))
            }),
        ]
        .concat();
        type Of = fn(&SubjectFigures) -> Option<MeanDistance>;
        let places: [(&str, Of); 3] = [
            ("outside the edit", |one| one.source.as_ref()?.outside),
            ("inside the edit", |one| one.source.as_ref()?.inside),
            ("from the target", |one| one.target),
        ];
        for (place, of) in places {
            rows.extend(self.row(&format!("{place}: L1"), |one| Some(format!("{:.4}", of(one)?.l1))));
            rows.extend(self.row(&format!("{place}: PSNR"), |one| {
                Some(format!("{:.2} dB", of(one)?.psnr?))
            }));
            rows.extend(self.row(&format!("{place}: SSIM"), |one| Some(format!("{:.4}", of(one)?.ssim?))));
        }
        type Cosine = fn(&SubjectFigures) -> Option<f64>;
        let cosines: [(&str, Cosine); 3] = [
            ("DINOv2 similarity to the source", |one| one.similarity),
            ("  outside the edit", |one| one.similarity_outside),
            ("  inside the edit", |one| one.similarity_inside),
        ];
        for (name, of) in cosines {
            rows.extend(self.row(name, |one| Some(format!("{:.4}", of(one)?))));
        }
        rows
    }
}

pub(super) fn nothing() -> String {
    "-".to_owned()
}

pub(super) fn interval(value: f64, low: f64, high: f64) -> String {
    format!("{value:.2} [{low:.2}, {high:.2}]")
}

fn difference(found: PairedDifference) -> String {
    let interval = found
        .interval
        .map_or_else(String::new, |[low, high]| format!(" [{low:+.3}, {high:+.3}]"));
    let PairedDifference {
        mean,
        more,
        fewer,
        count,
        ..
    } = found;
    format!("{mean:+.3}{interval}; more in {more}, less in {fewer} of {count}")
}

pub(super) fn proportion(share: Proportion) -> String {
    interval(share.value, share.low, share.high)
}
