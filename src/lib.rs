//! itwin-syncd: from a shared folder into an iModel.
//!
//! The way of one file: a user saves `Bridge/Deck.dgn` into a watched folder.
//!
//! 1. [`watch`] detects it, by an event or by a scan, asks [`selection`] whether it is a design file and for which
//!    connector, and waits until it is completely written. Then it hands the file, in exactly this version, to
//! 2. the [`ledger`], the durable queue between all stages. A kill at any moment leaves work there, never in memory.
//! 3. [`upload`] claims the job, sends the content to iTwin Storage, checks that the file did not change meanwhile, and
//!    completes the upload. The outcome goes back into the ledger, where it waits for
//! 4. a [`synchronizer`], one per iModel: it batches files, makes each a source file of the iModel's connection, starts
//!    one run for all of them, follows it, and records the result of every file in the ledger.
//! 5. The log ([`telemetry`]), the commands ([`cli`]), the page and the metrics ([`web`]) and the alerts ([`alert`])
//!    report the state, from the ledger and the [`runtime_status`]; [`control`] executes the commands of operators.
//!
//! [`service`] starts all of it and stops it in order. Below: [`itwin`], the client of the platform; [`retry`], backoff
//! and rate limits; [`bandwidth`], bandwidth limits; [`config`], the configuration; [`secret`], redaction. The
//! [`emulator`] of the platform shares no code with the rest.
//!
//! `ARCHITECTURE.md` describes what survives a crash and where to change what.

pub mod alert;
pub mod bandwidth;
pub mod cli;
mod clock;
pub mod config;
pub mod connection_name;
pub mod connector_type;
pub mod control;
pub mod emulator;
mod error_chain;
mod failpoint;
mod filesystem;
pub mod ids;
pub mod itwin;
pub mod lease;
pub mod ledger;
pub mod ledger_location;
pub mod local_time;
pub mod login_file;
mod names;
mod next_attempt;
mod permission;
mod references;
pub mod retry;
mod rooted_fs;
pub mod runtime_status;
pub mod secret;
pub mod selection;
pub mod service;
mod shell;
pub mod source_file_limit;
pub mod state_directory;
mod status_view;
mod stored_content;
pub mod synchronizer;
pub mod telemetry;
mod text;
pub mod upload;
mod version;
pub mod watch;
pub mod web;
