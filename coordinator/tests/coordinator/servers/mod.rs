//! Servers that tests start for themselves.

mod absent;
pub(crate) mod postgres;
pub(crate) mod s3;
