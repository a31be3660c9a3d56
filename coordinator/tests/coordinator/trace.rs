//! What the log says of one unit: its lines name it in the same words and the same trace, whether a worker's thread, a
//! worker's task or the coordinator wrote them.
//!
//! Both sides log in this process, into one buffer. Nothing else crosses between them than what crosses the wire.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use gavel_core::RunAssets;
use gavel_core::ids::RunId;
use gavel_core::spec::RunSpec;
use gavel_core::work::{Assignment, Outcome, Role, Unit};
use gavel_telemetry::field;
use gavel_worker::{Work, WorkContext, WorkError};
use tracing::Level;

use crate::support::{self, Rehearsal, Served, Working, options};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn lines_with(&self, message: &str) -> Vec<String> {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let text = String::from_utf8(bytes).expect("text");
        let lines = text.lines().filter(|line| line.contains(message));
        lines.map(str::to_owned).collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Work that says so in the log.
struct Talking(Rehearsal);

impl Work for Talking {
    fn prepare(&mut self, run: &RunId, spec: &RunSpec, assets: &RunAssets) -> Result<(), WorkError> {
        self.0.prepare(run, spec, assets)
    }

    fn perform(&mut self, unit: &Unit, assignment: &Assignment, context: &WorkContext) -> Result<Outcome, WorkError> {
        tracing::info!("at work");
        self.0.perform(unit, assignment, context)
    }
}

/// A field's value in a line; it ends where the next field or the span does.
fn value<'a>(line: &'a str, field: &str) -> &'a str {
    let (_, rest) = line
        .split_once(&format!("{field}="))
        .unwrap_or_else(|| panic!("no `{field}` in: {line}"));
    rest.split([' ', '}']).next().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lines_about_a_unit_share_its_fields_and_its_trace_on_both_sides() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(Level::DEBUG)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    coordinator.submit().await;
    let address = coordinator.handle.grpc_address();
    let workers = [Role::Sampler, Role::Judge, Role::Trainer]
        .map(|role| Working::start(role, address, Talking(Rehearsal::new())));
    coordinator.until(|status| status.phase.is_ended()).await;
    for worker in workers {
        worker.stop().await;
    }
    coordinator.stop().await;

    // One unit of each role: (its words, its step).
    for (unit, step) in [
        ("sample chunk 0 of step 2", Some("2")),
        ("judge chunk 1 of step 1", Some("1")),
        ("commit of step 3", Some("3")),
        ("initialise", None),
    ] {
        let mut traces = BTreeSet::new();
        for message in ["unit leased", "at work", "unit done", "completed: accepted"] {
            let lines = log.lines_with(message);
            let about = format!("{}={unit} {}=", field::UNIT, field::FENCE);
            let about: Vec<&String> = lines.iter().filter(|line| line.contains(&about)).collect();
            let [line] = about.as_slice() else {
                panic!("{} lines say `{message}` of `{unit}`", about.len());
            };
            assert_eq!(value(line, field::RUN), support::RUN, "{line}");
            match step {
                Some(step) => assert_eq!(value(line, field::STEP), step, "{line}"),
                None => assert!(!line.contains(&format!("{}=", field::STEP)), "{line}"),
            }
            assert!(value(line, field::FENCE).parse::<u64>().is_ok(), "{line}");
            assert!(value(line, field::WORKER).contains('-'), "{line}");
            traces.insert(value(line, field::TRACE).to_owned());
        }
        assert_eq!(traces.len(), 1, "{unit}: {traces:?}");
        let trace = traces.first().expect("a trace");
        assert!(
            trace.len() == 32 && trace.bytes().all(|digit| digit.is_ascii_hexdigit()),
            "{trace}"
        );
    }
    // The units of a step share one, from its pictures to its policy, and no two steps do.
    let done = log.lines_with("unit done");
    let mut steps: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in done.iter().filter(|line| line.contains(&format!(" {}=", field::STEP))) {
        steps
            .entry(value(line, field::STEP))
            .or_default()
            .insert(value(line, field::TRACE));
    }
    assert!(steps.len() >= 3, "{steps:?}");
    assert!(steps.values().all(|traces| traces.len() == 1), "{steps:?}");
    let traces: BTreeSet<&str> = steps.values().flatten().copied().collect();
    assert_eq!(traces.len(), steps.len(), "{steps:?}");
}
