//! How many connections the process can have: sockets share its file descriptors with the ledger and the blobs.

/// Descriptors that connections leave alone: for the ledger, for blobs that are read and written, for the log.
const RESERVED: usize = 256;
/// Connections to the dashboard and probes, at most.
const HTTP_MOST: usize = 256;
/// Connections of workers and clients, at most.
const GRPC_MOST: usize = 16_384;
/// Where the system does not say how many descriptors there are: what most systems allow at least.
const USUAL: usize = 1_024;

/// The places that the two servers have for connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shares {
    pub(super) grpc: usize,
    pub(super) http: usize,
}

impl Shares {
    /// Those of this process.
    pub(super) fn of_this_process() -> Self {
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        Self::of(descriptors(&limits).unwrap_or(USUAL))
    }

    fn of(descriptors: usize) -> Self {
        let free = descriptors.saturating_sub(RESERVED).max(descriptors / 2);
        let http = HTTP_MOST.min(free / 4).max(1);
        let grpc = GRPC_MOST.min(free - http.min(free)).max(1);
        Self { grpc, http }
    }
}

/// The soft limit, from the text in which Linux tells a process's limits.
fn descriptors(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(usize::MAX),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_never_take_every_descriptor() {
        for descriptors in [64, 256, 1_024, 4_096, 1 << 20] {
            let Shares { grpc, http } = Shares::of(descriptors);
            assert!(grpc >= 1 && http >= 1);
            assert!(
                grpc + http <= descriptors - RESERVED.min(descriptors / 2),
                "{descriptors}: {grpc} + {http}"
            );
        }
        assert_eq!(Shares::of(1_024), Shares { grpc: 576, http: 192 });
        assert_eq!(
            Shares::of(usize::MAX),
            Shares {
                grpc: 16_384,
                http: 256
            }
        );
    }

    #[test]
    fn the_soft_limit_is_read_as_linux_writes_it() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max processes             unlimited            unlimited            processes \n\
                    Max open files            1024                 524288               files     \n";
        assert_eq!(descriptors(text), Some(1_024));
        assert_eq!(descriptors(""), None);
    }
}
