//! The way to a host: straight or through a proxy, whose certificates count, and how long anything may take.

use std::time::Duration;

use hyper_util::client::proxy::matcher::Matcher;
use url::{Host, Url};

use super::error::Error;
use super::http;
use crate::secret::Secret;

/// How hosts are reached.
#[derive(Debug, Clone)]
pub struct Network {
    /// The proxy for everything but `no_proxy` and this machine.
    pub proxy: Option<Proxy>,
    /// Hosts, domains with a dot before them, addresses and networks that are reached straight.
    pub no_proxy: Vec<String>,
    /// Certificates (DER) that are trusted beside those of the system.
    pub extra_certificates: Vec<Vec<u8>>,
    /// To connect to a host, through the proxy if there is one.
    pub connect_timeout: Duration,
    /// A transfer of which no byte moves for this long is given up.
    pub idle_timeout: Duration,
    /// For one request to the platform, answer included. The answers are small.
    pub total_timeout: Duration,
}

/// A proxy that takes CONNECT.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// http or https, without user.
    pub url: Url,
    /// Name and password.
    pub login: Option<(String, Secret)>,
}

impl Network {
    /// A client for other addresses, which goes the same way; `total` is the time for one request.
    ///
    /// # Errors
    /// When TLS cannot be set up on this machine.
    pub fn client(&self, total: Duration) -> Result<reqwest::Client, Error> {
        let builder = Route::new(self.clone()).builder()?.timeout(total);
        builder.build().map_err(|error| http::setup(&error))
    }
}

/// A [`Network`] that can tell which way an address goes. The only place that decides this.
#[derive(Debug, Clone)]
pub(super) struct Route {
    pub(super) network: Network,
    outside: Option<std::sync::Arc<Matcher>>,
}

impl Route {
    pub(super) fn new(network: Network) -> Self {
        let outside = network.proxy.as_ref().map(|proxy| {
            let matcher = Matcher::builder()
                .all(proxy.url.as_str())
                .no(network.no_proxy.join(","));
            std::sync::Arc::new(matcher.build())
        });
        Self { network, outside }
    }

    /// The proxy through which `url` is reached, if it is.
    pub(super) fn via(&self, url: &Url) -> Option<&Proxy> {
        let here = match url.host()? {
            Host::Domain(name) => name == "localhost",
            Host::Ipv4(ip) => ip.is_loopback(),
            Host::Ipv6(ip) => ip.is_loopback(),
        };
        let uri = url.as_str().parse().ok()?;
        let goes_through = !here && self.outside.as_ref()?.intercept(&uri).is_some();
        self.network.proxy.as_ref().filter(|_| goes_through)
    }

    /// The host for messages, with the proxy before it.
    pub(super) fn describe(&self, url: &Url) -> String {
        match self.via(url) {
            Some(proxy) => format!(
                "{} (through the proxy {})",
                http::authority(url),
                http::authority(&proxy.url)
            ),
            None => http::authority(url),
        }
    }

    /// What both HTTP clients have in common.
    pub(super) fn builder(&self) -> Result<reqwest::ClientBuilder, Error> {
        let network = &self.network;
        let certificates: Result<Vec<_>, _> = network
            .extra_certificates
            .iter()
            .map(|der| reqwest::Certificate::from_der(der))
            .collect();
        let builder = reqwest::Client::builder()
            .user_agent(concat!(
                env!("CARGO_PKG_NAME"),
                "/",
                env!("CARGO_PKG_VERSION")
            ))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(network.connect_timeout)
            .tls_certs_merge(certificates.map_err(|error| http::setup(&error))?);
        let Some(proxy) = &network.proxy else {
            return Ok(builder.no_proxy());
        };
        let route = self.clone();
        let mut way =
            reqwest::Proxy::custom(move |url| route.via(url).map(|proxy| proxy.url.clone()));
        if let Some((user, password)) = &proxy.login {
            way = way.basic_auth(user, password.expose());
        }
        Ok(builder.proxy(way))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn this_machine_and_what_no_proxy_names_are_reached_straight() {
        let route = Route::new(Network {
            proxy: Some(Proxy {
                url: Url::parse("http://proxy:3128").unwrap(),
                login: None,
            }),
            no_proxy: vec![
                ".blob.core.windows.net".to_owned(),
                "10.0.0.0/8".to_owned(),
                "files.example".to_owned(),
            ],
            extra_certificates: Vec::new(),
            connect_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(1),
            total_timeout: Duration::from_secs(1),
        });
        for (url, through) in [
            ("https://api.bentley.com/storage", true),
            ("https://files.example.org", true),
            ("https://11.1.2.3", true),
            ("https://north.blob.core.windows.net/x?sig=y", false),
            ("https://10.1.2.3:8443", false),
            ("https://files.example", false),
            ("http://localhost:8290", false),
            ("http://127.0.0.1:8290", false),
            ("http://[::1]:8290", false),
        ] {
            let url = Url::parse(url).unwrap();
            assert_eq!(route.via(&url).is_some(), through, "{url}");
        }
    }
}
