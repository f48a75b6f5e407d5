//! Connects to a host step by step and reports the step that fails: name, TCP, proxy, TLS. The HTTP client itself only
//! reports the failure.
//!
//! No request is sent to the host. Certificates are verified by the same rules as in the client.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use rustls_platform_verifier::Verifier;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Url;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::network::{Proxy, Route};
use super::untrusted_text::sanitize;
use super::{Client, Network};

/// A successful connection to a host.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProbeReport {
    /// The proxy, as `host:port`.
    pub proxy: Option<String>,
    /// The issuer of the host's certificate as received here; None without TLS.
    pub issuer: Option<String>,
}

/// The step at which connecting failed, and why.
#[derive(Debug, thiserror::Error)]
#[error("{hop}: {why}")]
pub struct ProbeError {
    hop: Hop,
    why: String,
    hint: String,
}

/// The peer of a step.
#[derive(Debug)]
enum Hop {
    Proxy(String),
    Host(String),
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proxy(authority) => write!(f, "proxy {authority}"),
            Self::Host(authority) => write!(f, "host {authority}"),
        }
    }
}

impl ProbeError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &str {
        &self.hint
    }
}

impl Client {
    /// Connects to the host of `url`, up to and including TLS.
    ///
    /// # Errors
    /// The step that failed: an unknown name, a proxy that does not respond or rejects, an untrusted certificate, with
    /// its issuer.
    pub async fn probe(&self, url: &Url) -> Result<ProbeReport, ProbeError> {
        probe(&self.route, url).await
    }
}

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

async fn probe(route: &Route, url: &Url) -> Result<ProbeReport, ProbeError> {
    let limit = route.network.connect_timeout;
    let host = || Hop::Host(authority(url));
    let proxy = route.via(url);
    let wire: Box<dyn Wire> = match proxy {
        None => Box::new(connect(url, host, limit).await?),
        Some(proxy) => connect_through(proxy, url, &route.network).await?,
    };
    let issuer = if url.scheme() == "https" {
        Some(tls_handshake(wire, url, host, &route.network).await?.1)
    } else {
        None
    };
    Ok(ProbeReport {
        proxy: proxy.map(|proxy| authority(&proxy.url)),
        issuer,
    })
}

/// Connects to the host of `url` with CONNECT through the proxy.
async fn connect_through(
    proxy: &Proxy,
    url: &Url,
    network: &Network,
) -> Result<Box<dyn Wire>, ProbeError> {
    let hop = || Hop::Proxy(authority(&proxy.url));
    let limit = network.connect_timeout;
    let wire = connect(&proxy.url, hop, limit).await?;
    let wire: Box<dyn Wire> = if proxy.url.scheme() == "https" {
        tls_handshake(Box::new(wire), &proxy.url, hop, network)
            .await?
            .0
    } else {
        Box::new(wire)
    };
    let target = authority(url);
    let failed = |why: String, hint: &str| ProbeError {
        hop: hop(),
        why,
        hint: hint.to_owned(),
    };
    let no_answer = || {
        failed(
            format!(
                "no response to CONNECT {target} within {} s",
                limit.as_secs()
            ),
            "ask the network administrator for the host and port of the proxy",
        )
    };
    let no_proxy = |error: &dyn fmt::Display| {
        failed(
            format!("not an HTTP proxy: {error}"),
            "correct network.proxy",
        )
    };
    let asked = tokio::time::timeout(limit, send_connect(wire, proxy, &target)).await;
    let answer = asked
        .map_err(|_| no_answer())?
        .map_err(|error| no_proxy(&error))?;
    match answer.status() {
        StatusCode::OK => {}
        status @ StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            let (what, hint) = if proxy.login.is_some() {
                (
                    "wrong user name or password",
                    "correct network.proxy_user and the password; only Basic authentication is supported",
                )
            } else {
                (
                    "authentication required",
                    "set network.proxy_user and network.proxy_password_file; only Basic authentication is supported",
                )
            };
            return Err(failed(format!("{what} ({status})"), hint));
        }
        status => {
            let hint =
                format!("ask the network administrator to allow this machine to reach {target}");
            return Err(failed(
                format!("connection to {target} rejected ({status})"),
                &hint,
            ));
        }
    }
    let upgraded = hyper::upgrade::on(answer)
        .await
        .map_err(|error| no_proxy(&error))?;
    Ok(Box::new(TokioIo::new(upgraded)))
}

async fn send_connect(
    wire: Box<dyn Wire>,
    proxy: &Proxy,
    target: &str,
) -> Result<hyper::Response<hyper::body::Incoming>, Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(wire)).await?;
    // Ends when the probe drops the connection.
    tokio::spawn(connection.with_upgrades());
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri(target)
        .header(header::HOST, target);
    if let Some((user, password)) = &proxy.login {
        let login = BASE64_STANDARD.encode(format!("{user}:{}", password.expose()));
        request = request.header(header::PROXY_AUTHORIZATION, format!("Basic {login}"));
    }
    Ok(sender.send_request(request.body(Empty::new())?).await?)
}

