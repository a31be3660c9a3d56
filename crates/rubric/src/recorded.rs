//! Questions whose answers are kept in a journal.

use std::sync::atomic::{AtomicUsize, Ordering};

use gavel_core::Hint as _;
use gavel_core::ids::{Digest, PromptIndex};
use gavel_core::work::{Orders, Side, Usage, VerdictRecord};
use image::RgbImage;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::data::{Picture, RankedPair};
use crate::generate::Embed;
use crate::threads;
use crate::{AskError, Chat, ChatReply, ChatRequest, Journal, JournalError, Judge, JudgedPair, Message, RubricSet};

/// Asks through a journal: what it holds is not asked again.
pub struct Recorded<'a> {
    journal: Option<&'a Journal>,
    asked: AtomicUsize,
    found: AtomicUsize,
}

/// A pair with its place among those to be judged.
#[derive(Debug, Clone, Copy)]
pub struct RecordedPair<'a> {
    /// The place.
    pub index: PromptIndex,
    /// The pair.
    pub pair: RankedPair<'a>,
    /// What decides about it.
    pub rubric: &'a RubricSet,
}

/// A request for words, with the pictures as they are encoded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) messages: &'a [Message],
    pub(crate) pictures: &'a [&'a Picture],
    pub(crate) max_tokens: u32,
    pub(crate) temperature: f64,
    pub(crate) seed: u64,
    pub(crate) schema: &'a Value,
}

impl Question<'_> {
    /// All that the answer depends on.
    pub(crate) fn key(&self, chat: &dyn Chat) -> Digest {
        let digests: Vec<Digest> = self.pictures.iter().map(|picture| picture.digest).collect();
        key(&json!({
            "chat": chat.identity(),
            "messages": self.messages,
            "pictures": digests,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
            "schema": self.schema,
        }))
    }
}

#[derive(Serialize, Deserialize)]
struct KeptReply {
    text: String,
    complete: bool,
}

/// An embedding that is not asked again for what the journal holds.
pub(crate) struct RecordedEmbed<'a> {
    recorded: &'a Recorded<'a>,
    embed: &'a dyn Embed,
}

impl Embed for RecordedEmbed<'_> {
    fn name(&self) -> &str {
        self.embed.name()
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f64>>, AskError> {
        let Some(identity) = self.embed.identity() else {
            return self.embed.embed(texts);
        };
        let keys: Vec<Digest> = texts
            .iter()
            .map(|text| key(&json!({ "embedding": identity, "text": text })))
            .collect();
        let kept = keys.iter().map(|key| self.recorded.look_up(key));
        let mut vectors: Vec<Option<Vec<f64>>> = kept.collect::<Result<_, _>>()?;
        let missing: Vec<usize> = (0..texts.len()).filter(|index| vectors[*index].is_none()).collect();
        if !missing.is_empty() {
            let open: Vec<&str> = missing.iter().map(|index| texts[*index]).collect();
            let made = self.embed.embed(&open)?;
            self.recorded.asked.fetch_add(made.len(), Ordering::Relaxed);
            for (index, vector) in missing.into_iter().zip(made) {
                vectors[index] = Some(self.recorded.keep(keys[index], vector)?);
            }
        }
        Ok(vectors.into_iter().flatten().collect())
    }
}

impl<'a> Recorded<'a> {
    /// Without a journal every question is asked.
    pub fn new(journal: Option<&'a Journal>) -> Self {
        Self {
            journal,
            asked: AtomicUsize::new(0),
            found: AtomicUsize::new(0),
        }
    }

    /// Answers that were asked for.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Answers that the journal held.
    pub fn found(&self) -> usize {
        self.found.load(Ordering::Relaxed)
    }

