//! The log: on standard error in the format of `log.format`, and JSON lines in daily files.
//!
//! `journal`, the default where standard error is the stream that systemd connected to the journal: entries in the
//! journal's own protocol, with a field for each of ours (`journal`). Where that is not possible: lines with the level
//! in front as `<3>`, which systemd and syslog understand (`sd-daemon(3)`). `plain`, the default everywhere else: lines
//! with time and level, in color on a terminal. `json`: the same lines as in the files (`json`).
//!
//! Times are local, with their offset; text fields are quoted, numbers are not. Secrets never get here: the types that
//! hold them print nothing, and foreign text is redacted where it arrives. As a second safety net, every line is
//! searched for the secrets in use before it is written.

mod journal;
mod json;

use std::borrow::Cow;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;

use indicatif::MultiProgress;
use tracing::{Level, Metadata};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_appender::rolling::{Builder, InitError, Rotation};
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{Format, Full, Writer, debug_fn};
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{self, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{Layer, Registry, reload};

use crate::config::{self, LogFormat};
use crate::secret::{Part, redact};
use journal::Journal;
use json::JsonLines;

/// Keeps the log running; the last lines are written when it is dropped.
#[derive(Debug)]
pub struct Telemetry {
    levels: Levels,
    bars: Option<MultiProgress>,
    _files: Option<WorkerGuard>,
}

/// Changes the level while the log is running.
#[derive(Debug, Clone)]
pub struct Levels(reload::Handle<Targets, Registry>);

impl Telemetry {
    /// The handle on the level.
    #[must_use]
    pub fn levels(&self) -> Levels {
        self.levels.clone()
    }

    /// A place below the log for lines that change, if standard error is a terminal that can draw them.
    #[must_use]
    pub fn bars(&self) -> Option<MultiProgress> {
        self.bars.clone()
    }
}

impl Levels {
    /// Logs events of `level` and above from now on.
    pub fn set(&self, level: config::Level) {
        // Fails only when the log has ended.
        self.0.reload(targets(level)).ok();
    }
}

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The log directory cannot be used.
    #[error("cannot write log files to {directory:?}")]
    Directory {
        /// `log.directory`.
        directory: std::path::PathBuf,
        /// Why not.
        source: InitError,
    },
    /// The process has a log already.
    #[error("logging is already set up")]
    Twice(#[from] TryInitError),
}

impl Error {
    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Directory { .. } => Some(
                "give the service's user write access to log.directory, or choose another directory"
                    .to_owned(),
            ),
            Self::Twice(_) => None,
        }
    }
}

/// Starts logging as configured.
///
/// # Errors
/// When the log directory cannot be used, or the process has a log already.
pub fn start(log: &config::Log) -> Result<Telemetry, Error> {
    let bars = bars();
    let lines = lines(format(log.format, stderr_is_journal()), bars.clone());
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
            // Lost lines could hide a failure; a full disk blocks instead.
            let (writer, guard) = NonBlockingBuilder::default().lossy(false).finish(appender);
            (
                Some(
                    fmt::layer()
                        .event_format(JsonLines)
                        .log_internal_errors(false)
                        .with_writer(move || Redacted(writer.clone())),
                ),
                Some(guard),
            )
        }
    };
    let (filter, handle) = reload::Layer::new(targets(log.level));
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .with(files)
        .try_init()?;
    Ok(Telemetry {
        levels: Levels(handle),
        bars,
        _files: guard,
    })
}

/// A place for lines that change, if standard error is a terminal that can draw them.
fn bars() -> Option<MultiProgress> {
    let can_draw = std::env::var_os("TERM").is_some_and(|term| term != "dumb");
    (can_draw && io::stderr().is_terminal()).then(MultiProgress::new)
}

/// The format of standard error: as configured, else the one that its reader understands.
fn format(configured: Option<LogFormat>, is_journal: bool) -> LogFormat {
    configured.unwrap_or(if is_journal {
        LogFormat::Journal
    } else {
        LogFormat::Plain
    })
}

/// The layer for standard error.
fn lines<S>(format: LogFormat, bars: Option<MultiProgress>) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    let above_bars = move || Redacted(AboveBars(bars.clone()));
    match format {
        LogFormat::Journal => match Journal::connect().filter(|_| stderr_is_journal()) {
            Some(journal) => journal.boxed(),
            None => text_lines(Ansi::Off).with_writer(Prefixed).boxed(),
        },
        LogFormat::Json => fmt::layer()
            .event_format(JsonLines)
            .log_internal_errors(false)
            .with_writer(above_bars)
            .boxed(),
        LogFormat::Plain => {
            let ansi = if io::stderr().is_terminal() {
                Ansi::On
            } else {
                Ansi::Off
            };
            text_lines(ansi).with_writer(above_bars).boxed()
        }
    }
}

/// Whether lines have colors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ansi {
    On,
    Off,
}

