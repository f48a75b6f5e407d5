#![allow(missing_docs)]
//ATT
pub mod config;
pub mod ledger;
mod names;
pub mod secret;
pub mod selection;
mod share;
pub mod watch;
