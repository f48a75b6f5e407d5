//! The keys of an `[[alert]]` that sends mail.
//!
//! Input: the table. Output: a checked [`Mail`]. The password comes from its own file.

use std::net::IpAddr;

use lettre::message::Mailbox;
use toml::de::DeValue;
use url::Url;

use super::credentials;
use super::document::Section;
use super::environment::{Environment, Mode};
use super::values::{self, InvalidValue};
use crate::itwin::is_loopback;
use crate::secret::Secret;

/// Recipients of one alert.
const RECIPIENTS_MAX: usize = 50;

/// Mail by way of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// The mail server: a name or an address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is encrypted.
    pub tls: MailTls,
    /// User and password.
    pub login: Option<(String, Secret)>,
    /// The sender.
    pub from: Mailbox,
    /// The recipients; at least one.
    pub to: Vec<Mailbox>,
}

/// How the connection to a mail server is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MailTls {
    /// By STARTTLS; required.
    #[default]
    StartTls,
    /// From the first byte.
    Tls,
    /// Not at all; only to this machine.
    None,
}

impl MailTls {
    /// The usual port.
    fn port(self) -> u16 {
        match self {
            Self::StartTls => 587,
            Self::Tls => 465,
            Self::None => 25,
        }
    }
}

/// Keys that belong to `smtp`.
const OTHERS: [&str; 5] = ["smtp_tls", "smtp_user", "smtp_password_file", "from", "to"];

/// Reads the keys; None without `smtp`, or when something is wrong, which has been reported then.
pub(super) fn read(
    section: &mut Section<'_>,
    environment: &Environment,
    mode: Mode,
) -> Option<Mail> {
    if !section.has("smtp") {
        for key in OTHERS
            .into_iter()
            .filter(|key| section.has(key))
            .collect::<Vec<_>>()
        {
            section.add(
                key,
                InvalidValue::new(
                    "has no effect without smtp",
                    "set smtp = \"mail.example.com\", or remove this key",
                ),
            );
        }
        return None;
    }
    let server = section.read("smtp", server);
    let tls = section.read("smtp_tls", tls).unwrap_or_default();
    let user = section.read("smtp_user", values::line);
    let password_file = section.read("smtp_password_file", credentials::path);
    let from = section.require(
        "from",
        "add the address of the sender, such as from = \"itwin-syncd@example.com\"",
        mailbox,
    );
    let to = section.require(
        "to",
        "add the recipients, such as to = [\"cad@example.com\"]",
        mailboxes,
    );
    if user.is_some() != password_file.is_some() {
        let (key, other) = match user {
            Some(_) => ("smtp_user", "smtp_password_file"),
            None => ("smtp_password_file", "smtp_user"),
        };
        section.add(
            key,
            InvalidValue::new(
                format!("has no effect without {other}"),
                format!("set {other}, or remove this key"),
            ),
        );
    }
    let (host, port, is_local) = server?;
    if tls == MailTls::None && !is_local {
        section.add(
            "smtp_tls",
            InvalidValue::new(
                "\"none\" is allowed for localhost only",
                "write \"starttls\" or \"tls\"",
            ),
        );
    }
    let login = match (user, password_file) {
        (Some(user), Some(file)) if mode == Mode::Daemon => {
            let password = credentials::read(&file, environment);
            let password = password.map_err(|bad| section.add("smtp_password_file", bad));
            Some((user, password.ok()?))
        }
        _ => None,
    };
    Some(Mail {
        host,
        port: port.unwrap_or_else(|| tls.port()),
        tls,
        login,
        from: from?,
        to: to?,
    })
}

/// Host, port, and whether it is this machine.
fn server(value: &DeValue<'_>) -> Result<(String, Option<u16>, bool), InvalidValue> {
    let text = values::line(value)?;
    let url = Url::parse(&format!("smtp://{text}")).ok();
    let url = url.filter(|url| {
        let path = url.path();
        url.username().is_empty()
            && url.password().is_none()
            && (path.is_empty() || path == "/")
            && url.query().is_none()
            && url.fragment().is_none()
            && url.port() != Some(0)
    });
    let host = url.as_ref().and_then(Url::host_str).map(str::to_owned);
    // Not quoted: it may contain a password.
    let (Some(url), Some(host)) = (url, host.filter(|host| !host.is_empty())) else {
        return Err(InvalidValue::new(
            "expected the host of a mail server",
            "write it like \"mail.example.com\" or \"mail.example.com:587\"; user and password have their own keys",
        ));
    };
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    let is_local = is_loopback(&url) || address.is_ok_and(|address| address.is_loopback());
    Ok((host, url.port(), is_local))
}

fn tls(value: &DeValue<'_>) -> Result<MailTls, InvalidValue> {
    match value.as_str() {
        Some("starttls") => Ok(MailTls::StartTls),
        Some("tls") => Ok(MailTls::Tls),
        Some("none") => Ok(MailTls::None),
        _ => Err(InvalidValue::new(
            "expected \"starttls\", \"tls\" or \"none\"",
            "write \"starttls\" (port 587), \"tls\" (port 465), or \"none\" for a mail server on this machine",
        )),
    }
}

fn mailbox(value: &DeValue<'_>) -> Result<Mailbox, InvalidValue> {
    let text = values::line(value)?;
    parse(&text)
}

fn mailboxes(value: &DeValue<'_>) -> Result<Vec<Mailbox>, InvalidValue> {
    let all = values::list(value)?;
    if all.is_empty() || all.len() > RECIPIENTS_MAX {
        return Err(InvalidValue::new(
            format!("expected 1 to {RECIPIENTS_MAX} addresses"),
            "write [\"cad@example.com\"]; use a mailing list for more recipients",
        ));
    }
    all.iter().map(|text| parse(text)).collect()
}

fn parse(text: &str) -> Result<Mailbox, InvalidValue> {
    text.parse().map_err(|_| {
        InvalidValue::new(
            format!("{text:?} is not a mail address"),
            "write it like \"cad@example.com\" or \"CAD team <cad@example.com>\"",
        )
    })
}
