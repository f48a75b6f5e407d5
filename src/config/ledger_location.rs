//! `[state]`: the state directory, and the database of the ledger if it is on a server.
//!
//! The password is a secret like the client's: it comes from its own file or credential, and a URL that contains one is
//! refused without being quoted.

use toml::de::DeValue;
use url::Url;

use super::document::Section;
use super::values::{self, InvalidValue};
use super::{Environment, certificates, credentials};
use crate::ledger_location::{LedgerLocation, Server};

/// The keys `path`, `url`, `password_file` and `ca_file`.
pub(super) fn read(section: &mut Section<'_>, environment: &Environment) -> LedgerLocation {
    let directory = section
        .read("path", values::absolute)
        .unwrap_or_else(|| environment.default_state_path());
    let url = section.read("url", url);
    let password_file = section.read("password_file", credentials::path);
    let ca_file = section.read("ca_file", values::absolute);
    if !section.has("url") {
        for key in ["password_file", "ca_file"] {
            if section.has(key) {
                let hint = "set url = \"postgres://itwin_syncd@db.example.com/itwin_syncd\", or remove this key";
                section.add(
                    key,
                    InvalidValue::new("has no effect without state.url", hint),
                );
            }
        }
    }
    if let Some(file) = &ca_file
        && let Err(bad) = certificates::read(file)
    {
        section.add("ca_file", bad);
    }
    let Some(url) = url else {
        return directory.into();
    };
    let password = credentials::ledger_password(password_file.as_deref(), environment)
        .unwrap_or_else(|bad| {
            section.add("password_file", bad);
            None
        });
    let server = Server {
        url,
        password,
        ca_file,
    };
    LedgerLocation::on(server, &directory)
}

fn url(value: &DeValue<'_>) -> Result<Url, InvalidValue> {
    const HINT: &str = "write it like \"postgres://itwin_syncd@db.example.com/itwin_syncd\"";
    let url = Url::parse(&values::text(value)?).ok().filter(|url| {
        matches!(url.scheme(), "postgres" | "postgresql")
            && url.has_host()
            && !url.path().trim_matches('/').is_empty()
            && !url.username().is_empty()
    });
    match url {
        // Not quoted: it may have the password.
        Some(url) if url.password().is_some() => Err(InvalidValue::new(
            "must not contain a password",
            "write the URL without it; store the password in its own file (mode 600) and set state.password_file to its path",
        )),
        Some(url) if url.query().is_some() || url.fragment().is_some() => Err(InvalidValue::new(
            "must not contain options",
            "end it with the name of the database; state.ca_file is for the server's certificate",
        )),
        Some(url) => Ok(url),
        None => Err(InvalidValue::new("no URL of a PostgreSQL database", HINT)),
    }
}