async fn connect(
    url: &Url,
    hop: impl Fn() -> Hop,
    limit: Duration,
) -> Result<TcpStream, ProbeError> {
    let failed = |why: String, hint: &str| ProbeError {
        hop: hop(),
        why,
        hint: hint.to_owned(),
    };
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or(443);
    let late = |_| {
        failed(
            format!("no response within {} s", limit.as_secs()),
            "check whether a firewall drops the connection, or this network needs a proxy (network.proxy)",
        )
    };
    let name = host.trim_matches(['[', ']']);
    let found = tokio::time::timeout(limit, tokio::net::lookup_host((name, port)))
        .await
        .map_err(late)?
        .map_err(|error| {
            failed(
                format!("cannot resolve the name: {error}"),
                "check the host name, and the name servers of this machine",
            )
        })?;
    let mut refused = io::Error::other("no address");
    let tries = async {
        for address in found {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    };
    tokio::time::timeout(limit, tries)
        .await
        .map_err(late)?
        .map_err(|error| {
            failed(
                format!("cannot connect: {error}"),
                "check host and port, and whether this network needs a proxy (network.proxy)",
            )
        })
}

/// TLS handshake; also returns the issuer of the certificate.
async fn tls_handshake(
    wire: Box<dyn Wire>,
    url: &Url,
    hop: impl Fn() -> Hop,
    network: &Network,
) -> Result<(Box<dyn Wire>, String), ProbeError> {
    let failed = |why: String, hint: &str| ProbeError {
        hop: hop(),
        why,
        hint: hint.to_owned(),
    };
    let setup = |error: rustls::Error| {
        failed(
            format!("cannot set up TLS: {error}"),
            "install the package ca-certificates, and check that network.ca_file contains valid certificates",
        )
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(RecordingVerifier::new(network, &provider).map_err(setup)?);
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(setup)?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_no_client_auth();
    let name = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let name = ServerName::try_from(name.to_owned())
        .map_err(|error| failed(error.to_string(), "correct the URL"))?;
    let shaken = tokio::time::timeout(
        network.connect_timeout,
        TlsConnector::from(Arc::new(config)).connect(name, wire),
    );
    let seconds = network.connect_timeout.as_secs();
    let shaken = shaken.await.map_err(|_| {
        failed(
            format!("no response to the TLS handshake within {seconds} s"),
            "ask the network administrator whether a firewall inspects connections to it",
        )
    })?;
    let issuer = verifier.issuer();
    match (shaken, issuer) {
        (Ok(stream), issuer) => {
            let issuer = issuer.unwrap_or_else(|| "an unknown issuer".to_owned());
            Ok((Box::new(stream), issuer))
        }
        (Err(error), Some(issuer)) => Err(failed(
            format!("untrusted certificate, issued by {issuer}: {error}"),
            "if the issuer is your company, which inspects TLS, set network.ca_file to the certificate of that authority; if you don't know the issuer, ask your administrator",
        )),
        (Err(error), None) => Err(failed(
            format!("TLS handshake failed: {error}"),
            "check host and port; a proxy or firewall on the way can close the connection",
        )),
    }
}

/// Verifies like the client's verifier, and records the issuer of the received certificate.
#[derive(Debug)]
struct RecordingVerifier {
    verifier: Verifier,
    shown: Mutex<Option<String>>,
}

impl RecordingVerifier {
    fn new(network: &Network, provider: &Arc<CryptoProvider>) -> Result<Self, rustls::Error> {
        let extra = network
            .extra_certificates
            .iter()
            .map(|der| CertificateDer::from(der.clone()));
        Ok(Self {
            verifier: Verifier::new_with_extra_roots(extra, Arc::clone(provider))?,
            shown: Mutex::default(),
        })
    }

    fn issuer(&self) -> Option<String> {
        self.shown
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl ServerCertVerifier for RecordingVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // The issuer of the topmost certificate is the authority to trust.
        let top = intermediates.last().unwrap_or(end_entity);
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(issuer(top));
        self.verifier
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// The sanitized distinguished name of the issuer: a certificate can contain anything.
fn issuer(certificate: &[u8]) -> String {
    match x509_parser::parse_x509_certificate(certificate) {
        Ok((_, certificate)) => {
            format!("{:?}", sanitize(&certificate.issuer().to_string()))
        }
        Err(error) => format!("an unreadable issuer ({error})"),
    }
}

/// `host:port`, also for the default port.
fn authority(url: &Url) -> String {
    format!(
        "{}:{}",
        url.host_str().unwrap_or_default(),
        url.port_or_known_default().unwrap_or_default()
    )
}