/// Lines of text, for any writer.
fn text_lines<S>(
    ansi: Ansi,
) -> fmt::Layer<S, impl for<'w> FormatFields<'w> + 'static, Format<Full, LocalTime>>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    let fields = debug_fn(|out, field, value| match field.name() {
        "message" => write!(out, "{value:?}"),
        name => write!(out, "{name}={}", quoted(&format!("{value:?}"))),
    })
    .delimited(" ");
    fmt::layer()
        .with_target(false)
        .with_timer(LocalTime)
        .with_ansi(ansi == Ansi::On)
        // It would print them to standard error, and panic where there is none any more.
        .log_internal_errors(false)
        .fmt_fields(fields)
}

/// The local time with its offset, such as `2027-01-15T09:00:00.123+01:00`.
#[derive(Debug, Clone, Copy)]
struct LocalTime;

impl FormatTime for LocalTime {
    fn format_time(&self, out: &mut Writer<'_>) -> std::fmt::Result {
        let now = jiff::Timestamp::now().to_zoned_datetime(jiff::tz::TimeZone::system());
        write!(out, "{}", now.strftime("%Y-%m-%dT%H:%M:%S%.3f%:z"))
    }
}

/// A field as it is logged: numbers, `true` and `false` bare, everything else in quotes.
fn quoted(shown: &str) -> Cow<'_, str> {
    let is_bare = shown.starts_with('"')
        || ["true", "false"].contains(&shown)
        || shown.parse::<f64>().is_ok();
    if is_bare {
        shown.into()
    } else {
        format!("{shown:?}").into()
    }
}

/// A text that was recorded in quotes, such as a path, without them. Its escapes stay, except those of quotes.
fn unquoted(shown: &str) -> Cow<'_, str> {
    let inside = shown
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    let Some(inside) = inside else {
        return shown.into();
    };
    let mut text = String::with_capacity(inside.len());
    let mut letters = inside.chars();
    while let Some(letter) = letters.next() {
        match letter {
            // Two quoted texts, or something else that begins and ends with a quote.
            '"' => return shown.into(),
            '\\' => match letters.next() {
                Some('"') => text.push('"'),
                Some(other) => text.extend(['\\', other]),
                None => return shown.into(),
            },
            letter => text.push(letter),
        }
    }
    text.into()
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

/// Standard error of a terminal, above the lines that change.
struct AboveBars(Option<MultiProgress>);

impl io::Write for AboveBars {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match &self.0 {
            Some(bars) => bars.suspend(|| io::stderr().write(line)),
            None => io::stderr().write(line),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
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

/// Other crates are logged from `warn` on: their details are about themselves, not about files. A lost connection to
/// the database is reported by the ledger, with what to do.
fn targets(shown: config::Level) -> Targets {
    let level = level(shown);
    Targets::new()
        .with_default(level.min(Level::WARN))
        .with_target("sqlx_core::pool", Level::ERROR)
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
    fn text_is_quoted_and_numbers_are_not() {
        for (shown, expected) in [
            ("3", "3"),
            ("1.5", "1.5"),
            ("-2", "-2"),
            ("true", "true"),
            ("10s", "\"10s\""),
            ("no \"x\"", "\"no \\\"x\\\"\""),
            ("\"Deck 12.dgn\"", "\"Deck 12.dgn\""),
        ] {
            assert_eq!(quoted(shown), expected);
        }
    }

    #[test]
    fn text_in_quotes_loses_them_and_keeps_its_escapes() {
        for (shown, expected) in [
            (r#""house.ifc""#, "house.ifc"),
            (r#""""#, ""),
            (r#""a\u{202e}\n\\b.ifc""#, r"a\u{202e}\n\\b.ifc"),
            (r#""the \"old\" one""#, r#"the "old" one"#),
            (r#""a" and "b""#, r#""a" and "b""#),
            (r#""a\""#, r#""a\""#),
            (r#"Some("a")"#, r#"Some("a")"#),
            ("\"", "\""),
            ("3", "3"),
        ] {
            assert_eq!(unquoted(shown), expected);
        }
    }

    #[test]
    fn the_format_follows_the_configuration_and_else_the_reader() {
        for (configured, is_journal, expected) in [
            (None, true, LogFormat::Journal),
            (None, false, LogFormat::Plain),
            (Some(LogFormat::Plain), true, LogFormat::Plain),
            (Some(LogFormat::Json), true, LogFormat::Json),
            (Some(LogFormat::Json), false, LogFormat::Json),
            (Some(LogFormat::Journal), false, LogFormat::Journal),
        ] {
            assert_eq!(format(configured, is_journal), expected);
        }
    }

    #[test]
    fn messages() {
        let folder = tempfile::NamedTempFile::new().unwrap();
        let builder = Builder::new().rotation(Rotation::DAILY);
        let source = builder.build(folder.path()).unwrap_err();
        let twice = tracing_subscriber::registry();
        tracing_subscriber::registry().try_init().ok();
        let twice = twice.try_init().unwrap_err();
        insta::assert_snapshot!(crate::text::render_variants!(Error, Error::hint, {
            Error::Directory { .. } => Error::Directory { directory: "/var/log/itwin-syncd".into(), source },
            Error::Twice(_) => Error::Twice(twice),
        }));
    }

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
