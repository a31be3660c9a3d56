//! What is found in one picture: by the exact rules, and against its source and its target.

use std::collections::BTreeMap;

use gavel_core::ids::Digest;
use gavel_core::work::VerdictRecord;
use gavel_eval::{Difference, Distance, Evaluator, Facts, Region, Task};
use gavel_rubric::data::Picture;
use gavel_rubric::data::tasks::TaskRecord;
use image::RgbImage;
use image::imageops::{self, FilterType};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::QuestionAnswer;

/// Everything about one prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PromptAnswers {
    /// Its number in the file, from 0 on.
    pub index: usize,
    /// Its words.
    pub prompt: String,
    /// The other fields of its record.
    #[serde(skip_serializing_if = "Map::is_empty", default)]
    pub fields: Map<String, Value>,
    /// Each subject's pictures, in the subjects' order and, of each, in the samples'.
    pub pictures: Vec<PictureAnswers>,
    /// The judge's verdict on each two subjects; empty without a judge.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub verdicts: Vec<PairVerdict>,
}

/// The judge's verdict on two subjects' pictures of a prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairVerdict {
    /// The first candidate's subject, and the second's.
    pub subjects: [String; 2],
    /// Which of several pictures of each, from 0 on; `None` where there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sample: Option<u8>,
    /// What the judge said in both orders.
    #[serde(flatten)]
    pub record: VerdictRecord,
}

/// One picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PictureAnswers {
    /// Whose it is.
    pub subject: String,
    /// Which of several of the prompt, from 0 on; `None` where there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sample: Option<u8>,
    /// Hash of its file.
    pub sha256: Digest,
    /// What the evaluator finds; `None` where it does not understand the prompt or the picture's size.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub facts: Option<Facts>,
    /// How much of what the edit leaves alone is kept, by the evaluator's rules, in [0, 1].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub preservation: Option<f64>,
    /// How far it is from the first source, in an edit.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub source: Option<SourceDistance>,
    /// How far it is from what the edit should come to, where the record has that.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target: Option<Distance>,
    /// The cosine of its DINOv2 embedding and the first source's, in [-1, 1].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub similarity: Option<f64>,
    /// The same where all but the edit is gray in both.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub similarity_inside: Option<f64>,
    /// The same where the edit is gray in both.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub similarity_outside: Option<f64>,
    /// The questions that the prompt brings, with what is answered of this picture.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub questions: Vec<QuestionAnswer>,
    /// Questions about how well the picture is made, whatever its prompt.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub quality: Vec<QuestionAnswer>,
    /// Questions about whether the picture does what its prompt asks for.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub fulfilment: Vec<QuestionAnswer>,
}

impl PromptAnswers {
    /// The pictures of a subject.
    pub(super) fn of_subject<'a>(&'a self, subject: &'a str) -> impl Iterator<Item = &'a PictureAnswers> {
        self.pictures.iter().filter(move |picture| picture.subject == subject)
    }
}

impl PictureAnswers {
    /// Every question about the picture.
    pub fn asked(&self) -> impl Iterator<Item = &QuestionAnswer> {
        self.questions.iter().chain(&self.fulfilment).chain(&self.quality)
    }
}

/// How far an edited picture is from its source.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SourceDistance {
    /// Share of the pixels that changed, in [0, 1].
    pub changed: f64,
    /// What says where the edit is.
    pub region: RegionOrigin,
    /// Share of the picture that is there, in [0, 1].
    pub region_share: f64,
    /// Over the whole picture.
    pub whole: Distance,
    /// Where the edit is.
    pub inside: Option<Distance>,
    /// Everywhere else: what should be as it was.
    pub outside: Option<Distance>,
}

/// What says where an edit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegionOrigin {
    /// The record's mask.
    Mask,
    /// Where the record's target differs from the source.
    Target,
    /// Where the picture itself differs from the source: all that is outside is then nearly the same by construction.
    Picture,
}

