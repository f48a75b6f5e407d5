//! The systemd unit of a configuration file: its user, and the secrets that it passes to the service. A command that
//! root runs becomes this user, and has these secrets, so that it sees what the service sees.
//!
//! Input: unit files with their drop-ins, as systemd finds them. It changes nothing; the secrets stay in memory.

mod credential;
mod variable;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::print_to_stderr;
use crate::config::{
    self, CLIENT_SECRET_VARIABLE, Config, ConfigErrors, Environment, ReadOnlyConfig,
};
use crate::error_chain::chain;
use crate::secret::Secret;
use crate::state_directory;
use credential::Origin;
use variable::Variable;

/// The folder of the configurations of services.
const CONFIGURATIONS: &str = "/etc/itwin-syncd";

/// Where systemd looks for units, in order of precedence.
const UNITS: [&str; 4] = [
    "etc/systemd/system",
    "run/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];

/// Where it looks for credentials without a path.
const STORES: [&str; 2] = ["/etc/credstore", "/run/credstore"];

/// The largest unit file that is read.
const UNIT_MAX: u64 = 1024 * 1024;

/// The service of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Service {
    /// The instance of `itwin-syncd@.service`; None: `itwin-syncd.service`.
    instance: Option<String>,
}

/// What its unit says.
#[derive(Debug, PartialEq, Eq)]
struct Unit {
    user: Option<String>,
    groups: Vec<String>,
    credentials: BTreeMap<String, Origin>,
    client_secret: Variable,
    hides_home: bool,
}

impl Service {
    /// The service that has this configuration file by its unit; None for any other file.
    pub(super) fn of(config: &Path) -> Option<Self> {
        let rest = config.strip_prefix(CONFIGURATIONS).ok()?;
        let mut parts: Vec<&str> = Vec::new();
        for part in rest {
            parts.push(part.to_str()?);
        }
        match parts[..] {
            ["config.toml"] => Some(Self { instance: None }),
            [name, "config.toml"] => Some(Self {
                instance: Some(name.to_owned()),
            }),
            _ => None,
        }
    }

    /// The name of its unit, as systemctl takes it.
    pub(super) fn name(&self) -> String {
        match &self.instance {
            None => "itwin-syncd".to_owned(),
            Some(instance) => format!("itwin-syncd@{instance}"),
        }
    }

    /// The file of its unit.
    pub(super) fn file(&self) -> &'static str {
        match self.instance {
            None => "itwin-syncd.service",
            Some(_) => "itwin-syncd@.service",
        }
    }

    /// Whether its unit is below `root`.
    pub(super) fn is_installed(&self, root: &Path) -> bool {
        self.fragment(root).is_some()
    }

    /// The groups that its unit below `root` adds to those of its user.
    pub(super) fn groups(&self, root: &Path) -> Vec<String> {
        let unit = self.unit(root).ok().flatten();
        unit.map(|unit| unit.groups).unwrap_or_default()
    }

    /// Whether its unit below `root`, if it is installed, hides the folders of users.
    pub(super) fn hides_home(&self, root: &Path) -> bool {
        let unit = self.unit(root).ok().flatten();
        unit.is_none_or(|unit| unit.hides_home)
    }

    fn fragment(&self, root: &Path) -> Option<PathBuf> {
        let mut paths = UNITS.iter().map(|dir| root.join(dir).join(self.file()));
        paths.find(|path| path.is_file())
    }

    /// The unit with its drop-ins, in the order of their names; one in an earlier folder hides another of its name.
    fn files(&self, root: &Path) -> Vec<PathBuf> {
        let Some(fragment) = self.fragment(root) else {
            return Vec::new();
        };
        let mut folders = vec![format!("{}.d", self.file())];
        if self.instance.is_some() {
            folders.insert(0, format!("{}.service.d", self.name()));
        }
        let mut drop_ins: BTreeMap<std::ffi::OsString, PathBuf> = BTreeMap::new();
        for folder in &folders {
            for dir in UNITS {
                let Ok(entries) = fs::read_dir(root.join(dir).join(folder)) else {
                    continue;
                };
                for path in entries.flatten().map(|entry| entry.path()) {
                    if let (Some("conf"), Some(name)) = (
                        path.extension().and_then(|ending| ending.to_str()),
                        path.file_name(),
                    ) {
                        drop_ins.entry(name.to_owned()).or_insert(path);
                    }
                }
            }
        }
        std::iter::once(fragment)
            .chain(drop_ins.into_values())
            .collect()
    }

    /// What the unit below `root` says; None if it is not installed.
    fn unit(&self, root: &Path) -> io::Result<Option<Unit>> {
        let files = self.files(root);
        if files.is_empty() {
            return Ok(None);
        }
        let mut unit = Unit {
            user: None,
            groups: Vec::new(),
            credentials: BTreeMap::new(),
            client_secret: Variable::new(CLIENT_SECRET_VARIABLE),
            hides_home: false,
        };
        for file in files {
            let mut text = String::new();
            File::open(file)?.take(UNIT_MAX).read_to_string(&mut text)?;
            unit.read(&text, self.instance.as_deref().unwrap_or_default());
        }
        Ok(Some(unit))
    }
}

