//! Verdicts by a server's model.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use gavel_core::ids::Digest;
use gavel_core::work::{Spent, VerdictRecord};
use gavel_rubric::{AnswerKind, AskError, Chat as _, Judge, JudgeTemplate, JudgedPair, Pictures};
use serde_json::{Value, json};

use super::dialect::Wishes;
use super::wire::Said;
use super::{Asked, Endpoint, NoAnswer, Room, THOUGHTS, read};
use crate::answer::{Answer, Answers, decide, mean};
use crate::question::Question;

/// Most tokens of an answer that is a label; models like to put a word or two around it. More for those that think first.
const LABEL_TOKENS: [u32; 3] = [8, THOUGHTS[0], THOUGHTS[1]];
/// Most tokens of an answer with a reason.
const REASON_TOKENS: [u32; 3] = [512, 2048, 8192];

/// A server's model and the template that it is asked with.
pub(crate) struct EndpointJudge {
    endpoint: Arc<Endpoint>,
    name: String,
    identity: Digest,
    template: JudgeTemplate,
    margin: f64,
    concurrency: usize,
    /// How many tokens this judge's answers were found to need.
    room: Room,
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
            room: Room::default(),
        }
    }

    /// The answer to one order; the inner error says why there is none.
    fn answer(&self, pair: &JudgedPair<'_>, pictures: Pictures) -> Answered {
        let question = match Question::new(&self.template, pair, pictures) {
            Ok(question) => question,
            Err(error) if error.is_of_the_pair() => return Ok(Err(error.to_string())),
            Err(error) => return Err(AskError::unanswerable(&error)),
        };
        let wishes = Wishes {
            temperature: Some(0.0),
            ..Wishes::default()
        };
        let body = self.endpoint.body(&question.messages, &question.images)?;
        let room = &self.room;
        let answered = match self.template.answer {
            AnswerKind::Label => {
                let wishes = Wishes {
                    likelihoods: true,
                    ..wishes
                };
                let asked = Asked {
                    body,
                    wishes,
                    bounds: &LABEL_TOKENS,
                    room,
                };
                self.endpoint.ask(asked, |said| self.label(said))
            }
            AnswerKind::Json => {
                let wishes = Wishes {
                    schema: Some(rank_schema()),
                    ..wishes
                };
                let asked = Asked {
                    body,
                    wishes,
                    bounds: &REASON_TOKENS,
                    room,
                };
                self.endpoint.ask(asked, rank)
            }
        };
        match answered {
            Ok(answer) => Ok(Ok(answer)),
            Err(NoAnswer::Silent(reason)) => Ok(Err(reason)),
            Err(NoAnswer::Failed(error)) => Err(error),
        }
    }

    /// Which label an answer is. Only a complete one can be none of them.
    fn label(&self, said: &Said) -> Result<Answer, String> {
        let answer = match &said.likelihoods {
            Some(likely) => likelihoods(likely, &self.template.labels),
            None => read::label(&said.text, &self.template.labels).map_or(OUTSIDE, certain),
        };
        // The first token says it all where its likelihoods are known; words may go on to say something else.
        let is_said = said.likelihoods.is_some() && answer.label_mass >= self.template.label_mass_min;
        match said.complete || is_said {
            true => Ok(answer),
            false => Err(format!("the answer is no label yet: {}", read::excerpt(&said.text))),
        }
    }

    fn record(&self, pair: &JudgedPair<'_>, answers: Result<Answers, String>) -> VerdictRecord {
        let rubric = pair.rubric.digest();
        let answers = match answers {
            Ok(answers) => answers,
            Err(reason) => return VerdictRecord::failed(pair.prompt_index, reason, rubric),
        };
        let (verdict, order_probabilities) = decide(answers, self.template.label_mass_min, self.margin);
        VerdictRecord {
            prompt_index: pair.prompt_index,
            verdict,
            probability_first: mean(order_probabilities),
            order_probabilities,
            orders: pair.orders,
            rubric,
            votes: Vec::new(),
            reasons: Vec::new(),
            difference: None,
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

    fn judge(&self, pairs: &[JudgedPair<'_>]) -> Result<Vec<VerdictRecord>, AskError> {
        let questions: Vec<(&JudgedPair<'_>, Pictures)> = pairs
            .iter()
            .flat_map(|pair| {
                Answers::pictures(pair.orders)
                    .iter()
                    .map(move |pictures| (pair, *pictures))
            })
            .collect();
        let next = AtomicUsize::new(0);
        let answers: Mutex<Vec<Option<Result<Answer, String>>>> = Mutex::new(vec![None; questions.len()]);
        let failed: Mutex<Option<AskError>> = Mutex::new(None);
        let ask = || {
            loop {
                let place = next.fetch_add(1, Ordering::Relaxed);
                let Some((pair, pictures)) = questions.get(place) else {
                    return;
                };
                match self.answer(pair, *pictures) {
                    Ok(answer) => answers.lock().unwrap_or_else(PoisonError::into_inner)[place] = Some(answer),
                    Err(error) => {
                        failed
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .get_or_insert(error);
                        // The others end when they have their answers.
                        next.store(questions.len(), Ordering::Relaxed);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.concurrency.min(questions.len()) {
                scope.spawn(ask);
            }
            ask();
        });
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let answers = answers.into_inner().unwrap_or_else(PoisonError::into_inner);
        let unasked = || Err("the question was not asked".to_owned());
        let mut answers = answers.into_iter().map(|answer| answer.unwrap_or_else(unasked));
        let records = pairs.iter().map(|pair| {
            // All of the pair's, also behind one that is none: the next pair's come after them.
            let own: Vec<_> = answers.by_ref().take(pair.orders.questions()).collect();
            let mut own = own.into_iter();
            self.record(
                pair,
                Answers::collect(pair.orders, || own.next().unwrap_or_else(unasked)),
            )
        });
        Ok(records.collect())
    }

    fn spent(&self) -> Spent {
        self.endpoint.spent()
    }
}

/// The model has answered; what it has answered is none of the labels.
const OUTSIDE: Answer = Answer {
    probability_shown_first: 0.5,
    label_mass: 0.0,
};

/// Which picture an answer with a reason ranks first. One that was cut off might have gone on to say something else.
fn rank(said: &Said) -> Result<Answer, String> {
    let place = read::rank(&said.text)?;
    match said.complete {
        true => Ok(certain(place)),
        false => Err("the answer has no end".into()),
    }
}

/// What an answer with a reason looks like.
fn rank_schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "reason": { "type": "string" },
            "rank": { "type": "array", "items": { "type": "integer", "enum": [1, 2] }, "minItems": 2, "maxItems": 2 },
        },
        "required": ["reason", "rank"],
        "additionalProperties": false,
    })
}

fn certain(place: usize) -> Answer {
    Answer {
        probability_shown_first: if place == 0 { 1.0 } else { 0.0 },
        label_mass: 1.0,
    }
}

/// A label that is not among the tokens that the server shows counts as impossible.
fn likelihoods(likely: &[(String, f64)], labels: &[String]) -> Answer {
    let of_label = |place: usize| -> f64 {
        let same = likely
            .iter()
            .filter(|(token, _)| labels.get(place).is_some_and(|label| token.trim() == label));
        same.map(|(_, logprob)| logprob.exp()).sum()
    };
    let (first, second) = (of_label(0), of_label(1));
    let label_mass = first + second;
    Answer {
        probability_shown_first: if label_mass > 0.0 { first / label_mass } else { 0.5 },
        label_mass: label_mass.min(1.0),
    }
}
