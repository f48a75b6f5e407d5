//! Entries for systemd's journal in its own protocol, with searchable fields.
//!
//! Each event becomes one entry: `MESSAGE` is the whole line, and each field of the event becomes a field of the entry,
//! `path` as `ITWIN_PATH`. An entry that the journal rejects goes to standard error as a line, so that nothing is lost
//! silently.
//!
//! Source: <https://systemd.io/JOURNAL_NATIVE_PROTOCOL>, `systemd.journal-fields(7)`

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::{priority, quoted, unquoted};
use crate::secret::{Part, redact};

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// Before the name of an event's field.
const PREFIX: &str = "ITWIN_";

/// A value is cut here, far below what one datagram holds.
const VALUE_MAX: usize = 32 * 1024;

/// Sends every event to the journal.
#[derive(Debug)]
pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

/// The fields of one event.
#[derive(Default)]
struct Fields {
    message: String,
    /// ` key=value` for each of the others.
    line: String,
    entries: Vec<u8>,
}

impl Journal {
    /// None where no journal listens.
    pub(super) fn connect() -> Option<Self> {
        Self::at(SOCKET.into())
    }

    fn at(path: PathBuf) -> Option<Self> {
        let socket = UnixDatagram::unbound().ok()?;
        socket.send_to(b"", &path).ok()?;
        Some(Self { socket, path })
    }

    fn send(
        &self,
        level: Level,
        file: Option<&str>,
        line: Option<u32>,
        fields: &Fields,
    ) -> io::Result<()> {
        let mut entry = fields.entries.clone();
        put(&mut entry, "MESSAGE", &fields.text());
        put(&mut entry, "PRIORITY", &priority(level).to_string());
        put(&mut entry, "SYSLOG_IDENTIFIER", env!("CARGO_PKG_NAME"));
        if let (Some(file), Some(line)) = (file, line) {
            put(&mut entry, "CODE_FILE", file);
            put(&mut entry, "CODE_LINE", &line.to_string());
        }
        self.socket.send_to(&entry, &self.path).map(drop)
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let about = event.metadata();
        let level = *about.level();
        if self
            .send(level, about.file(), about.line(), &fields)
            .is_err()
        {
            let line = format!("<{}>{}\n", priority(level), fields.text());
            let line = redact(&line, Part::Long);
            io::stderr().write_all(line.as_bytes()).ok();
        }
    }
}

impl Fields {
    fn text(&self) -> String {
        format!("{}{}", self.message, self.line)
    }

    /// `shown` goes into the line, `bare` into the field.
    fn add(&mut self, field: &Field, shown: &str, bare: &str) {
        if field.name() == "message" {
            shown.clone_into(&mut self.message);
            return;
        }
        // Writing into a text does not fail.
        write!(self.line, " {}={}", field.name(), quoted(shown)).ok();
        let name: String = PREFIX
            .chars()
            .chain(field.name().chars())
            .map(|c| {
                if c.is_ascii_alphanumeric() {
                    c.to_ascii_uppercase()
                } else {
                    '_'
                }
            })
            .collect();
        put(&mut self.entries, &name, bare);
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.add(field, value, value);
        } else {
            self.add(field, &format!("{value:?}"), value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let shown = format!("{value:?}");
        self.add(field, &shown, &unquoted(&shown));
    }
}

/// Adds one field to an entry. A value with line breaks is preceded by its length.
fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    let value = redact(value, Part::Long);
    let value = value.as_bytes();
    let value = value.get(..VALUE_MAX).unwrap_or(value);
    entry.extend(name.as_bytes());
    if value.contains(&b'\n') {
        entry.push(b'\n');
        entry.extend((value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend(value);
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    fn entry_of(event: impl FnOnce()) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::at(path).unwrap();
        let subscriber = tracing_subscriber::registry().with(journal);
        tracing::subscriber::with_default(subscriber, event);
        let mut buffer = vec![0; 256 * 1024];
        assert_eq!(listener.recv(&mut buffer).unwrap(), 0, "the first is empty");
        let len = listener.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    }

    #[test]
    fn an_event_becomes_a_line_and_a_field_for_each_of_its_fields() {
        let entry = entry_of(|| {
            let path = std::path::Path::new("Bridge/Deck 12.dgn");
            tracing::error!(watch = "north", ?path, attempt = 3, "upload failed");
        });
        for line in [
            "MESSAGE=upload failed watch=\"north\" path=\"Bridge/Deck 12.dgn\" attempt=3",
            "PRIORITY=3",
            "SYSLOG_IDENTIFIER=itwin-syncd",
            "ITWIN_WATCH=north",
            "ITWIN_PATH=Bridge/Deck 12.dgn",
            "ITWIN_ATTEMPT=3",
        ] {
            assert!(entry.lines().any(|one| one == line), "no {line}: {entry}");
        }
    }

    #[test]
    fn a_value_cannot_inject_a_field_nor_grow_too_large() {
        let entry = entry_of(|| {
            let reason = "bad\nPRIORITY=0";
            tracing::info!(reason, "{}", "x".repeat(1024 * 1024));
        });
        assert!(
            entry.contains("ITWIN_REASON\n\u{e}\0\0\0\0\0\0\0bad\nPRIORITY=0\n"),
            "{entry:.200}"
        );
        assert!(entry.len() < 2 * VALUE_MAX);
    }

    #[test]
    fn without_a_journal_there_is_none() {
        assert!(Journal::at("/nowhere/socket".into()).is_none());
    }
}
