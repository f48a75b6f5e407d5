//! `[web]`, `[[alert]]` and `[heartbeat]`: what tells people, beyond log and commands.
//!
//! In come sections, out go checked values. Addresses of webhooks are secrets: they are never quoted, and `Debug` shows their host only.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;
use url::Url;

use super::document::{Report, Section};
use super::raw::Purpose;
use super::sections::KEYS;
use super::values::{self, Bad};
use super::{Level, credentials};
use crate::secret::Secret;

/// The shortest token of the page, in characters: as random hexadecimal digits 64 bits.
const TOKEN_MIN: usize = 16;

/// Fewer different characters are no random token.
const TOKEN_DIFFERENT: usize = 6;

/// The local page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Web {
    /// Where it listens; `None`: it does not.
    pub listen: Option<SocketAddr>,
    /// What has to be known to see it; always there unless `listen` is loopback.
    pub token: Option<Secret>,
    /// Names that it may be called by, beside `localhost` and addresses.
    pub hosts: Vec<String>,
}

/// Whom to tell of failures.
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
    /// Who is called; `None`: nobody.
    pub url: Option<Address>,
    /// How often.
    pub interval: Duration,
}

impl Address {
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

pub(super) fn web(section: &mut Section<'_>, purpose: Purpose) -> Web {
    let listen = section.read("listen", socket_address);
    let file = section.read("token_file", values::absolute);
    let token = file.filter(|_| purpose == Purpose::Work).and_then(|file| {
        credentials::read_file(&file)
            .and_then(strong)
            .map_err(|bad| section.add("token_file", bad))
            .ok()
    });
    let hosts = section.read("hosts", values::list).unwrap_or_default();
    if let Some(listen) = listen
        && !listen.ip().is_loopback()
        && !section.has("token_file")
    {
        section.add(
            "listen",
            Bad::new(
                format!("{listen} can be reached from other machines, and there is no token"),
                "write a random token (`openssl rand -hex 24`) into a file (mode 600) and name it in web.token_file, or listen on 127.0.0.1",
            ),
        );
    }
    Web {
        listen,
        token,
        hosts,
    }
}

/// A token that cannot be guessed, as far as its text shows.
fn strong(token: Secret) -> Result<Secret, Bad> {
    let text = token.expose();
    let different: BTreeSet<char> = text.chars().collect();
    if text.chars().count() >= TOKEN_MIN && different.len() >= TOKEN_DIFFERENT {
        return Ok(token);
    }
    Err(Bad::new(
        format!(
            "the token is too easy to guess: it needs at least {TOKEN_MIN} characters, {TOKEN_DIFFERENT} of them different"
        ),
        "make a random one, for example with `openssl rand -hex 24`, and write it into the file",
    ))
}

pub(super) fn heartbeat(section: &mut Section<'_>, purpose: Purpose) -> Heartbeat {
    Heartbeat {
        url: address(section, purpose),
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
    purpose: Purpose,
    report: &mut Report,
) -> Vec<Alert> {
    let mut alerts: Vec<Alert> = Vec::new();
    for table in tables {
        let mut section = Section::one_of(table, "alert", KEYS, report);
        let alert = alert(&mut section, purpose);
        if alerts.iter().any(|other| other.name == alert.name) {
            section.add(
                "name",
                Bad::new(
                    format!("{:?} is the name of another alert", alert.name),
                    "give each [[alert]] a name of its own",
                ),
            );
        }
        alerts.push(alert);
    }
    alerts
}

fn alert(section: &mut Section<'_>, purpose: Purpose) -> Alert {
    let name = section.require(
        "name",
        "write a short name, such as \"cad-team\"",
        values::watch_name,
    );
    let url = address(section, purpose);
    let command = section.read("command", values::list);
    if command.as_ref().is_some_and(Vec::is_empty) {
        section.add(
            "command",
            Bad::new("is empty", "write [\"/usr/local/bin/tell\", \"argument\"]"),
        );
    }
    if !section.has("url") && !section.has("command") {
        section.add(
            "url",
            Bad::new(
                "is missing, and there is no command either",
                "write the address of a webhook, or a command",
            ),
        );
    }
    let level = section.read("level", values::level).unwrap_or(Level::Error);
    if !matches!(level, Level::Error | Level::Warn) {
        section.add(
            "level",
            Bad::new(
                format!("{:?} is no level of an alert", level.as_str()),
                "write \"error\" or \"warn\"",
            ),
        );
    }
    Alert {
        name: name.unwrap_or_default(),
        url,
        format: section.read("format", format).unwrap_or_default(),
        command,
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
fn address(section: &mut Section<'_>, purpose: Purpose) -> Option<Address> {
    let text = section.read("url", values::text)?;
    let text = match text.strip_prefix("file:") {
        None => text,
        Some(_) if purpose == Purpose::Look => return None,
        Some(path) => {
            let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
            match credentials::read_file(&path) {
                Ok(secret) => secret.expose().to_owned(),
                Err(bad) => {
                    section.add("url", bad);
                    return None;
                }
            }
        }
    };
    // Never quoted.
    let url = Url::parse(&text)
        .ok()
        .filter(|url| url.has_host() && ["http", "https"].contains(&url.scheme()));
    if url.is_none() {
        section.add(
            "url",
            Bad::new(
                "is no web address",
                "write it like \"https://hooks.example.com/…\", or \"file:/path\" of a file that holds it (mode 600)",
            ),
        );
    }
    url.map(Address)
}

fn socket_address(value: &DeValue<'_>) -> Result<SocketAddr, Bad> {
    let text = values::text(value)?;
    text.parse().map_err(|_| {
        Bad::new(
            format!("{text:?} is no address with a port"),
            "write \"127.0.0.1:8291\"; for all interfaces \"[::]:8291\", with a token",
        )
    })
}

fn format(value: &DeValue<'_>) -> Result<Format, Bad> {
    let text = values::text(value)?;
    match text.as_str() {
        "json" => Ok(Format::Json),
        "teams" => Ok(Format::Teams),
        "slack" => Ok(Format::Slack),
        _ => Err(Bad::new(
            format!("{text:?} is no shape of a message"),
            "write \"json\", \"teams\" or \"slack\"",
        )),
    }
}
