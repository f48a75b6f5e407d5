//! One JSON object per event: `timestamp`, `level`, `message`, the fields of the event, `target`.
//!
//! Numbers and truth values stay what they are, everything else is text. Names and paths are recorded in quotes, with
//! escapes for what does not show or changes how text shows: here the quotes are left out, the escapes stay. What is
//! left of such characters, in text from elsewhere, is escaped by the rules of JSON: a line is safe to look at.

use std::fmt::{self, Write as _};

use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime as _;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::{LocalTime, unquoted};

/// Formats events as JSON.
#[derive(Debug)]
pub(super) struct JsonLines;

/// The fields of one line, in their order.
#[derive(Default)]
struct Fields(Vec<(&'static str, Value)>);

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut time = String::new();
        LocalTime.format_time(&mut Writer::new(&mut time))?;
        let about = event.metadata();
        let mut fields = Fields::default();
        fields.0.push(("timestamp", time.into()));
        fields.0.push(("level", about.level().as_str().into()));
        event.record(&mut fields);
        fields.0.push(("target", about.target().into()));
        let line = serde_json::to_string(&fields).map_err(|_| fmt::Error)?;
        writeln!(writer, "{}", visible(&line))
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.push((field.name(), value.into()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.push((field.name(), value.into()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.push((field.name(), value.into()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.push((field.name(), value.into()));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.name(), value.into()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let shown = format!("{value:?}");
        let text = match field.name() {
            "message" => shown.as_str().into(),
            _ => unquoted(&shown),
        };
        self.0.push((field.name(), text.into()));
    }
}

/// The same JSON without characters that do not show, or that change the direction of text.
fn visible(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for letter in json.chars() {
        let is_plain = letter.is_ascii() && !letter.is_ascii_control();
        if is_plain || letter.escape_debug().len() == 1 {
            out.push(letter);
        } else {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                // Writing into a text does not fail.
                write!(out, "\\u{unit:04x}").ok();
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::Layer as _;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(line)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn line_of(event: impl FnOnce()) -> String {
        let lines = Lines::default();
        let out = lines.clone();
        let layer = tracing_subscriber::fmt::layer()
            .event_format(JsonLines)
            .with_writer(move || out.clone())
            .boxed();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), event);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn names_are_without_quotes_and_numbers_stay_numbers() {
        let line = line_of(|| {
            let path = std::path::Path::new("Site/house 1.ifc");
            let hint: Option<&str> = None;
            tracing::warn!(watch = "north", ?path, to = %format!("{path:?}"), attempt = 3, retry = true, hint, "upload failed");
        });
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["level"], "WARN");
        assert_eq!(value["message"], "upload failed");
        assert_eq!(value["watch"], "north");
        assert_eq!(value["path"], "Site/house 1.ifc");
        assert_eq!(value["to"], "Site/house 1.ifc");
        assert_eq!(value["attempt"], 3);
        assert_eq!(value["retry"], true);
        assert!(value.get("hint").is_none(), "{line}");
        assert!(value["timestamp"].as_str().unwrap().len() > 20, "{line}");
        assert!(
            value["target"].as_str().unwrap().ends_with("json::tests"),
            "{line}"
        );
        assert!(line.ends_with("}\n") && line.lines().count() == 1, "{line}");
    }

    #[test]
    fn control_and_direction_characters_stay_escaped() {
        let line = line_of(|| {
            let path = std::path::Path::new("a\u{202e}b\u{7}\"c\".ifc");
            let reason = "sent \u{202e}by\u{1b}[31m a \u{feff}proxy\u{7f}, Brücke";
            tracing::warn!(?path, reason, "rename \u{2066}found");
        });
        assert!(
            !line.trim_end().chars().any(|letter| letter.is_control()
                || matches!(letter, '\u{202e}' | '\u{2066}' | '\u{feff}')),
            "{line:?}"
        );
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["path"], "a\\u{202e}b\\u{7}\"c\".ifc");
        assert_eq!(
            value["reason"],
            "sent \u{202e}by\u{1b}[31m a \u{feff}proxy\u{7f}, Brücke"
        );
    }
}