impl Unit {
    /// Adds what a file says, with the name of the instance for `%i`.
    fn read(&mut self, text: &str, instance: &str) {
        let text = text.replace("\\\n", " ");
        let mut in_service = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with('[') {
                in_service = line == "[Service]";
            }
            if !in_service || line.starts_with(['#', ';']) {
                continue;
            }
            let Some((key, value)) = line.split_once('=') else {
                continue;
            };
            let value = value.trim().replace("%i", instance).replace("%I", instance);
            match key.trim() {
                "User" => self.user = Some(value).filter(|user| !user.is_empty()),
                "SupplementaryGroups" if value.is_empty() => self.groups.clear(),
                "SupplementaryGroups" => self
                    .groups
                    .extend(value.split_whitespace().map(ToOwned::to_owned)),
                "ProtectHome" => {
                    self.hides_home =
                        matches!(value.as_str(), "yes" | "true" | "on" | "1" | "tmpfs");
                }
                "Environment" => self.client_secret.environment(&value),
                "EnvironmentFile" => self.client_secret.environment_file(&value),
                "LoadCredential" => self.credential(&value, false),
                "LoadCredentialEncrypted" => self.credential(&value, true),
                _ => {}
            }
        }
    }

    fn credential(&mut self, value: &str, encrypted: bool) {
        if value.is_empty() {
            // Either key clears the list of both.
            self.credentials.clear();
            return;
        }
        let (name, file) = value.split_once(':').unwrap_or((value, value));
        let file = if file.starts_with('/') {
            PathBuf::from(file)
        } else {
            let mut stores = STORES.iter().map(|store| Path::new(store).join(file));
            let Some(file) = stores.find(|path| path.exists()) else {
                return;
            };
            file
        };
        let origin = Origin { file, encrypted };
        self.credentials.insert(name.to_owned(), origin);
    }
}

/// Reads a configuration with its secrets. If root does that for a service, this process has the rights and the
/// credentials of the service from then on.
pub(super) fn load(path: &Path) -> Result<Config, ConfigErrors> {
    let mut environment = Environment::for_file(path);
    if is_root_outside(&environment) {
        let unit = read_unit(path, &mut environment);
        become_service(path, unit);
    }
    Config::load_with(path, &environment)
}

/// The same, but root keeps its rights.
pub(super) fn load_as_caller(path: &Path) -> Result<Config, ConfigErrors> {
    let mut environment = Environment::for_file(path);
    if is_root_outside(&environment) {
        read_unit(path, &mut environment);
    }
    Config::load_with(path, &environment)
}

/// The same without the secrets of the account.
pub(super) fn load_read_only(path: &Path) -> Result<ReadOnlyConfig, ConfigErrors> {
    let mut environment = Environment::for_file(path);
    if is_root_outside(&environment) {
        read_unit(path, &mut environment);
    }
    ReadOnlyConfig::load_with(path, &environment)
}

/// Whether root runs this by hand: in a unit, systemd has passed the credentials.
fn is_root_outside(environment: &Environment) -> bool {
    rustix::process::geteuid().is_root() && environment.credentials_directory.is_none()
}

/// Makes this process act as the owner of the state directory if root runs it; with the groups of the service if that
/// is its user, so that it can read the same folders.
pub(super) fn act_as_owner(path: &Path, state: &Path) -> Result<(), state_directory::Error> {
    let Some(owner) = state_directory::other_owner(state)? else {
        return Ok(());
    };
    let full = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let unit = Service::of(&full).and_then(|service| service.unit(Path::new("/")).ok().flatten());
    if let Some(unit) = unit
        && let Some(user) = unit.user
        && state_directory::user(&user).is_ok_and(|user| user.uid == owner)
        && state_directory::act_as(&user, &unit.groups).is_ok()
    {
        return Ok(());
    }
    state_directory::act_as_owner(state)
}

/// The unit of a configuration file. Its secrets are added to the environment.
fn read_unit(path: &Path, environment: &mut Environment) -> Option<Unit> {
    let full = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let service = Service::of(&full)?;
    match service.unit(Path::new("/")) {
        Ok(unit) => {
            let unit = unit?;
            for (name, origin) in &unit.credentials {
                match origin.read(name) {
                    Ok(Some(secret)) => {
                        environment.credentials.insert(name.clone(), secret);
                    }
                    Ok(None) => {}
                    Err(error) => print_to_stderr(&format!(
                        "note: cannot read the credential {name:?} of {}: {:?}: {}",
                        service.name(),
                        origin.file,
                        chain(&error)
                    )),
                }
            }
            if environment.client_secret.is_none() {
                match unit.client_secret.value() {
                    Ok(secret) => {
                        let secret = secret.filter(|secret| !secret.is_empty());
                        environment.client_secret = secret.map(Secret::new);
                    }
                    Err((file, error)) => print_to_stderr(&format!(
                        "note: cannot read the environment of {}: {file:?}: {error}",
                        service.name()
                    )),
                }
            }
            Some(unit)
        }
        Err(error) => {
            print_to_stderr(&format!(
                "note: cannot read the unit of {}: {error}",
                service.name()
            ));
            None
        }
    }
}

