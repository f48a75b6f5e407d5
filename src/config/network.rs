//! `[network]`: proxy, company certificates and timeouts. They are keys, because a service has no shell environment.
//!
//! Input: the section, the environment and the files it names. Output: a [`Network`]. The proxy's password is a secret
//! like the client's: it comes from its own file or credential, and a URL that contains one is refused without being
//! quoted.

use toml::de::DeValue;
use url::Url;

use super::document::Section;
use super::environment::Mode;
use super::sections::{DAY, HOUR, MINUTE, SECOND, duration};
use super::values::{self, InvalidValue};
use super::{Environment, certificates, credentials};
use crate::itwin::{Network, Proxy};

/// `[network]`; `None` when something is missing, which has been reported then, or when secrets are not wanted.
pub(super) fn read(
    section: &mut Section<'_>,
    environment: &Environment,
    mode: Mode,
) -> Option<Network> {
    let url = section.read("proxy", proxy_url);
    let user = section.read("proxy_user", values::line);
    let password_file = section.read("proxy_password_file", credentials::path);
    let no_proxy = section.read("no_proxy", hosts).unwrap_or_default();
    let ca_file = section.read("ca_file", values::absolute);
    let connect_timeout = duration(section, "connect_timeout", 10 * SECOND, HOUR);
    let idle_timeout = duration(section, "idle_timeout", MINUTE, HOUR);
    let total_timeout = duration(section, "total_timeout", MINUTE, DAY);
    if mode == Mode::Inspect {
        return None;
    }
    for key in ["proxy_user", "proxy_password_file", "no_proxy"] {
        if section.has(key) && !section.has("proxy") {
            let hint = "set proxy = \"http://proxy.example.com:3128\", or remove this key";
            section.add(
                key,
                InvalidValue::new("has no effect without network.proxy", hint),
            );
        }
    }
    if password_file.is_some() && user.is_none() {
        let hint = "set proxy_user to the user name for the proxy";
        section.add(
            "proxy_password_file",
            InvalidValue::new("has no effect without network.proxy_user", hint),
        );
    }
    let login = user.and_then(|user| {
        credentials::proxy_password(password_file.as_deref(), environment)
            .map_err(|bad| section.add("proxy_password_file", bad))
            .ok()
            .map(|password| (user, password))
    });
    let extra_certificates = ca_file
        .as_deref()
        .map(certificates::read)
        .transpose()
        .map_err(|bad| section.add("ca_file", bad))
        .ok()?;
    Some(Network {
        proxy: url.map(|url| Proxy { url, login }),
        no_proxy,
        extra_certificates: extra_certificates.unwrap_or_default(),
        connect_timeout,
        idle_timeout,
        total_timeout,
    })
}

fn proxy_url(value: &DeValue<'_>) -> Result<Url, InvalidValue> {
    const HINT: &str = "write it like \"http://proxy.example.com:3128\"";
    let url = Url::parse(&values::text(value)?)
        .ok()
        .filter(|url| url.has_host() && matches!(url.scheme(), "http" | "https"));
    match url {
        // Not quoted: it may be the password.
        Some(url) if !url.username().is_empty() || url.password().is_some() => {
            Err(InvalidValue::new(
                "must not contain a user name or password",
                "write the URL without them; set proxy_user and proxy_password_file instead",
            ))
        }
        Some(url) if url.path() == "/" && url.query().is_none() && url.fragment().is_none() => {
            Ok(url)
        }
        _ => Err(InvalidValue::new("invalid proxy URL", HINT)),
    }
}

/// Hosts, domains, addresses and networks; one that holds a comma would be taken for two.
fn hosts(value: &DeValue<'_>) -> Result<Vec<String>, InvalidValue> {
    let hosts = values::list(value)?;
    let bad = |host: &String| {
        host.is_empty()
            || host.contains(|c: char| c == ',' || c.is_whitespace())
            || host.contains("://")
    };
    match hosts.iter().find(|host| bad(host)) {
        Some(host) => Err(InvalidValue::new(
            format!("invalid host {host:?}"),
            "write hosts, domains or networks, such as [\"files.example.com\", \".example.com\", \"10.0.0.0/8\"]",
        )),
        None => Ok(hosts),
    }
}
