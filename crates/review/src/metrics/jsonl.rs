//! One line of JSON a step, and one a probe.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use gavel_core::ids::{RunId, Step};
use gavel_core::measure::{JudgeMeasure, WinRate};
use gavel_core::run::{ProbeStatus, RunStatus, StepRecord};
use serde::Serialize;

use crate::Error;

/// A file of lines.
#[derive(Debug)]
pub(super) struct JsonLines {
    path: PathBuf,
    file: File,
}

/// A step's line.
#[derive(Serialize)]
struct StepLine<'a> {
    run: &'a RunId,
    #[serde(flatten)]
    record: &'a StepRecord,
}

/// A probe's line.
#[derive(Serialize)]
struct ProbeLine<'a> {
    run: &'a RunId,
    step: Step,
    probe: &'a ProbeStatus,
}

/// The line of a run that has finished.
#[derive(Serialize)]
struct EndLine<'a> {
    run: &'a RunId,
    step: Step,
    finished: bool,
    /// Tuned over base; `null` without held-out prompts.
    win_rate: Option<WinRate>,
    /// The judge on labelled pairs; `null` without such pairs.
    judge: &'a Option<JudgeMeasure>,
}

impl JsonLines {
    /// Begins the file, empty.
    pub(super) fn begin(path: &Path) -> Result<Self, Error> {
        let file = File::create(path).map_err(|source| unwritable(path, source))?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    pub(super) fn begin_anew(&mut self) -> Result<(), Error> {
        *self = Self::begin(&self.path)?;
        Ok(())
    }

    pub(super) fn step(&mut self, run: &RunId, record: &StepRecord) -> Result<(), Error> {
        self.line(&StepLine { run, record })
    }

    pub(super) fn probe(&mut self, run: &RunId, probe: &ProbeStatus) -> Result<(), Error> {
        let step = probe.step;
        self.line(&ProbeLine { run, step, probe })
    }

    pub(super) fn end(&mut self, status: &RunStatus) -> Result<(), Error> {
        self.line(&EndLine {
            run: &status.run,
            step: status.step,
            finished: true,
            win_rate: status.evaluation.and_then(|evaluation| evaluation.win_rate),
            judge: &status.judge,
        })
    }

    /// Writes a line whole, so that whoever reads along sees no half.
    fn line(&mut self, value: &impl Serialize) -> Result<(), Error> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.file
            .write_all(&line)
            .map_err(|source| unwritable(&self.path, source))
    }
}

fn unwritable(path: &Path, source: std::io::Error) -> Error {
    Error::Write {
        file: path.to_owned(),
        source,
    }
}
