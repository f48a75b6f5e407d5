//! itwin-syncd: from a shared folder into an iModel.

pub mod config;
pub mod secret;
pub mod selection;
