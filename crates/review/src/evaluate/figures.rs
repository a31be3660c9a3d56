//! What many prompts come to: figures of each subject, and of each two of them.

use std::collections::BTreeMap;

use gavel_core::measure::{Abstentions, JudgeCounts, Proportion, WinRate};
use gavel_core::work::{Side, Verdict, VerdictRecord};
use gavel_eval::{Adherence, Distance, Facts, PairedDifference, Strength, Wins};
use image::RgbImage;
use serde::{Deserialize, Serialize};

use super::QuestionFigures;
use super::answers::{PictureAnswers, PromptAnswers, RegionOrigin, SourceDistance, facts_by_kind};
use super::questions::score;
use super::thumbnails::Thumbnails;

/// Subjects from which on strengths are told: with two, the win rate says it all.
const STRENGTHS_FROM: usize = 3;

/// Figures over some prompts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// Prompts.
    pub prompts: usize,
    /// Pictures of each, of every subject; `None` where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<u8>,
    /// Of each subject, in their order.
    pub subjects: Vec<SubjectFigures>,
    /// How far apart each two subjects are on the same prompts; empty with one subject, and where no figure is of single pictures.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<SubjectDifference>,
    /// Of each two subjects; empty without a judge.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pairs: Vec<PairFigures>,
}

/// How far apart two subjects are, prompt by prompt: the second minus the first. What a prompt has is the mean over its pictures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SubjectDifference {
    /// The first and the second.
    pub subjects: [String; 2],
    /// Of the share of facts that hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub facts: Option<PairedDifference>,
    /// Of what an edit leaves alone the share that is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preservation: Option<PairedDifference>,
    /// Of the questions that the prompt brings, the share whose yes counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub questions: Option<PairedDifference>,
    /// The same of questions about what the prompt asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fulfilment: Option<PairedDifference>,
    /// The same of questions about how well the picture is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<PairedDifference>,
}

/// Figures of one subject.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SubjectFigures {
    /// The subject.
    pub subject: String,
    /// How well the pictures follow their prompts, by the evaluator's rules; `None` without an evaluator, and where it understands none
    /// of the prompts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adherence: Option<AdherenceFigures>,
    /// Mean share of what an edit leaves alone that is kept, by the evaluator's rules, in [0, 1].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preservation: Option<f64>,
    /// How far edits are from their sources.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceFigures>,
    /// How far edits are from what they should come to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<MeanDistance>,
    /// Mean cosine of the DINOv2 embeddings of edits and their sources, in [-1, 1].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub similarity: Option<f64>,
    /// The same where all but the edit is gray in both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub similarity_inside: Option<f64>,
    /// The same where the edit is gray in both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub similarity_outside: Option<f64>,
    /// Mean score by the judge, where it is one that scores pictures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// How the questions that the prompts bring are answered; `None` where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub questions: Option<QuestionFigures>,
    /// How questions about how well pictures are made are answered; `None` where they were not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<QuestionFigures>,
    /// How questions about whether pictures do what their prompts ask for are answered; `None` where they were not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fulfilment: Option<QuestionFigures>,
    /// How far apart the pictures of different prompts are, each scaled to 64 x 64 pixels: mean absolute difference of the RGB values
    /// over all pairs, in [0, 1]. Where prompts have several pictures, the mean over their first, their second and so on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diversity: Option<f64>,
    /// The same of the pictures of each prompt, where it has several: mean over prompts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diversity_within: Option<f64>,
    /// Bradley-Terry strength against the first subject, where there are at least three.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strength: Option<Strength>,
}

/// How well pictures follow their prompts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AdherenceFigures {
    /// Pictures whose prompts the evaluator understands.
    pub pictures: usize,
    /// Mean over them of the share of facts that hold, in [0, 1].
    pub mean: f64,
    /// Share of them in which every fact holds.
    pub all: Proportion,
    /// By kind of fact, the share of the facts of that kind that hold.
    pub facts: BTreeMap<String, Proportion>,
}

