//! Goes the way to a host step by step, and tells at which of them it ends: the client itself only says that it does.
//!
//! Nothing is asked of the host. Certificates are judged by the same rules as in the client, which are only listened to here.

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
use super::said::words;
use super::{Client, Network};

/// A way that leads to the host.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reached {
    /// The proxy on the way, as `host:port`.
    pub proxy: Option<String>,
    /// Who issued the host's certificate, as it arrives here; none without TLS.
    pub issuer: Option<String>,
}

/// Where the way to a host ends, and why.
#[derive(Debug, thiserror::Error)]
#[error("{hop} {why}")]
pub struct Broken {
    hop: Hop,
    why: String,
    hint: String,
}

/// A step on the way.
#[derive(Debug)]
enum Hop {
    Proxy(String),
    Host(String),
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proxy(authority) => write!(f, "the proxy {authority}"),
            Self::Host(authority) => write!(f, "the host {authority}"),
        }
    }
}

impl Broken {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> &str {
        &self.hint
    }
}

impl Client {
    /// Goes the way to the host of `url`, as far as TLS.
    ///
    /// # Errors
    /// The step that failed: a name that is not known, a proxy that does not answer or refuses, a certificate that is not trusted, with its issuer.
    pub async fn probe(&self, url: &Url) -> Result<Reached, Broken> {
        probe(&self.route, url).await
    }
}

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

async fn probe(route: &Route, url: &Url) -> Result<Reached, Broken> {
    let limit = route.network.connect_timeout;
    let host = || Hop::Host(authority(url));
    let proxy = route.via(url);
    let wire: Box<dyn Wire> = match proxy {
        None => Box::new(connect(url, host, limit).await?),
        Some(proxy) => through(proxy, url, &route.network).await?,
    };
    let issuer = if url.scheme() == "https" {
        Some(shake_hands(wire, url, host, &route.network).await?.1)
    } else {
        None
    };
    Ok(Reached {
        proxy: proxy.map(|proxy| authority(&proxy.url)),
        issuer,
    })
}

/// Asks the proxy for the way to `url`.
async fn through(proxy: &Proxy, url: &Url, network: &Network) -> Result<Box<dyn Wire>, Broken> {
    let hop = || Hop::Proxy(authority(&proxy.url));
    let limit = network.connect_timeout;
    let wire = connect(&proxy.url, hop, limit).await?;
    let wire: Box<dyn Wire> = if proxy.url.scheme() == "https" {
        shake_hands(Box::new(wire), &proxy.url, hop, network)
            .await?
            .0
    } else {
        Box::new(wire)
    };
    let target = authority(url);
    let broken = |why: String, hint: &str| Broken {
        hop: hop(),
        why,
        hint: hint.to_owned(),
    };
    let no_answer = || {
        broken(
            format!(
                "takes the connection, but does not answer for {} s when it is asked for the way to {target}",
                limit.as_secs()
            ),
            "ask the network's administrator whether this is the proxy, and the right port",
        )
    };
    let no_proxy = |error: &dyn fmt::Display| {
        broken(
            format!("does not answer as a proxy does: {error}"),
            "correct network.proxy",
        )
    };
    let asked = tokio::time::timeout(limit, ask(wire, proxy, &target)).await;
    let answer = asked
        .map_err(|_| no_answer())?
        .map_err(|error| no_proxy(&error))?;
    match answer.status() {
        StatusCode::OK => {}
        status @ StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            let (what, hint) = if proxy.login.is_some() {
                (
                    "does not take the name and password",
                    "correct network.proxy_user and the password; only the scheme Basic can be used",
                )
            } else {
                (
                    "asks for a name and a password",
                    "write network.proxy_user, and hand the password over as network.proxy_password_file says; only the scheme Basic can be used",
                )
            };
            return Err(broken(format!("{what} ({status})"), hint));
        }
        status => {
            let hint =
                format!("ask the network's administrator to let this machine reach {target}");
            return Err(broken(
                format!("refuses the way to {target} ({status})"),
                &hint,
            ));
        }
    }
    let upgraded = hyper::upgrade::on(answer)
        .await
        .map_err(|error| no_proxy(&error))?;
    Ok(Box::new(TokioIo::new(upgraded)))
}

