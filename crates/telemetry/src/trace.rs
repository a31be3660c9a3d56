//! Traces: what belongs together although several processes did it, as W3C Trace Context (level 1) writes it.
//!
//! <https://www.w3.org/TR/trace-context-1/>. The context joins log lines and, where they are exported, spans; and the traces of whoever
//! calls or is called are not broken here.

use std::fmt;
use std::future::Future;
use std::str::FromStr;

use gavel_core::ids::Digest;
use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The flag by which a caller says that it may have recorded the trace.
const SAMPLED: u8 = 1;

tokio::task_local! {
    static CURRENT: TraceContext;
}

/// Which trace a piece of work belongs to, and which span of the trace caused it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: [u8; 16],
    parent_id: [u8; 8],
    flags: u8,
}

/// A text that is not the value of a `traceparent` header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the value of a traceparent header")]
pub struct InvalidTraceparent(pub String);

impl TraceContext {
    /// A new trace.
    pub fn generate() -> Self {
        let seed = || Digest::of(Uuid::new_v4().as_bytes());
        Self::of(&seed(), &seed())
    }

    /// The trace and the span in it that follow from seeds: the same ones wherever the seeds are known.
    pub fn of(trace: &Digest, span: &Digest) -> Self {
        let (mut trace_id, mut parent_id) = ([0; 16], [0; 8]);
        trace_id.copy_from_slice(&trace.0[..16]);
        parent_id.copy_from_slice(&span.0[..8]);
        Self {
            trace_id,
            parent_id,
            flags: SAMPLED,
        }
    }

    /// The same trace, seen from a new span of it: what that span causes names it as its parent.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            trace_id: self.trace_id,
            flags: self.flags,
            ..Self::generate()
        }
    }

    /// The trace's id: 32 hexadecimal digits.
    pub fn trace_id(&self) -> String {
        hex::encode(self.trace_id)
    }

    #[cfg(feature = "otlp")]
    pub(crate) fn trace_id_bytes(&self) -> [u8; 16] {
        self.trace_id
    }

    #[cfg(feature = "otlp")]
    pub(crate) fn parent_id_bytes(&self) -> [u8; 8] {
        self.parent_id
    }

    /// The context that the present task works in.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(|context| *context).ok()
    }

    /// Does `work` in this context: every call that it makes through `gavel-client` carries the context along.
    pub async fn scope<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(self, work).await
    }

    /// Writes the context into the headers of a request.
    pub fn inject(&self, headers: &mut HeaderMap) {
        // A context is written in digits and dashes, which every header may hold.
        if let Ok(value) = HeaderValue::try_from(self.to_string()) {
            headers.insert(TRACEPARENT, value);
        }
    }

    /// Reads the context from the headers of a request. One that cannot be read counts as absent, as the standard demands.
    pub fn extract(headers: &HeaderMap) -> Option<Self> {
        headers.get(TRACEPARENT)?.to_str().ok()?.parse().ok()
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace_id, parent_id) = (hex::encode(self.trace_id), hex::encode(self.parent_id));
        write!(f, "00-{trace_id}-{parent_id}-{:02x}", self.flags)
    }
}

impl FromStr for TraceContext {
    type Err = InvalidTraceparent;

    fn from_str(text: &str) -> Result<Self, InvalidTraceparent> {
        parse(text).ok_or_else(|| InvalidTraceparent(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<TraceContext> {
    let mut parts = text.split('-');
    let [version] = digits(parts.next()?)?;
    let context = TraceContext {
        trace_id: digits(parts.next()?)?,
        parent_id: digits(parts.next()?)?,
        flags: digits::<1>(parts.next()?)?[0],
    };
    // A later version may say more; this one may not.
    let ends = version != 0 || parts.next().is_none();
    let names_something = context.trace_id != [0; 16] && context.parent_id != [0; 8];
    (version != 0xff && ends && names_something).then_some(context)
}

/// Exactly `N` bytes in lower-case hexadecimal.
fn digits<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let is_lower_case = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    hex::decode_to_slice(text, &mut bytes).ok()?;
    is_lower_case.then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_survives_the_headers_of_a_request() {
        let context = TraceContext::generate();
        let mut headers = HeaderMap::new();
        context.inject(&mut headers);
        assert_eq!(TraceContext::extract(&headers), Some(context));
        assert_ne!(TraceContext::generate().trace_id, context.trace_id);
    }

    #[test]
    fn a_child_belongs_to_the_same_trace_and_is_another_span() {
        let context = TraceContext::generate();
        let child = context.child();
        assert_eq!(child.trace_id, context.trace_id);
        assert_ne!(child.parent_id, context.parent_id);
    }

    #[test]
    fn the_same_seeds_give_the_same_trace_and_the_same_span() {
        let of =
            |trace: &str, span: &str| TraceContext::of(&Digest::of(trace.as_bytes()), &Digest::of(span.as_bytes()));
        assert_eq!(of("a step", "a lease"), of("a step", "a lease"));
        assert_eq!(of("a step", "a lease").trace_id, of("a step", "another").trace_id);
        assert_ne!(of("a step", "a lease").parent_id, of("a step", "another").parent_id);
        assert_ne!(of("a step", "a lease").trace_id, of("the next", "a lease").trace_id);
    }

    #[test]
    fn the_standards_own_example_is_read_and_written() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context: TraceContext = text.parse().unwrap();
        assert_eq!(context.to_string(), text);
        assert_eq!(context.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        // A later version may append fields.
        assert_eq!(parse(&format!("01{}-more", &text[2..])), Some(context));
    }

    #[test]
    fn what_the_standard_forbids_is_no_context() {
        let wrong = [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
        ];
        for text in wrong {
            assert_eq!(text.parse::<TraceContext>(), Err(InvalidTraceparent(text.to_owned())));
        }
    }

    #[tokio::test]
    async fn work_in_a_scope_finds_its_context_and_work_outside_finds_none() {
        let context = TraceContext::generate();
        assert_eq!(context.scope(async { TraceContext::current() }).await, Some(context));
        assert_eq!(TraceContext::current(), None);
    }
}
