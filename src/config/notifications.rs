//! `[[alert]]` and `[heartbeat]`.
//!
//! Input: sections of the file. Output: checked values. Webhook URLs are secrets: they are never quoted, and `Debug`
//! shows only their host.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;
use url::Url;

use super::document::{Report, Section};
use super::environment::{Environment, Mode};
use super::sections::KEYS;
use super::values::{self, InvalidValue};
use super::{Level, Mail, credentials, mail};

/// Where failures are reported to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// Unique; part of what is remembered over a restart.
    pub name: String,
    /// Where to send messages to.
    pub url: Option<Address>,
    /// What the receiver of `url` understands.
    pub format: Format,
    /// A program and its arguments, which gets the message on its standard input.
    pub command: Option<Vec<String>>,
    /// Mail.
    pub mail: Option<Mail>,
    /// [`Level::Error`] or [`Level::Warn`]: how bad it must be.
    pub level: Level,
    /// Problems that come within this time go into one message.
    pub group: Duration,
    /// A message is repeated after this time, as long as its cause lasts; zero: never.
    pub remind: Duration,
}

/// A web address that is a secret in itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(Url);

/// The shape of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// An object of our own.
    #[default]
    Json,
    /// An adaptive card for a workflow of Microsoft Teams.
    Teams,
    /// A text for an incoming webhook of Slack.
    Slack,
}

/// A watchman who misses our call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// The service to call, if any.
    pub url: Option<Address>,
    /// How often.
    pub interval: Duration,
}

impl Address {
    /// Parses an http or https URL.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        let is_web = url.has_host() && ["http", "https"].contains(&url.scheme());
        is_web.then_some(Self(url))
    }

    /// The whole address, for the request that needs it.
    #[must_use]
    pub fn expose(&self) -> &Url {
        &self.0
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.0.host_str().unwrap_or_default();
        write!(f, "{}://{host}/…", self.0.scheme())
    }
}

pub(super) fn heartbeat(
    section: &mut Section<'_>,
    environment: &Environment,
    mode: Mode,
) -> Heartbeat {
    Heartbeat {
        url: address(section, environment, mode),
        interval: section
            .read(
                "interval",
                values::duration(Duration::from_secs(1)..=Duration::from_hours(24)),
            )
            .unwrap_or(Duration::from_mins(5)),
    }
}

/// Reads every `[[alert]]`.
pub(super) fn alerts<'d>(
    tables: &[&'d Spanned<DeValue<'d>>],
    environment: &Environment,
    mode: Mode,
    report: &mut Report,
) -> Vec<Alert> {
    let mut alerts: Vec<Alert> = Vec::new();
    for table in tables {
        let mut section = Section::one_of(table, "alert", KEYS, report);
        let alert = alert(&mut section, environment, mode);
        if alerts.iter().any(|other| other.name == alert.name) {
            section.add(
                "name",
                InvalidValue::new(
                    format!("duplicate alert name {:?}", alert.name),
                    "give each [[alert]] a unique name",
                ),
            );
        }
        alerts.push(alert);
    }
    alerts
}

fn alert(section: &mut Section<'_>, environment: &Environment, mode: Mode) -> Alert {
    let name = section.require(
        "name",
        "add a short name, such as name = \"cad-team\"",
        values::watch_name,
    );
    let url = address(section, environment, mode);
    let command = section.read("command", values::list);
    if command.as_ref().is_some_and(Vec::is_empty) {
        section.add(
            "command",
            InvalidValue::new(
                "must not be empty",
                "write [\"/usr/local/bin/notify\", \"argument\"]",
            ),
        );
    }
    let mail = mail::read(section, environment, mode);
    if ["url", "command", "smtp"]
        .iter()
        .all(|key| !section.has(key))
    {
        section.add(
            "url",
            InvalidValue::new(
                "one of url, smtp and command is required",
                "set url to a webhook, smtp to a mail server, or command to a program",
            ),
        );
    }
    let level = section.read("level", values::level).unwrap_or(Level::Error);
    if !matches!(level, Level::Error | Level::Warn) {
        section.add(
            "level",
            InvalidValue::new(
                format!("unknown alert level {:?}", level.as_str()),
                "write \"error\" or \"warn\"",
            ),
        );
    }
    Alert {
        name: name.unwrap_or_default(),
        url,
        format: section.read("format", format).unwrap_or_default(),
        command,
        mail,
        level,
        group: section
            .read(
                "group",
                values::duration(Duration::ZERO..=Duration::from_hours(1)),
            )
            .unwrap_or(Duration::from_mins(1)),
        remind: section
            .read(
                "remind",
                values::duration(Duration::ZERO..=Duration::from_hours(30 * 24)),
            )
            .unwrap_or(Duration::from_hours(24)),
    }
}

/// The key `url`: the address itself, or `file:` and the path of a file that holds it.
pub(super) fn address(
    section: &mut Section<'_>,
    environment: &Environment,
    mode: Mode,
) -> Option<Address> {
    let text = section.read("url", values::text)?;
    let text = match text.strip_prefix("file:") {
        None => text,
        Some(_) if mode == Mode::Inspect => return None,
        Some(path) => {
            let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
            match credentials::read(&path, environment) {
                Ok(secret) => secret.expose().to_owned(),
                Err(bad) => {
                    section.add("url", bad);
                    return None;
                }
            }
        }
    };
    // Never quoted.
    let address = Address::parse(&text);
    if address.is_none() {
        section.add(
            "url",
            InvalidValue::new(
                "invalid URL",
                "write it like \"https://hooks.example.com/…\", or \"file:/path\" to read it from a file (mode 600)",
            ),
        );
    }
    address
}

pub(super) fn format(value: &DeValue<'_>) -> Result<Format, InvalidValue> {
    let text = values::text(value)?;
    match text.as_str() {
        "json" => Ok(Format::Json),
        "teams" => Ok(Format::Teams),
        "slack" => Ok(Format::Slack),
        _ => Err(InvalidValue::new(
            format!("unknown format {text:?}"),
            "write \"json\", \"teams\" or \"slack\"",
        )),
    }
}
