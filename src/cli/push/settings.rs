//! The configuration of a push, built from its options: the account, and one watch.
//!
//! Options are checked by the rules of the configuration file, so both accept the same values.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Arguments;
use crate::cli::service_unit;
use crate::config::{Account, Config, ConfigErrors, Environment, OnRename, Watch};
use crate::selection::{BadRule, Rules, Selection};

/// The name of the watch of a push, in its ledger and in the log.
pub(super) const WATCH: &str = "push";

/// The default name of the connection, and of the folder in storage that contains those of the iModels.
pub(super) const CONNECTION: &str = "itwin-syncd push";

const CLIENT_ID: &str = "ITWIN_SYNCD_CLIENT_ID";
const API_URL: &str = "ITWIN_SYNCD_API_URL";
const ISSUER_URL: &str = "ITWIN_SYNCD_ISSUER_URL";

/// Longer than any push: all files are in one run.
const BATCH_MAX: Duration = Duration::from_hours(24 * 365);

/// Options that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// Errors of the file that `--config` names.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    #[error("{option}: {what}")]
    Option {
        option: String,
        what: String,
        hint: Option<String>,
    },
    #[error("--connector: {0}")]
    Connector(BadRule),
    #[error("no account: {CLIENT_ID} is not set")]
    NoAccount,
    #[error("no folder for the state of the push: neither XDG_STATE_HOME nor HOME is set")]
    NoHome,
}

impl Error {
    pub(super) fn hint(&self) -> Option<String> {
        match self {
            Self::Config(_) => None,
            Self::Option { hint, .. } => hint.clone(),
            Self::Connector(bad) => Some(bad.hint.clone()),
            Self::NoAccount => Some(format!(
                "set {CLIENT_ID} and ITWIN_SYNCD_CLIENT_SECRET to those of a service application, or name a \
                 configuration file with --config"
            )),
            Self::NoHome => Some("set HOME, or XDG_STATE_HOME to a folder of your own".to_owned()),
        }
    }
}

/// The connector types of `--connector`: `TYPE` for every file, or `EXT=TYPE`.
pub(super) fn selection(connectors: &[String]) -> Result<Selection, Error> {
    let mut rules = Rules::default();
    for one in connectors {
        match one.split_once('=') {
            Some((extension, connector)) => {
                let extension = extension.trim_start_matches('.').to_owned();
                rules
                    .connectors_by_extension
                    .push((extension, connector.to_owned()));
            }
            None => rules
                .connectors_by_glob
                .push(("*".to_owned(), one.to_owned())),
        }
    }
    Selection::new(&rules).map_err(|errors| match errors.into_iter().next() {
        Some(bad) => Error::Connector(bad),
        None => Error::Option {
            option: "--connector".to_owned(),
            what: "invalid".to_owned(),
            hint: None,
        },
    })
}

/// The configuration of the pass, with its one watch, which has no folder yet.
pub(super) fn config(arguments: &Arguments) -> Result<(Config, Watch), Error> {
    let account = match &arguments.config {
        Some(file) => Some(service_unit::load_as_caller(file)?),
        None => None,
    };
    let mut environment = Environment::of_process();
    if let Some(Account::Service(secret)) = account.as_ref().map(|config| &config.itwin.account) {
        environment.client_secret = Some(secret.text.clone());
    }
    let given = account.as_ref().map(|config| &config.itwin.account);
    let mut config = from_options(arguments, given, &environment)?;
    if let Some(account) = account {
        config.itwin = account.itwin;
        config.network = account.network;
        config.upload = account.upload;
        config.retry = account.retry;
        config.log.format = account.log.format;
    }
    config.sync.batch_max = BATCH_MAX;
    // Whoever pushes a file has chosen it.
    config.bulk_change.max_files = u64::MAX;
    config.bulk_change.max_new_files = u64::MAX;
    let Some(mut watch) = config.watches.pop() else {
        return Err(Error::NoHome);
    };
    if watch.connection.is_per_type() {
        return Err(Error::Option {
            option: "--connection".to_owned(),
            what: "push has one connection for all files".to_owned(),
            hint: Some("remove the placeholder".to_owned()),
        });
    }
    // A file that is not pushed again was not renamed.
    watch.on_rename = OnRename::UploadAgain;
    watch.is_exclusive = false;
    config.state.path = state_path(&config, &watch)?.into();
    Ok((config, watch))
}

/// Checks the options as a configuration file. `account`: that of `--config`.
fn from_options(
    arguments: &Arguments,
    account: Option<&Account>,
    environment: &Environment,
) -> Result<Config, Error> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let has_account = account.is_some();
    let client_id = match variable(CLIENT_ID) {
        _ if has_account => "unused".to_owned(),
        Some(id) => id,
        None => return Err(Error::NoAccount),
    };
    let mut text = format!(
        "settle = \"1s\"\n[state]\npath = \"/unused\"\n[log]\nlevel = \"warn\"\n\
         [sync]\nbatch_window = \"500ms\"\n[itwin]\nclient_id = {}\n",
        quoted(&client_id)
    );
    for (key, name) in [("api_url", API_URL), ("issuer_url", ISSUER_URL)] {
        if let Some(url) = variable(name).filter(|_| !has_account) {
            text += &format!("{key} = {}\n", quoted(&url));
        }
    }
    if let Some(Account::User(_)) = account {
        text += "sign_in = \"user\"\n";
    }
    text += &format!(
        "[[watch]]\nname = \"{WATCH}\"\npath = \"/\"\nimodel_id = {}\nconnection = {}\nstorage_folder = {}\n",
        quoted(&arguments.imodel),
        quoted(&arguments.connection),
        quoted(&storage_folder(arguments)),
    );
    Config::parse(&text, "options", environment).map_err(|errors| of_option(&errors))
}

