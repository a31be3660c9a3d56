//! TensorBoard's event files: a framed record for each step, with its figures as scalars.
//!
//! # Source
//! TensorBoard 2.21: `tensorboard/compat/proto/{event,summary}.proto` and TensorFlow's record framing (length and payload, each
//! followed by its masked CRC-32C).

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use gavel_core::run::{ProbeStatus, RunStatus, StepRecord};
use prost::Message;

use crate::Error;

/// One record of the file.
#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    /// In the first record, and nowhere else.
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    /// Always there: a figure of 0 is a figure.
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// A file of events, which its board finds by its name.
#[derive(Debug)]
pub(super) struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Begins a file in the folder, beside those that are there.
    pub(super) fn begin(folder: &Path) -> Result<Self, Error> {
        let unwritable = |file: &Path, source| Error::Write {
            file: file.to_owned(),
            source,
        };
        std::fs::create_dir_all(folder).map_err(|source| unwritable(folder, source))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = format!(
            "events.out.tfevents.{:010}.{:09}.gavel",
            now.as_secs(),
            now.subsec_nanos()
        );
        let path = folder.join(name);
        let file = File::create(&path).map_err(|source| unwritable(&path, source))?;
        let mut events = Self { path, file };
        events.write(&Event {
            wall_time: now.as_secs_f64(),
            file_version: Some("brain.Event:2".into()),
            ..Event::default()
        })?;
        Ok(events)
    }

    pub(super) fn step(&mut self, record: &StepRecord, now_unix_ms: u64) -> Result<(), Error> {
        let share = |part: u32| f64::from(part) / f64::from(record.pairs.max(1));
        let seconds = &record.seconds;
        let figures = [
            ("train/loss", record.loss),
            ("train/kl", record.kl),
            ("train/clip_fraction", record.clip_fraction),
            ("train/ratio_deviation", record.ratio_deviation),
            ("train/grad_norm", record.grad_norm),
            ("train/learning_rate", record.learning_rate),
            ("judge/decided", share(record.decided)),
            ("judge/abstained", share(record.abstained)),
            ("judge/failed", share(record.failed)),
            ("judge/order_consistency", record.order_consistency),
            ("seconds/sample", seconds.sample),
            ("seconds/judge", seconds.judge),
            ("seconds/train", seconds.train),
            ("seconds/commit", seconds.commit),
            ("seconds/wall", seconds.wall),
        ];
        let diversity = record.diversity.map(|diversity| ("sample/diversity", diversity));
        let agreement = record.held_out_agreement;
        let agreement = agreement.map(|agreement| ("judge/held_out_agreement", agreement));
        let asked = record.asked.iter().flat_map(|asked| {
            [
                ("judge/asked_once", asked.share_once().unwrap_or(0.0)),
                ("judge/too_alike", asked.share_too_alike().unwrap_or(0.0)),
            ]
        });
        let scores = [
            ("judge/score", record.score),
            ("judge/held_out_score", record.held_out_score),
        ];
        let scores = scores.into_iter().filter_map(|(name, score)| Some((name, score?)));
        let optional = scores.chain(diversity).chain(agreement).chain(asked);
        let figures: Vec<_> = figures.into_iter().chain(optional).collect();
        self.scalars(record.step.0, now_unix_ms, &figures)
    }

    pub(super) fn probe(&mut self, probe: &ProbeStatus, now_unix_ms: u64) -> Result<(), Error> {
        let Some(rate) = probe.win_rate else { return Ok(()) };
        let figures = [
            ("probe/win_rate", rate.value),
            ("probe/win_rate_low", rate.low),
            ("probe/win_rate_high", rate.high),
        ];
        self.scalars(probe.step.0, now_unix_ms, &figures)
    }

    pub(super) fn end(&mut self, status: &RunStatus) -> Result<(), Error> {
        let mut figures = Vec::new();
        if let Some(rate) = status.evaluation.and_then(|evaluation| evaluation.win_rate) {
            figures.push(("evaluation/win_rate", rate.value));
        }
        if let Some(accuracy) = status.judge.as_ref().map(|judge| judge.accuracy) {
            figures.push(("judge/accuracy", accuracy));
        }
        self.scalars(status.step.0, status.now_unix_ms, &figures)
    }

    fn scalars(&mut self, step: u32, now_unix_ms: u64, figures: &[(&str, f64)]) -> Result<(), Error> {
        let value = figures.iter().map(|(tag, value)| Scalar {
            tag: (*tag).to_owned(),
            simple_value: Some(*value as f32),
        });
        self.write(&Event {
            wall_time: now_unix_ms as f64 / 1000.0,
            step: i64::from(step),
            file_version: None,
            summary: Some(Summary { value: value.collect() }),
        })
    }

    fn write(&mut self, event: &Event) -> Result<(), Error> {
        self.file
            .write_all(&framed(&event.encode_to_vec()))
            .map_err(|source| Error::Write {
                file: self.path.clone(),
                source,
            })
    }
}

/// A record with its length and their checksums.
fn framed(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u64).to_le_bytes();
    let parts = [&length[..], &masked_crc(&length), payload, &masked_crc(payload)];
    parts.concat()
}

/// A CRC-32C that does not look like data when it is itself part of what is checked.
fn masked_crc(bytes: &[u8]) -> [u8; 4] {
    const MASK: u32 = 0xa282_ead8;
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(MASK).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The record that TensorBoard 2.21's own `RecordWriter` wrote of this event.
    #[test]
    fn a_record_is_the_one_that_tensorboard_writes() {
        let event = Event {
            wall_time: 7.0,
            step: 3,
            file_version: None,
            summary: Some(Summary {
                value: vec![Scalar {
                    tag: "train/kl".into(),
                    simple_value: Some(0.5),
                }],
            }),
        };
        let expected = "1e00000000000000d9dc1232090000000000001c4010032a110a0f0a08747261696e2f6b6c150000003fad227bfa";
        let found: String = framed(&event.encode_to_vec())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(found, expected);
    }
}
