//! Verdicts that were given before.

use std::collections::{BTreeMap, BTreeSet};

use gavel_core::ids::Digest;
use gavel_core::work::{Verdict, VerdictRecord};
use gavel_rubric::{AskError, Journal, Judge, JudgedPair};
use image::RgbImage;

/// Where verdicts are kept. A cache that does not answer costs time and no verdict: what goes wrong with it is its own to tell.
pub trait VerdictCache {
    /// The verdicts of these keys, in order.
    fn recall(&self, keys: &[Digest]) -> Vec<Option<VerdictRecord>>;

    /// Keeps verdicts.
    fn keep(&self, verdicts: &[(Digest, VerdictRecord)]);
}

impl VerdictCache for Journal {
    fn recall(&self, keys: &[Digest]) -> Vec<Option<VerdictRecord>> {
        keys.iter()
            .map(|key| serde_json::from_value(self.get(key)?).ok())
            .collect()
    }

    fn keep(&self, verdicts: &[(Digest, VerdictRecord)]) {
        for (key, record) in verdicts {
            let Ok(answer) = serde_json::to_value(record) else {
                continue;
            };
            if let Err(error) = self.put(*key, answer) {
                tracing::warn!(%error, "verdicts are not kept");
                return;
            }
        }
    }
}

/// All that a verdict depends on: the judge with its template and margin, the rubric, the prompt, the pictures in order, the image
/// orders in which it is asked, and the pictures beside which it sees them.
pub fn verdict_key(judge: &dyn Judge, pair: &JudgedPair<'_>) -> Digest {
    let mut text = format!("{} {}", judge.identity_under(pair.rubric), pair.rubric.digest());
    for image in [pair.first, pair.second].into_iter().chain(pair.sources) {
        text += &format!(" {}", pixels(image));
    }
    // Nothing for both orders, as in keys of before there was another choice.
    if !pair.orders.is_both() {
        text += &format!(" {}", pair.orders);
    }
    // Nothing for a pair by itself.
    for listed in pair.list {
        text += &format!(" listed {}", pixels(listed));
    }
    // The prompt comes last, so that no words of it can pass for something else.
    text += &format!(" {}", Digest::of(pair.prompt.as_bytes()));
    Digest::of(text.as_bytes())
}

/// Fingerprint of a picture, whatever file it came from.
fn pixels(image: &RgbImage) -> Digest {
    let mut bytes = Vec::with_capacity(8 + image.as_raw().len());
    bytes.extend(image.width().to_le_bytes());
    bytes.extend(image.height().to_le_bytes());
    bytes.extend(image.as_raw());
    Digest::of(&bytes)
}

