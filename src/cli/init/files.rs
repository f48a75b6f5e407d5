//! The files that `init` writes: the configuration and the client secret. Each appears whole or not at all.

use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, Uid};
use tempfile::NamedTempFile;

use super::{Error, SERVICE_USER, unit};
use crate::cli::service_unit::Service;
use crate::secret::Secret;
use crate::shell;

/// What the answers say.
#[derive(Debug, Clone, Default)]
pub(super) struct Answers {
    pub(super) client_id: String,
    /// A user signs in.
    pub(super) is_user: bool,
    /// Written only if the service does not get the secret from systemd.
    pub(super) client_secret_file: Option<PathBuf>,
    pub(super) api_url: Option<String>,
    pub(super) issuer_url: Option<String>,
    pub(super) proxy: Option<String>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) state_path: Option<PathBuf>,
    pub(super) folder: PathBuf,
    pub(super) name: String,
    pub(super) imodel_id: String,
    /// For the comments: the option with which commands find this configuration, after a space; empty for the default.
    pub(super) option: String,
    /// For the comment: names of the iTwin and the iModel.
    pub(super) imodel: String,
}

impl Answers {
    /// The configuration.
    pub(super) fn text(&self) -> String {
        let option = &self.option;
        let mut text = format!(
            "# Written by `itwin-syncd init`. Every key with its default: config.example.toml and docs/configuration.md.\n\
             # After a change, `itwin-syncd check{option}` tests it.\n\n[itwin]\n",
        );
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let application = if self.is_user {
            "The native application, from developer.bentley.com/my-apps."
        } else {
            "The service application, from developer.bentley.com/my-apps."
        };
        text += &entry(application, "client_id", &self.client_id);
        text += &match path(&self.client_secret_file) {
            _ if self.is_user => {
                let comment = format!("A user signs in: `itwin-syncd login{option}`.");
                entry(&comment, "sign_in", "user")
            }
            Some(file) => entry("The file with its secret.", "client_secret_file", &file),
            None => "# Its secret is in the file client-secret beside this one, which systemd passes to the service.\n"
                .to_owned(),
        };
        if let Some(url) = &self.api_url {
            text += &entry("The platform.", "api_url", url);
        }
        if let Some(url) = &self.issuer_url {
            text += &entry("The identity provider.", "issuer_url", url);
        }
        if self.proxy.is_some() || self.ca_file.is_some() {
            text += "\n[network]\n";
            for (key, value) in [
                ("proxy", self.proxy.clone()),
                ("ca_file", path(&self.ca_file)),
            ] {
                if let Some(value) = value {
                    text += &format!("{key} = {}\n", quoted(&value));
                }
            }
        }
        if let Some(state) = path(&self.state_path) {
            text += &format!(
                "\n[state]\n# What was uploaded and synchronized is recorded here. On a local disk.\npath = {}\n",
                quoted(&state)
            );
        }
        text + &format!(
            "\n# One [[watch]] table for each folder.\n[[watch]]\n# The name in messages, in status and in commands.\n\
             name = {}\n# Design files in this folder and below are synchronized when they are complete.\npath = {}\n\
             # {}\nimodel_id = {}\n# Files to leave out.\n# exclude = [\"archive/**\", \"*.bak.dgn\"]\n",
            quoted(&self.name),
            quoted(&self.folder.display().to_string()),
            self.imodel,
            quoted(&self.imodel_id),
        )
    }
}

/// A key with a comment above it.
fn entry(comment: &str, key: &str, value: &str) -> String {
    format!("# {comment}\n{key} = {}\n", quoted(value))
}

/// A JSON string is a TOML string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Where the files are, and who reads them.
#[derive(Debug, Clone)]
pub(super) struct Places {
    pub(super) config: PathBuf,
    pub(super) secret: PathBuf,
    /// Whether systemd passes the secret to the service, which runs as a user of its own.
    pub(super) is_of_the_service: bool,
    /// The service that has this configuration by its unit, whether systemd runs here or not.
    pub(super) service: Option<Service>,
}

