//! The figures of a run's steps and probes as files that grow with it: `metrics.jsonl`, and event files for TensorBoard.

mod jsonl;
mod tensorboard;

use std::collections::BTreeSet;
use std::path::Path;

use gavel_core::ids::Step;
use gavel_core::run::{Phase, RunStatus};

use crate::Error;
use jsonl::JsonLines;
use tensorboard::EventFile;

/// The name of the file in a run's folder.
pub const JSONL_FILE: &str = "metrics.jsonl";

/// Where the figures go. What is written is what a state says, from the first step on: a run that is resumed, or followed late, or
/// that was taken back to an earlier step has all its figures in the file, each once.
#[derive(Debug, Default)]
pub struct Metrics {
    jsonl: Option<JsonLines>,
    tensorboard: Option<EventFile>,
    /// The last step that is written.
    step: u32,
    /// The probes that are written.
    probes: BTreeSet<Step>,
    measured: bool,
}

impl Metrics {
    /// Begins the files: lines of JSON in the file `jsonl`, event files in the folder `tensorboard`.
    ///
    /// # Errors
    /// One cannot be made.
    pub fn begin(jsonl: Option<&Path>, tensorboard: Option<&Path>) -> Result<Self, Error> {
        Ok(Self {
            jsonl: jsonl.map(JsonLines::begin).transpose()?,
            tensorboard: tensorboard.map(EventFile::begin).transpose()?,
            step: 0,
            probes: BTreeSet::new(),
            measured: false,
        })
    }

    /// Writes what is new in a state of the run.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn note(&mut self, status: &RunStatus) -> Result<(), Error> {
        if status.step.0 < self.step {
            // Steps were taken back, and will be taken again. A board drops what it has of them when it sees that.
            self.step = 0;
            self.probes.clear();
            self.measured = false;
            if let Some(jsonl) = &mut self.jsonl {
                jsonl.begin_anew()?;
            }
        }
        for record in status.steps.iter().filter(|record| record.step.0 > self.step) {
            if let Some(jsonl) = &mut self.jsonl {
                jsonl.step(&status.run, record)?;
            }
            if let Some(board) = &mut self.tensorboard {
                board.step(record, status.now_unix_ms)?;
            }
        }
        self.step = status.step.0;
        for probe in status.probes.iter().filter(|probe| probe.compared == probe.prompts) {
            if !self.probes.insert(probe.step) {
                continue;
            }
            if let Some(jsonl) = &mut self.jsonl {
                jsonl.probe(&status.run, probe)?;
            }
            if let Some(board) = &mut self.tensorboard {
                board.probe(probe, status.now_unix_ms)?;
            }
        }
        if status.phase == Phase::Finished && !self.measured {
            self.measured = true;
            if let Some(jsonl) = &mut self.jsonl {
                jsonl.end(status)?;
            }
            if let Some(board) = &mut self.tensorboard {
                board.end(status)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use gavel_core::ids::Millis;
    use gavel_core::run::{Run, RunStatus};
    use gavel_core::spec::RunSpec;
    use serde_json::Value;

    use super::*;

    /// A run that has committed so many steps, as far as its figures tell.
    fn after(steps: u32) -> RunStatus {
        let record = |step: u32| {
            serde_json::json!({
                "step": step, "pairs": 8, "decided": 6, "abstained": 1, "failed": 1, "skipped": 0, "order_consistency": 0.5,
                "reward_mean": 0.0, "loss": -0.25, "kl": 0.001, "clip_fraction": 0.125, "ratio_deviation": 0.01, "grad_norm": 2.0,
                "learning_rate": 0.001, "terms": 48,
                "seconds": {"sample": 1.0, "judge": 2.0, "train": 3.0, "commit": 0.5, "wall": 6.5},
            })
        };
        let mut spec = RunSpec::default();
        spec.run.name = "figures".into();
        let assets = serde_json::from_value(serde_json::json!({
            "prompts": ["a"], "held_out": [], "rubric": {"text": "", "digest": gavel_core::ids::Digest::of(b"")}, "template": "",
            "labelled": [],
        }));
        let run = Run::new(spec.id(), spec, assets.unwrap());
        let mut status = serde_json::to_value(run.status(Millis(7_000))).unwrap();
        status["step"] = steps.into();
        status["steps"] = (1..=steps).map(record).collect();
        serde_json::from_value(status).unwrap()
    }

    fn lines(file: &Path) -> Vec<Value> {
        let text = std::fs::read_to_string(file).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn each_step_is_one_line_however_often_and_late_states_come() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(JSONL_FILE);
        let mut metrics = Metrics::begin(Some(&file), None).unwrap();
        for steps in [0, 1, 1, 3, 3] {
            metrics.note(&after(steps)).unwrap();
        }
        let steps: Vec<Value> = lines(&file).into_iter().map(|line| line["step"].clone()).collect();
        assert_eq!(steps, [1, 2, 3]);
        assert_eq!(lines(&file)[0]["run"], "figures");
        assert_eq!(lines(&file)[0]["decided"], 6);

        metrics.note(&after(2)).unwrap();
        metrics.note(&after(3)).unwrap();
        assert_eq!(lines(&file).len(), 3, "steps that were taken back stand there once");

        let mut resumed = Metrics::begin(Some(&file), None).unwrap();
        resumed.note(&after(3)).unwrap();
        assert_eq!(lines(&file).len(), 3);
    }

    #[test]
    fn each_probe_is_one_line_as_soon_as_it_is_judged_to_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(JSONL_FILE);
        let board = folder.path().join("tensorboard");
        let mut metrics = Metrics::begin(Some(&file), Some(&board)).unwrap();
        let rate = serde_json::json!({
            "prompts": 4, "wins": 3, "losses": 1, "abstained": 0, "failed": 0, "value": 0.75, "low": 0.25, "high": 0.9,
        });
        let probe = |step: u32, compared: u32| {
            let probe =
                serde_json::json!({"step": step, "prompts": 4, "painted": 4, "compared": compared, "win_rate": rate});
            serde_json::from_value(probe).unwrap()
        };
        let mut status = after(3);
        status.probes = vec![probe(2, 3)];
        metrics.note(&status).unwrap();
        assert_eq!(lines(&file).len(), 3);
        status.probes = vec![probe(2, 4), probe(3, 0)];
        metrics.note(&status).unwrap();
        metrics.note(&status).unwrap();
        let written = lines(&file);
        assert_eq!(written.len(), 4);
        assert_eq!(
            (&written[3]["step"], &written[3]["probe"]["win_rate"]["value"]),
            (&2.into(), &0.75.into())
        );
        let events = std::fs::read_dir(&board).unwrap().next().unwrap().unwrap().path();
        let events = std::fs::read(events).unwrap();
        assert!(events.windows(14).any(|part| part == b"probe/win_rate"));

        // A step that is taken back takes its probe with it.
        metrics.note(&after(1)).unwrap();
        assert_eq!(lines(&file).len(), 1);
    }

    #[test]
    fn a_run_that_has_finished_is_measured_in_the_last_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(JSONL_FILE);
        let mut metrics = Metrics::begin(Some(&file), None).unwrap();
        let mut status = after(2);
        status.phase = Phase::Finished;
        metrics.note(&status).unwrap();
        metrics.note(&status).unwrap();
        let lines = lines(&file);
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[2]["finished"], true);
    }
}
