//! What the answers about many pictures come to.

use std::collections::BTreeMap;

use gavel_core::measure::Proportion;
use serde::Serialize;

use super::QuestionAnswer;

/// How a subject's pictures answer questions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QuestionFigures {
    /// Questions that were asked.
    pub asked: usize,
    /// Those that were answered by neither yes nor no; they count nowhere else.
    pub unanswered: usize,
    /// Share of the answers that are yes; `None` where there is no answer.
    pub yes: Option<Proportion>,
    /// Share of the pictures, of those all of whose questions were answered, of which all were by yes.
    pub all: Option<Proportion>,
    /// Mean over those pictures of the share of the questions whose yes counts: which is one, and so is that of each question that it
    /// needs, in [0, 1].
    pub score: Option<f64>,
    /// By kind of question, the share of the answers that are yes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub kinds: BTreeMap<String, Proportion>,
}

impl QuestionFigures {
    /// Sums up the answers of pictures, those of each in a list; `None` where nothing was asked.
    pub(in crate::evaluate) fn of<'a>(pictures: impl Iterator<Item = &'a [QuestionAnswer]>) -> Option<Self> {
        let pictures: Vec<&[QuestionAnswer]> = pictures.filter(|answers| !answers.is_empty()).collect();
        let answers = || pictures.iter().copied().flatten();
        let asked = answers().count();
        let answered: Vec<bool> = answers().filter_map(|answer| answer.yes).collect();
        let whole: Vec<Vec<bool>> = pictures.iter().filter_map(|answers| counting(answers)).collect();
        let shares = whole.iter().map(|counting| share(counting.iter().copied()));
        let shares: Option<Vec<f64>> = shares.map(|share| Some(share?.value)).collect();
        let mut kinds: BTreeMap<String, Vec<bool>> = BTreeMap::new();
        for answer in answers() {
            if let (Some(kind), Some(yes)) = (&answer.question.kind, answer.yes) {
                kinds.entry(kind.clone()).or_default().push(yes);
            }
        }
        (asked > 0).then(|| Self {
            asked,
            unanswered: asked - answered.len(),
            yes: share(answered.into_iter()),
            all: share(whole.iter().map(|counting| counting.iter().all(|counts| *counts))),
            score: shares
                .filter(|shares| !shares.is_empty())
                .map(|shares| shares.iter().sum::<f64>() / shares.len() as f64),
            kinds: kinds
                .into_iter()
                .filter_map(|(kind, answers)| Some((kind, share(answers.into_iter())?)))
                .collect(),
        })
    }
}

/// The share of a picture's questions whose yes counts, in [0, 1]; `None` where one has no answer, or nothing was asked.
pub(in crate::evaluate) fn score(answers: &[QuestionAnswer]) -> Option<f64> {
    Some(share(counting(answers)?.into_iter())?.value)
}

/// Whose yes counts of a picture's questions; `None` where one has no answer.
///
/// # Source
/// DPG-Bench: in the list's order, an answer no longer counts once one that it needs does not.
fn counting(answers: &[QuestionAnswer]) -> Option<Vec<bool>> {
    let mut counting: Vec<bool> = answers.iter().map(|answer| answer.yes).collect::<Option<_>>()?;
    for (index, answer) in answers.iter().enumerate() {
        let needs = &answer.question.needs;
        counting[index] &= needs
            .iter()
            .all(|needed| counting.get(*needed).copied().unwrap_or(false));
    }
    Some(counting)
}

fn share(answers: impl ExactSizeIterator<Item = bool>) -> Option<Proportion> {
    let count = answers.len();
    Proportion::of(answers.filter(|yes| *yes).count() as f64, count)
}

#[cfg(test)]
mod tests {
    use gavel_rubric::data::questions::PictureQuestion;

    use super::*;

    fn answer(yes: Option<bool>, kind: Option<&str>, needs: &[usize]) -> QuestionAnswer {
        QuestionAnswer {
            question: PictureQuestion {
                question: "?".to_owned(),
                kind: kind.map(str::to_owned),
                needs: needs.to_vec(),
            },
            yes,
            unanswered: None,
        }
    }

    fn figures(pictures: &[Vec<QuestionAnswer>]) -> Option<QuestionFigures> {
        QuestionFigures::of(pictures.iter().map(Vec::as_slice))
    }

    #[test]
    fn questions_without_an_answer_are_counted_and_left_out_of_the_shares() {
        let plain = |answers: &[Option<bool>]| answers.iter().map(|yes| answer(*yes, None, &[])).collect::<Vec<_>>();
        let pictures = [
            plain(&[Some(true), Some(true)]),
            plain(&[Some(true), Some(false)]),
            plain(&[Some(true), None]),
            plain(&[]),
        ];
        let found = figures(&pictures).unwrap();
        assert_eq!((found.asked, found.unanswered), (6, 1));
        assert_eq!(found.yes.unwrap().value, 0.8);
        assert_eq!(found.all.unwrap().value, 0.5, "of the two pictures with both answers");
        assert_eq!(found.score, Some(0.75));
        assert!(found.kinds.is_empty());
        assert_eq!(figures(&pictures[3..]), None);
        let none = figures(&[plain(&[None])]).unwrap();
        assert_eq!((none.unanswered, none.yes, none.all, none.score), (1, None, None, None));
    }

    #[test]
    fn a_yes_counts_only_with_that_of_what_it_needs() {
        let yes = |kind, needs: &[usize]| answer(Some(true), Some(kind), needs);
        let no = |kind, needs: &[usize]| answer(Some(false), Some(kind), needs);
        // There is no cup: neither its colour nor what stands on that counts.
        let picture = vec![
            no("entity", &[]),
            yes("colour", &[0]),
            yes("place", &[1]),
            yes("entity", &[]),
        ];
        assert_eq!(counting(&picture), Some(vec![false, false, false, true]));
        let found = figures(&[picture, vec![yes("entity", &[]), yes("colour", &[0])]]).unwrap();
        assert_eq!(found.score, Some((0.25 + 1.0) / 2.0));
        assert_eq!(found.yes.unwrap().value, 5.0 / 6.0);
        let kinds: Vec<(&str, f64)> = found
            .kinds
            .iter()
            .map(|(kind, share)| (kind.as_str(), share.value))
            .collect();
        assert_eq!(kinds, [("colour", 1.0), ("entity", 2.0 / 3.0), ("place", 1.0)]);
    }
}
