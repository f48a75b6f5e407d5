//! A credential of a service: a file of which systemd passes the content, in plain text or encrypted.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::process::Command;

use crate::secret::{LINE_MAX, Secret};

/// Where a credential comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) file: PathBuf,
    pub(super) encrypted: bool,
}

impl Origin {
    /// The secret; None if the file is missing, as systemd then starts nothing.
    pub(super) fn read(&self, name: &str) -> io::Result<Option<Secret>> {
        if self.encrypted {
            let output = Command::new("systemd-creds")
                .arg("decrypt")
                .arg(format!("--name={name}"))
                .args([self.file.as_os_str(), "-".as_ref()])
                .output()?;
            if !output.status.success() {
                return Err(io::Error::other(format!(
                    "systemd-creds: {}",
                    String::from_utf8_lossy(&output.stderr).trim()
                )));
            }
            return Ok(Some(Secret::new(String::from_utf8_lossy(&output.stdout))));
        }
        let file = match File::open(&self.file) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let mut text = String::new();
        file.take(LINE_MAX + 1).read_to_string(&mut text)?;
        Ok(Some(Secret::new(text)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn a_credential_is_read_and_a_missing_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        let read = |file: &Path| {
            Origin {
                file: file.to_owned(),
                encrypted: false,
            }
            .read("x")
        };
        assert!(read(&file).unwrap().is_none());
        fs::write(&file, "tiger\n").unwrap();
        assert_eq!(read(&file).unwrap().unwrap().expose(), "tiger\n");
        assert!(read(dir.path()).is_err());
    }
}
