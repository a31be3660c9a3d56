//! Verdicts by a server's model.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use gavel_core::ids::Digest;
use gavel_core::work::VerdictRecord;
use gavel_rubric::{AnswerKind, AskError, Chat as _, Judge, JudgeTemplate, JudgedPair, Pictures, RubricSet, Spent};
use serde_json::{Value, json};

use super::wire::first_token;
use super::{Endpoint, NoAnswer, json_ways, read};
use crate::answer::{Answer, decide, mean};
use crate::question::Question;

/// Most tokens of an answer that is a label; models like to put a word or two around it.
const LABEL_TOKENS: u32 = 8;
/// Most tokens of an answer with a reason.
const REASON_TOKENS: u32 = 512;
/// How often a question is asked whose answer says nothing.
const ANSWERS: usize = 3;

/// A server's model and the template that it is asked with.
pub(crate) struct EndpointJudge {
    endpoint: Arc<Endpoint>,
    name: String,
    identity: Digest,
    template: JudgeTemplate,
    margin: f64,
    concurrency: usize,
}

/// What came of one question.
type Answered = Result<Result<Answer, String>, AskError>;

impl EndpointJudge {
    pub(crate) fn new(endpoint: Arc<Endpoint>, template: JudgeTemplate, margin: f64, concurrency: u32) -> Self {
        let identity = Digest::of(format!("{} {} {margin}", endpoint.identity(), template.digest()).as_bytes());
        Self {
            name: endpoint.name().to_owned(),
            identity,
            endpoint,
            template,
            margin,
            concurrency: concurrency as usize,
        }
    }

    /// The answer to one order; the inner error says why there is none.
    fn answer(&self, rubric: &RubricSet, pair: &JudgedPair<'_>, pictures: Pictures) -> Answered {
        let question =
            Question::new(&self.template, rubric, pair, pictures).map_err(|error| AskError::unanswerable(&error))?;
        let mut body = self.endpoint.request(&question.messages, &question.images)?;
        let mut nothing = String::new();
        for attempt in 0..ANSWERS {
            if attempt > 0 {
                tracing::warn!(
                    reason = nothing,
                    judge = self.name,
                    "an answer that says nothing: asking again"
                );
                // A server that computes the same again must not compute the same again.
                body["seed"] = attempt.into();
            }
            let answered = match self.template.answer {
                AnswerKind::Label => self.label(&body),
                AnswerKind::Json => self.rank(&body),
            };
            match answered {
                Ok(Ok(answer)) => return Ok(Ok(answer)),
                Ok(Err(reason)) => nothing = reason,
                Err(NoAnswer::Refused(words)) => return Ok(Err(format!("the judge refused: {words}"))),
                Err(NoAnswer::Failed(error)) => return Err(error),
            }
        }
        Ok(Err(nothing))
    }

    fn label(&self, body: &Value) -> Result<Result<Answer, String>, NoAnswer> {
        let ways = [
            json!({ "logprobs": true, "top_logprobs": 20 }),
            json!({ "logprobs": true, "top_logprobs": 5 }),
            json!({}),
        ];
        let choice = self.endpoint.ask(body, LABEL_TOKENS, &ways, &self.endpoint.labelled)?;
        if let Some(likely) = first_token(&choice.logprobs) {
            return Ok(Ok(likelihoods(&likely, &self.template.labels)));
        }
        let text = choice.message.text();
        // The model has answered; what it has answered is none of the labels.
        Ok(Ok(match read::label(&text, &self.template.labels) {
            Some(place) => certain(place),
            None => Answer {
                probability_shown_first: 0.5,
                label_mass: 0.0,
            },
        }))
    }

