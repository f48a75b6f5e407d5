//! itwin-syncd: from a shared folder into an iModel.
//!
//! Follow one file through the house. Somebody saves `Bridge/Deck.dgn` into a watched folder:
//!
//! 1. [`watch`] sees it, by an event or by its own scan, asks [`selection`] whether it is a design file and for which
//!    connector, and waits until it is finished being written. Then the file, in just this version, is handed to
//! 2. the [`ledger`], the durable queue between all rooms. A kill at any moment leaves work there, never in memory.
//! 3. [`upload`] claims the job, brings the bytes to iTwin Storage, checks that the file did not change on the way,
//!    and confirms the upload. The outcome goes back into the ledger, where it waits for
//! 4. a [`synchronizer`], one per iModel: it gathers files, makes each a source file of the iModel's connection, starts one
//!    run for all of them, follows it, and writes every file's own result into the ledger.
//! 5. The log ([`telemetry`]), the commands ([`cli`]), the page and the metrics ([`web`]) and the alerts ([`alert`]) tell
//!    a person, from the ledger and from what goes on at this moment ([`runtime_status`]); [`control`] does what the person wants.
//!
//! [`service`] starts all of it and stops it in order. Below: [`itwin`], the platform's client; `retry`, the pauses; [`bandwidth`], the limits of speed;
//! [`config`], the configuration; [`secret`], what must not be printed. Beside it all stands the [`emulator`], a
//! stand-in of the platform that shares nothing with the rest.
//!
//! `ARCHITECTURE.md` says what survives a crash and where to change what.

pub mod alert;
pub mod bandwidth;
pub mod cli;
mod clock;
pub mod config;
pub mod control;
pub mod emulator;
mod error_chain;
mod failpoint;
mod filesystem;
pub mod itwin;
pub mod ledger;
mod names;
mod next_attempt;
pub mod retry;
mod rooted_fs;
pub mod runtime_status;
pub mod secret;
pub mod selection;
pub mod service;
pub mod state_directory;
mod status_view;
mod stored_content;
pub mod synchronizer;
pub mod telemetry;
mod text;
pub mod upload;
pub mod watch;
pub mod web;