fn become_service(path: &Path, unit: Option<Unit>) {
    let user = unit.and_then(|unit| unit.user.map(|user| (user, unit.groups)));
    let failed = match user {
        Some((user, groups)) => {
            let acted = state_directory::act_as(&user, &groups);
            acted.err().map(|error| chain(&error))
        }
        None => {
            let acted = state_directory::act_as_owner(&config::state_path(path));
            acted.err().map(|error| chain(&error))
        }
    };
    if let Some(why) = failed {
        print_to_stderr(&format!(
            "note: cannot act as the user of the service: {why}"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_of_units_name_their_service() {
        for (path, name) in [
            ("/etc/itwin-syncd/config.toml", Some("itwin-syncd")),
            (
                "/etc/itwin-syncd/plant/config.toml",
                Some("itwin-syncd@plant"),
            ),
            ("/etc/itwin-syncd/plant/other.toml", None),
            ("/etc/itwin-syncd/a/b/config.toml", None),
            ("/srv/config.toml", None),
        ] {
            let found = Service::of(Path::new(path)).map(|service| service.name());
            assert_eq!(found.as_deref(), name, "{path}");
        }
    }

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn origin(file: &str, encrypted: bool) -> Origin {
        Origin {
            file: file.into(),
            encrypted,
        }
    }

    #[test]
    fn the_unit_and_its_drop_ins_name_user_groups_and_credentials() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let service = Service { instance: None };
        assert_eq!(service.unit(root).unwrap(), None);
        write(
            root,
            "usr/lib/systemd/system/itwin-syncd.service",
            include_str!("../../systemd/itwin-syncd.service"),
        );
        let unit = service.unit(root).unwrap().unwrap();
        let plain = origin("/etc/itwin-syncd/client-secret", false);
        let expected = [("itwin-client-secret".to_owned(), plain)];
        assert_eq!(unit.user.as_deref(), Some("itwin-syncd"));
        assert_eq!(unit.credentials, expected.into());
        assert!(service.hides_home(root));
        assert!(service.groups(root).is_empty());

        write(
            root,
            "etc/systemd/system/itwin-syncd.service.d/override.conf",
            include_str!("../../systemd/examples/credentials.conf"),
        );
        write(
            root,
            "etc/systemd/system/itwin-syncd.service.d/shares.conf",
            "# [Service]\n[Service]\nSupplementaryGroups=cad \\\n  plant\nUser=sync\n[Install]\nUser=other\n",
        );
        let unit = service.unit(root).unwrap().unwrap();
        assert_eq!(unit.user.as_deref(), Some("sync"));
        assert_eq!(unit.groups, ["cad", "plant"]);
        assert_eq!(service.groups(root), ["cad", "plant"]);
        assert_eq!(
            unit.credentials["itwin-client-secret"],
            origin("/etc/itwin-syncd/client-secret.cred", true)
        );
        assert_eq!(
            unit.credentials["web-token"],
            origin("/etc/itwin-syncd/web-token", false)
        );
        let file = root.join("environment");
        fs::write(&file, "ITWIN_SYNCD_CLIENT_SECRET=tiger\n").unwrap();
        write(
            root,
            "etc/systemd/system/itwin-syncd.service.d/environment.conf",
            &format!("[Service]\nEnvironmentFile=-{}\n", file.display()),
        );
        let unit = service.unit(root).unwrap().unwrap();
        assert_eq!(
            unit.client_secret.value().unwrap().as_deref(),
            Some("tiger")
        );
        write(
            root,
            "etc/systemd/system/itwin-syncd.service.d/home.conf",
            include_str!("../../systemd/examples/home.conf"),
        );
        assert!(!service.hides_home(root));
        // As systemd has it, this drops the encrypted ones too.
        write(
            root,
            "etc/systemd/system/itwin-syncd.service.d/sign-in.conf",
            include_str!("../../systemd/examples/sign-in.conf"),
        );
        assert!(service.unit(root).unwrap().unwrap().credentials.is_empty());
    }

    #[test]
    fn an_instance_has_the_template_and_its_own_drop_ins() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let service = Service {
            instance: Some("plant".to_owned()),
        };
        write(
            root,
            "usr/lib/systemd/system/itwin-syncd@.service",
            include_str!("../../systemd/itwin-syncd@.service"),
        );
        for (folder, user) in [
            ("itwin-syncd@.service.d", "all"),
            ("itwin-syncd@plant.service.d", "one"),
        ] {
            write(
                root,
                &format!("etc/systemd/system/{folder}/user.conf"),
                &format!("[Service]\nUser={user}\n"),
            );
        }
        let unit = service.unit(root).unwrap().unwrap();
        assert_eq!(unit.user.as_deref(), Some("one"));
        assert_eq!(
            unit.credentials["itwin-client-secret"],
            origin("/etc/itwin-syncd/plant/client-secret", false)
        );
    }
}
