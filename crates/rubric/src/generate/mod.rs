//! A rubric set from labelled examples: propose criteria, verify them, revise, select, structure. Sets for single prompts
//! ([`PromptSetWriter`]), and questions about their pictures ([`PictureQuestionWriter`]).
//!
//! Whatever a model is asked goes through a journal, so that a killed generation is taken up where it was. The set depends on
//! the answers alone, not on the number of threads nor on kills.

mod answer;
mod case;
mod embed;
mod error;
mod picture_questions;
mod prompt_sets;
mod prompts;
mod select;
mod settings;
mod structure;

use gavel_core::ids::PromptIndex;
use gavel_core::work::Verdict;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

pub use embed::{Embed, HashedNgrams};
pub use error::GenerateError;
pub use picture_questions::{PictureQuestionWriter, WantedQuestions, WrittenQuestions};
pub use prompt_sets::{
    Evidence, Examples, Neighbours, PromptSetWriter, Verified, WantedSet, WriteOutcome, WriteSettings, WriteTemplate,
    WrittenSet, WrittenSets,
};
pub use prompts::{Language, Prompts};
pub use settings::Settings;

use crate::data::{Label, LabelledSet, Labelling, Task};
use crate::recorded::{Question, Recorded, RecordedPair, number};
use crate::set::VERSION;
use crate::{AskError, Chat, Generation, Journal, Judge, Provenance, RubricSet, Theme, Verification, threads};
use case::Case;
use prompts::{Template, Values};
use select::Selection;

/// Who writes, judges and embeds, and how.
pub struct Generator<'a> {
    /// Writes criteria and themes, and scores single pictures.
    pub chat: &'a dyn Chat,
    /// Verifies criteria on pairs; not asked about scored pictures.
    pub judge: &'a dyn Judge,
    /// Finds criteria that say the same.
    pub embed: &'a dyn Embed,
    /// The words that the writer is asked with.
    pub prompts: &'a Prompts,
    /// Keeps answers; without one a killed generation begins anew.
    pub journal: Option<&'a Journal>,
    /// Answers under way at a time.
    pub threads: usize,
    /// Numbers that steer it.
    pub settings: Settings,
    /// Is told how far it is, from several threads.
    pub progress: &'a (dyn Fn(Progress) + Sync),
}

/// How far a generation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// There are so many examples.
    Examples {
        /// Their number.
        count: usize,
    },
    /// One more example is done.
    Example {
        /// Whether its criteria were verified.
        verified: bool,
    },
    /// So many criteria are being put into themes.
    Structuring {
        /// Their number.
        criteria: usize,
    },
}

/// A rubric set, and what it took.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// The set with its provenance.
    pub rubric: RubricSet,
    /// Answers that were asked for.
    pub asked: usize,
    /// Answers that the journal held.
    pub found: usize,
}

/// What became of it.
enum Outcome {
    Verified { criteria: Vec<String>, round: usize },
    Unverified,
    Unreadable,
}

/// What the judge made of a case under criteria.
enum Finding {
    Recovered,
    /// Another picture or score, or none.
    Otherwise(Option<i64>),
}

