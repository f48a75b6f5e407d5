//! What the service says while it works: to people on standard error, to machines as JSON lines in daily files.
//!
//! systemd's journal adds the time itself, so lines that go there carry none. Secrets never get here: the types that
//! hold them print nothing.

use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;

use tracing::Level;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_appender::rolling::{Builder, InitError, Rotation};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

use crate::config;

/// Keeps the log going; the last lines are written when it is dropped.
#[derive(Debug)]
pub struct Telemetry {
    _files: Option<WorkerGuard>,
}

/// Why nothing can be logged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The log directory cannot be used.
    #[error("cannot write log files into {directory:?}")]
    Directory {
        /// `log.directory`.
        directory: std::path::PathBuf,
        /// Why not.
        source: InitError,
    },
    /// Somebody else logs in this process already.
    #[error("the log is set up already")]
    Twice(#[from] TryInitError),
}

/// Begins to log as configured.
///
/// # Errors
/// When the log directory cannot be used, or the log was begun before.
pub fn start(log: &config::Log) -> Result<Telemetry, Error> {
    let to_journal = stderr_is_journal();
    let colors = !to_journal && std::io::stderr().is_terminal();
    let people = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(colors);
    let people = if to_journal {
        people.without_time().boxed()
    } else {
        people.boxed()
    };
    let (files, guard) = match &log.directory {
        None => (None, None),
        Some(directory) => {
            let appender = Builder::new()
                .rotation(Rotation::DAILY)
                .filename_prefix("itwin-syncd")
                .filename_suffix("jsonl")
                .max_log_files(log.keep_files)
                .build(directory)
                .map_err(|source| Error::Directory {
                    directory: directory.clone(),
                    source,
                })?;
            // Losing lines would be silence about a failure; a full disk makes this wait instead.
            let (writer, guard) = NonBlockingBuilder::default().lossy(false).finish(appender);
            (
                Some(
                    tracing_subscriber::fmt::layer()
                        .json()
                        .flatten_event(true)
                        .with_writer(writer),
                ),
                Some(guard),
            )
        }
    };
    // What other crates say at our chatty levels is about them, not about files.
    let level = level(log.level);
    let targets = Targets::new()
        .with_default(level.min(Level::WARN))
        .with_target(env!("CARGO_CRATE_NAME"), level);
    tracing_subscriber::registry()
        .with(targets)
        .with(people)
        .with(files)
        .try_init()?;
    Ok(Telemetry { _files: guard })
}

fn level(level: config::Level) -> Level {
    match level {
        config::Level::Error => Level::ERROR,
        config::Level::Warn => Level::WARN,
        config::Level::Info => Level::INFO,
        config::Level::Debug => Level::DEBUG,
        config::Level::Trace => Level::TRACE,
    }
}

/// Whether standard error is the very stream that systemd connected to the journal.
/// Source: systemd.exec(5), `$JOURNAL_STREAM`
fn stderr_is_journal() -> bool {
    let Some(stream) = std::env::var("JOURNAL_STREAM").ok() else {
        return false;
    };
    rustix::fs::fstat(std::io::stderr().as_fd())
        .is_ok_and(|stat| names(&stream, stat.st_dev, stat.st_ino))
}

fn names(stream: &str, device: u64, inode: u64) -> bool {
    stream
        .split_once(':')
        .is_some_and(|(dev, ino)| dev.parse() == Ok(device) && ino.parse() == Ok(inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_recognized_by_device_and_inode() {
        assert!(names("9:1234", 9, 1234));
        for (stream, device, inode) in [
            ("9:1234", 9, 1235),
            ("9:1234", 8, 1234),
            ("", 0, 0),
            ("9", 9, 0),
            ("a:b", 0, 0),
        ] {
            assert!(!names(stream, device, inode), "{stream}");
        }
    }
}
