//! `[network]`: proxy, company certificates and timeouts, because a service has no shell whose environment could say them.
//!
//! In come the section, the environment and the files it names; out goes a [`Network`]. The proxy's password is a secret like the client's: it has a file or a
//! credential of its own, and an address that holds one is refused without being quoted.

use std::path::Path;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject as _};
use toml::de::DeValue;
use url::Url;

use super::document::Section;
use super::raw::Purpose;
use super::sections::{DAY, HOUR, MINUTE, SECOND, duration};
use super::values::{self, Bad, quoted};
use super::{Environment, Network, Proxy, credentials};

/// `[network]`; `None` when something is missing, which has been reported then, or when secrets are not wanted.
pub(super) fn read(
    section: &mut Section<'_>,
    environment: &Environment,
    purpose: Purpose,
) -> Option<Network> {
    let url = section.read("proxy", proxy_url);
    let user = section.read("proxy_user", values::line);
    let password_file = section.read("proxy_password_file", values::absolute);
    let no_proxy = section.read("no_proxy", hosts).unwrap_or_default();
    let ca_file = section.read("ca_file", values::absolute);
    let connect_timeout = duration(section, "connect_timeout", 10 * SECOND, HOUR);
    let idle_timeout = duration(section, "idle_timeout", MINUTE, HOUR);
    let total_timeout = duration(section, "total_timeout", MINUTE, DAY);
    if purpose == Purpose::Look {
        return None;
    }
    for key in ["proxy_user", "proxy_password_file", "no_proxy"] {
        if section.has(key) && !section.has("proxy") {
            let hint = "write proxy = \"http://proxy.example.com:3128\", or take this key out";
            section.add(key, Bad::new("is of no use without a proxy", hint));
        }
    }
    if password_file.is_some() && user.is_none() {
        let hint = "write proxy_user = \"the name that the proxy knows\"";
        section.add(
            "proxy_password_file",
            Bad::new("is of no use without proxy_user", hint),
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
        .map(certificates)
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

fn proxy_url(value: &DeValue<'_>) -> Result<Url, Bad> {
    const HINT: &str = "write it like \"http://proxy.example.com:3128\"";
    let url = Url::parse(&values::text(value)?)
        .ok()
        .filter(|url| url.has_host() && matches!(url.scheme(), "http" | "https"));
    match url {
        // Not quoted: it may be the password.
        Some(url) if !url.username().is_empty() || url.password().is_some() => Err(Bad::new(
            "holds a user name or password",
            "write the bare address; the name goes into proxy_user, the password into the file of proxy_password_file",
        )),
        Some(url) if url.path() == "/" && url.query().is_none() && url.fragment().is_none() => {
            Ok(url)
        }
        _ => Err(Bad::new("is no address of a proxy", HINT)),
    }
}

/// Hosts, domains, addresses and networks; one that holds a comma would be taken for two.
fn hosts(value: &DeValue<'_>) -> Result<Vec<String>, Bad> {
    let hosts = values::list(value)?;
    let bad = |host: &String| {
        host.is_empty()
            || host.contains(|c: char| c == ',' || c.is_whitespace())
            || host.contains("://")
    };
    match hosts.iter().find(|host| bad(host)) {
        Some(host) => Err(Bad::new(
            format!("{host:?} is no host"),
            "write hosts, domains or networks, such as [\"files.example.com\", \".example.com\", \"10.0.0.0/8\"]",
        )),
        None => Ok(hosts),
    }
}

/// Every certificate of a PEM file, as DER.
fn certificates(file: &Path) -> Result<Vec<Vec<u8>>, Bad> {
    const HINT: &str = "write the path of a PEM file: one or more blocks from BEGIN CERTIFICATE to END CERTIFICATE";
    let wrong = |what: String| Bad::new(format!("{} {what}", quoted(file)), HINT);
    let found: Result<Vec<_>, pem::Error> =
        CertificateDer::pem_file_iter(file).and_then(|certificates| {
            certificates
                .map(|one| one.map(|one| one.to_vec()))
                .collect()
        });
    match found {
        Ok(found) if found.is_empty() => Err(wrong("holds no certificate".to_owned())),
        Ok(found)
            if found
                .iter()
                .any(|der| x509_parser::parse_x509_certificate(der).is_err()) =>
        {
            Err(wrong("holds a block that is no certificate".to_owned()))
        }
        Ok(found) => Ok(found),
        Err(pem::Error::Io(error)) => Err(Bad::new(
            format!("{} cannot be read: {error}", quoted(file)),
            "let the service's user read the file",
        )),
        Err(error) => Err(wrong(format!("is not understood: {error}"))),
    }
}