    /// Words, from the journal or from `chat`. The journal keeps no token counts: an answer that it held took none.
    pub(crate) fn reply(&self, chat: &dyn Chat, question: &Question<'_>) -> Result<ChatReply, AskError> {
        let key = question.key(chat);
        if let Some(kept) = self.look_up::<KeptReply>(&key)? {
            return Ok(ChatReply {
                text: kept.text,
                complete: kept.complete,
                usage: Usage::default(),
            });
        }
        let images: Vec<RgbImage> = question.pictures.iter().map(|picture| picture.image()).collect();
        let images: Vec<&RgbImage> = images.iter().collect();
        let reply = chat.reply(&ChatRequest {
            messages: question.messages,
            images: &images,
            max_tokens: question.max_tokens,
            temperature: question.temperature,
            seed: question.seed,
            schema: Some(question.schema),
        })?;
        self.asked.fetch_add(1, Ordering::Relaxed);
        let kept = KeptReply {
            text: reply.text,
            complete: reply.complete,
        };
        let kept = self.keep(key, kept)?;
        Ok(ChatReply {
            text: kept.text,
            complete: kept.complete,
            usage: reply.usage,
        })
    }

    /// Keeps words that somebody else was answered to the same question.
    pub(crate) fn keep_reply(&self, chat: &dyn Chat, question: &Question<'_>, text: &str) -> Result<(), AskError> {
        let kept = KeptReply {
            text: text.to_owned(),
            complete: true,
        };
        self.keep(question.key(chat), kept).map(drop)
    }