/// How far edits are from their sources.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SourceFigures {
    /// Mean share of the pixels that changed.
    pub changed: f64,
    /// What said where the edit is, with the number of pictures.
    pub regions: BTreeMap<RegionOrigin, usize>,
    /// Over whole pictures.
    pub whole: MeanDistance,
    /// Where the edits are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inside: Option<MeanDistance>,
    /// Everywhere else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outside: Option<MeanDistance>,
}

/// The mean of distances, each picture counting the same.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MeanDistance {
    /// Pictures.
    pub pictures: usize,
    /// Those that do not differ at all; the mean of PSNR leaves them out, because theirs is infinite.
    pub identical: usize,
    /// Mean of [`Distance::l1`].
    pub l1: f64,
    /// Mean of [`Distance::psnr`], in dB.
    pub psnr: Option<f64>,
    /// Mean of [`Distance::ssim`].
    pub ssim: Option<f64>,
}

/// Figures of two subjects, by the judge.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairFigures {
    /// The first and the second.
    pub subjects: [String; 2],
    /// How often the second one's picture is preferred; `None` when no pair could be judged.
    pub win_rate: Option<WinRate>,
    /// Share of the judge's answers that lean to the picture shown first: one half without position bias.
    pub first_shown_chosen: Option<Proportion>,
    /// Share of the pairs whose two orders lean to the same picture.
    pub order_consistency: Option<Proportion>,
    /// Pairs without a preference, by reason.
    pub abstentions: Abstentions,
}

impl Figures {
    /// Sums prompts up, each with so many pictures of each subject. `thumbnails` has the small pictures of each prompt, in the order of its answers.
    pub(super) fn of(subjects: &[String], samples: u8, prompts: &[&PromptAnswers], thumbnails: &[&[RgbImage]]) -> Self {
        let mut wins = Wins::new(subjects.len());
        let (mut pairs, mut differences) = (Vec::new(), Vec::new());
        let is_judged = prompts.iter().any(|prompt| !prompt.verdicts.is_empty());
        for first in 0..subjects.len() {
            for second in first + 1..subjects.len() {
                let names = [&subjects[first], &subjects[second]];
                differences.extend(SubjectDifference::of(names.map(Clone::clone), prompts));
                let records: Vec<&VerdictRecord> = prompts
                    .iter()
                    .flat_map(|prompt| &prompt.verdicts)
                    .filter(|verdict| verdict.subjects.each_ref() == names)
                    .map(|verdict| &verdict.record)
                    .collect();
                for record in &records {
                    count(&mut wins, record, first, second);
                }
                if is_judged {
                    pairs.push(PairFigures::of(names.map(Clone::clone), &records));
                }
            }
        }
        let has_strengths = is_judged && subjects.len() >= STRENGTHS_FROM;
        let strengths = if has_strengths { wins.strengths() } else { Vec::new() };
        let subjects = subjects.iter().enumerate().map(|(index, name)| {
            let answers: Vec<&PictureAnswers> = prompts.iter().flat_map(|prompt| prompt.of_subject(name)).collect();
            let small = Thumbnails {
                of_prompts: thumbnails,
                subject: index,
                samples: samples.into(),
            };
            SubjectFigures {
                subject: name.clone(),
                adherence: AdherenceFigures::of(&answers),
                preservation: mean(answers.iter().filter_map(|answer| answer.preservation)),
                source: SourceFigures::of(&answers),
                target: MeanDistance::of(answers.iter().filter_map(|answer| answer.target)),
                similarity: mean(answers.iter().filter_map(|answer| answer.similarity)),
                similarity_inside: mean(answers.iter().filter_map(|answer| answer.similarity_inside)),
                similarity_outside: mean(answers.iter().filter_map(|answer| answer.similarity_outside)),
                score: mean(prompts.iter().flat_map(|prompt| judged_scores(prompt, name))),
                questions: QuestionFigures::of(answers.iter().map(|answer| answer.questions.as_slice())),
                quality: QuestionFigures::of(answers.iter().map(|answer| answer.quality.as_slice())),
                fulfilment: QuestionFigures::of(answers.iter().map(|answer| answer.fulfilment.as_slice())),
                diversity: small.between_prompts(),
                diversity_within: small.within_prompts(),
                strength: strengths.get(index).copied(),
            }
        });
        Self {
            prompts: prompts.len(),
            samples: (samples > 1).then_some(samples),
            subjects: subjects.collect(),
            differences,
            pairs,
        }
    }
}

