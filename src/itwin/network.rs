//! How to reach a host: directly or through a proxy, with which certificates and timeouts.

use std::time::Duration;

use hyper_util::client::proxy::matcher::Matcher;
use url::Url;

use super::error::Error;
use super::urls::{authority, is_loopback};
use crate::secret::Secret;

/// How to connect to hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The proxy for everything except `no_proxy` and this machine; `None`: direct connections.
    pub proxy: Option<Proxy>,
    /// Hosts, domains with a leading dot, addresses and networks to connect to directly.
    pub no_proxy: Vec<String>,
    /// Trusted certificates (DER) beside those of the system.
    pub extra_certificates: Vec<Vec<u8>>,
    /// Time to connect to a host, through the proxy if there is one.
    pub connect_timeout: Duration,
    /// A transfer without progress for this long is aborted.
    pub idle_timeout: Duration,
    /// Time for one request to the platform, response included. Responses are small.
    pub total_timeout: Duration,
}

/// A proxy that supports CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// http or https, without user, path and query.
    pub url: Url,
    /// Name and password.
    pub login: Option<(String, Secret)>,
}

impl Network {
    /// An HTTP client for other URLs with the same proxy and certificates; `total` is the time for one request.
    ///
    /// # Errors
    /// When TLS cannot be set up on this machine.
    pub fn client(&self, total: Duration) -> Result<reqwest::Client, Error> {
        let builder = Route::new(self.clone()).builder()?.timeout(total);
        builder.build().map_err(|error| Error::setup(&error))
    }
}

/// A [`Network`] that decides which URLs go through the proxy. The only place that decides this.
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

    /// The proxy for `url`, if it needs one.
    pub(super) fn via(&self, url: &Url) -> Option<&Proxy> {
        let uri = url.as_str().parse().ok()?;
        let goes_through = !is_loopback(url) && self.outside.as_ref()?.intercept(&uri).is_some();
        self.network.proxy.as_ref().filter(|_| goes_through)
    }

    /// The host for messages, with the proxy on the way to it.
    pub(super) fn describe(&self, url: &Url) -> String {
        match self.via(url) {
            Some(proxy) => format!(
                "{} (through proxy {})",
                authority(url),
                authority(&proxy.url)
            ),
            None => authority(url),
        }
    }

    /// The common settings of all HTTP clients.
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
            .tls_certs_merge(certificates.map_err(|error| Error::setup(&error))?);
        let Some(proxy) = &network.proxy else {
            return Ok(builder.no_proxy());
        };
        let route = self.clone();
        let mut custom =
            reqwest::Proxy::custom(move |url| route.via(url).map(|proxy| proxy.url.clone()));
        if let Some((user, password)) = &proxy.login {
            custom = custom.basic_auth(user, password.expose());
        }
        Ok(builder.proxy(custom))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn this_machine_and_no_proxy_hosts_are_reached_directly() {
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
