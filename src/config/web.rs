//! `[web]`: the local page.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use toml::de::DeValue;

use super::credentials;
use super::document::Section;
use super::environment::{Environment, Mode};
use super::values::{self, InvalidValue};
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

pub(super) fn read(section: &mut Section<'_>, environment: &Environment, mode: Mode) -> Web {
    let listen = section.read("listen", socket_address);
    let file = section.read("token_file", credentials::path);
    let token = file.filter(|_| mode == Mode::Daemon).and_then(|file| {
        credentials::read(&file, environment)
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
            InvalidValue::new(
                format!("{listen} is reachable from other machines and no token is set"),
                "write a random token (`openssl rand -hex 24`) to a file (mode 600) and set web.token_file to its path, or listen on 127.0.0.1",
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
fn strong(token: Secret) -> Result<Secret, InvalidValue> {
    let text = token.expose();
    let different: BTreeSet<char> = text.chars().collect();
    if text.chars().count() >= TOKEN_MIN && different.len() >= TOKEN_DIFFERENT {
        return Ok(token);
    }
    Err(InvalidValue::new(
        format!(
            "the token is too weak: use at least {TOKEN_MIN} characters, {TOKEN_DIFFERENT} of them different"
        ),
        "generate one with `openssl rand -hex 24` and write it to the file",
    ))
}

fn socket_address(value: &DeValue<'_>) -> Result<SocketAddr, InvalidValue> {
    let text = values::text(value)?;
    text.parse().map_err(|_| {
        InvalidValue::new(
            format!("invalid address {text:?}: expected IP:PORT"),
            "write \"127.0.0.1:8291\"; for all interfaces \"[::]:8291\", with a token",
        )
    })
}
