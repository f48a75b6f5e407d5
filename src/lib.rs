#![allow(missing_docs)]
mod attempt;
pub mod cli;
pub mod config;
pub mod emulator;
pub mod itwin;
pub mod lane;
pub mod ledger;
mod names;
pub mod retry;
pub mod secret;
pub mod selection;
pub mod service;
mod share;
pub mod telemetry;
pub mod upload;
pub mod watch;
