//! Asks the emulator what the platform's documentation says, in plain HTTP.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "a test fails by panicking"
)]

mod blobs;
#[path = "../common/mod.rs"]
mod common;
mod contract;
mod faults;
mod foreign;
mod hostile;
mod support;