impl Places {
    /// The places for a configuration file.
    pub(super) fn of(config: &Path) -> Result<Self, Error> {
        let config = std::path::absolute(config).map_err(|source| Error::Write {
            path: config.to_owned(),
            source,
        })?;
        let folder = config.parent().unwrap_or(Path::new("/"));
        let service = Service::of(&config);
        Ok(Self {
            secret: folder.join("client-secret"),
            is_of_the_service: service.is_some() && unit::has_systemd(),
            config,
            service,
        })
    }

    pub(super) fn folder(&self) -> &Path {
        self.config.parent().unwrap_or(Path::new("/"))
    }

    /// The state directory if none is named.
    pub(super) fn state(&self) -> Option<PathBuf> {
        let own = || self.folder().join("itwin-syncd-state");
        self.service.is_none().then(own)
    }

    /// The name of the service for systemctl.
    pub(super) fn service_name(&self) -> String {
        match &self.service {
            Some(service) => service.name(),
            None => SERVICE_USER.to_owned(),
        }
    }

    /// The option with which commands find this configuration, after a space; empty for the default.
    pub(super) fn option(&self) -> String {
        match &self.service {
            Some(service) if service.name() == SERVICE_USER => String::new(),
            _ => format!(" {}", shell::config_option(&self.config)),
        }
    }

    /// Whether its unit is installed.
    pub(super) fn has_unit(&self) -> bool {
        let mut service = self.service.iter();
        service.any(|service| service.is_installed(Path::new("/")))
    }

    /// Whether the files can be written; it is found out before the first question.
    pub(super) fn check(&self) -> Result<(), Error> {
        let existing = self.folder().ancestors().find(|folder| folder.exists());
        let existing = existing.unwrap_or(Path::new("/"));
        tempfile::tempfile_in(existing)
            .map(drop)
            .map_err(|source| Error::Write {
                path: self.config.clone(),
                source,
            })
    }

    /// The secret that is there, if the file is not empty.
    pub(super) fn kept_secret(&self) -> Option<String> {
        let text = std::fs::read_to_string(&self.secret).ok()?;
        let text = text.trim_end_matches(['\r', '\n']);
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// Writes both files; the secret only if it is given.
    pub(super) fn write(
        &self,
        text: &str,
        secret: Option<&Secret>,
        existing: Existing,
    ) -> Result<(), Error> {
        let folder = self.folder();
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Write { path, source }
        };
        std::fs::create_dir_all(folder).map_err(failed(folder))?;
        let group = Group::from_name(SERVICE_USER).ok().flatten();
        let group = group.filter(|_| self.is_of_the_service && Uid::effective().is_root());
        // The service's user reads the configuration. Without that user, as before the installation of the package, its
        // group cannot be set.
        let mode = match (&group, self.is_of_the_service) {
            (None, true) => 0o644,
            _ => 0o640,
        };
        let config = draft(folder, text, mode, group.map(|group| group.gid))
            .map_err(failed(&self.config))?;
        if let Some(secret) = secret {
            let line = format!("{}\n", secret.expose());
            draft(folder, &line, 0o600, None)
                .and_then(|draft| draft.persist(&self.secret).map_err(|error| error.error))
                .map_err(failed(&self.secret))?;
        }
        match existing {
            Existing::Replace => config.persist(&self.config),
            Existing::Keep => config.persist_noclobber(&self.config),
        }
        .map_err(|error| error.error)
        .and_then(|_| File::open(folder)?.sync_all())
        .map_err(failed(&self.config))
    }
}

/// What happens to a file that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    Keep,
    Replace,
}

/// A file without a name that anyone looks for, on disk.
fn draft(folder: &Path, text: &str, mode: u32, group: Option<Gid>) -> io::Result<NamedTempFile> {
    let mut file = tempfile::Builder::new()
        .prefix(".itwin-syncd-")
        .tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    if let Some(group) = group {
        std::os::unix::fs::chown(file.path(), None, Some(group.as_raw()))?;
    }
    file.as_file()
        .set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    Ok(file)
}
