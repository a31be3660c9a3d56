//! The coordinator by what it serves, with real stores and real workers over gRPC.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod access;
mod api;
mod blobs;
mod direct;
mod fleet;
mod ledger;
mod rally;
mod redo;
mod servers;
mod services;
mod sharing;
mod snapshots;
mod standby;
mod storage;
mod support;
mod trace;
mod troubled_ledger;
