//! Where the client secret comes from.
//!
//! Input: the path in `client_secret_file` and the environment. Output: the secret. The first source that exists is
//! used; if it is unusable, that is an error: falling back to another source could silently use an outdated secret.
//! Neither the secret nor a path that may be the secret by mistake is ever quoted.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::environment::{Environment, SECRET_VARIABLE};
use super::values::{InvalidValue, quoted};
use crate::secret::Secret;

/// Name of the secret in systemd's credential directory (`LoadCredential=`), see systemd.exec(5).
pub(super) const CREDENTIAL: &str = "itwin-client-secret";

/// Where the client secret belongs.
pub(crate) const HINT: &str = "store the secret in its own file (mode 600) and set itwin.client_secret_file to its path, or pass it with LoadCredential=itwin-client-secret:FILE in the systemd unit";

/// Name of the proxy's password among systemd's credentials.
const PROXY_CREDENTIAL: &str = "itwin-proxy-password";

const PROXY_HINT: &str = "store the password in its own file (mode 600) and set network.proxy_password_file to its path, or pass it with LoadCredential=itwin-proxy-password:FILE in the systemd unit";

/// Anything longer is some other file.
const LONGEST: u64 = 4096;

/// Finds the secret: `file`, else systemd's credential, else the environment variable.
pub(super) fn find(file: Option<&Path>, environment: &Environment) -> Result<Secret, InvalidValue> {
    let credentials = environment.credentials_directory.as_deref();
    if let Some(file) = file {
        return read(
            file,
            credentials.is_some_and(|directory| file.starts_with(directory)),
        );
    }
    if let Some(credential) = credentials
        .map(|directory| directory.join(CREDENTIAL))
        .filter(|path| path.exists())
    {
        return read(&credential, true);
    }
    match &environment.client_secret {
        Some(secret) => checked(secret.expose()).map_err(|what| {
            InvalidValue::new(format!("the secret in {SECRET_VARIABLE} {what}"), HINT)
        }),
        None => Err(InvalidValue::new(
            "no client secret found",
            format!("{HINT}, or set {SECRET_VARIABLE}"),
        )),
    }
}

/// Finds the proxy's password: `file`, else systemd's credential.
pub(super) fn proxy_password(
    file: Option<&Path>,
    environment: &Environment,
) -> Result<Secret, InvalidValue> {
    let credentials = environment.credentials_directory.as_deref();
    match (file, credentials) {
        (Some(file), _) => read(file, credentials.is_some_and(|one| file.starts_with(one))),
        (None, Some(directory)) if directory.join(PROXY_CREDENTIAL).exists() => {
            read(&directory.join(PROXY_CREDENTIAL), true)
        }
        _ => Err(InvalidValue::new("no proxy password found", PROXY_HINT)),
    }
}

/// Reads another secret from a file that only its owner may read.
pub(super) fn read_file(file: &Path) -> Result<Secret, InvalidValue> {
    read(file, false)
}

/// As [`read_file`]; the file may be a credential of systemd.
pub(super) fn read_file_or_credential(
    file: &Path,
    environment: &Environment,
) -> Result<Secret, InvalidValue> {
    let credentials = environment.credentials_directory.as_deref();
    read(file, credentials.is_some_and(|one| file.starts_with(one)))
}

/// `is_credential`: systemd guards that directory itself, and shows its files as readable by the group in some
/// versions.
fn read(path: &Path, is_credential: bool) -> Result<Secret, InvalidValue> {
    let unreadable = |error: std::io::Error| {
        InvalidValue::new(
            format!("cannot read the file: {error}"),
            "set it to the path of a file that the service's user can read",
        )
    };
    // Asked before opening: a pipe would block for ever.
    if !path.metadata().map_err(unreadable)?.is_file() {
        return Err(InvalidValue::new(
            format!("{} is not a regular file", quoted(path)),
            HINT,
        ));
    }
    let file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode();
    if mode & 0o077 != 0 && !is_credential {
        return Err(InvalidValue::new(
            format!(
                "{} is accessible to other users (mode {:o})",
                quoted(path),
                mode & 0o777
            ),
            format!("run `chmod 600 {}`", quoted(path)),
        ));
    }
    let mut text = String::new();
    file.take(LONGEST + 1)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    checked(&text).map_err(|what| {
        InvalidValue::new(
            format!("the secret in {} {what}", quoted(path)),
            "the file must contain the secret on one line and nothing else",
        )
    })
}

/// The secret in `text`, which may begin with the byte order mark of an editor and end with a line break. Other
/// invisible characters are refused here: sent along, they would only come back as "invalid client".
pub(crate) fn checked(text: &str) -> Result<Secret, &'static str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = text.trim_end_matches(['\r', '\n']);
    let hidden = |letter: char| {
        letter.is_whitespace() && letter != ' '
            || matches!(letter, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    if text.trim().is_empty() {
        Err("is empty")
    } else if text.len() as u64 > LONGEST {
        Err("is too long")
    } else if text.chars().any(char::is_control) {
        Err("contains a line break or control character")
    } else if text.starts_with(' ') || text.ends_with(' ') {
        Err("starts or ends with a space")
    } else if text.chars().any(hidden) {
        Err("contains an invisible character, such as a non-breaking space (U+00A0)")
    } else {
        Ok(Secret::new(text))
    }
}
