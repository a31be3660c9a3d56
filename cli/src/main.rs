//! `gavel`.
fn main() {}
