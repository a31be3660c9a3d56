//! The spans that log lines stand in.

use gavel_core::ids::WorkerId;
use gavel_core::work::LeaseKey;
use tracing::Span;

use crate::TraceContext;
use crate::field::{FENCE, METHOD, RUN, STEP, TRACE, UNIT, WORKER};

/// The span of what a worker does for a unit, or the coordinator with its result.
pub fn unit(key: &LeaseKey, worker: &WorkerId, trace: Option<&TraceContext>) -> Span {
    let span = tracing::info_span!(
        "unit",
        { RUN } = %key.run,
        { STEP } = key.unit.step().map(|step| step.0),
        { UNIT } = %key.unit,
        { FENCE } = key.fence.0,
        { WORKER } = %worker,
        { TRACE } = trace.map(|trace| tracing::field::display(trace.trace_id())),
    );
    if let Some(trace) = trace {
        join(&span, trace);
    }
    span
}

#[cfg(feature = "otlp")]
use crate::export::join;

/// Nothing is exported by this build.
#[cfg(not(feature = "otlp"))]
fn join(_: &Span, _: &TraceContext) {}

/// The span of an answer to a gRPC call that belongs to a trace. Other calls (heartbeats, requests for work) have none:
/// there are thousands in a second, and nothing to tell apart.
pub fn request(method: &str, headers: &http::HeaderMap) -> Span {
    match TraceContext::extract(headers) {
        Some(trace) => {
            let span = tracing::info_span!("request", { METHOD } = method, { TRACE } = %trace.trace_id());
            join(&span, &trace);
            span
        }
        None => Span::none(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use gavel_core::ids::{Fence, RunId, Step};
    use gavel_core::work::Unit;

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// The line that is logged within the span.
    fn line_in(span: impl FnOnce() -> Span) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || span().in_scope(|| tracing::info!("at work")));
        String::from_utf8(captured.0.lock().unwrap().clone()).unwrap()
    }

    fn key(unit: Unit) -> LeaseKey {
        LeaseKey {
            run: RunId("small".into()),
            unit,
            fence: Fence(7),
        }
    }

    #[test]
    fn a_line_names_the_unit_that_it_is_about_and_its_trace() {
        let trace: TraceContext = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            .parse()
            .unwrap();
        let worker = WorkerId("judge-1".into());
        let step = Step(3);
        let line = line_in(|| unit(&key(Unit::Judge { step, chunk: 2 }), &worker, Some(&trace)));
        let fields = "unit{run=small step=3 unit=judge chunk 2 of step 3 fence=7 worker=judge-1 \
                      trace=0af7651916cd43dd8448eb211c80319c}";
        assert!(line.contains(fields), "{line}");
        let line = line_in(|| unit(&key(Unit::Initialise), &worker, None));
        let fields = "unit{run=small unit=initialise fence=7 worker=judge-1}";
        assert!(line.contains(fields), "{line}");
    }

    #[test]
    fn a_request_without_a_trace_adds_nothing_to_a_line() {
        let mut headers = http::HeaderMap::new();
        assert!(!line_in(|| request("/gavel.v1.Fleet/Heartbeat", &headers)).contains("request"));
        TraceContext::generate().inject(&mut headers);
        let line = line_in(|| request("/gavel.v1.Fleet/Complete", &headers));
        assert!(
            line.contains("request{method=\"/gavel.v1.Fleet/Complete\" trace="),
            "{line}"
        );
    }
}
