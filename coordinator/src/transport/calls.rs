//! What one call may send, by its kind: a request for work is a hundred bytes, a submitted run is megabytes.

use std::time::Duration;

use gavel_core::bounds;

/// What one call may send, and in which time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CallLimits {
    /// Bytes of the whole request; none for an upload, whose handler counts for itself.
    pub(super) bytes: Option<usize>,
    /// Until the request has arrived as a whole.
    pub(super) within: Duration,
}

/// Requests for work, signs of life, looks at runs.
const SMALL: usize = 256 << 10;
/// A list of blobs.
const LIST: usize = 4 << 20;
/// A result: thousands of verdicts, each with its reasons.
const RESULT: usize = 32 << 20;
/// A run. Its texts may be twice as long as JSON, where they are mostly quotes and line ends.
const SUBMISSION: usize = 2 * bounds::FILES.most as usize + (4 << 20);

/// How long a request may take to arrive.
const WITHIN: Duration = Duration::from_secs(60);

/// The limits of the call with this path.
pub(super) fn limits(path: &str) -> CallLimits {
    let bytes = match path {
        "/gavel.v1.Blobs/Put" => None,
        "/gavel.v1.Runs/Submit" => Some(SUBMISSION),
        "/gavel.v1.Fleet/Complete" | "/gavel.v1.Fleet/KeepVerdicts" => Some(RESULT),
        "/gavel.v1.Fleet/RecallVerdicts" | "/gavel.v1.Blobs/Missing" => Some(LIST),
        _ => Some(SMALL),
    };
    CallLimits { bytes, within: WITHIN }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every unary method of the protocol has a limit; what is not listed has the smallest.
    #[test]
    fn only_an_upload_may_send_without_end() {
        for (path, bytes) in [
            ("/gavel.v1.Blobs/Put", None),
            ("/gavel.v1.Blobs/Get", Some(SMALL)),
            ("/gavel.v1.Fleet/Heartbeat", Some(SMALL)),
            ("/gavel.v1.Fleet/Complete", Some(RESULT)),
            ("/gavel.v1.Runs/Submit", Some(SUBMISSION)),
            ("/no.such/Method", Some(SMALL)),
        ] {
            assert_eq!(limits(path).bytes, bytes, "{path}");
        }
    }
}
