//! Sends a message by mail, over one connection for each message.
//!
//! Input: the message. Output: what the mail server answered, if that is not that it took the message. The dialog is
//! limited in time and in the bytes that the server sends. Encryption is never given up: a server that does not offer
//! it gets neither login nor message.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{
    AsyncSmtpConnection, AsyncTokioStream, Certificate, TlsParameters,
};
use lettre::transport::smtp::{self, extension::ClientId};
use rustls_pki_types::{CertificateDer, ServerName};
use rustls_platform_verifier::Verifier;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Receivers;
use super::message::Message;
use crate::config::{Mail, MailTls};
use crate::secret::{Part, redact};

/// Time limit for the farewell.
const FAREWELL: Duration = Duration::from_secs(5);

/// Bytes that a mail server may send in a dialog, its certificates included.
const RECEIVED_MAX: usize = 256 * 1024;

/// Longest part of a foreign text that is shown, in characters.
const SHOWN: usize = 300;

/// Why a message was not sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("cannot connect to mail server {server}")]
    Unreachable { server: String, source: io::Error },
    #[error("mail server {server} offers no STARTTLS, and nothing is sent unencrypted")]
    NoTls { server: String },
    #[error("cannot encrypt the connection to mail server {server}: {why}")]
    Tls { server: String, why: String },
    #[error("mail server {server} rejected the login: {why}")]
    Login { server: String, why: String },
    #[error("mail server {server} does not accept the message at the moment: {why}")]
    Later { server: String, why: String },
    #[error("mail server {server} rejected the message: {why}")]
    Rejected { server: String, why: String },
    #[error("the dialog with mail server {server} failed: {why}")]
    Dialog { server: String, why: String },
    #[error("mail server {server} did not finish within {seconds} s")]
    TooSlow { server: String, seconds: u64 },
    #[error("cannot compose the mail: {0}")]
    Compose(String),
}

impl Error {
    /// What the reader can do about it.
    pub(super) fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Unreachable { .. } | Self::TooSlow { .. } => {
                "check smtp, and whether a firewall blocks the connection; smtp_tls = \"tls\" uses port 465, \"starttls\" port 587"
            }
            Self::NoTls { .. } => {
                "use the port for submission (587), set smtp_tls = \"tls\" for port 465, or enable TLS on the server"
            }
            Self::Tls { .. } => {
                "check that smtp is the name in the server's certificate, and set network.ca_file if your company has issued it"
            }
            Self::Login { .. } => "check smtp_user and the password in smtp_password_file",
            Self::Rejected { .. } => "check from and to, and whether this user may send as from",
            Self::Later { .. } | Self::Dialog { .. } | Self::Compose(_) => return None,
        };
        Some(hint.to_owned())
    }
}

/// Sends one message to all recipients.
///
/// # Errors
/// When the server did not take responsibility for the message; it may be sent again.
pub(super) async fn send(
    mail: &Mail,
    receivers: &Receivers,
    message: &Message<'_>,
) -> Result<(), Error> {
    let server = format!("{}:{}", mail.host, mail.port);
    let late = || Error::TooSlow {
        server: server.clone(),
        seconds: receivers.dialog.as_secs(),
    };
    let dialog = dialog(mail, &receivers.certificates, message, &server);
    match tokio::time::timeout(receivers.dialog, dialog).await {
        Ok(ended) => ended,
        Err(_) => Err(late()),
    }
}

