//! Drives the real program against the emulator, and judges it by what the emulator received.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "a test fails by panicking"
)]

mod alerts;
mod answers;
mod between;
mod borders;
#[cfg(feature = "failpoints")]
mod clocks;
mod commands;
#[path = "../common/mod.rs"]
mod common;
mod crashes;
mod demo;
mod emulator_command;
mod faults;
mod filesystem;
mod fuse;

mod ledger;
mod middle;
mod network;
mod operator;
mod page;
mod refusals;
mod remedies;
mod restless;
mod runs;
mod scale;
mod soak;
mod somebody;
mod state_directory;
mod storm;
mod support;
mod systemd;
mod together;
mod truth;
mod unknowns;
mod workflow;