async fn ask(
    wire: Box<dyn Wire>,
    proxy: &Proxy,
    target: &str,
) -> Result<hyper::Response<hyper::body::Incoming>, Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(wire)).await?;
    // It ends with the wire, which ends with the probe.
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

async fn connect(url: &Url, hop: impl Fn() -> Hop, limit: Duration) -> Result<TcpStream, Broken> {
    let broken = |why: String, hint: &str| Broken {
        hop: hop(),
        why,
        hint: hint.to_owned(),
    };
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or(443);
    let late = |_| {
        broken(
            format!("does not answer within {} s", limit.as_secs()),
            "see whether a firewall drops the connection, or whether this network needs a proxy (network.proxy)",
        )
    };
    let name = host.trim_matches(['[', ']']);
    let found = tokio::time::timeout(limit, tokio::net::lookup_host((name, port)))
        .await
        .map_err(late)?
        .map_err(|error| {
            broken(
                format!("has no address: {error}"),
                "see whether the name is right and this machine can ask a name server",
            )
        })?;
    let mut refused = io::Error::other("there is no address");
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
            broken(
                format!("cannot be reached: {error}"),
                "see whether the address and port are right, and whether this network needs a proxy (network.proxy)",
            )
        })
}

/// TLS with the host at the other end; also tells who issued its certificate.
async fn shake_hands(
    wire: Box<dyn Wire>,
    url: &Url,
    hop: impl Fn() -> Hop,
    network: &Network,
) -> Result<(Box<dyn Wire>, String), Broken> {
    let broken = |why: String, hint: &str| Broken {
        hop: hop(),
        why,
        hint: hint.to_owned(),
    };
    let setup = |error: rustls::Error| {
        broken(
            format!("cannot be talked to, because TLS cannot be set up: {error}"),
            "install the system's CA certificates (package ca-certificates), and see whether network.ca_file holds usable ones",
        )
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let listener = Arc::new(Listener::new(network, &provider).map_err(setup)?);
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(setup)?
        .dangerous()
        .with_custom_certificate_verifier(listener.clone())
        .with_no_client_auth();
    let name = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let name = ServerName::try_from(name.to_owned())
        .map_err(|error| broken(error.to_string(), "correct the address"))?;
    let shaken = tokio::time::timeout(
        network.connect_timeout,
        TlsConnector::from(Arc::new(config)).connect(name, wire),
    );
    let seconds = network.connect_timeout.as_secs();
    let shaken = shaken.await.map_err(|_| {
        broken(
            format!("does not answer within {seconds} s when TLS begins"),
            "ask the network's administrator what is on the way to it",
        )
    })?;
    let issuer = listener.issuer();
    match (shaken, issuer) {
        (Ok(stream), issuer) => {
            let issuer = issuer.unwrap_or_else(|| "somebody without a name".to_owned());
            Ok((Box::new(stream), issuer))
        }
        (Err(error), Some(issuer)) => Err(broken(
            format!("shows a certificate that is not trusted, issued by {issuer}: {error}"),
            "if this is your company, which opens TLS on the way, write the file of that certificate authority into network.ca_file; if you don't know the issuer, ask your administrator",
        )),
        (Err(error), None) => Err(broken(
            format!("does not agree on TLS: {error}"),
            "see whether the address and port are right; a proxy or firewall on the way may close the connection",
        )),
    }
}

/// Judges as the client's verifier does, and remembers what it was shown.
#[derive(Debug)]
struct Listener {
    verifier: Verifier,
    shown: Mutex<Option<String>>,
}

impl Listener {
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

impl ServerCertVerifier for Listener {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // The topmost one that is shown was issued by the authority that has to be trusted.
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

/// The issuer's distinguished name, made harmless: anybody may write anything into a certificate.
fn issuer(certificate: &[u8]) -> String {
    match x509_parser::parse_x509_certificate(certificate) {
        Ok((_, certificate)) => {
            format!("{:?}", words(&certificate.issuer().to_string()))
        }
        Err(error) => format!("somebody whose name cannot be read ({error})"),
    }
}

/// `host:port`, also when the port is the usual one.
fn authority(url: &Url) -> String {
    format!(
        "{}:{}",
        url.host_str().unwrap_or_default(),
        url.port_or_known_default().unwrap_or_default()
    )
}
