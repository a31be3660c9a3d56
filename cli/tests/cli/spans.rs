//! What a collector of OpenTelemetry receives of a run: one trace goes from the pictures of a pair over its verdict to the gradient, over
//! processes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// A span as the test looks at it.
#[derive(Debug, Clone)]
struct Span {
    process: i64,
    trace: Vec<u8>,
    name: String,
    /// `sampler`, `judge` or `trainer`, where it is about a worker.
    role: String,
    step: Option<i64>,
}

/// A collector that keeps what it is sent.
#[derive(Debug, Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let process = number(&resource.resource.unwrap_or_default().attributes, "process.pid").unwrap();
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            let read = spans.map(|span| Span {
                process,
                trace: span.trace_id,
                name: span.name,
                role: text(&span.attributes, "worker")
                    .split('-')
                    .next()
                    .unwrap_or_default()
                    .to_owned(),
                step: text(&span.attributes, "step").parse().ok(),
            });
            self.0.lock().unwrap().extend(read);
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn value(attributes: &[KeyValue], key: &str) -> Option<Value> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    found.value.clone()?.value
}

fn number(attributes: &[KeyValue], key: &str) -> Option<i64> {
    match value(attributes, key) {
        Some(Value::IntValue(number)) => Some(number),
        _ => None,
    }
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    match value(attributes, key) {
        Some(Value::StringValue(text)) => text,
        _ => String::new(),
    }
}

#[tokio::test]
async fn one_trace_goes_from_the_pictures_of_a_pair_to_its_gradient_over_processes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let collector = Collector::default();
    let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(collector.clone()));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));

    let folder = tempfile::tempdir().unwrap();
    let status = tokio::process::Command::new(env!("CARGO_BIN_EXE_gavel"))
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .args(["run", "tests/compatibility/small.toml", "--out"])
        .arg(folder.path().join("run"))
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .env("XDG_RUNTIME_DIR", folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await
        .unwrap();
    assert!(status.success());

    // Each process sends what it has before it ends, and all of them have ended.
    let spans = collector.0.lock().unwrap().clone();
    assert!(!spans.is_empty(), "no span came");
    let mut steps: BTreeMap<i64, Vec<&Span>> = BTreeMap::new();
    for span in spans.iter().filter(|span| span.name == "unit") {
        if let Some(step) = span.step {
            steps.entry(step).or_default().push(span);
        }
    }
    let of_step = steps.get(&1).unwrap_or_else(|| panic!("nothing of step 1: {spans:?}"));
    let traces: BTreeSet<&[u8]> = of_step.iter().map(|span| span.trace.as_slice()).collect();
    assert_eq!(traces.len(), 1, "{of_step:?}");
    for role in ["sampler", "judge", "trainer"] {
        let processes: BTreeSet<i64> = of_step
            .iter()
            .filter(|span| span.role == role)
            .map(|span| span.process)
            .collect();
        // The worker's own span, and the coordinator's about it.
        assert!(processes.len() >= 2, "{role}: {of_step:?}");
    }
    let processes: BTreeSet<i64> = of_step.iter().map(|span| span.process).collect();
    assert_eq!(processes.len(), 4, "{of_step:?}");
    let other: BTreeSet<&[u8]> = steps[&2].iter().map(|span| span.trace.as_slice()).collect();
    assert!(other.is_disjoint(&traces), "two steps share a trace");
}
