//! Spans to a collector of OpenTelemetry, by OTLP over gRPC. The standard's variables say where and how: `OTEL_EXPORTER_OTLP_ENDPOINT`,
//! `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_SERVICE_NAME`, ...

use opentelemetry::KeyValue;
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState, TracerProvider as _,
};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tokio::runtime::{Builder, Runtime};
use tracing::Span;
use tracing_opentelemetry::{OpenTelemetryLayer, OpenTelemetrySpanExt as _};
use tracing_subscriber::registry::LookupSpan;

use crate::TraceContext;

/// The way to the collector. What is under way is sent when this is dropped.
#[derive(Debug)]
pub(crate) struct Export {
    provider: SdkTracerProvider,
    /// The connection's tasks, which go on whatever the program's own runtime does.
    _runtime: Runtime,
}

impl Export {
    /// The way that the variables name, and what makes spans of this process go there.
    ///
    /// # Errors
    /// A variable names nothing that could be dialled; in words.
    pub(crate) fn start<S>() -> Result<(Self, OpenTelemetryLayer<S, SdkTracer>), String>
    where
        S: tracing::Subscriber + for<'span> LookupSpan<'span>,
    {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let exporter = {
            let _entered = runtime.enter();
            SpanExporter::builder().with_tonic().build()
        };
        let exporter = exporter.map_err(|error| error.to_string())?;
        let mut resource =
            Resource::builder().with_attribute(KeyValue::new("process.pid", i64::from(std::process::id())));
        if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name("gavel");
        }
        let provider = SdkTracerProvider::builder()
            .with_resource(resource.build())
            .with_batch_exporter(exporter)
            .build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("gavel"));
        let export = Self {
            provider,
            _runtime: runtime,
        };
        Ok((export, layer))
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        // A collector that does not take them is no reason for a program to fail; the library logs it.
        let _ = self.provider.shutdown();
    }
}

/// Makes a span a part of a trace that began elsewhere.
pub(crate) fn join(span: &Span, trace: &TraceContext) {
    let context = SpanContext::new(
        TraceId::from_bytes(trace.trace_id_bytes()),
        SpanId::from_bytes(trace.parent_id_bytes()),
        TraceFlags::SAMPLED,
        true,
        TraceState::default(),
    );
    // Without a layer that exports, there is nothing to join.
    let _ = span.set_parent(opentelemetry::Context::new().with_remote_span_context(context));
}
