//! Where the client secret and other secrets come from.
//!
//! Input: the path in a key such as `client_secret_file`, and the environment. Output: the secret. The first source
//! that exists is used; if it is unusable, that is an error: falling back to another source could silently use an
//! outdated secret. Neither the secret nor a path that may be the secret by mistake is ever quoted.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use toml::de::DeValue;

use super::environment::{CLIENT_SECRET_VARIABLE, Environment};
use super::secret_files;
use super::values::{self, InvalidValue, quoted};
use crate::error_chain::chain;
use crate::secret::{LINE_MAX, Secret, SecretCommand};

/// Name of the secret in systemd's credential directory (`LoadCredential=`), see systemd.exec(5).
pub(super) const CREDENTIAL: &str = "itwin-client-secret";

/// Where the client secret belongs.
pub(crate) const HINT: &str = "store the secret in its own file (mode 600) and set itwin.client_secret_file to its path, or pass it with LoadCredential=itwin-client-secret:FILE in the systemd unit";

/// Name of the proxy's password among systemd's credentials.
const PROXY_CREDENTIAL: &str = "itwin-proxy-password";

const PROXY_HINT: &str = "store the password in its own file (mode 600) and set network.proxy_password_file to its path, or pass it with LoadCredential=itwin-proxy-password:FILE in the systemd unit";

/// Name of the password for the ledger's database among systemd's credentials.
const LEDGER_CREDENTIAL: &str = "itwin-ledger-password";

/// How the config file refers to systemd's credential directory, as its path depends on the unit.
const VARIABLE: &str = "$CREDENTIALS_DIRECTORY";

/// Before the name of a credential.
const DIRECTORY: &str = "$CREDENTIALS_DIRECTORY/";

/// Finds the secret: `file`, else systemd's credential, else the environment variable.
pub(super) fn find(file: Option<&Path>, environment: &Environment) -> Result<Secret, InvalidValue> {
    if let Some(file) = file
        .map(Path::to_owned)
        .or_else(|| credential(CREDENTIAL, environment))
    {
        return read(&file, environment);
    }
    match &environment.client_secret {
        Some(secret) => Secret::of_line(secret.expose()).map_err(|what| {
            InvalidValue::new(
                format!("the secret in {CLIENT_SECRET_VARIABLE} {what}"),
                HINT,
            )
        }),
        None => Err(InvalidValue::new(
            "no client secret found",
            format!(
                "{HINT}, or set {CLIENT_SECRET_VARIABLE}; with the installed service, run the command with sudo"
            ),
        )),
    }
}

/// The value of a key with a program and its arguments.
pub(super) fn command(value: &DeValue<'_>) -> Result<SecretCommand, InvalidValue> {
    SecretCommand::new(values::list(value)?).ok_or_else(|| {
        InvalidValue::new(
            "no program",
            "write the program and its arguments, such as [\"/usr/bin/vault\", \"kv\", \"get\", \"-field=secret\", \"kv/itwin\"]",
        )
    })
}

/// Runs a program that prints the client secret.
pub(super) fn print(command: &SecretCommand) -> Result<Secret, InvalidValue> {
    command
        .run()
        .map_err(|error| InvalidValue::new(chain(&error), error.hint()))
}

/// Finds the proxy's password: `file`, else systemd's credential.
pub(super) fn proxy_password(
    file: Option<&Path>,
    environment: &Environment,
) -> Result<Secret, InvalidValue> {
    match file
        .map(Path::to_owned)
        .or_else(|| credential(PROXY_CREDENTIAL, environment))
    {
        Some(file) => read(&file, environment),
        None => Err(InvalidValue::new("no proxy password found", PROXY_HINT)),
    }
}

/// Finds the password for the ledger's database: `file`, else systemd's credential. None: there is none.
pub(super) fn ledger_password(
    file: Option<&Path>,
    environment: &Environment,
) -> Result<Option<Secret>, InvalidValue> {
    file.map(Path::to_owned)
        .or_else(|| credential(LEDGER_CREDENTIAL, environment))
        .map(|file| read(&file, environment))
        .transpose()
}

/// The file of one of systemd's credentials, if there is one.
fn credential(name: &str, environment: &Environment) -> Option<PathBuf> {
    if environment.credentials.contains_key(name) {
        return Some(PathBuf::from(format!("{DIRECTORY}{name}")));
    }
    let directory = environment.credentials_directory.as_deref()?;
    let path = directory.join(name);
    let found = path.symlink_metadata();
    // One that this user may not even see is not absent: reading it says why.
    found
        .err()
        .is_none_or(|error| error.kind() != std::io::ErrorKind::NotFound)
        .then_some(path)
}

/// The value of a key with the path of a secret file: absolute, or below [`DIRECTORY`].
pub(super) fn path(value: &DeValue<'_>) -> Result<PathBuf, InvalidValue> {
    match values::text(value)?.strip_prefix(DIRECTORY) {
        Some(name) if is_name(name) => Ok(PathBuf::from(format!("{DIRECTORY}{name}"))),
        Some(_) => Err(no_name()),
        None => values::absolute(value),
    }
}

fn no_name() -> InvalidValue {
    InvalidValue::new(
        "not the name of a credential",
        format!("write \"{DIRECTORY}NAME\" for LoadCredential=NAME:FILE in the systemd unit"),
    )
}

/// What systemd accepts as the name of a credential, as far as paths are concerned.
fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains('/') && name != "." && name != ".."
}

/// Reads a secret from a file. Its path is one of [`path`].
///
/// systemd guards its credentials itself, and shows them as readable by the group in some versions.
pub(super) fn read(path: &Path, environment: &Environment) -> Result<Secret, InvalidValue> {
    let directory = environment.credentials_directory.as_deref();
    if let Some(secret) = path
        .strip_prefix(VARIABLE)
        .ok()
        .and_then(|name| environment.credentials.get(name.to_str()?))
    {
        return Secret::of_line(secret.expose()).map_err(|what| {
            InvalidValue::new(
                format!("the secret in {} {what}", quoted(path)),
                "the file must contain the secret on one line and nothing else",
            )
        });
    }
    let path = match (path.strip_prefix(VARIABLE), directory) {
        (Err(_), _) => path.to_owned(),
        (Ok(name), _) if !name.to_str().is_some_and(is_name) => return Err(no_name()),
        (Ok(name), Some(directory)) => directory.join(name),
        (Ok(name), None) => {
            return Err(InvalidValue::new(
                "the service has no credentials of systemd: CREDENTIALS_DIRECTORY is not set",
                format!(
                    "add LoadCredential={}:FILE to the systemd unit, or set the path of a file",
                    name.display()
                ),
            ));
        }
    };
    let unreadable = |error: std::io::Error| {
        InvalidValue::new(
            format!("cannot read the file: {error}"),
            "set it to the path of a file that the service's user can read",
        )
    };
    // Asked before opening: a pipe would block for ever.
    let about = path.metadata().map_err(unreadable)?;
    if !about.is_file() {
        return Err(InvalidValue::new(
            format!("{} is not a regular file", quoted(&path)),
            HINT,
        ));
    }
    let file = if directory.is_some_and(|directory| path.starts_with(directory)) {
        File::open(&path).map_err(unreadable)?
    } else {
        secret_files::open(&path, &about).map_err(|(what, hint)| InvalidValue::new(what, hint))?
    };
    let mut text = String::new();
    file.take(LINE_MAX + 1)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    Secret::of_line(&text).map_err(|what| {
        InvalidValue::new(
            format!("the secret in {} {what}", quoted(&path)),
            "the file must contain the secret on one line and nothing else",
        )
    })
}