/// As [`Judge::judge`], asking only about pairs whose verdicts are not in `cache`.
///
/// # Errors
/// As [`Judge::judge`].
pub fn judge_with(
    cache: &dyn VerdictCache,
    judge: &dyn Judge,
    pairs: &[JudgedPair<'_>],
) -> Result<Vec<VerdictRecord>, AskError> {
    let keys: Vec<Digest> = pairs.iter().map(|pair| verdict_key(judge, pair)).collect();
    let mut known = cache.recall(&keys);
    known.resize(pairs.len(), None);
    // The same pair may stand in several places: it is asked about once.
    let mut open = BTreeSet::new();
    let unknown: Vec<usize> = (0..pairs.len())
        .filter(|index| known[*index].is_none() && open.insert(keys[*index]))
        .collect();
    let asked: Vec<JudgedPair<'_>> = unknown.iter().map(|index| pairs[*index]).collect();
    let judged = match asked.is_empty() {
        true => Vec::new(),
        false => judge.judge(&asked)?,
    };
    let judged: BTreeMap<Digest, VerdictRecord> = unknown.iter().map(|index| keys[*index]).zip(judged).collect();
    let worth = unknown.iter().filter_map(|index| judged.get_key_value(&keys[*index]));
    let worth: Vec<(Digest, VerdictRecord)> = worth
        .filter(|(_, record)| is_worth_keeping(record))
        .map(|(key, record)| (*key, record.clone()))
        .collect();
    if !worth.is_empty() {
        cache.keep(&worth);
    }
    let whole = known.into_iter().zip(&keys).zip(pairs).map(|((known, key), pair)| {
        let record = known.or_else(|| judged.get(key).cloned())?;
        Some(VerdictRecord {
            prompt_index: pair.prompt_index,
            ..record
        })
    });
    whole.collect::<Option<_>>().ok_or_else(|| AskError::Unanswerable {
        reason: format!("judge {} gave fewer verdicts than it was asked for", judge.name()),
        hint: None,
        said: None,
    })
}

/// Keeps what a judge like this one, asked elsewhere, said of these pairs. What a worker adds to a verdict is left out, and a verdict by another
/// rubric, or in other image orders, is none on the pair.
pub fn keep_given(cache: &dyn VerdictCache, judge: &dyn Judge, given: &[(JudgedPair<'_>, &VerdictRecord)]) {
    let fits = |pair: &JudgedPair<'_>, record: &VerdictRecord| {
        record.rubric == pair.rubric.digest() && record.orders == pair.orders && is_worth_keeping(record)
    };
    let of_the_judge = |record: &VerdictRecord| VerdictRecord {
        reasons: Vec::new(),
        difference: None,
        ..record.clone()
    };
    let fitting = given.iter().filter(|(pair, record)| fits(pair, record));
    let verdicts: Vec<_> = fitting
        .map(|(pair, record)| (verdict_key(judge, pair), of_the_judge(record)))
        .collect();
    if !verdicts.is_empty() {
        cache.keep(&verdicts);
    }
}

/// What failed may work next time, also where it is only a member that failed.
fn is_worth_keeping(record: &VerdictRecord) -> bool {
    let failed = |verdict: &Verdict| matches!(verdict, Verdict::Failed { .. });
    !failed(&record.verdict) && !record.votes.iter().any(|vote| failed(&vote.verdict))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use gavel_core::ids::PromptIndex;
    use gavel_core::work::{AbstainReason, Orders, Side, Vote};
    use gavel_rubric::RubricSet;

    use super::*;

    #[derive(Default)]
    struct Memory(Mutex<BTreeMap<Digest, VerdictRecord>>);

    impl VerdictCache for Memory {
        fn recall(&self, keys: &[Digest]) -> Vec<Option<VerdictRecord>> {
            let kept = self.0.lock().unwrap();
            keys.iter().map(|key| kept.get(key).cloned()).collect()
        }

        fn keep(&self, verdicts: &[(Digest, VerdictRecord)]) {
            self.0.lock().unwrap().extend(verdicts.iter().cloned());
        }
    }

    /// Gives one verdict to all, and counts how many it gave.
    struct Counting {
        identity: &'static str,
        verdict: Verdict,
        votes: Vec<Vote>,
        asked: AtomicUsize,
    }

    impl Judge for Counting {
        fn name(&self) -> &str {
            self.identity
        }

        fn identity(&self) -> Digest {
            Digest::of(self.identity.as_bytes())
        }

        fn judge(&self, pairs: &[JudgedPair<'_>]) -> Result<Vec<VerdictRecord>, AskError> {
            self.asked.fetch_add(pairs.len(), Ordering::SeqCst);
            let record = |pair: &JudgedPair<'_>| VerdictRecord {
                verdict: self.verdict.clone(),
                votes: self.votes.clone(),
                ..VerdictRecord::failed(pair.prompt_index, String::new(), pair.rubric.digest())
            };
            Ok(pairs.iter().map(record).collect())
        }
    }

    const FIRST: Verdict = Verdict::Preferred { side: Side::First };

    fn counting(identity: &'static str, verdict: Verdict) -> Counting {
        Counting {
            identity,
            verdict,
            votes: Vec::new(),
            asked: AtomicUsize::new(0),
        }
    }

    fn image(shade: u8) -> RgbImage {
        RgbImage::from_pixel(2, 3, image::Rgb([shade; 3]))
    }

    fn pair<'a>(first: &'a RgbImage, second: &'a RgbImage, rubric: &'a RubricSet) -> JudgedPair<'a> {
        JudgedPair {
            prompt_index: PromptIndex(0),
            prompt: "a cat",
            sources: &[],
            first,
            second,
            rubric,
            orders: Orders::Both,
            list: &[],
        }
    }

    fn rubric(text: &str) -> RubricSet {
        RubricSet::from_text(text).unwrap()
    }

    #[test]
    fn a_verdict_is_recalled_for_the_very_same_question_and_for_no_other() {
        let [dark, light, other] = [image(1), image(200), image(90)];
        let wide = RgbImage::from_pixel(3, 2, image::Rgb([1; 3]));
        let (sharp, blurred) = (rubric("Sharp."), rubric("Blurred."));
        let pair = |prompt, sources, first, second| JudgedPair {
            prompt_index: PromptIndex(4),
            prompt,
            sources,
            first,
            second,
            rubric: &sharp,
            orders: Orders::Both,
            list: &[],
        };
        let same = pair("a cat", &[], &dark, &light);
        let judge = counting("one", FIRST);
        let memory = Memory::default();
        let asked = |judge: &Counting, pair: JudgedPair<'_>| {
            let before = judge.asked.load(Ordering::SeqCst);
            judge_with(&memory, judge, &[pair]).unwrap();
            judge.asked.load(Ordering::SeqCst) - before
        };
        assert_eq!(asked(&judge, same), 1);
        let elsewhere = JudgedPair {
            prompt_index: PromptIndex(9),
            ..same
        };
        assert_eq!(asked(&judge, elsewhere), 0, "the place is no part of the question");
        assert_eq!(asked(&counting("another judge", FIRST), same), 1);
        let by_another = JudgedPair {
            rubric: &blurred,
            ..same
        };
        assert_eq!(asked(&judge, by_another), 1);
        for orders in [Orders::Straight, Orders::Swapped] {
            let in_one = JudgedPair { orders, ..same };
            assert_eq!([asked(&judge, in_one), asked(&judge, in_one)], [1, 0], "{orders}");
        }
        for changed in [
            pair("a dog", &[], &dark, &light),
            pair("a cat", &[], &light, &dark),
            pair("a cat", &[], &other, &light),
            pair("a cat", &[], &dark, &other),
            pair("a cat", &[], &wide, &light),
            pair("a cat", std::slice::from_ref(&other), &dark, &light),
            pair("a cat", std::slice::from_ref(&light), &dark, &light),
        ] {
            assert_eq!(asked(&judge, changed), 1, "{}", changed.prompt);
            assert_eq!(asked(&judge, changed), 0);
        }
    }

    #[test]
    fn what_was_given_elsewhere_is_kept_as_the_judge_gives_it_and_only_where_it_fits() {
        let (dark, light) = (image(1), image(200));
        let (sharp, blurred) = (rubric("Sharp."), rubric("Blurred."));
        let judge = counting("one", FIRST);
        let pair = pair(&dark, &light, &sharp);
        let own = judge.judge(&[pair]).unwrap().remove(0);
        let of_a_worker = VerdictRecord {
            difference: Some(0.5),
            ..own.clone()
        };
        let with = |change: fn(&mut VerdictRecord, Digest), digest| {
            let mut record = of_a_worker.clone();
            change(&mut record, digest);
            record
        };
        let other = blurred.digest();
        for unfit in [
            with(|record, digest| record.rubric = digest, other),
            with(|record, _| record.orders = Orders::Straight, other),
            with(
                |record, _| record.verdict = Verdict::Failed { reason: "away".into() },
                other,
            ),
        ] {
            let memory = Memory::default();
            keep_given(&memory, &judge, &[(pair, &unfit)]);
            assert!(memory.0.lock().unwrap().is_empty(), "{unfit:?}");
        }
        let memory = Memory::default();
        keep_given(&memory, &judge, &[(pair, &of_a_worker)]);
        let asked = judge.asked.load(Ordering::SeqCst);
        assert_eq!(judge_with(&memory, &judge, &[pair]).unwrap(), [own]);
        assert_eq!(judge.asked.load(Ordering::SeqCst), asked, "nobody is asked again");
    }

    #[test]
    fn only_what_is_unknown_is_asked_and_places_are_kept() {
        let images: Vec<RgbImage> = (0..4).map(image).collect();
        let (judge, memory, sharp) = (counting("one", FIRST), Memory::default(), rubric("Sharp."));
        let pairs: Vec<JudgedPair<'_>> = (0..3)
            .map(|index| JudgedPair {
                prompt_index: PromptIndex(index),
                prompt: "a cat",
                sources: &[],
                first: &images[index as usize],
                second: &images[3],
                rubric: &sharp,
                orders: Orders::Both,
                list: &[],
            })
            .collect();
        judge_with(&memory, &judge, &pairs[1..2]).unwrap();
        let records = judge_with(&memory, &judge, &pairs).unwrap();
        assert!(records.iter().map(|record| record.prompt_index.0).eq(0..3));
        assert_eq!(judge.asked.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn failures_are_never_kept_and_abstentions_are() {
        let (dark, light, sharp) = (image(1), image(2), rubric("Sharp."));
        let pair = pair(&dark, &light, &sharp);
        let failed = Verdict::Failed { reason: "away".into() };
        let abstains = Verdict::Abstain {
            reason: AbstainReason::TooClose,
        };
        let lame = Counting {
            votes: vec![Vote {
                judge: "member".into(),
                weight: 1.0,
                verdict: failed.clone(),
                veto: false,
            }],
            ..counting("lame", FIRST)
        };
        for (judge, expected) in [(counting("a", failed), 2), (lame, 2), (counting("b", abstains), 1)] {
            let memory = Memory::default();
            for _ in 0..2 {
                judge_with(&memory, &judge, &[pair]).unwrap();
            }
            assert_eq!(judge.asked.load(Ordering::SeqCst), expected, "{}", judge.identity);
        }
    }
}
