//! A set for each prompt of a list, written before anything is compared: from the prompt alone, or from labelled examples near it.

mod nearest;
mod template;

use std::collections::BTreeSet;

use gavel_core::bounds;
use gavel_core::ids::{Digest, PromptIndex};
use gavel_core::work::{Side, Task, Verdict};
use serde_json::json;

pub use template::WriteTemplate;

use super::{Embed, GenerateError, answer};
use crate::data::{LabelledSet, Picture, RankedPair};
use crate::recorded::{Question, Recorded, RecordedPair};
use crate::rubrics::{Combine, PromptSet, combine};
use crate::{Chat, Journal, Judge, RubricSet, Theme, threads};
use nearest::Nearest;
pub use nearest::Neighbours;

/// Who writes and verifies, and how.
pub struct PromptSetWriter<'a> {
    /// Writes the sets.
    pub chat: &'a dyn Chat,
    /// Verifies them on the labelled pairs of their own prompts.
    pub judge: &'a dyn Judge,
    /// The words that the writer is asked with.
    pub template: &'a WriteTemplate,
    /// Keeps answers and verdicts; without one a killed writing begins anew.
    pub journal: Option<&'a Journal>,
    /// Prompts under way at a time.
    pub threads: usize,
    /// Numbers that steer it.
    pub settings: WriteSettings,
    /// Is told of each prompt that is done, from several threads.
    pub progress: &'a (dyn Fn(&WrittenSet) + Sync),
}

/// What steers the writing.
#[derive(Debug, Clone, PartialEq)]
pub struct WriteSettings {
    /// Most criteria of a set; of an edit's in each theme.
    pub criteria: usize,
    /// Examples that the writer is shown with a prompt, the nearest ones.
    pub nearest: usize,
    /// Most tokens of an answer.
    pub max_tokens: u32,
    /// Times that an unreadable answer is asked for.
    pub attempts: usize,
    /// Temperature of the writing; 0 takes the likeliest token each time.
    pub temperature: f64,
    /// Of the writing, where the temperature is above 0.
    pub seed: u32,
    /// How a set and the general one come together when it is verified.
    pub combine: Combine,
}

/// Labelled pairs, and what finds those that are near a prompt.
#[derive(Clone, Copy)]
pub struct Examples<'a> {
    /// The pairs.
    pub labelled: &'a LabelledSet,
    /// Says how near their prompts are.
    pub embed: &'a dyn Embed,
}

/// Labelled pairs as they concern one prompt.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// Those of other prompts that the writer is shown, the nearest last: it stands right before what is asked.
    pub shown: &'a [RankedPair<'a>],
    /// Those of the prompt itself, which verify its set.
    pub own: &'a [RankedPair<'a>],
}

/// A prompt that is to have a set.
#[derive(Debug, Clone, Copy)]
pub struct WantedSet<'a> {
    /// Its words.
    pub prompt: &'a str,
    /// The picture that it edits, if it edits one; the set is then for this picture alone.
    pub source: Option<&'a Picture>,
}

/// What became of all prompts, and what it took.
#[derive(Debug, Clone, PartialEq)]
pub struct WrittenSets {
    /// Of each prompt, in order.
    pub sets: Vec<WrittenSet>,
    /// Answers and verdicts that were asked for.
    pub asked: usize,
    /// Answers and verdicts that the journal held.
    pub found: usize,
}

/// What became of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct WrittenSet {
    /// The prompt, with what it edits.
    pub task: Task,
    /// What came of it.
    pub outcome: WriteOutcome,
    /// How it did on the prompt's own labelled pairs; `None` where there are none.
    pub verified: Option<Verified>,
}

/// What came of one prompt.
#[derive(Debug, Clone, PartialEq)]
pub enum WriteOutcome {
    /// A set.
    Written(PromptSet),
    /// A set that decides worse than the general one on the prompt's own labelled pairs: it is left out.
    Worse,
    /// No answer held a criterion.
    Unreadable,
}

/// Labelled pairs of a prompt, and how many are decided as people did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// The pairs.
    pub pairs: usize,
    /// Right by the prompt's own set.
    pub by_own: usize,
    /// Right by the general set.
    pub by_general: usize,
}

