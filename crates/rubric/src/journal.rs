//! Answers that were paid for, in a file that outlives the process.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use gavel_core::Hint;
use gavel_core::ids::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An append-only file of answers: a first line that says when it began, then one line for each answer, under a hash of
/// everything that the answer depends on. A last line that a kill cut short is dropped when the file is opened again.
#[derive(Debug)]
pub struct Journal {
    file: PathBuf,
    started: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    open: File,
    answers: HashMap<Digest, Value>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    started: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    key: Digest,
    answer: Value,
}

/// A journal that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It cannot be opened, read or written.
    #[error("{}: cannot keep the journal", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process is writing to it.
    #[error("{}: another process is writing to this journal", file.display())]
    InUse {
        /// The file.
        file: PathBuf,
    },
    /// A line that is not the last is damaged.
    #[error("{}: line {line} of the journal is damaged", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

impl Hint for JournalError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::File { .. } => {
                "the journal lies beside the output; choose a folder that can be written to".to_owned()
            }
            Self::InUse { .. } => "wait for it to end, or choose another output".to_owned(),
            Self::Damaged { .. } => {
                "delete the line, whose answer will be asked for again, or the file, to begin anew".to_owned()
            }
        })
    }
}

impl Journal {
    /// Opens or begins a journal; `started` is what a new one notes as its beginning.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn open(file: &Path, started: &str) -> Result<Self, JournalError> {
        let fault = |source| JournalError::File {
            file: file.to_owned(),
            source,
        };
        let mut open = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(file)
            .map_err(fault)?;
        match open.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(JournalError::InUse { file: file.to_owned() }),
            Err(std::fs::TryLockError::Error(source)) => return Err(fault(source)),
        }
        let mut bytes = Vec::new();
        open.read_to_end(&mut bytes).map_err(fault)?;
        let whole = whole_lines(&bytes);
        open.set_len(whole as u64).map_err(fault)?;
        open.seek(io::SeekFrom::End(0)).map_err(fault)?;
        let mut answers = HashMap::new();
        let begun = read(file, &bytes[..whole], &mut answers)?;
        let started = match begun {
            Some(started) => started,
            None => {
                let header = Header {
                    started: started.to_owned(),
                };
                append(&mut open, &header).map_err(fault)?;
                header.started
            }
        };
        Ok(Self {
            file: file.to_owned(),
            started,
            state: Mutex::new(State { open, answers }),
        })
    }

    /// Answers from another journal too, as far as that one has come: somebody may be writing to it. Nothing of it is copied.
    ///
    /// # Errors
    /// [`JournalError`], but never that it is in use.
    pub fn recall_from(&self, other: &Path) -> Result<(), JournalError> {
        let bytes = std::fs::read(other).map_err(|source| JournalError::File {
            file: other.to_owned(),
            source,
        })?;
        read(other, &bytes[..whole_lines(&bytes)], &mut self.state().answers)?;
        Ok(())
    }

    /// When it began.
    pub fn started(&self) -> &str {
        &self.started
    }

    /// How many answers it holds.
    pub fn answers(&self) -> usize {
        self.state().answers.len()
    }

    /// The answer under `key`.
    pub fn get(&self, key: &Digest) -> Option<Value> {
        self.state().answers.get(key).cloned()
    }

    /// Notes an answer and returns the one that counts from now on: the first under its key. The line has left the process when
    /// this returns, so that a kill cannot lose it; a power cut can.
    ///
    /// # Errors
    /// [`JournalError::File`].
    pub fn put(&self, key: Digest, answer: Value) -> Result<Value, JournalError> {
        let mut state = self.state();
        if let Some(first) = state.answers.get(&key) {
            return Ok(first.clone());
        }
        let line = Line { key, answer };
        append(&mut state.open, &line).map_err(|source| JournalError::File {
            file: self.file.clone(),
            source,
        })?;
        state.answers.insert(key, line.answer.clone());
        Ok(line.answer)
    }

    /// A thread that panicked has left map and file as they were before its answer, or with it.
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Length of the whole lines: what follows the last line break was cut off while it was being written, or is being written.
fn whole_lines(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1)
}