    fn rank(&self, body: &Value) -> Result<Result<Answer, String>, NoAnswer> {
        let schema = json!({
            "type": "object",
            "properties": {
                "reason": { "type": "string" },
                "rank": { "type": "array", "items": { "type": "integer", "enum": [1, 2] }, "minItems": 2, "maxItems": 2 },
            },
            "required": ["reason", "rank"],
            "additionalProperties": false,
        });
        let choice = self
            .endpoint
            .ask(body, REASON_TOKENS, &json_ways(&schema), &self.endpoint.written)?;
        let read = read::rank(&choice.message.text());
        Ok(read
            .map(certain)
            .map_err(|reason| match choice.finish_reason.as_deref() {
                Some("length") => format!("{reason} (cut off after {REASON_TOKENS} tokens)"),
                _ => reason,
            }))
    }

    fn record(&self, rubric: Digest, pair: &JudgedPair<'_>, answers: [Result<Answer, String>; 2]) -> VerdictRecord {
        let answers = match answers {
            [Ok(straight), Ok(swapped)] => [straight, swapped],
            [Err(reason), _] | [_, Err(reason)] => return VerdictRecord::failed(pair.prompt_index, reason, rubric),
        };
        let (verdict, order_probabilities) = decide(answers, self.template.label_mass_min, self.margin);
        VerdictRecord {
            prompt_index: pair.prompt_index,
            verdict,
            probability_first: mean(order_probabilities),
            order_probabilities,
            rubric,
            votes: Vec::new(),
            reasons: Vec::new(),
        }
    }
}

impl Judge for EndpointJudge {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> Digest {
        self.identity
    }

    fn judge(&self, rubric: &RubricSet, pairs: &[JudgedPair<'_>]) -> Result<Vec<VerdictRecord>, AskError> {
        let next = AtomicUsize::new(0);
        let answers: Mutex<Vec<Option<Result<Answer, String>>>> = Mutex::new(vec![None; 2 * pairs.len()]);
        let failed: Mutex<Option<AskError>> = Mutex::new(None);
        let ask = || {
            loop {
                let place = next.fetch_add(1, Ordering::Relaxed);
                let Some(pair) = pairs.get(place / 2) else { return };
                let pictures = [Pictures::InOrder, Pictures::Swapped][place % 2];
                match self.answer(rubric, pair, pictures) {
                    Ok(answer) => answers.lock().unwrap_or_else(PoisonError::into_inner)[place] = Some(answer),
                    Err(error) => {
                        failed
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .get_or_insert(error);
                        // The others end when they have their answers.
                        next.store(2 * pairs.len(), Ordering::Relaxed);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.concurrency.min(2 * pairs.len()) {
                scope.spawn(ask);
            }
            ask();
        });
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let digest = rubric.digest();
        let answers = answers.into_inner().unwrap_or_else(PoisonError::into_inner);
        let unasked = || Err("the question was not asked".to_owned());
        let mut answers = answers.into_iter().map(|answer| answer.unwrap_or_else(unasked));
        let records = pairs.iter().map(|pair| {
            let both = [
                answers.next().unwrap_or_else(unasked),
                answers.next().unwrap_or_else(unasked),
            ];
            self.record(digest, pair, both)
        });
        Ok(records.collect())
    }

    fn spent(&self) -> Spent {
        self.endpoint.spent()
    }
}

fn certain(place: usize) -> Answer {
    Answer {
        probability_shown_first: if place == 0 { 1.0 } else { 0.0 },
        label_mass: 1.0,
    }
}

/// A label that is not among the tokens that the server shows counts as impossible.
fn likelihoods(likely: &[(String, f64)], labels: &[String; 2]) -> Answer {
    let [first, second] = labels.each_ref().map(|label| -> f64 {
        let same = likely.iter().filter(|(token, _)| token.trim() == label);
        same.map(|(_, logprob)| logprob.exp()).sum()
    });
    let label_mass = first + second;
    Answer {
        probability_shown_first: if label_mass > 0.0 { first / label_mass } else { 0.5 },
        label_mass: label_mass.min(1.0),
    }
}
