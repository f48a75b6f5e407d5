//! Connections to the server: with which settings, and for how long an answer is waited for.

use std::io::ErrorKind;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions as _, Connection as _};

use crate::ledger_location::Server;

/// A server that does not answer a connection attempt for so long is away.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Settings of each connection, whatever the role or the database have.
const SETTINGS: [(&str, &str); 9] = [
    // A process continues after the server crashed: what was committed must be there.
    ("synchronous_commit", "on"),
    // The row of the lease must be as it is once the lock is there, not as when the transaction began.
    ("default_transaction_isolation", "read committed"),
    // Compiling a statement takes the server much longer than executing any of ours.
    ("jit", "off"),
    ("statement_timeout", "50s"),
    ("lock_timeout", "40s"),
    // A host that stands still must not hold the lock.
    ("idle_in_transaction_session_timeout", "10s"),
    ("tcp_keepalives_idle", "15"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
];

/// How to connect. Beyond this host only with TLS, to the server that the certificate names.
pub(super) fn options(server: &Server) -> Result<PgConnectOptions, sqlx::Error> {
    let mut options = PgConnectOptions::from_url(&server.url)?
        .ssl_mode(if server.is_local() {
            PgSslMode::Prefer
        } else {
            PgSslMode::VerifyFull
        })
        .options(SETTINGS)
        .disable_statement_logging();
    if let Some(password) = &server.password {
        options = options.password(password.expose());
    }
    if let Some(ca_file) = &server.ca_file {
        options = options.ssl_root_cert(ca_file);
    }
    if options.get_application_name().is_none() {
        options = options.application_name("itwin-syncd");
    }
    Ok(options)
}

pub(super) async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    within(CONNECT_MAX, Box::pin(PgConnection::connect_with(options))).await
}

/// What the server answers within that time.
pub(in crate::ledger::database) async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    tokio::time::timeout(limit, answer)
        .await
        .unwrap_or_else(|_| Err(sqlx::Error::Io(ErrorKind::TimedOut.into())))
}
