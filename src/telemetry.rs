//! What the service says while it works: to people on standard error, to machines as JSON lines in daily files.
//!
//! Standard error is one of three things. The journal gets entries in its own protocol, with a field for each of ours (`journal`). A terminal gets
//! lines with time and colour. Anything else gets plain lines with the level in front as `<3>`, which systemd and syslog understand
//! (`sd-daemon(3)`). Secrets never get here: the types that hold them print nothing, and what others say is redacted where it arrives. As a second
//! net, every line is searched for the secrets in use before it is written.

mod journal;

use std::borrow::Cow;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;

use tracing::{Level, Metadata};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_appender::rolling::{Builder, InitError, Rotation};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{Layer, Registry, reload};

use crate::config;
use crate::secret::{Part, redact};
use journal::Journal;

/// Keeps the log going; the last lines are written when it is dropped.
#[derive(Debug)]
pub struct Telemetry {
    levels: Levels,
    _files: Option<WorkerGuard>,
}

/// Changes the level while the log goes on.
#[derive(Debug, Clone)]
pub struct Levels(reload::Handle<Targets, Registry>);

impl Telemetry {
    /// The handle on the level.
    #[must_use]
    pub fn levels(&self) -> Levels {
        self.levels.clone()
    }
}

impl Levels {
    /// Shows what is as important as `level`, from now on.
    pub fn set(&self, level: config::Level) {
        // It fails only when the log is gone, and then nobody could be told.
        self.0.reload(targets(level)).ok();
    }
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
    let people = people();
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
                        .with_writer(move || Redacted(writer.clone())),
                ),
                Some(guard),
            )
        }
    };
    let (filter, handle) = reload::Layer::new(targets(log.level));
    tracing_subscriber::registry()
        .with(filter)
        .with(people)
        .with(files)
        .try_init()?;
    Ok(Telemetry {
        levels: Levels(handle),
        _files: guard,
    })
}

/// What goes to standard error, in the form that its reader expects.
fn people<S>() -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    if stderr_is_journal()
        && let Some(journal) = Journal::connect()
    {
        return journal.boxed();
    }
    let lines = tracing_subscriber::fmt::layer().with_target(false);
    if std::io::stderr().is_terminal() {
        lines.with_writer(|| Redacted(io::stderr())).boxed()
    } else {
        lines.with_ansi(false).with_writer(Prefixed).boxed()
    }
}

/// Writes lines without the secrets in use.
struct Redacted<W>(W);

impl<W: io::Write> io::Write for Redacted<W> {
    /// Called once for each event, with the whole line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write_all(&redacted(line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A line without the secrets in use.
fn redacted(line: &[u8]) -> Cow<'_, [u8]> {
    match std::str::from_utf8(line) {
        Ok(text) => match redact(text, Part::Long) {
            Cow::Borrowed(text) => text.as_bytes().into(),
            Cow::Owned(text) => text.into_bytes().into(),
        },
        Err(_) => line.into(),
    }
}

/// Standard error with the level before each line.
#[derive(Debug)]
struct Prefixed;

struct Line {
    priority: u8,
}

impl<'a> MakeWriter<'a> for Prefixed {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line {
            priority: priority(Level::INFO),
        }
    }

    fn make_writer_for(&'a self, about: &Metadata<'_>) -> Line {
        Line {
            priority: priority(*about.level()),
        }
    }
}

impl io::Write for Line {
    /// Called once for each event, with the whole line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut whole = format!("<{}>", self.priority).into_bytes();
        whole.extend(redacted(line).iter());
        io::stderr().write_all(&whole)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// The level in syslog's numbers.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// What other crates say at our chatty levels is about them, not about files.
fn targets(shown: config::Level) -> Targets {
    let level = level(shown);
    Targets::new()
        .with_default(level.min(Level::WARN))
        .with_target(env!("CARGO_CRATE_NAME"), level)
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
pub(crate) fn stderr_is_journal() -> bool {
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
