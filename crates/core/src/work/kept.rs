//! What a coordinator keeps for every run, under a key over all that it depends on.

use serde::{Deserialize, Serialize};

use super::{PictureAnswer, VerdictRecord};

/// An answer that is kept, so that nobody is asked for it twice. As JSON each kind is an object of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum KeptAnswer {
    /// What a judge said of a pair.
    Verdict(VerdictRecord),
    /// What was written for a prompt.
    Rubric(KeptRubric),
    /// What a model answered to a question about a picture.
    Picture(PictureAnswer),
}

/// What became of the rubric of a prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "rubric", rename_all = "snake_case", deny_unknown_fields)]
pub enum KeptRubric {
    /// It was written.
    Written {
        /// What the judge reads, at most [`crate::bounds::DOCUMENT`].
        text: String,
    },
    /// It decides worse than the general one on the prompt's own labelled pairs, and is left out.
    Worse,
    /// No answer held a criterion.
    Unreadable,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Digest, PromptIndex};

    #[test]
    fn verdicts_are_kept_as_they_ever_were_and_other_answers_beside_them() {
        let verdict = VerdictRecord::failed(PromptIndex(3), "away".into(), Digest::of(b"rubric"));
        let text = serde_json::to_string(&verdict).unwrap();
        assert_eq!(
            serde_json::to_string(&KeptAnswer::Verdict(verdict.clone())).unwrap(),
            text
        );
        assert_eq!(
            serde_json::from_str::<KeptAnswer>(&text).unwrap(),
            KeptAnswer::Verdict(verdict)
        );
        let written = KeptRubric::Written {
            text: "- It is red.".into(),
        };
        for (rubric, text) in [
            (written, "{\"rubric\":\"written\",\"text\":\"- It is red.\"}"),
            (KeptRubric::Worse, "{\"rubric\":\"worse\"}"),
            (KeptRubric::Unreadable, "{\"rubric\":\"unreadable\"}"),
        ] {
            let kept = KeptAnswer::Rubric(rubric);
            assert_eq!(serde_json::to_string(&kept).unwrap(), text);
            assert_eq!(serde_json::from_str::<KeptAnswer>(text).unwrap(), kept);
            assert!(serde_json::from_str::<VerdictRecord>(text).is_err());
        }
        for (yes, text) in [
            (Some(true), "{\"answer\":\"yes\"}"),
            (Some(false), "{\"answer\":\"no\"}"),
            (None, "{\"answer\":\"neither\"}"),
        ] {
            let kept = KeptAnswer::Picture(PictureAnswer::said(yes));
            assert_eq!(serde_json::to_string(&kept).unwrap(), text);
            assert_eq!(serde_json::from_str::<KeptAnswer>(text).unwrap(), kept);
        }
        assert!(serde_json::from_str::<KeptAnswer>("{}").is_err());
    }
}
