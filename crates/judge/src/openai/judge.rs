//! Verdicts by a server's model.

use std::sync::Arc;

use gavel_core::ids::Digest;
use gavel_core::work::{Spent, VerdictRecord};
use gavel_rubric::{AnswerKind, AskError, Chat as _, Judge, JudgeTemplate, JudgedPair, Pictures, threads};
use serde_json::{Value, json};

use super::dialect::Wishes;
use super::wire::Said;
use super::{Asked, Endpoint, NoAnswer, Room, THOUGHTS, read};
use crate::Error;
use crate::answer::{Answer, Answers, decide};
use crate::list::{Lists, Shares, record};
use crate::question::Question;

/// Pictures of a pair.
const PICTURES: usize = 2;
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

/// What came of one question; the inner error says why there is no answer.
type Answered<T> = Result<Result<T, String>, AskError>;

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

    /// The answer to one order.
    fn answer(&self, pair: &JudgedPair<'_>, pictures: Pictures) -> Answered<Answer> {
        let question = match Question::new(&self.template, pair, pictures) {
            Ok(question) => question,
            Err(error) if error.is_of_the_pair() => return Ok(Err(error.to_string())),
            Err(error) => return Err(AskError::unanswerable(&error)),
        };
        match self.template.answer {
            AnswerKind::Label => Ok(self.shares(&question, PICTURES)?.map(|shares| Answer {
                probability_shown_first: shares.shown[0],
                label_mass: shares.label_mass,
            })),
            AnswerKind::Json => {
                let wishes = Wishes {
                    schema: Some(rank_schema()),
                    ..self.wishes()
                };
                self.ask(&question, wishes, &REASON_TOKENS, rank)
            }
        }
    }

    /// The shares of so many labels in the answer to a question.
    fn shares(&self, question: &Question<'_>, labels: usize) -> Answered<Shares> {
        let wishes = Wishes {
            likelihoods: true,
            ..self.wishes()
        };
        self.ask(question, wishes, &LABEL_TOKENS, |said| self.labels(said, labels))
    }

    fn wishes(&self) -> Wishes {
        Wishes {
            temperature: Some(0.0),
            ..Wishes::default()
        }
    }

    fn ask<T>(
        &self,
        question: &Question<'_>,
        wishes: Wishes,
        bounds: &[u32; 3],
        read: impl Fn(&Said) -> Result<T, String>,
    ) -> Answered<T> {
        let asked = Asked {
            body: self.endpoint.body(&question.messages, &question.images)?,
            wishes,
            bounds,
            room: &self.room,
        };
        match self.endpoint.ask(asked, read) {
            Ok(answer) => Ok(Ok(answer)),
            Err(NoAnswer::Silent(reason)) => Ok(Err(reason)),
            Err(NoAnswer::Failed(error)) => Err(error),
        }
    }

    /// Which of the first labels an answer is. Only a complete one can be none of them.
    fn labels(&self, said: &Said, count: usize) -> Result<Shares, String> {
        let labels = &self.template.labels[..count];
        let shares = match &said.likelihoods {
            Some(likely) => likelihoods(likely, labels),
            None => Shares::of_weights(match read::label(&said.text, labels) {
                Some(place) => (0..count).map(|other| if other == place { 1.0 } else { 0.0 }).collect(),
                // The model has answered; what it has answered is none of the labels.
                None => vec![0.0; count],
            }),
        };
        // The first token says it all where its likelihoods are known; words may go on to say something else.
        let is_said = said.likelihoods.is_some() && shares.label_mass >= self.template.label_mass_min;
        match said.complete || is_said {
            true => Ok(shares),
            false => Err(format!("the answer is no label yet: {}", read::excerpt(&said.text))),
        }
    }

    /// All lists of the pairs.
    fn lists(&self, pairs: &[JudgedPair<'_>]) -> Result<Vec<VerdictRecord>, AskError> {
        let unfit = |error: Error| AskError::unanswerable(&error);
        let lists = Lists::of(&self.template, pairs).map_err(unfit)?;
        let questions = lists.questions(&self.template, pairs).map_err(unfit)?;
        let asked: Vec<(Question<'_>, usize)> = questions.into_iter().zip(lists.labels()).collect();
        let answers = threads::map(self.concurrency, &asked, |_, (question, labels)| {
            self.shares(question, *labels)
        })?;
        Ok(lists.records(&self.template, self.margin, pairs, answers))
    }

    fn record(&self, pair: &JudgedPair<'_>, answers: Result<Answers, String>) -> VerdictRecord {
        let rubric = pair.rubric.digest();
        let answers = match answers {
            Ok(answers) => answers,
            Err(reason) => return VerdictRecord::failed(pair.prompt_index, reason, rubric),
        };
        record(pair, decide(answers, self.template.label_mass_min, self.margin))
    }
}

impl Judge for EndpointJudge {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> Digest {
        self.identity
    }

    fn sees_lists(&self) -> bool {
        self.template.shows_list()
    }

    fn judge(&self, pairs: &[JudgedPair<'_>]) -> Result<Vec<VerdictRecord>, AskError> {
        if self.template.shows_list() {
            return self.lists(pairs);
        }
        let questions: Vec<(&JudgedPair<'_>, Pictures)> = pairs
            .iter()
            .flat_map(|pair| {
                Answers::pictures(pair.orders)
                    .iter()
                    .map(move |pictures| (pair, *pictures))
            })
            .collect();
        let answers = threads::map(self.concurrency, &questions, |_, (pair, pictures)| {
            self.answer(pair, *pictures)
        })?;
        let mut answers = answers.into_iter();
        let records = pairs.iter().map(|pair| {
            // All of the pair's, also behind one that is none: the next pair's come after them.
            let own: Vec<_> = answers.by_ref().take(pair.orders.questions()).collect();
            let mut own = own.into_iter();
            let unasked = || Err("the question was not asked".to_owned());
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
fn likelihoods(likely: &[(String, f64)], labels: &[String]) -> Shares {
    let of_label = |label: &String| -> f64 {
        let same = likely.iter().filter(|(token, _)| token.trim() == label);
        same.map(|(_, logprob)| logprob.exp()).sum()
    };
    Shares::of_weights(labels.iter().map(of_label).collect())
}