/// What the judge gave a subject's pictures of a prompt, each in the first comparison that it has a part in.
fn judged_scores<'a>(prompt: &'a PromptAnswers, subject: &'a str) -> impl Iterator<Item = f64> + 'a {
    prompt.of_subject(subject).filter_map(move |picture| {
        let mut of_sample = prompt
            .verdicts
            .iter()
            .filter(|verdict| verdict.sample == picture.sample);
        of_sample.find_map(|verdict| {
            let position = verdict.subjects.iter().position(|name| name == subject)?;
            Some(verdict.record.scores?[position])
        })
    })
}

/// Adds a verdict to the comparisons; one without a preference is half a win for each.
fn count(wins: &mut Wins, record: &VerdictRecord, first: usize, second: usize) {
    match record.verdict {
        Verdict::Preferred { side: Side::First } => wins.add(first, second, 1.0),
        Verdict::Preferred { side: Side::Second } => wins.add(second, first, 1.0),
        Verdict::Abstain { .. } => {
            wins.add(first, second, 0.5);
            wins.add(second, first, 0.5);
        }
        Verdict::Failed { .. } => {}
    }
}

impl SubjectDifference {
    /// `None` where nothing is known of both.
    fn of(subjects: [String; 2], prompts: &[&PromptAnswers]) -> Option<Self> {
        let difference = |of: fn(&PictureAnswers) -> Option<f64>| {
            let figures = prompts.iter().filter_map(|prompt| {
                let of_prompt = |subject: &String| mean(prompt.of_subject(subject).filter_map(of));
                let [first, second] = subjects.each_ref().map(of_prompt);
                Some([first?, second?])
            });
            PairedDifference::of(figures)
        };
        let found = Self {
            facts: difference(|one| Some(one.facts.as_ref()?.share())),
            preservation: difference(|one| one.preservation),
            questions: difference(|one| score(&one.questions)),
            fulfilment: difference(|one| score(&one.fulfilment)),
            quality: difference(|one| score(&one.quality)),
            subjects,
        };
        let is_known = found.named().next().is_some();
        is_known.then_some(found)
    }

    /// What is known, with its name.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, PairedDifference)> {
        let all = [
            ("facts that hold", self.facts),
            ("preservation", self.preservation),
            ("questions, score", self.questions),
            ("fulfilment, score", self.fulfilment),
            ("quality, score", self.quality),
        ];
        all.into_iter().filter_map(|(name, found)| Some((name, found?)))
    }
}

impl PairFigures {
    fn of(subjects: [String; 2], records: &[&VerdictRecord]) -> Self {
        let counts = JudgeCounts::of(records.iter().map(|record| (*record, Side::Second)));
        Self {
            subjects,
            win_rate: WinRate::of(records.iter().copied()),
            first_shown_chosen: counts.first_chosen(),
            order_consistency: counts.order_consistency(),
            abstentions: counts.abstentions,
        }
    }
}

impl AdherenceFigures {
    fn of(answers: &[&PictureAnswers]) -> Option<Self> {
        let facts = || answers.iter().filter_map(|answer| answer.facts.as_ref());
        let Adherence { prompts, mean, .. } = Adherence::of(facts())?;
        let whole = facts().filter(|facts: &&Facts| facts.all()).count();
        let by_kind = facts_by_kind(facts());
        let shares = by_kind
            .into_iter()
            .filter_map(|(kind, (asked, holding))| Some((kind, Proportion::of(holding as f64, asked)?)));
        Some(Self {
            pictures: prompts,
            mean,
            all: Proportion::of(whole as f64, prompts)?,
            facts: shares.collect(),
        })
    }
}

