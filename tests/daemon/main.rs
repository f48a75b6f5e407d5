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
mod arrivals;
mod automation;
mod borders;
mod broken_config;
#[cfg(feature = "failpoints")]
mod clocks;
mod closed_output;
mod commands;
#[path = "../common/mod.rs"]
mod common;
mod connection_per_type;
mod crashes;
mod create_imodel;
mod demo;
mod emulator_command;
mod filesystem;
mod fuse;
mod hooks;
mod hostile_responses;
mod init;
mod intermediaries;
mod orphans;
mod outages;

mod intermediary;
mod json_output;
mod ledger;
mod mail;
mod masters;
mod messages;
mod moves_between_watches;
mod named_versions;
mod network;
mod no_spinning;
mod operator;
mod other_client;
mod page;
mod page_api;
mod page_browser;
mod permissions;
mod platform_state;
mod polled_share;
mod postgres;
mod progress;
mod push;
mod random_changes;
mod random_faults;
mod real_files;
mod references;
mod refusals;
mod remedies;
mod rename_sequences;
mod renames;
mod request_budget;
mod runs;
mod sets;
mod settings;
#[cfg(feature = "failpoints")]
mod several_hosts;
mod several_imodels;
mod sign_in;
mod soak;
mod spatial_root;
mod state_directory;
mod status;
mod status_screen;
mod support;
mod systemd;
mod two_ledgers;
mod undocumented;
mod watch_identity;
mod windows;
mod withdrawal;
mod workflow;