/// Adds a journal's answers to those that are known, which count before its own. Returns when it began, where it did.
fn read(file: &Path, lines: &[u8], answers: &mut HashMap<Digest, Value>) -> Result<Option<String>, JournalError> {
    let mut begun = None;
    for (index, line) in lines.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let damaged = |source| JournalError::Damaged {
            file: file.to_owned(),
            line: index + 1,
            source,
        };
        if index == 0 {
            let header: Header = serde_json::from_slice(line).map_err(damaged)?;
            begun = Some(header.started);
        } else {
            let line: Line = serde_json::from_slice(line).map_err(damaged)?;
            answers.entry(line.key).or_insert(line.answer);
        }
    }
    Ok(begun)
}

/// One write for line and line break: a cut line never has its break.
fn append(open: &mut File, line: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    let before = open.stream_position()?;
    open.write_all(&text).inspect_err(|_| {
        // A full disk took a part of it, behind which no other line may stand. Where this fails too the next start tells of the damage.
        let _ = open
            .set_len(before)
            .and_then(|()| open.seek(io::SeekFrom::Start(before)));
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_cut_anywhere_keeps_its_whole_lines() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("journal");
        let keys: Vec<Digest> = (0..3_u8).map(|byte| Digest::of(&[byte])).collect();
        let journal = Journal::open(&file, "monday").unwrap();
        for (index, key) in keys.iter().enumerate() {
            journal.put(*key, Value::from(format!("answer {index}"))).unwrap();
        }
        assert_eq!(journal.put(keys[0], Value::Null).unwrap(), "answer 0");
        drop(journal);
        let bytes = std::fs::read(&file).unwrap();
        for cut in 0..=bytes.len() {
            std::fs::write(&file, &bytes[..cut]).unwrap();
            let journal = Journal::open(&file, "tuesday").unwrap();
            let breaks = bytes[..cut].iter().filter(|byte| **byte == b'\n').count();
            assert_eq!(journal.answers(), breaks.saturating_sub(1));
            assert_eq!(journal.started(), if breaks == 0 { "tuesday" } else { "monday" });
            for key in &keys {
                journal.put(*key, Value::from("again")).unwrap();
            }
            drop(journal);
            assert_eq!(Journal::open(&file, "wednesday").unwrap().answers(), 3);
        }
    }

    #[test]
    fn a_journal_answers_from_others_too_while_they_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let [own, other] = ["own", "other"].map(|name| folder.path().join(name));
        let keys: Vec<Digest> = (0..3_u8).map(|byte| Digest::of(&[byte])).collect();
        let journal = Journal::open(&own, "monday").unwrap();
        journal.put(keys[0], Value::from("mine")).unwrap();
        let before = std::fs::read(&own).unwrap();
        let writing = Journal::open(&other, "tuesday").unwrap();
        for key in &keys[..2] {
            writing.put(*key, Value::from("theirs")).unwrap();
        }
        // A line that is on its way counts as not there.
        let mut cut = OpenOptions::new().append(true).open(&other).unwrap();
        cut.write_all(b"{\"key\": ").unwrap();
        journal.recall_from(&other).unwrap();
        let answers: Vec<Option<Value>> = keys.iter().map(|key| journal.get(key)).collect();
        assert_eq!(answers, [Some("mine".into()), Some("theirs".into()), None]);
        assert_eq!(journal.put(keys[1], Value::from("late")).unwrap(), "theirs");
        assert_eq!((journal.started(), std::fs::read(&own).unwrap()), ("monday", before));
        assert!(matches!(
            journal.recall_from(&folder.path().join("none")),
            Err(JournalError::File { .. })
        ));
    }

    #[test]
    fn a_journal_has_one_writer_and_says_where_it_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("journal");
        let journal = Journal::open(&file, "monday").unwrap();
        assert!(matches!(Journal::open(&file, "x"), Err(JournalError::InUse { .. })));
        drop(journal);
        std::fs::write(&file, "{\"started\": \"x\"}\n{}\n{}\n").unwrap();
        assert!(matches!(
            Journal::open(&file, "x"),
            Err(JournalError::Damaged { line: 2, .. })
        ));
    }
}
