//! Answers that are kept for every run.

use gavel_core::bounds::DOCUMENT;
use gavel_core::ids::Digest;
use gavel_core::work::{KeptAnswer, KeptRubric};

use super::{Malformed, bytes, digest, required};
use crate::v1;

const KEY: &str = "KeptVerdict.key";

impl From<(Digest, KeptAnswer)> for v1::KeptVerdict {
    fn from((key, answer): (Digest, KeptAnswer)) -> Self {
        let mut kept = Self {
            key: bytes(key),
            ..Self::default()
        };
        match answer {
            KeptAnswer::Verdict(record) => kept.record = Some(record.into()),
            KeptAnswer::Rubric(rubric) => kept.rubric = Some(rubric.into()),
            KeptAnswer::Picture(answer) => kept.picture = Some(answer.into()),
        }
        kept
    }
}

impl TryFrom<v1::KeptVerdict> for (Digest, KeptAnswer) {
    type Error = Malformed;

    fn try_from(kept: v1::KeptVerdict) -> Result<Self, Malformed> {
        let key = digest(&kept.key, KEY)?;
        let answer = match (kept.record, kept.rubric, kept.picture) {
            (record, None, None) => KeptAnswer::Verdict(required(record, "KeptVerdict.record")?.try_into()?),
            (None, Some(rubric), None) => KeptAnswer::Rubric(rubric.try_into()?),
            (None, None, Some(answer)) => KeptAnswer::Picture(answer.try_into()?),
            (record, rubric, picture) => {
                let answers = [record.is_some(), rubric.is_some(), picture.is_some()];
                return Err(Malformed::Range {
                    field: "KeptVerdict",
                    found: answers.into_iter().filter(|is_there| *is_there).count() as i64,
                });
            }
        };
        Ok((key, answer))
    }
}

impl From<KeptRubric> for v1::KeptRubric {
    fn from(rubric: KeptRubric) -> Self {
        use v1::kept_rubric::Outcome;
        let without = |why: v1::WithoutRubric| Outcome::Without(why.into());
        Self {
            outcome: Some(match rubric {
                KeptRubric::Written { text } => Outcome::Text(text),
                KeptRubric::Worse => without(v1::WithoutRubric::Worse),
                KeptRubric::Unreadable => without(v1::WithoutRubric::Unreadable),
            }),
        }
    }
}

impl TryFrom<v1::KeptRubric> for KeptRubric {
    type Error = Malformed;

    fn try_from(rubric: v1::KeptRubric) -> Result<Self, Malformed> {
        use v1::kept_rubric::Outcome;
        match required(rubric.outcome, "KeptRubric.outcome")? {
            Outcome::Text(text) => {
                DOCUMENT.check("KeptRubric.text", text.len())?;
                Ok(Self::Written { text })
            }
            Outcome::Without(why) => match v1::WithoutRubric::try_from(why) {
                Ok(v1::WithoutRubric::Worse) => Ok(Self::Worse),
                Ok(v1::WithoutRubric::Unreadable) => Ok(Self::Unreadable),
                Ok(v1::WithoutRubric::Unspecified) | Err(_) => Err(Malformed::Range {
                    field: "KeptRubric.without",
                    found: why.into(),
                }),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use gavel_core::work::PictureAnswer;

    use super::*;

    #[test]
    fn what_is_kept_comes_back_and_nothing_else_is_taken() {
        let key = Digest::of(b"a prompt");
        let written = KeptRubric::Written {
            text: "- It is red.".into(),
        };
        for rubric in [written, KeptRubric::Worse, KeptRubric::Unreadable] {
            let sent = v1::KeptVerdict::from((key, KeptAnswer::Rubric(rubric.clone())));
            let read = <(Digest, KeptAnswer)>::try_from(sent);
            assert_eq!(read, Ok((key, KeptAnswer::Rubric(rubric))));
        }
        for yes in [Some(true), Some(false), None] {
            let answer = KeptAnswer::Picture(PictureAnswer::said(yes));
            let sent = v1::KeptVerdict::from((key, answer.clone()));
            let both = v1::KeptVerdict {
                rubric: Some(KeptRubric::Worse.into()),
                ..sent.clone()
            };
            assert_eq!(<(Digest, KeptAnswer)>::try_from(sent), Ok((key, answer)));
            assert!(<(Digest, KeptAnswer)>::try_from(both).is_err());
        }
        let refused = |outcome| {
            let kept = v1::KeptVerdict {
                key: key.0.to_vec(),
                rubric: Some(v1::KeptRubric { outcome }),
                ..v1::KeptVerdict::default()
            };
            <(Digest, KeptAnswer)>::try_from(kept).unwrap_err()
        };
        use v1::kept_rubric::Outcome;
        assert!(matches!(refused(None), Malformed::Missing { .. }));
        for why in [0, 3, -1] {
            assert!(matches!(refused(Some(Outcome::Without(why))), Malformed::Range { .. }));
        }
        let long = "x".repeat(DOCUMENT.most as usize + 1);
        assert!(matches!(refused(Some(Outcome::Text(long))), Malformed::TooMuch(_)));
        let neither = v1::KeptVerdict {
            key: key.0.to_vec(),
            ..v1::KeptVerdict::default()
        };
        assert!(<(Digest, KeptAnswer)>::try_from(neither).is_err());
    }
}