    /// Verdicts, from the journal or from `judge`; one for each pair, in order. A verdict that failed is not kept.
    ///
    /// # Errors
    /// [`AskError`] of the judge, or of a journal that cannot be written.
    pub fn judge(&self, judge: &dyn Judge, pairs: &[RecordedPair<'_>]) -> Result<Vec<VerdictRecord>, AskError> {
        let keys: Vec<Digest> = pairs
            .iter()
            .map(|RecordedPair { pair, rubric, .. }| {
                key(&json!({
                    "judge": judge.identity_under(rubric),
                    "rubric": rubric.digest(),
                    "caption": pair.example.prompt,
                    "base": pair.example.source.as_ref().map(|base| base.digest),
                    "pictures": pair.pictures.map(|picture| picture.digest),
                }))
            })
            .collect();
        let mut records = Vec::with_capacity(pairs.len());
        for (key, recorded) in keys.iter().zip(pairs) {
            let kept = self.look_up::<VerdictRecord>(key)?;
            records.push(kept.map(|record| VerdictRecord {
                prompt_index: recorded.index,
                ..record
            }));
        }
        let missing: Vec<usize> = (0..pairs.len()).filter(|index| records[*index].is_none()).collect();
        let decoded: Vec<Decoded> = missing.iter().map(|index| Decoded::of(&pairs[*index].pair)).collect();
        let open: Vec<JudgedPair<'_>> = missing
            .iter()
            .zip(&decoded)
            .map(|(index, decoded)| decoded.question(&pairs[*index]))
            .collect();
        if !open.is_empty() {
            let answers = judge.judge(&open)?;
            if answers.len() != open.len() {
                return Err(AskError::Unanswerable {
                    reason: format!("the judge gave {} verdicts for {} pairs", answers.len(), open.len()),
                    hint: None,
                    said: None,
                });
            }
            self.asked.fetch_add(answers.len(), Ordering::Relaxed);
            for (index, record) in missing.into_iter().zip(answers) {
                let record = if record.is_judged() {
                    let kept = self.keep(keys[index], record)?;
                    VerdictRecord {
                        prompt_index: pairs[index].index,
                        ..kept
                    }
                } else {
                    record
                };
                records[index] = Some(record);
            }
        }
        Ok(records.into_iter().flatten().collect())
    }

    /// As [`Recorded::judge`], so many pairs in a question and so many questions under way at a time; `done` is told of pairs.
    ///
    /// # Errors
    /// As [`Recorded::judge`].
    pub fn judge_all(
        &self,
        judge: &dyn Judge,
        pairs: &[RecordedPair<'_>],
        batch: usize,
        threads_max: usize,
        done: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<VerdictRecord>, AskError> {
        let batches: Vec<&[RecordedPair<'_>]> = pairs.chunks(batch.max(1)).collect();
        let records = threads::map(threads_max, &batches, |_, batch| {
            let records = self.judge(judge, batch)?;
            done(batch.len());
            Ok(records)
        })?;
        Ok(records.into_iter().flatten().collect())
    }

    /// Vectors through the journal.
    pub(crate) fn embedding<'b>(&'b self, embed: &'b dyn Embed) -> RecordedEmbed<'b> {
        RecordedEmbed { recorded: self, embed }
    }

    fn look_up<T: for<'de> Deserialize<'de>>(&self, key: &Digest) -> Result<Option<T>, AskError> {
        let Some(kept) = self.journal.and_then(|journal| journal.get(key)) else {
            return Ok(None);
        };
        self.found.fetch_add(1, Ordering::Relaxed);
        read(kept).map(Some)
    }

    fn keep<T: Serialize + for<'de> Deserialize<'de>>(&self, key: Digest, answer: T) -> Result<T, AskError> {
        let Some(journal) = self.journal else {
            return Ok(answer);
        };
        let value = serde_json::to_value(&answer).map_err(|error| unreadable(&error))?;
        read(journal.put(key, value).map_err(|error| not_kept(&error))?)
    }
}

/// A pair's pixels.
struct Decoded {
    source: Option<RgbImage>,
    pictures: [RgbImage; 2],
}

impl Decoded {
    fn of(pair: &RankedPair<'_>) -> Self {
        Self {
            source: pair.example.source.as_ref().map(Picture::image),
            pictures: pair.pictures.map(Picture::image),
        }
    }

    fn question<'b>(&'b self, recorded: &RecordedPair<'b>) -> JudgedPair<'b> {
        JudgedPair {
            prompt_index: recorded.index,
            prompt: &recorded.pair.example.prompt,
            sources: self.source.as_slice(),
            first: &self.pictures[0],
            second: &self.pictures[1],
            rubric: recorded.rubric,
            orders: Orders::Both,
            list: &[],
        }
    }
}

/// Which picture of the pair a person preferred, counted from 1.
pub(crate) fn number(side: Side) -> usize {
    match side {
        Side::First => 1,
        Side::Second => 2,
    }
}

fn key(parts: &Value) -> Digest {
    Digest::of(parts.to_string().as_bytes())
}

fn read<T: for<'de> Deserialize<'de>>(kept: Value) -> Result<T, AskError> {
    serde_json::from_value(kept).map_err(|error| unreadable(&error))
}

fn unreadable(error: &serde_json::Error) -> AskError {
    AskError::Unanswerable {
        reason: format!("the journal holds an answer of another kind: {error}"),
        hint: Some("delete the journal to begin anew".to_owned()),
        said: None,
    }
}

fn not_kept(error: &JournalError) -> AskError {
    AskError::Unavailable {
        reason: match std::error::Error::source(error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        },
        hint: error.hint(),
        said: None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Notes what it was asked for.
    struct Noting(Option<Digest>, Mutex<Vec<String>>);

    impl Embed for Noting {
        fn name(&self) -> &str {
            "noting"
        }

        fn identity(&self) -> Option<Digest> {
            self.0
        }

        fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f64>>, AskError> {
            self.1
                .lock()
                .unwrap()
                .extend(texts.iter().map(|text| (*text).to_owned()));
            Ok(texts.iter().map(|text| vec![text.len() as f64 / 3.0]).collect())
        }
    }

    #[test]
    fn a_text_is_embedded_once_also_after_a_kill() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Journal::open(&folder.path().join("journal"), "now").unwrap();
        let paid = Noting(Some(Digest::of(b"paid")), Mutex::default());
        {
            let journal = open();
            let recorded = Recorded::new(Some(&journal));
            recorded.embedding(&paid).embed(&["a", "bb"]).unwrap();
        }
        let journal = open();
        let recorded = Recorded::new(Some(&journal));
        let vectors = recorded.embedding(&paid).embed(&["bb", "ccc", "a"]).unwrap();
        assert_eq!(vectors, [[2.0 / 3.0], [1.0], [1.0 / 3.0]]);
        assert_eq!(*paid.1.lock().unwrap(), ["a", "bb", "ccc"]);
        let other = Noting(Some(Digest::of(b"another model")), Mutex::default());
        recorded.embedding(&other).embed(&["a"]).unwrap();
        assert_eq!(
            *other.1.lock().unwrap(),
            ["a"],
            "vectors of one model are not another's"
        );
        let free = Noting(None, Mutex::default());
        let kept = journal.answers();
        recorded.embedding(&free).embed(&["a", "d"]).unwrap();
        assert_eq!((free.1.lock().unwrap().len(), journal.answers()), (2, kept));
    }
}
