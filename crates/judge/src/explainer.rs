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

    /// The reasons of each pair, in order, with one for each theme of its rubric. `judge` gives verdicts as [`gavel_rubric::Judge::judge`] does,
    /// here by one theme at a time. A verdict is never changed to suit a sentence, nor a sentence to suit the verdict under the
    /// whole rubric.
    ///
    /// # Errors
    /// [`AskError`] when a theme cannot be judged or a sentence not be had.
    pub fn explain(
        &self,
        pairs: &[JudgedPair<'_>],
        judge: impl Fn(&[JudgedPair<'_>]) -> Result<Vec<VerdictRecord>, AskError>,
    ) -> Result<Vec<Vec<Reason>>, AskError> {
        let mut reasons = vec![Vec::new(); pairs.len()];
        let most = pairs.iter().map(|pair| pair.rubric.themes.len()).max().unwrap_or(0);
        for index in 0..most {
            // The pairs whose rubric has so many themes, each with this one alone.
            let places: Vec<usize> = (0..pairs.len())
                .filter(|place| pairs[*place].rubric.themes.len() > index)
                .collect();
            let theme_of = |place: usize| &pairs[place].rubric.themes[index];
            let alone: Vec<RubricSet> = places
                .iter()
                .map(|place| RubricSet::of_themes(vec![theme_of(*place).clone()]))
                .collect();
            let by_theme: Vec<JudgedPair<'_>> = places
                .iter()
                .zip(&alone)
                .map(|(place, rubric)| JudgedPair {
                    rubric,
                    ..pairs[*place]
                })
                .collect();
            let judged: Vec<(usize, VerdictRecord)> = places.into_iter().zip(judge(&by_theme)?).collect();
            let sentences = threads::map(self.concurrency, &judged, |_, (place, record)| match record.verdict {
                Verdict::Preferred { side } => self.sentence(theme_of(*place), &pairs[*place], side),
                Verdict::Abstain { .. } | Verdict::Failed { .. } => Ok(None),
            })?;
            for ((place, record), sentence) in judged.into_iter().zip(sentences) {
                reasons[place].push(Reason {
                    theme: theme_of(place).name.clone(),
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
    use gavel_core::work::{AbstainReason, Orders, Usage};
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
    fn judge(pairs: &[JudgedPair<'_>]) -> Result<Vec<VerdictRecord>, AskError> {
        Ok(pairs.iter().map(verdict).collect())
    }

    fn verdict(pair: &JudgedPair<'_>) -> VerdictRecord {
        let text = pair.rubric.text();
        let verdict = match (text.contains("Sharp"), text.contains("Bright")) {
            (true, false) => Verdict::Preferred { side: Side::Second },
            (false, true) => Verdict::Preferred { side: Side::First },
            _ => Verdict::Abstain {
                reason: AbstainReason::OrdersDisagree,
            },
        };
        VerdictRecord {
            verdict,
            ..VerdictRecord::failed(pair.prompt_index, String::new(), pair.rubric.digest())
        }
    }

    fn explained(complete: bool) -> Vec<Vec<Reason>> {
        let template = ReasonTemplate::parse(TEMPLATE, Path::new("reason.toml")).unwrap();
        let image = RgbImage::new(1, 1);
        let rubric =
            RubricSet::from_text("Look\n- Sharp.\n- In focus.\n\nLight\n- Bright.\n\nRest\n- Pleasant.").unwrap();
        let short = RubricSet::from_text("Light\n- Bright.").unwrap();
        let pair = |index, rubric| JudgedPair {
            prompt_index: PromptIndex(index),
            prompt: "a cat",
            sources: &[],
            first: &image,
            second: &image,
            rubric,
            orders: Orders::Both,
            list: &[],
        };
        let explainer = Explainer::new(Box::new(Echo { complete }), template, 8, 2);
        let pairs = [pair(0, &rubric), pair(1, &short), pair(2, &rubric)];
        explainer.explain(&pairs, judge).unwrap()
    }

    #[test]
    fn each_theme_is_judged_alone_and_explained_where_it_decides() {
        let reasons = explained(true);
        assert_eq!(reasons.len(), 3);
        assert_eq!(reasons[0], reasons[2]);
        // A pair whose rubric has one theme has one reason.
        assert_eq!(reasons[1], reasons[0][1..2]);
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