async fn dialog(
    mail: &Mail,
    certificates: &[Vec<u8>],
    message: &Message<'_>,
    server: &str,
) -> Result<(), Error> {
    let composed = compose(mail, message)?;
    let failed = |error: smtp::Error| classified(server, &error);
    let tls_failed = |why: String| Error::Tls {
        server: server.to_owned(),
        why,
    };
    let host = mail.host.trim_matches(['[', ']']);
    let hello = ClientId::Domain(message.host.to_owned());
    let stream = TcpStream::connect((host, mail.port)).await;
    let stream = Limited {
        peer: stream
            .as_ref()
            .ok()
            .and_then(|stream| stream.peer_addr().ok()),
        stream: stream.map_err(|source| Error::Unreachable {
            server: server.to_owned(),
            source,
        })?,
        left: RECEIVED_MAX,
    };
    let mut connection = match mail.tls {
        MailTls::None => AsyncSmtpConnection::connect_with_transport(Box::new(stream), &hello)
            .await
            .map_err(failed)?,
        MailTls::StartTls => {
            let mut connection =
                AsyncSmtpConnection::connect_with_transport(Box::new(stream), &hello)
                    .await
                    .map_err(failed)?;
            if !connection.can_starttls() {
                return Err(Error::NoTls {
                    server: server.to_owned(),
                });
            }
            let parameters =
                parameters(host, certificates).map_err(|error| tls_failed(shown(&error)))?;
            let begun = connection.starttls(parameters, &hello).await;
            begun.map_err(|error| tls_failed(shown(&error)))?;
            connection
        }
        MailTls::Tls => {
            let peer = stream.peer;
            let encrypted = encrypt(host, certificates, stream).await;
            let stream = Encrypted {
                peer,
                stream: encrypted.map_err(tls_failed)?,
            };
            AsyncSmtpConnection::connect_with_transport(Box::new(stream), &hello)
                .await
                .map_err(failed)?
        }
    };
    if let Some((user, password)) = &mail.login {
        let credentials = Credentials::new(user.clone(), password.expose().to_owned());
        let mechanisms = [Mechanism::Plain, Mechanism::Login];
        let login = connection.auth(&mechanisms, &credentials).await;
        login.map_err(|error| match classified(server, &error) {
            Error::Rejected { server, why } => Error::Login { server, why },
            // It offers no way to log in.
            Error::Dialog { server, why } if error.is_client() => Error::Login { server, why },
            other => other,
        })?;
    }
    let sent = connection
        .send(composed.envelope(), &composed.formatted())
        .await;
    sent.map_err(failed)?;
    // The message is the server's now, whatever comes.
    let _farewell = tokio::time::timeout(FAREWELL, connection.quit()).await;
    Ok(())
}

fn compose(mail: &Mail, message: &Message<'_>) -> Result<lettre::Message, Error> {
    let mut builder = lettre::Message::builder()
        .from(mail.from.clone())
        .subject(message.title())
        .message_id(None)
        .header(ContentType::TEXT_PLAIN);
    for to in &mail.to {
        builder = builder.to(to.clone());
    }
    // No automatic answers. Source: RFC 3834, section 5
    let name = HeaderName::new_from_ascii_str("Auto-Submitted");
    let builder = builder.raw_header(HeaderValue::new(name, "auto-generated".to_owned()));
    let composed = builder.body(message.text());
    composed.map_err(|error| Error::Compose(error.to_string()))
}

/// What an answer of the server, or its absence, means.
fn classified(server: &str, error: &smtp::Error) -> Error {
    let (server, why) = (server.to_owned(), shown(error));
    if error.is_transient() {
        Error::Later { server, why }
    } else if error.is_permanent() {
        Error::Rejected { server, why }
    } else {
        Error::Dialog { server, why }
    }
}

/// A foreign text on one line of visible characters, without secrets.
fn shown(error: &dyn std::error::Error) -> String {
    visible(&crate::error_chain::chain(error))
}

