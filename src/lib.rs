//! itwin-syncd: from a shared folder into an iModel.
//!
//! Follow one file through the house. Somebody saves `Bridge/Deck.dgn` into a watched folder:
//!
//! 1. [`watch`] sees it, by an event or by its own scan, asks [`selection`] whether it is a design file and for which
//!    connector, and waits until it is finished being written. Then the file, in just this version, is handed to
//! 2. the [`ledger`], the durable queue between all rooms. A kill at any moment leaves work there, never in memory.
//! 3. [`upload`] claims the job, brings the bytes to iTwin Storage, checks that the file did not change on the way,
//!    and confirms the upload. The outcome goes back into the ledger, where it waits for
//! 4. a [`lane`], one per iModel: it gathers files, makes each a source file of the iModel's connection, starts one
//!    run for all of them, follows it, and writes every file's own result into the ledger.
//! 5. The log ([`telemetry`]), the commands ([`cli`]), the page and the metrics ([`web`]) and the alerts ([`alert`]) tell
//!    a person, from the ledger and from what goes on at this moment ([`live`]); [`control`] does what the person wants.
//!
//! [`service`] starts all of it and stops it in order. Below: [`itwin`], the platform's client; `retry`, the pauses; [`pace`], the limits of speed;
//! [`config`], the configuration; [`secret`], what must not be printed. Beside it all stands the [`emulator`], a
//! stand-in of the platform that shares nothing with the rest.
//!
//! `ARCHITECTURE.md` says what survives a crash and where to change what.

pub mod alert;
mod attempt;
mod causes;
pub mod cli;
mod clock;
pub mod config;
mod content;
pub mod control;
pub mod emulator;
mod failpoint;
mod filesystem;
pub mod itwin;
pub mod lane;
pub mod ledger;
pub mod live;
mod names;
pub mod pace;
pub mod retry;
pub mod secret;
pub mod selection;
pub mod service;
mod share;
pub mod state_directory;
pub mod telemetry;
pub mod upload;
mod view;
pub mod watch;
pub mod web;