impl SourceFigures {
    fn of(answers: &[&PictureAnswers]) -> Option<Self> {
        let sources: Vec<&SourceDistance> = answers.iter().filter_map(|answer| answer.source.as_ref()).collect();
        let mut regions = BTreeMap::new();
        for source in &sources {
            *regions.entry(source.region).or_default() += 1;
        }
        Some(Self {
            changed: mean(sources.iter().map(|source| source.changed))?,
            regions,
            whole: MeanDistance::of(sources.iter().map(|source| source.whole))?,
            inside: MeanDistance::of(sources.iter().filter_map(|source| source.inside)),
            outside: MeanDistance::of(sources.iter().filter_map(|source| source.outside)),
        })
    }
}

impl MeanDistance {
    fn of(distances: impl Iterator<Item = Distance>) -> Option<Self> {
        let distances: Vec<Distance> = distances.collect();
        Some(Self {
            pictures: distances.len(),
            identical: distances.iter().filter(|distance| distance.psnr.is_none()).count(),
            l1: mean(distances.iter().map(|distance| distance.l1))?,
            psnr: mean(distances.iter().filter_map(|distance| distance.psnr)),
            ssim: mean(distances.iter().filter_map(|distance| distance.ssim)),
        })
    }
}

/// The mean of some values; `None` of none.
pub(super) fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (mut count, mut sum) = (0_usize, 0.0);
    for value in values {
        count += 1;
        sum += value;
    }
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests {
    use gavel_core::ids::{Digest, PromptIndex};
    use gavel_core::work::AbstainReason;
    use serde_json::{Map, json};

    use super::super::answers::PairVerdict;
    use super::*;

    fn prompt(index: usize, verdicts: &[(&str, &str, Verdict)]) -> PromptAnswers {
        let picture = |subject: &str| PictureAnswers {
            subject: subject.to_owned(),
            sample: None,
            sha256: Digest::of(subject.as_bytes()),
            facts: None,
            preservation: None,
            source: None,
            target: None,
            similarity: None,
            similarity_inside: None,
            similarity_outside: None,
            questions: Vec::new(),
            quality: Vec::new(),
            fulfilment: Vec::new(),
        };
        let verdict = |(first, second, verdict): &(&str, &str, Verdict)| PairVerdict {
            subjects: [*first, *second].map(str::to_owned),
            sample: None,
            record: VerdictRecord {
                verdict: verdict.clone(),
                order_probabilities: [0.9, 0.6],
                ..VerdictRecord::failed(PromptIndex(index as u32), String::new(), Digest::of(b""))
            },
        };
        PromptAnswers {
            index,
            prompt: "a".to_owned(),
            fields: Map::new(),
            pictures: ["a", "b", "c"].map(picture).into(),
            verdicts: verdicts.iter().map(verdict).collect(),
        }
    }

    #[test]
    fn each_two_subjects_have_their_figures_and_three_have_strengths() {
        let first = || Verdict::Preferred { side: Side::First };
        let second = || Verdict::Preferred { side: Side::Second };
        let close = || Verdict::Abstain {
            reason: AbstainReason::TooClose,
        };
        let failed = || Verdict::Failed { reason: "away".into() };
        let prompts = [
            prompt(0, &[("a", "b", second()), ("a", "c", second()), ("b", "c", failed())]),
            prompt(1, &[("a", "b", second()), ("a", "c", close()), ("b", "c", first())]),
        ];
        let names = ["a", "b", "c"].map(str::to_owned);
        let all: Vec<&PromptAnswers> = prompts.iter().collect();
        let figures = Figures::of(&names, 1, &all, &[]);
        assert_eq!(figures.pairs.len(), 3);
        let rate = |pair: usize| figures.pairs[pair].win_rate.unwrap();
        assert_eq!((rate(0).wins, rate(0).losses, rate(0).value), (2, 0, 1.0));
        assert_eq!((rate(1).wins, rate(1).abstained, rate(1).value), (1, 1, 0.75));
        assert_eq!((rate(2).losses, rate(2).failed, rate(2).prompts), (1, 1, 1));
        // Shown first 0.9 leans to the first shown; shown second 0.6, to the candidate and not to the place.
        assert_eq!(figures.pairs[0].first_shown_chosen.unwrap().value, 0.5);
        let strengths: Vec<f64> = figures
            .subjects
            .iter()
            .map(|one| one.strength.unwrap().log_ratio)
            .collect();
        assert!(
            strengths[0] == 0.0 && strengths[1] > strengths[2] && strengths[2] > 0.0,
            "{strengths:?}"
        );
        assert!(Figures::of(&names[..2], 1, &all, &[]).subjects[1].strength.is_none());
    }

    #[test]
    fn a_prompt_with_several_pictures_has_their_mean_and_figures_are_over_all_pictures() {
        let facts = |holds: [bool; 2]| -> Facts {
            let facts = holds.map(|holds| json!({"name": "shape", "holds": holds}));
            serde_json::from_value(json!(facts)).unwrap()
        };
        // Of two prompts two pictures of each of two subjects, of which the second has every fact but in one picture.
        let found = [[[true, false], [false, false]], [[true, true], [false, true]]];
        let prompts = [0, 1].map(|index| {
            let mut answers = prompt(index, &[]);
            answers.pictures.truncate(2);
            let of_subject = |(one, holds): (&PictureAnswers, [[bool; 2]; 2])| {
                [0, 1].map(|sample: u8| PictureAnswers {
                    sample: Some(sample),
                    facts: Some(facts(holds[usize::from(sample)])),
                    ..one.clone()
                })
            };
            answers.pictures = answers.pictures.iter().zip(found).flat_map(of_subject).collect();
            answers
        });
        let small = [0, 40, 0, 0, 100, 140, 20, 20].map(|level| RgbImage::from_pixel(4, 4, image::Rgb([level; 3])));
        let names = ["a", "b"].map(str::to_owned);
        let figures = Figures::of(&names, 2, &prompts.each_ref(), &[&small[..4], &small[4..]]);
        assert_eq!((figures.prompts, figures.samples), (2, Some(2)));
        let adherence = |subject: usize| figures.subjects[subject].adherence.as_ref().unwrap();
        assert_eq!(
            (adherence(0).pictures, adherence(0).mean, adherence(0).all.value),
            (4, 0.25, 0.0)
        );
        assert_eq!(
            (adherence(1).pictures, adherence(1).mean, adherence(1).all.value),
            (4, 0.75, 0.5)
        );
        // Prompts are compared by the means of their pictures: 0.25 and 0.75 on both.
        let difference = figures.differences[0].facts.unwrap();
        assert_eq!((difference.count, difference.mean, difference.more), (2, 0.5, 2));
        let levels = |subject: usize| {
            let SubjectFigures {
                diversity,
                diversity_within,
                ..
            } = &figures.subjects[subject];
            [diversity, diversity_within].map(|one| (one.unwrap() * 255.0).round())
        };
        assert_eq!((levels(0), levels(1)), ([100.0, 40.0], [20.0, 0.0]));
    }

    #[test]
    fn pictures_that_do_not_differ_are_counted_and_left_out_of_the_mean_of_psnr() {
        let distance = |l1, psnr| Distance {
            pixels: 4,
            l1,
            mse: l1 * l1,
            psnr,
            ssim: None,
        };
        let mean = MeanDistance::of([distance(0.0, None), distance(0.5, Some(6.0))].into_iter()).unwrap();
        assert_eq!(
            (mean.pictures, mean.identical, mean.l1, mean.psnr, mean.ssim),
            (2, 1, 0.25, Some(6.0), None)
        );
        assert_eq!(MeanDistance::of(std::iter::empty()), None);
    }
}