impl PictureAnswers {
    /// Looks at one picture.
    pub(super) fn of(
        subject: &str,
        picture: &Picture,
        image: &RgbImage,
        task: &PreparedTask<'_>,
        evaluator: Option<&dyn Evaluator>,
    ) -> Self {
        let asked = Task {
            words: &task.record.words,
            sources: &task.sources,
        };
        let answer = evaluator.and_then(|evaluator| evaluator.evaluate(&asked, image).ok());
        let preservation = answer.as_ref().and_then(|answer| answer.preservation);
        Self {
            subject: subject.to_owned(),
            sample: None,
            sha256: picture.digest,
            facts: answer.map(|answer| answer.facts),
            preservation,
            source: task.source_distance(image),
            target: task
                .target
                .as_ref()
                .and_then(|target| difference(target, image)?.whole()),
            similarity: None,
            similarity_inside: None,
            similarity_outside: None,
            questions: Vec::new(),
            quality: Vec::new(),
            fulfilment: Vec::new(),
        }
    }
}

/// A task with its pictures decoded.
pub(super) struct PreparedTask<'a> {
    pub(super) record: &'a TaskRecord,
    pub(super) sources: Vec<RgbImage>,
    pub(super) digests: Vec<Digest>,
    mask: Option<RgbImage>,
    target: Option<RgbImage>,
}

impl<'a> PreparedTask<'a> {
    pub(super) fn of(record: &'a TaskRecord) -> Self {
        let (sources, digests) = super::pictures::sources(record);
        Self {
            record,
            sources,
            digests,
            mask: record.mask.as_ref().map(Picture::image),
            target: record.target.as_ref().map(Picture::image),
        }
    }

    fn source_distance(&self, image: &RgbImage) -> Option<SourceDistance> {
        let source = self.sources.first()?;
        let difference = difference(source, image)?;
        let changed = difference.changed();
        let (origin, region) = self.region(source, image, changed.clone())?;
        Some(SourceDistance {
            changed: changed.share()?,
            region: origin,
            region_share: region.share()?,
            whole: difference.whole()?,
            inside: difference.over(&region),
            outside: difference.over(&region.complement()),
        })
    }

    /// Where the edit of `source` is, and by what one knows; by `changed`, where the picture differs, if by nothing else.
    fn region(&self, source: &RgbImage, image: &RgbImage, changed: Region) -> Option<(RegionOrigin, Region)> {
        Some(match (&self.mask, &self.target) {
            (Some(mask), _) => {
                let (width, height) = image.dimensions();
                let mask = imageops::resize(mask, width, height, FilterType::Nearest);
                (RegionOrigin::Mask, Region::of_mask(&mask))
            }
            (None, Some(target)) => {
                let [source, target] = [source, target].map(|one| scaled(one, image));
                (RegionOrigin::Target, Difference::between(&source, &target)?.changed())
            }
            (None, None) => (RegionOrigin::Picture, changed),
        })
    }

    /// The first source and the picture, both whole, where the edit is and everywhere else; nothing where there is no source, and `None` for a
    /// part that has no pixel.
    pub(super) fn parts(&self, image: &RgbImage) -> Option<[Option<[RgbImage; 2]>; 3]> {
        let source = self.sources.first()?;
        let (_, region) = self.region(source, image, difference(source, image)?.changed())?;
        let small = scaled(source, image);
        let part = |region: &Region| Some([region.of(&small)?, region.of(image)?]);
        Some([
            Some([source.clone(), image.clone()]),
            part(&region),
            part(&region.complement()),
        ])
    }
}

/// The difference of a picture from another, which is scaled to its size where it has another one.
fn difference(from: &RgbImage, image: &RgbImage) -> Option<Difference> {
    Difference::between(&scaled(from, image), image)
}

fn scaled(picture: &RgbImage, to: &RgbImage) -> RgbImage {
    let (width, height) = to.dimensions();
    match picture.dimensions() == (width, height) {
        true => picture.clone(),
        false => imageops::resize(picture, width, height, FilterType::Triangle),
    }
}

