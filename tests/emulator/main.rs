//! Tests of the emulator over HTTP, against the platform's documentation.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    clippy::too_many_lines,
    reason = "a test fails by panicking, and tells its story in one piece"
)]

mod blobs;
#[path = "../common/mod.rs"]
mod common;
mod contract;
mod faults;
mod foreign;
mod hostile;
mod other_clients;
mod recording;
mod safety;
mod support;