impl Generator<'_> {
    /// Writes a rubric set for `data`. `name` becomes the set's name, `examples` says in its provenance where the data lies.
    ///
    /// # Errors
    /// [`GenerateError`]; what was answered before is in the journal.
    pub fn generate(&self, data: &LabelledSet, name: Option<&str>, examples: &str) -> Result<Generated, GenerateError> {
        self.check()?;
        let cases = self.cases(data);
        (self.progress)(Progress::Examples { count: cases.len() });
        let recorded = Recorded::new(self.journal);
        let embed = recorded.embedding(self.embed);
        let mut verification = Verification {
            examples: cases.len(),
            verified_by_round: vec![0; self.settings.rounds + 1],
            ..Verification::default()
        };
        let selective = cases.len() > self.settings.select_above;
        let batch = if selective {
            self.settings.batch
        } else {
            cases.len().max(1)
        };
        let mut pool: Vec<String> = Vec::new();
        let mut rate = 0.0;
        let mut small_gains = 0;
        for (number, batch_cases) in cases.chunks(batch).enumerate() {
            let outcomes = threads::map(self.threads, batch_cases, |index, case| {
                let outcome = self.explain(&recorded, number * batch + index, case)?;
                let verified = matches!(outcome, Outcome::Verified { .. });
                (self.progress)(Progress::Example { verified });
                Ok::<_, GenerateError>(outcome)
            })?;
            for outcome in outcomes {
                verification.examples_used += 1;
                verification.add(&outcome);
                if let Outcome::Verified { criteria, .. } = outcome {
                    extend(&mut pool, criteria);
                }
            }
            if selective {
                let before = std::mem::replace(&mut rate, self.rate(&embed, &pool)?);
                small_gains = if rate - before < self.settings.gain_min {
                    small_gains + 1
                } else {
                    0
                };
                if small_gains >= self.settings.patience {
                    break;
                }
            }
        }
        if pool.is_empty() {
            return Err(GenerateError::NothingVerified {
                dropped: verification.dropped,
                unreadable: verification.unreadable,
            });
        }
        verification.criteria_verified = pool.len();
        verification.coding_rate_verified = self.rate(&embed, &pool)?;
        let selected = if selective { self.select(&embed, &pool)? } else { pool };
        verification.criteria_selected = selected.len();
        verification.coding_rate_selected = self.rate(&embed, &selected)?;
        (self.progress)(Progress::Structuring {
            criteria: selected.len(),
        });
        let (themes, structuring) = structure::structure(
            &recorded,
            self.chat,
            &embed,
            &self.prompts.structure,
            data.task == Task::Editing,
            &selected,
            &self.settings,
        )?;
        let provenance = Provenance {
            author: Some(self.chat.name().to_owned()),
            created: self.journal.map(|journal| journal.started().to_owned()),
            examples: Some(examples.to_owned()),
            note: None,
            generation: Some(Generation {
                author_sha256: self.chat.identity(),
                judge: self.judge.name().to_owned(),
                judge_sha256: self.judge.identity(),
                data_sha256: data.digest(),
                prompts: self.prompts.name.clone(),
                prompts_sha256: self.prompts.digest(),
                embedding: self.embed.name().to_owned(),
                settings: self.settings.clone(),
            }),
            verification: Some(verification),
            structuring: Some(structuring),
            weighing: None,
        };
        let rubric = RubricSet {
            version: VERSION,
            name: name.map(str::to_owned),
            provenance: Some(provenance),
            themes,
        };
        Ok(Generated {
            rubric,
            asked: recorded.asked(),
            found: recorded.found(),
        })
    }

    fn check(&self) -> Result<(), GenerateError> {
        let at_least_one = "must be at least 1";
        let settings = &self.settings;
        for (name, wrong, problem) in [
            ("criteria", settings.criteria == 0, at_least_one),
            ("themes", settings.themes == 0, at_least_one),
            ("batch", settings.batch == 0, at_least_one),
            ("patience", settings.patience == 0, at_least_one),
            ("criteria_max", settings.criteria_max == 0, at_least_one),
            ("max_tokens", settings.max_tokens == 0, at_least_one),
            ("attempts", settings.attempts == 0, at_least_one),
            (
                "epsilon",
                !(settings.epsilon.is_finite() && settings.epsilon > 0.0),
                "must be above 0",
            ),
            ("gain_min", !settings.gain_min.is_finite(), "must be a number"),
            (
                "temperature",
                !(settings.temperature.is_finite() && settings.temperature >= 0.0),
                "must be 0 or more",
            ),
            ("score_tolerance", settings.score_tolerance < 0, "must be 0 or more"),
        ] {
            if wrong {
                return Err(GenerateError::Setting { name, problem });
            }
        }
        Ok(())
    }

    /// What is to be explained, shuffled where not all of it may be used.
    fn cases<'b>(&self, data: &'b LabelledSet) -> Vec<Case<'b>> {
        let mut cases: Vec<Case<'b>> = match data.labelling {
            Labelling::Ranked => data.pairs().into_iter().map(Case::Pair).collect(),
            Labelling::Scored => data
                .examples
                .iter()
                .filter_map(|example| match example.label {
                    Label::Score { value, min, max } => Some(Case::Score {
                        example,
                        value,
                        min,
                        max,
                    }),
                    Label::Rank(_) => None,
                })
                .collect(),
        };
        if cases.len() > self.settings.select_above {
            let mut random = ChaCha8Rng::seed_from_u64(u64::from(self.settings.seed));
            for last in (1..cases.len()).rev() {
                // The bias of the remainder is below 2^-32 for any set that fits into memory.
                let other = random.next_u64() % (last as u64 + 1);
                cases.swap(last, other as usize);
            }
        }
        cases
    }

    /// Proposes criteria for a case, and revises them until the judge recovers the label or the rounds are over.
    fn explain(&self, recorded: &Recorded<'_>, index: usize, case: &Case<'_>) -> Result<Outcome, GenerateError> {
        let seed = u64::from(self.settings.seed) << 32 | (index as u64) << 12;
        let mut last: Option<(Vec<String>, Option<i64>)> = None;
        for round in 0..=self.settings.rounds {
            let template = match last {
                None => &self.prompts.propose,
                Some(_) => &self.prompts.revise,
            };
            let written = self.write(recorded, seed | (round as u64) << 4, template, case, last.as_ref())?;
            let Some(criteria) = written else { continue };
            match self.verify(recorded, case, &criteria)? {
                Finding::Recovered => return Ok(Outcome::Verified { criteria, round }),
                Finding::Otherwise(given) => last = Some((criteria, given)),
            }
        }
        Ok(match last {
            Some(_) => Outcome::Unverified,
            None => Outcome::Unreadable,
        })
    }

    /// The criteria of the first answer that has enough of them; else of the last that has any.
    fn write(
        &self,
        recorded: &Recorded<'_>,
        seed: u64,
        template: &Template,
        case: &Case<'_>,
        last: Option<&(Vec<String>, Option<i64>)>,
    ) -> Result<Option<Vec<String>>, GenerateError> {
        let count = self.settings.criteria;
        let schema = answer::criteria_schema(count);
        let (tried, given): (&[String], _) = last.map_or((&[], None), |(criteria, given)| (criteria, *given));
        let values = Values {
            criteria: tried,
            undecided: last.is_some() && given.is_none(),
            count,
            ..case.values(given)
        };
        let pictures = case.pictures();
        let base = case.example().source.is_some();
        let messages = template.render(&values, pictures.len() - usize::from(base), base)?;
        let mut written = None;
        for attempt in 0..self.settings.attempts {
            let reply = recorded.reply(
                self.chat,
                &Question {
                    messages: &messages,
                    pictures: &pictures,
                    max_tokens: self.settings.max_tokens,
                    temperature: self.settings.temperature_of(attempt),
                    seed: seed | attempt as u64,
                    schema: &schema,
                },
            )?;
            written = answer::criteria(&reply.text, count).or(written);
            if written.as_ref().is_some_and(|criteria| criteria.len() == count) {
                break;
            }
        }
        Ok(written)
    }

    /// Whether the judge, given only these criteria, says what people said.
    fn verify(&self, recorded: &Recorded<'_>, case: &Case<'_>, criteria: &[String]) -> Result<Finding, GenerateError> {
        match *case {
            Case::Pair(pair) => {
                let rubric = RubricSet {
                    themes: vec![Theme {
                        tips: criteria.to_vec(),
                        ..Theme::default()
                    }],
                    ..RubricSet::empty()
                };
                let index = PromptIndex(0);
                let records = recorded.judge(
                    self.judge,
                    &[RecordedPair {
                        index,
                        pair,
                        rubric: &rubric,
                    }],
                )?;
                Ok(match records.first().map(|record| &record.verdict) {
                    Some(Verdict::Preferred { side }) if *side == pair.preferred => Finding::Recovered,
                    Some(Verdict::Preferred { side }) => Finding::Otherwise(Some(number(*side) as i64)),
                    _ => Finding::Otherwise(None),
                })
            }
            Case::Score { value, min, max, .. } => {
                let Some(template) = &self.prompts.score else {
                    return Ok(Finding::Otherwise(None));
                };
                let pictures = case.pictures();
                let base = case.example().source.is_some();
                let values = Values {
                    criteria,
                    ..case.values(None)
                };
                let messages = template.render(&values, 1, base)?;
                let schema = answer::score_schema(min, max);
                let reply = recorded.reply(
                    self.chat,
                    &Question {
                        messages: &messages,
                        pictures: &pictures,
                        max_tokens: self.settings.max_tokens,
                        temperature: 0.0,
                        seed: 0,
                        schema: &schema,
                    },
                )?;
                let given = answer::score(&reply.text).filter(|given| (min..=max).contains(given));
                Ok(match given {
                    Some(given) if given.abs_diff(value) <= self.settings.score_tolerance.unsigned_abs() => {
                        Finding::Recovered
                    }
                    given => Finding::Otherwise(given),
                })
            }
        }
    }

    fn rate(&self, embed: &dyn Embed, criteria: &[String]) -> Result<f64, AskError> {
        let vectors = embedded(embed, criteria)?;
        let slices: Vec<&[f64]> = vectors.iter().map(Vec::as_slice).collect();
        Ok(select::coding_rate(&slices, self.settings.epsilon))
    }

    fn select(&self, embed: &dyn Embed, criteria: &[String]) -> Result<Vec<String>, AskError> {
        let vectors = embedded(embed, criteria)?;
        let slices: Vec<&[f64]> = vectors.iter().map(Vec::as_slice).collect();
        let selection = Selection {
            epsilon: self.settings.epsilon,
            count_max: self.settings.criteria_max,
            gain_min: self.settings.gain_min,
            patience: self.settings.patience,
        };
        let taken = select::select(&slices, &selection);
        Ok(taken.into_iter().map(|index| criteria[index].clone()).collect())
    }
}

impl Verification {
    fn add(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Verified { round, .. } => {
                self.verified += 1;
                if let Some(count) = self.verified_by_round.get_mut(*round) {
                    *count += 1;
                }
            }
            Outcome::Unverified => self.dropped += 1,
            Outcome::Unreadable => {
                self.dropped += 1;
                self.unreadable += 1;
            }
        }
    }
}

/// Adds criteria that are not there yet, in other letters or with another full stop.
fn extend(pool: &mut Vec<String>, criteria: Vec<String>) {
    for criterion in criteria {
        let key = structure::key(&criterion);
        if !pool.iter().any(|known| structure::key(known) == key) {
            pool.push(criterion);
        }
    }
}

fn embedded(embed: &dyn Embed, criteria: &[String]) -> Result<Vec<Vec<f64>>, AskError> {
    let texts: Vec<&str> = criteria.iter().map(String::as_str).collect();
    embed.embed(&texts)
}

#[cfg(test)]
mod tests;
