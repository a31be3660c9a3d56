//! Reasons for the pairs that are shown to people.

use gavel_core::work::{Reason, Side, Spent, Verdict, VerdictRecord};
use gavel_rubric::{AskError, Chat, ChatRequest, JudgedPair, ReasonTemplate, RubricSet, Theme, threads};

/// Says what each theme of a rubric decides about a pair, and why in a sentence.
pub struct Explainer {
    writer: Box<dyn Chat>,
    template: ReasonTemplate,
    max_tokens: u32,
    concurrency: usize,
}

impl Explainer {
    /// `writer` writes the sentences, each of at most `max_tokens` tokens, `concurrency` of them at a time.
    pub fn new(writer: Box<dyn Chat>, template: ReasonTemplate, max_tokens: u32, concurrency: usize) -> Self {
        Self {
            writer,
            template,
            max_tokens,
            concurrency,
        }
    }

    /// The reasons of each pair, in order, with one for each theme of the rubric. `judge` gives the verdicts under a rubric, as
    /// [`gavel_rubric::Judge::judge`] does. A verdict is never changed to suit a sentence, nor a sentence to suit the verdict under the
    /// whole rubric.
    ///
    /// # Errors
    /// [`AskError`] when a theme cannot be judged or a sentence not be had.
    pub fn explain(
        &self,
        rubric: &RubricSet,
        pairs: &[JudgedPair<'_>],
        judge: impl Fn(&RubricSet, &[JudgedPair<'_>]) -> Result<Vec<VerdictRecord>, AskError>,
    ) -> Result<Vec<Vec<Reason>>, AskError> {
        let mut reasons = vec![Vec::with_capacity(rubric.themes.len()); pairs.len()];
        if pairs.is_empty() {
            return Ok(reasons);
        }
        for theme in &rubric.themes {
            let records = judge(&RubricSet::of_themes(vec![theme.clone()]), pairs)?;
            let judged: Vec<(&JudgedPair<'_>, VerdictRecord)> = pairs.iter().zip(records).collect();
            let sentences = threads::map(self.concurrency, &judged, |_, (pair, record)| match record.verdict {
                Verdict::Preferred { side } => self.sentence(theme, pair, side),
                Verdict::Abstain { .. } | Verdict::Failed { .. } => Ok(None),
            })?;
            for ((reasons, (_, record)), sentence) in reasons.iter_mut().zip(judged).zip(sentences) {
                reasons.push(Reason {
                    theme: theme.name.clone(),
                    verdict: record.verdict,
                    probability_first: record.probability_first,
                    sentence,
                });
            }
        }
        Ok(reasons)
    }

    /// What the sentences have used so far.
    pub fn spent(&self) -> Spent {
        self.writer.spent()
    }

    fn sentence(&self, theme: &Theme, pair: &JudgedPair<'_>, better: Side) -> Result<Option<String>, AskError> {
        let messages = self
            .template
            .render(pair.prompt, theme, better, pair.sources.len())
            .map_err(|error| AskError::unanswerable(&error))?;
        let images: Vec<_> = [pair.first, pair.second].into_iter().chain(pair.sources).collect();
        let reply = self.writer.reply(&ChatRequest {
            messages: &messages,
            images: &images,
            max_tokens: self.max_tokens,
            temperature: 0.0,
            seed: 0,
            schema: None,
        })?;
        // A model that was cut off has said more than a sentence; what it said stays readable.
        let end = if reply.complete { "" } else { " ..." };
        let line = reply.text.lines().map(str::trim).find(|line| !line.is_empty());
        Ok(line.map(|line| format!("{line}{end}")))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use gavel_core::ids::{Digest, PromptIndex};
    use gavel_core::work::{AbstainReason, Usage};
    use gavel_rubric::{ChatReply, Part};
    use image::RgbImage;

    use super::*;

    /// Repeats the words that it was asked.
    struct Echo {
        complete: bool,
    }

    impl Chat for Echo {
        fn name(&self) -> &str {
            "echo"
        }

        fn identity(&self) -> Digest {
            Digest::of(b"echo")
        }

        fn reply(&self, request: &ChatRequest<'_>) -> Result<ChatReply, AskError> {
            let parts = request.messages.iter().flat_map(|message| &message.content);
            let words: String = parts
                .filter_map(|part| match part {
                    Part::Text(text) => Some(text.as_str()),
                    Part::Image(_) => None,
                })
                .collect();
            Ok(ChatReply {
                text: format!("\n  {words} \nand more"),
                complete: self.complete,
                usage: Usage::default(),
            })
        }
    }

    const TEMPLATE: &str = "name = \"t\"\n[[messages]]\nrole = \"user\"\ncontent = [{ image = 1 }, { image = 2 }, \
                            { text = \"{{ theme }}:{% for tip in criteria %} {{ tip }}{% endfor %} {{ better }}\" }]";

    /// A rubric of the word "Sharp" prefers the second, of "Bright" the first; others do not decide.
    fn judge(rubric: &RubricSet, pairs: &[JudgedPair<'_>]) -> Result<Vec<VerdictRecord>, AskError> {
        let text = rubric.text();
        let verdict = match (text.contains("Sharp"), text.contains("Bright")) {
            (true, false) => Verdict::Preferred { side: Side::Second },
            (false, true) => Verdict::Preferred { side: Side::First },
            _ => Verdict::Abstain {
                reason: AbstainReason::OrdersDisagree,
            },
        };
        let record = |pair: &JudgedPair<'_>| VerdictRecord {
            verdict: verdict.clone(),
            ..VerdictRecord::failed(pair.prompt_index, String::new(), rubric.digest())
        };
        Ok(pairs.iter().map(record).collect())
    }

    fn explained(complete: bool) -> Vec<Vec<Reason>> {
        let template = ReasonTemplate::parse(TEMPLATE, Path::new("reason.toml")).unwrap();
        let image = RgbImage::new(1, 1);
        let pair = |index| JudgedPair {
            prompt_index: PromptIndex(index),
            prompt: "a cat",
            sources: &[],
            first: &image,
            second: &image,
        };
        let rubric =
            RubricSet::from_text("Look\n- Sharp.\n- In focus.\n\nLight\n- Bright.\n\nRest\n- Pleasant.").unwrap();
        let explainer = Explainer::new(Box::new(Echo { complete }), template, 8, 2);
        explainer.explain(&rubric, &[pair(0), pair(1)], judge).unwrap()
    }

    #[test]
    fn each_theme_is_judged_alone_and_explained_where_it_decides() {
        let reasons = explained(true);
        assert_eq!(reasons.len(), 2);
        assert_eq!(reasons[0], reasons[1]);
        let told: Vec<_> = reasons[0]
            .iter()
            .map(|reason| (reason.theme.as_deref(), &reason.verdict, reason.sentence.as_deref()))
            .collect();
        let undecided = Verdict::Abstain {
            reason: AbstainReason::OrdersDisagree,
        };
        assert_eq!(
            told,
            [
                (
                    Some("Look"),
                    &Verdict::Preferred { side: Side::Second },
                    Some("Look: Sharp. In focus. 2")
                ),
                (
                    Some("Light"),
                    &Verdict::Preferred { side: Side::First },
                    Some("Light: Bright. 1")
                ),
                (Some("Rest"), &undecided, None),
            ]
        );
    }

    #[test]
    fn a_sentence_that_was_cut_off_says_so() {
        assert_eq!(explained(false)[0][1].sentence.as_deref(), Some("Light: Bright. 1 ..."));
    }
}