/// How often each kind of fact was asked for, and held: `shape` of `shape0` and `shape1`.
pub(super) fn facts_by_kind<'a>(facts: impl Iterator<Item = &'a Facts>) -> BTreeMap<String, (usize, usize)> {
    let mut kinds: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for fact in facts.flat_map(Facts::iter) {
        let kind = fact.name.trim_end_matches(|letter: char| letter.is_ascii_digit());
        let (asked, holding) = kinds.entry(kind.to_owned()).or_default();
        *asked += 1;
        *holding += usize::from(fact.holds);
    }
    kinds
}

#[cfg(test)]
mod tests {
    use gavel_rubric::data::{ReadOptions, tasks};
    use image::Rgb;

    use super::*;

    fn with_left(level: u8) -> RgbImage {
        RgbImage::from_fn(32, 32, |x, _| if x < 8 { Rgb([level; 3]) } else { Rgb([100; 3]) })
    }

    #[test]
    fn the_region_of_an_edit_is_the_masks_else_the_targets_else_the_pictures_own() {
        let folder = tempfile::tempdir().unwrap();
        let save = |name: &str, picture: RgbImage| picture.save(folder.path().join(name)).unwrap();
        save("source.png", with_left(100));
        save("target.png", with_left(200));
        save(
            "mask.png",
            RgbImage::from_fn(32, 32, |x, _| Rgb([if x < 16 { 255 } else { 0 }; 3])),
        );
        let lines = [
            r#"{"prompt": "x", "source": "source.png", "mask": "mask.png", "target": "target.png"}"#,
            r#"{"prompt": "x", "source": "source.png", "target": "target.png"}"#,
            r#"{"prompt": "x", "source": "source.png"}"#,
        ];
        let file = folder.path().join("edits.jsonl");
        std::fs::write(&file, lines.join("\n")).unwrap();
        let records = tasks::read(&file, true, &ReadOptions::local()).unwrap();
        // A little all over, and nothing of what was asked.
        let edited = RgbImage::from_pixel(32, 32, Rgb([110; 3]));
        let found: Vec<SourceDistance> = records
            .iter()
            .map(|record| PreparedTask::of(record).source_distance(&edited).unwrap())
            .collect();
        let shares: Vec<(RegionOrigin, f64)> = found.iter().map(|one| (one.region, one.region_share)).collect();
        let expected = [
            (RegionOrigin::Mask, 0.5),
            (RegionOrigin::Target, 0.25),
            (RegionOrigin::Picture, 0.0),
        ];
        assert_eq!(shares, expected);
        assert!(found.iter().all(|one| one.changed == 0.0));
        assert!((found[0].outside.unwrap().l1 - 10.0 / 255.0).abs() < 1e-12);
        assert_eq!(found[2].inside, None);
        let [whole, inside, outside] = PreparedTask::of(&records[0]).parts(&edited).unwrap();
        let [source, picture] = inside.unwrap();
        assert_eq!(
            (source.get_pixel(9, 0).0, source.get_pixel(20, 0).0),
            ([100; 3], [127; 3])
        );
        assert_eq!(
            (picture.get_pixel(9, 0).0, picture.get_pixel(20, 0).0),
            ([110; 3], [127; 3])
        );
        assert_eq!(outside.unwrap()[1].get_pixel(20, 0).0, [110; 3]);
        assert_eq!(whole.unwrap()[1], edited);
        let [_, nowhere, everywhere] = PreparedTask::of(&records[2]).parts(&edited).unwrap();
        assert!(nowhere.is_none() && everywhere.is_some());
        let larger = imageops::resize(&edited, 64, 64, FilterType::Nearest);
        let scaled = PreparedTask::of(&records[0]).source_distance(&larger).unwrap();
        assert!((scaled.whole.l1 - 10.0 / 255.0).abs() < 1e-12 && scaled.region_share == 0.5);
    }
}
