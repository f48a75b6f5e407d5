//! Asks the emulator what the platform's documentation says, in plain HTTP.

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
mod browser;
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