/// The folder in storage. The default is one for each iModel: all iModels of an iTwin share its storage, and a file of
/// one must not replace a file of the same name of another.
fn storage_folder(arguments: &Arguments) -> String {
    match &arguments.storage_folder {
        Some(folder) => folder.clone(),
        None => format!("{CONNECTION}/{}", arguments.imodel.to_lowercase()),
    }
}

/// A JSON string is a TOML string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The first error, at the option or variable that its key came from.
fn of_option(errors: &ConfigErrors) -> Error {
    let Some(error) = errors.iter().next() else {
        return Error::NoAccount;
    };
    let option = match error.key.as_deref().unwrap_or_default() {
        "imodel_id" => "--imodel",
        "connection" => "--connection",
        "storage_folder" => "--storage-folder",
        "itwin.client_id" => CLIENT_ID,
        "itwin.api_url" => API_URL,
        "itwin.issuer_url" => ISSUER_URL,
        other => other,
    };
    Error::Option {
        option: option.to_owned(),
        what: error.what.clone(),
        hint: error.hint.clone(),
    }
}

/// The state of pushes of this account into this iModel and storage folder: what an interrupted one continues from.
fn state_path(config: &Config, watch: &Watch) -> Result<PathBuf, Error> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let base = variable("XDG_STATE_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| variable("HOME").map(|home| home.join(".local/state")))
        .filter(|path| path.is_absolute())
        .ok_or(Error::NoHome)?;
    Ok(base.join("itwin-syncd/push").join(key(config, watch)))
}

fn key(config: &Config, watch: &Watch) -> String {
    let mut hash = blake3::Hasher::new();
    for part in [
        config.itwin.api_url.as_str(),
        config.itwin.client_id.as_str(),
        watch.imodel_id.as_str(),
        &watch.storage_folder.join("/"),
    ] {
        hash.update(part.as_bytes());
        hash.update(b"\0");
    }
    let hash = hash.finalize().to_hex();
    let imodel = watch.imodel_id.as_str();
    // Short, because the path of a socket below it has at most 107 bytes.
    let start = |text: &str, length| text.get(..length).unwrap_or(text).to_owned();
    format!("{}-{}", start(imodel, 8), start(&hash, 12))
}

/// Creates the folders above the state directory, which the ledger creates by itself.
pub(super) fn make_parent(state: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    match state.parent() {
        Some(parent) => std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection_name::ConnectionName;
    use crate::secret::Secret;

    fn arguments() -> Arguments {
        Arguments {
            paths: Vec::new(),
            imodel: "c0ffee00-1234-4abc-8def-0123456789ab".to_owned(),
            connectors: Vec::new(),
            references: Vec::new(),
            storage_folder: None,
            connection: "itwin-syncd push".to_owned(),
            no_wait: false,
            json: false,
            timeout: None,
            config: None,
        }
    }

    fn account() -> Account {
        Account::Service(Secret::new("horse/battery/staple").into())
    }

    fn environment() -> Environment {
        Environment {
            client_secret: Some(Secret::new("horse/battery/staple")),
            ..Environment::default()
        }
    }

    #[test]
    fn errors_name_the_option() {
        let with = |change: fn(&mut Arguments)| {
            let mut arguments = arguments();
            change(&mut arguments);
            from_options(&arguments, Some(&account()), &environment())
                .unwrap_err()
                .to_string()
        };
        for (change, expected) in [
            (
                (|options| "x".clone_into(&mut options.imodel)) as fn(&mut Arguments),
                "--imodel: invalid UUID \"x\"",
            ),
            (
                |options| options.storage_folder = Some("a/../b".to_owned()),
                "--storage-folder: ",
            ),
            (
                |options| "\u{1}".clone_into(&mut options.connection),
                "--connection: ",
            ),
        ] {
            let error = with(change);
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn each_imodel_account_and_storage_folder_has_a_state_of_its_own() {
        let config = from_options(&arguments(), Some(&account()), &environment()).unwrap();
        let watch = config.watches[0].clone();
        let same = key(&config, &watch);
        assert!(same.starts_with("c0ffee00-"));
        assert_eq!(same.len(), 21);
        assert_eq!(key(&config, &watch), same);
        let elsewhere = Watch {
            path: "/elsewhere".into(),
            connection: ConnectionName::parse("other").unwrap(),
            ..watch.clone()
        };
        assert_eq!(key(&config, &elsewhere), same);
        let in_folder = Watch {
            storage_folder: vec!["North".to_owned()],
            ..watch.clone()
        };
        assert_ne!(key(&config, &in_folder), same);
        let mut other = config.clone();
        "someone".clone_into(&mut other.itwin.client_id);
        assert_ne!(key(&other, &watch), same);
    }

    #[test]
    fn connector_types_are_checked() {
        assert!(selection(&["CIVIL".to_owned(), "xyz=DWG".to_owned()]).is_ok());
        let error = selection(&["dgn=MTSN".to_owned()]).unwrap_err();
        let hint = error.hint().unwrap_or_default();
        assert!(hint.contains("MSTN"), "{error} {hint}");
    }

    #[test]
    fn messages() {
        let bad = || selection(&["dgn=MTSN".to_owned()]).unwrap_err();
        let config = || Config::parse("x", "config.toml", &environment()).unwrap_err();
        insta::assert_snapshot!(crate::text::render_variants!(Error, Error::hint, {
            Error::Config(_) => Error::Config(config()),
            Error::Option { .. } => Error::Option { option: "--imodel".to_owned(), what: "invalid UUID".to_owned(), hint: Some("copy it".to_owned()) },
            Error::Connector(_) => bad(),
            Error::NoAccount => Error::NoAccount,
            Error::NoHome => Error::NoHome,
        }));
    }
}