impl PromptSetWriter<'_> {
    /// Writes a set for each prompt, in order. A prompt is shown the labelled pairs of other prompts, and verified on its own: what it is
    /// verified on it was not written from.
    ///
    /// # Errors
    /// [`GenerateError`]; what was answered before is in the journal.
    pub fn write(
        &self,
        prompts: &[WantedSet<'_>],
        examples: Option<Examples<'_>>,
        general: &RubricSet,
    ) -> Result<WrittenSets, GenerateError> {
        let recorded = Recorded::new(self.journal);
        let pairs = examples.map(|examples| examples.labelled.pairs()).unwrap_or_default();
        let nearest = match examples.filter(|_| self.settings.nearest > 0) {
            None => None,
            Some(Examples { embed, .. }) => {
                let embed = recorded.embedding(embed);
                Some(Nearest::new(&pairs, prompts, self.settings.nearest, &embed)?)
            }
        };
        let sets = threads::map(self.threads, prompts, |index, wanted| {
            let shown = nearest.as_ref().map(|nearest| nearest.to(index)).unwrap_or_default();
            let own: Vec<RankedPair<'_>> = pairs.iter().copied().filter(|pair| wanted.is_of(pair)).collect();
            let evidence = Evidence {
                shown: &shown,
                own: &own,
            };
            let written = self.write_by(&recorded, wanted, evidence, general)?;
            (self.progress)(&written);
            Ok::<_, GenerateError>(written)
        })?;
        Ok(WrittenSets {
            sets,
            asked: recorded.asked(),
            found: recorded.found(),
        })
    }

    /// Writes the set of one prompt from labelled pairs that were chosen for it.
    ///
    /// # Errors
    /// As [`PromptSetWriter::write`].
    pub fn write_one(
        &self,
        wanted: &WantedSet<'_>,
        evidence: Evidence<'_>,
        general: &RubricSet,
    ) -> Result<WrittenSet, GenerateError> {
        self.write_by(&Recorded::new(self.journal), wanted, evidence, general)
    }

    /// Fingerprint of all that the set of a prompt depends on: what writes and what it is asked, of which template and examples are a part, the
    /// pairs that verify it and the judge that judges them, the general set, and the rule by which both come together.
    ///
    /// # Errors
    /// [`GenerateError::Template`].
    pub fn key(
        &self,
        wanted: &WantedSet<'_>,
        evidence: Evidence<'_>,
        general: &RubricSet,
    ) -> Result<Digest, GenerateError> {
        let settings = &self.settings;
        let (messages, pictures) = self.template.render(wanted, evidence.shown, settings.criteria)?;
        let verified = evidence.own.iter().map(|pair| {
            let pictures = pair.pictures.map(|picture| picture.digest);
            let source = pair.example.source.as_ref().map(|source| source.digest);
            json!([pair.example.prompt, source, pictures, pair.preferred])
        });
        let judges = match evidence.own {
            [] => Vec::new(),
            _ => vec![self.judge.identity(), self.judge.identity_under(general)],
        };
        let parts = json!({
            "form": KEY_FORM,
            "prompt": wanted.task(),
            "chat": self.chat.identity(),
            "messages": messages,
            "pictures": pictures.iter().map(|picture| picture.digest).collect::<Vec<_>>(),
            "criteria": settings.criteria,
            "max_tokens": settings.max_tokens,
            "attempts": settings.attempts,
            "temperature": settings.temperature,
            "seed": settings.seed,
            "general": general.digest(),
            "combine": settings.combine,
            "verified_on": verified.collect::<Vec<_>>(),
            "judges": judges,
        });
        Ok(Digest::of(parts.to_string().as_bytes()))
    }

    fn write_by(
        &self,
        recorded: &Recorded<'_>,
        wanted: &WantedSet<'_>,
        Evidence { shown, own }: Evidence<'_>,
        general: &RubricSet,
    ) -> Result<WrittenSet, GenerateError> {
        let done = |outcome, verified| WrittenSet {
            task: wanted.task(),
            outcome,
            verified,
        };
        let Some(themes) = self.ask(recorded, wanted, shown)? else {
            return Ok(done(WriteOutcome::Unreadable, None));
        };
        let verified = match own.is_empty() {
            true => None,
            false => {
                let set = combine(self.settings.combine, themes.clone(), general);
                Some(Verified {
                    pairs: own.len(),
                    by_own: self.right(recorded, &set, own)?,
                    by_general: self.right(recorded, general, own)?,
                })
            }
        };
        if verified.is_some_and(|verified| verified.by_own < verified.by_general) {
            return Ok(done(WriteOutcome::Worse, verified));
        }
        let from = match shown.len() {
            0 => "from the prompt alone".to_owned(),
            1 => "from 1 labelled example".to_owned(),
            count => format!("from {count} labelled examples"),
        };
        let told = verified.map_or_else(String::new, |verified| verified.describe());
        let set = PromptSet {
            prompt: wanted.prompt.to_owned(),
            sources: wanted.task().sources,
            note: Some(format!("by {}, {from}{told}", self.chat.name())),
            themes,
            ..PromptSet::default()
        };
        Ok(done(WriteOutcome::Written(set.tidy()), verified))
    }

    /// The themes of the first answer that has a criterion.
    fn ask(
        &self,
        recorded: &Recorded<'_>,
        wanted: &WantedSet<'_>,
        shown: &[RankedPair<'_>],
    ) -> Result<Option<Vec<Theme>>, GenerateError> {
        let settings = &self.settings;
        let (messages, pictures) = self.template.render(wanted, shown, settings.criteria)?;
        let schema = match wanted.source {
            Some(_) => answer::themes_schema(EDIT_THEMES),
            None => answer::criteria_schema(settings.criteria),
        };
        for attempt in 0..settings.attempts {
            let reply = recorded.reply(
                self.chat,
                &Question {
                    messages: &messages,
                    pictures: &pictures,
                    max_tokens: settings.max_tokens,
                    // An answer that was of no use is not asked for again in the very same way.
                    temperature: if attempt == 0 {
                        settings.temperature
                    } else {
                        settings.temperature.max(0.7)
                    },
                    seed: u64::from(settings.seed) << 32 | attempt as u64,
                    schema: &schema,
                },
            )?;
            let themes = read(&reply.text, settings.criteria);
            if !themes.is_empty() {
                return Ok(Some(themes));
            }
        }
        Ok(None)
    }

    /// How many of these pairs a set decides as people did.
    fn right(
        &self,
        recorded: &Recorded<'_>,
        set: &RubricSet,
        pairs: &[RankedPair<'_>],
    ) -> Result<usize, GenerateError> {
        let asked: Vec<RecordedPair<'_>> = (0..)
            .map(PromptIndex)
            .zip(pairs)
            .map(|(index, pair)| RecordedPair {
                index,
                pair: *pair,
                rubric: set,
            })
            .collect();
        let records = recorded.judge(self.judge, &asked)?;
        let is_right = |(record, preferred): (&Verdict, Side)| *record == Verdict::Preferred { side: preferred };
        let said = records.iter().map(|record| &record.verdict);
        Ok(said
            .zip(pairs.iter().map(|pair| pair.preferred))
            .filter(|pair| is_right(*pair))
            .count())
    }
}

/// Raised whenever the same question and answers come to another set, so that none that was kept before is taken for it.
const KEY_FORM: u32 = 2;

/// Most themes of an edit's set: what was asked is done, the rest is as it was, and the two fit together.
const EDIT_THEMES: usize = 3;

/// Most letters of a criterion: a sentence or two. What is longer repeats itself.
const CRITERION_LETTERS: usize = 300;

/// Whether a criterion may stand in a set that nobody verifies: it is no longer than a sentence or two, and no debris of the answer's JSON.
fn is_sound(criterion: &str) -> bool {
    criterion.chars().count() <= CRITERION_LETTERS && !criterion.contains(['{', '}', '[', ']'])
}

/// The sound criteria of an answer, in themes if it has any: at most `count` in each, none twice, and no more than a set may have.
fn read(text: &str, count: usize) -> Vec<Theme> {
    let unnamed = |tips| {
        vec![Theme {
            tips,
            ..Theme::default()
        }]
    };
    let themes = match answer::themes(text) {
        Some(themes) => themes.into_iter().take(EDIT_THEMES).map(Theme::from).collect(),
        None => answer::criteria(text, count).map(unnamed).unwrap_or_default(),
    };
    let mut seen = BTreeSet::new();
    let most = bounds::CRITERIA.most as usize;
    let tidy = |theme: Theme| {
        let tips = theme.tips.iter().take(count).cloned();
        let tips: Vec<String> = tips
            .filter(|tip| is_sound(tip) && seen.len() < most && seen.insert(tip.clone()))
            .collect();
        (!tips.is_empty()).then_some(Theme { tips, ..theme })
    };
    themes.into_iter().filter_map(tidy).collect()
}

impl From<answer::WrittenTheme> for Theme {
    fn from(written: answer::WrittenTheme) -> Self {
        Self {
            name: Some(written.theme),
            tips: written.tips,
            weights: Vec::new(),
        }
    }
}

impl WantedSet<'_> {
    /// The prompt, with the picture that it edits.
    pub fn task(&self) -> Task {
        Task {
            words: self.prompt.to_owned(),
            sources: self.sources(),
        }
    }

    fn sources(&self) -> Vec<Digest> {
        self.source.iter().map(|source| source.digest).collect()
    }

    /// Whether a labelled pair is of this very prompt.
    fn is_of(&self, pair: &RankedPair<'_>) -> bool {
        let source = pair.example.source.as_ref().map(|source| source.digest);
        pair.example.prompt == self.prompt && source == self.source.map(|source| source.digest)
    }
}

impl Verified {
    fn describe(&self) -> String {
        let Self {
            pairs,
            by_own,
            by_general,
        } = self;
        format!("; right on {by_own} of {pairs} labelled pairs, the general set on {by_general}")
    }
}

#[cfg(test)]
mod tests;
