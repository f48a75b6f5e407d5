//! Errors of a PostgreSQL server: what passes by itself, and what the reader can do about the others.

use sqlx::migrate::MigrateError;

use super::super::{Error, is_undecodable};
use super::lease::ActiveHost;

/// The text of the error of a transaction of a process that may not write any more.
pub(super) const FENCED: &str = "another host has taken over";

const REACH_HINT: &str =
    "check that the server runs and that this host reaches it; and host and port in state.url";

pub(super) const OWNER_HINT: &str =
    "let the user in state.url own the database, so that it may create tables in its schema public";

pub(super) const READ_ONLY_HINT: &str = "write the primary server in state.url, not a standby; its setting default_transaction_read_only must be off for the user";

pub(super) const POOLER_HINT: &str =
    "write the server itself in state.url, not a pooler such as PgBouncer";

/// SQLSTATE: postgresql.org/docs/current/errcodes-appendix.html
fn state_of(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// Whether the same action may succeed later, without anybody's doing or after the server was mended.
pub(super) fn passes(error: &sqlx::Error) -> bool {
    let Some(state) = state_of(error) else {
        return match error {
            sqlx::Error::Io(_) => of_tls(error).is_none(),
            sqlx::Error::PoolTimedOut | sqlx::Error::Protocol(_) => true,
            _ => false,
        };
    };
    match state.as_bytes() {
        // A setting that is not understood at the begin of a session.
        b"08P01" => false,
        // Connection, out of resources, operator intervention and a slow server, system error.
        [b'0', b'8', ..] | [b'5', b'3' | b'7' | b'8', ..] => true,
        // A deadlock, a standby, a lock that was not available, a transaction that was idle for too long.
        b"40001" | b"40P01" | b"25006" | b"55P03" | b"25P03" => true,
        _ => false,
    }
}

/// What is wrong with the encryption, if that is why a connection failed.
fn of_tls(error: &sqlx::Error) -> Option<&rustls::Error> {
    let sqlx::Error::Io(error) = error else {
        return None;
    };
    error.get_ref()?.downcast_ref()
}

/// The error of a statement in a migration.
pub(super) fn unwrapped(error: MigrateError) -> sqlx::Error {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error,
        error => sqlx::Error::Migrate(Box::new(error)),
    }
}

/// The error of an action, by what the caller can do about it.
pub(super) fn error_of(server: &str, action: &'static str, error: sqlx::Error) -> Error {
    if let sqlx::Error::Configuration(text) = &error
        && text.to_string() == FENCED
    {
        return Error::TakenOver;
    }
    if is_undecodable(&error) {
        return Error::Corrupt {
            action,
            source: Box::new(error),
        };
    }
    Error::Server {
        server: server.to_owned(),
        action,
        hint: advice(&error),
        source: Box::new(error),
    }
}

/// The error of whoever does not want to wait.
pub(super) fn taken(server: &str, active: &ActiveHost) -> Error {
    Error::ServerInUse {
        server: server.to_owned(),
        holder: format!(
            "host {}, since {}",
            active.host,
            active.since.strftime("%F %TZ")
        ),
    }
}

/// What the reader can do about an error.
pub(super) fn advice(error: &sqlx::Error) -> &'static str {
    use rustls::{CertificateError, Error::InvalidCertificate};
    match of_tls(error) {
        Some(InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        )) => {
            return "renew the certificate of the database server, and check the clocks of the server and of this host";
        }
        Some(InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => return "write the host in state.url as the server's certificate names it",
        Some(InvalidCertificate(CertificateError::UnknownIssuer)) => {
            return "set state.ca_file to the certificate of the authority that issued the server's";
        }
        Some(_) => return "check the TLS settings and the certificate of the database server",
        None => {}
    }
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => return REACH_HINT,
        sqlx::Error::Tls(_) => {
            return "set state.ca_file to the certificate of the authority that issued the server's, and write the host in state.url as that certificate names it; the server needs ssl = on";
        }
        _ => {}
    }
    match state_of(error).as_deref() {
        Some("28P01" | "28000") => {
            "check the user in state.url, the password in state.password_file, and pg_hba.conf of the server"
        }
        Some("3D000") => {
            "create the database, owned by the user in state.url: CREATE DATABASE itwin_syncd OWNER itwin_syncd"
        }
        Some("42501") => OWNER_HINT,
        // A prepared statement of another session.
        Some("08P01" | "26000" | "42P05") => POOLER_HINT,
        Some("25006") => READ_ONLY_HINT,
        // It stops, has crashed, or starts.
        Some("57P01" | "57P02" | "57P03") => REACH_HINT,
        Some("53100") => "free space on the disk of the database server",
        Some("53300") => "raise max_connections of the server: each daemon uses up to 11",
        _ => "see the log of the database server",
    }
}