/// As [`shown`].
pub(super) fn visible(text: &str) -> String {
    let cut: String = text.chars().take(SHOWN).collect();
    let line: String = redact(&cut, Part::Short)
        .chars()
        .map(|one| if one.is_control() { ' ' } else { one })
        .filter(|one| !matches!(one, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
        .collect();
    line.trim().to_owned()
}

fn parameters(host: &str, certificates: &[Vec<u8>]) -> Result<TlsParameters, smtp::Error> {
    let mut builder = TlsParameters::builder(host.to_owned());
    for der in certificates {
        builder = builder.add_root_certificate(Certificate::from_der(der.clone())?);
    }
    builder.build()
}

/// Encrypts from the first byte, trusting what all other connections trust.
async fn encrypt(
    host: &str,
    certificates: &[Vec<u8>],
    stream: Limited,
) -> Result<tokio_rustls::client::TlsStream<Limited>, String> {
    let text = |error: &dyn std::error::Error| shown(error);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let extra = certificates.iter().cloned().map(CertificateDer::from);
    let verifier = Verifier::new_with_extra_roots(extra, Arc::clone(&provider))
        .map_err(|error| text(&error))?;
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| text(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(|error| text(&error))?;
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream);
    connected.await.map_err(|error| text(&error))
}

/// A connection over which only so much may come.
struct Limited {
    stream: TcpStream,
    peer: Option<SocketAddr>,
    left: usize,
}

/// An encrypted one.
struct Encrypted {
    stream: tokio_rustls::client::TlsStream<Limited>,
    peer: Option<SocketAddr>,
}

fn peer(peer: Option<SocketAddr>) -> io::Result<SocketAddr> {
    peer.ok_or_else(|| io::ErrorKind::NotConnected.into())
}

impl AsyncTokioStream for Limited {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        peer(self.peer)
    }
}

impl AsyncTokioStream for Encrypted {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        peer(self.peer)
    }
}

impl fmt::Debug for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Limited({:?})", self.peer)
    }
}

impl fmt::Debug for Encrypted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encrypted({:?})", self.peer)
    }
}

impl AsyncRead for Limited {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let came = buffer.filled().len().saturating_sub(before);
        match self.left.checked_sub(came) {
            Some(left) => self.left = left,
            None => {
                return Poll::Ready(Err(io::Error::other(format!(
                    "it sent more than {RECEIVED_MAX} bytes"
                ))));
            }
        }
        polled
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

/// Writing is passed on.
macro_rules! write_through {
    ($type:ty) => {
        impl AsyncWrite for $type {
            fn poll_write(
                mut self: Pin<&mut Self>,
                context: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.stream).poll_write(context, bytes)
            }

            fn poll_flush(
                mut self: Pin<&mut Self>,
                context: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.stream).poll_flush(context)
            }

            fn poll_shutdown(
                mut self: Pin<&mut Self>,
                context: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.stream).poll_shutdown(context)
            }
        }
    };
}

write_through!(Limited);
write_through!(Encrypted);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let server = || "mail.example.com:587".to_owned();
        insta::assert_snapshot!(crate::text::render_variants!(Error, Error::hint, {
            Error::Unreachable { .. } => Error::Unreachable {
                server: server(),
                source: io::ErrorKind::ConnectionRefused.into(),
            },
            Error::NoTls { .. } => Error::NoTls { server: server() },
            Error::Tls { .. } => Error::Tls {
                server: server(),
                why: "invalid peer certificate: UnknownIssuer".to_owned(),
            },
            Error::Login { .. } => Error::Login {
                server: server(),
                why: "permanent error (535): 5.7.8 authentication failed".to_owned(),
            },
            Error::Later { .. } => Error::Later {
                server: server(),
                why: "transient error (451): 4.7.1 greylisted".to_owned(),
            },
            Error::Rejected { .. } => Error::Rejected {
                server: server(),
                why: "permanent error (550): 5.1.1 no such user".to_owned(),
            },
            Error::Dialog { .. } => Error::Dialog {
                server: server(),
                why: "incomplete response".to_owned(),
            },
            Error::TooSlow { .. } => Error::TooSlow {
                server: server(),
                seconds: 60,
            },
            Error::Compose(_) => Error::Compose("missing destination address".to_owned()),
        }));
    }

    #[test]
    fn a_foreign_text_is_one_visible_line() {
        let text = visible("550 no\r\n\u{1b}[31muser\u{202e} ");
        assert_eq!(text, "550 no   [31muser");
        assert_eq!(visible(&"x".repeat(1000)).len(), SHOWN);
    }
}
