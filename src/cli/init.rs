//! `itwin-syncd init`: from questions, or options, to a configuration that works.
//!
//! Input: answers. Output: the configuration and the file with the client secret, both written at the end, after
//! everything was tested; as root the service too. It never replaces a file without `--force` or a yes, never shows the
//! secret, and changes nothing on the platform.
//!
//! Each answer goes through the checks of `config`, by way of a configuration with the answers so far, and through those
//! of `check`.

mod choose;
mod files;
mod folder;
mod terminal;
mod unit;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use nix::unistd::Uid;
use tokio::signal::unix::{SignalKind, signal};

use super::check::{self, Report};
use super::{ConfigArgument, EXIT_FAILED, EXIT_GOOD, print_error, print_line};
use crate::config::{Config, Environment, SECRET_HINT};
use crate::error_chain::chain;
use crate::itwin::{self, Client};
use crate::secret::Secret;
use crate::service;
use choose::{Choice, choices, choose, only};
use files::{Answers, Existing, Places};
use folder::{Problem, shell};
use terminal::{Enter, Terminal};

/// The user that the service runs as.
const SERVICE_USER: &str = "itwin-syncd";

/// Exit code after Ctrl-C, as shells have it.
const EXIT_INTERRUPTED: u8 = 130;

const SECRET_VARIABLE: &str = "ITWIN_SYNCD_CLIENT_SECRET";

/// The permissions that synchronization needs in the iTwin.
///
/// Source: the operations of Storage and iModels; those of Synchronization are not documented.
const PERMISSIONS: [&str; 6] = [
    "storage_read",
    "storage_write",
    "imodels_webview",
    "imodels_read",
    "imodels_write",
    "imodels_manage",
];

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Ask nothing; fail if an option is missing or a check fails
    #[arg(long)]
    non_interactive: bool,
    /// Replace an existing configuration and secret
    #[arg(long)]
    force: bool,
    /// Client id of the service application; or the environment variable `ITWIN_SYNCD_CLIENT_ID`
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    /// File with the client secret (mode 600)
    #[arg(long, value_name = "FILE")]
    client_secret_file: Option<PathBuf>,
    /// The iTwin, by id or name; not needed with the id of an iModel
    #[arg(long, value_name = "ID|NAME")]
    itwin: Option<String>,
    /// The iModel, by id or name
    #[arg(long, value_name = "ID|NAME")]
    imodel: Option<String>,
    /// The folder with the design files
    #[arg(long, value_name = "PATH")]
    folder: Option<String>,
    /// Name of the watch; default: the name of the folder
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Directory of the ledger; default: that of the service, or a directory beside the configuration
    #[arg(long, value_name = "DIR")]
    state_path: Option<PathBuf>,
    /// HTTP proxy, such as `http://proxy.example.com:3128`
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    /// PEM file with the certificates of a company proxy
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Another platform, such as the emulator; or the environment variable `ITWIN_SYNCD_API_URL`
    #[arg(long, value_name = "URL")]
    api_url: Option<String>,
    /// Its identity provider; or the environment variable `ITWIN_SYNCD_ISSUER_URL`
    #[arg(long, value_name = "URL")]
    issuer_url: Option<String>,
    /// Install and start the service without asking; needs root
    #[arg(long)]
    install: bool,
}

/// Why no configuration was written, or no service installed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("standard input is not a terminal: no question can be answered")]
    NoTerminal,
    #[error("the input ended; nothing was written")]
    Ended,
    #[error("interrupted; nothing was written")]
    Interrupted,
    #[error("the answer is too long")]
    TooLong,
    #[error("cannot read the answer")]
    Input(#[source] io::Error),
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("the configuration {0:?} exists already")]
    Exists(PathBuf),
    #[error("another client secret is in {0:?} already")]
    SecretExists(PathBuf),
    #[error("{option}: {what}")]
    Invalid {
        option: String,
        what: String,
        hint: Option<String>,
    },
    #[error(transparent)]
    Platform(#[from] itwin::Error),
    #[error("the platform cannot be reached")]
    Unreachable,
    #[error("the application is not a member of any iTwin")]
    NoItwin {
        /// Its e-mail address.
        member: String,
    },
    #[error("the iTwin has no iModel that the application can see")]
    NoImodel { itwin_id: String, member: String },
    #[error("no {noun} has the id or the name {wanted:?}")]
    NoneNamed { noun: &'static str, wanted: String },
    #[error("several {noun}s have the name {wanted:?}")]
    SeveralNamed {
        noun: &'static str,
        wanted: String,
        ids: Vec<String>,
    },
    #[error(transparent)]
    Folder(#[from] Problem),
    #[error("a check failed; nothing was written")]
    Checks,
    #[error("cannot write {path:?}")]
    Write { path: PathBuf, source: io::Error },
    #[error("`{command}` failed")]
    Command { command: String, source: io::Error },
    #[error("the service cannot be installed: {0}")]
    NoService(&'static str),
}

impl Error {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoTerminal => "run it in a terminal, or with --non-interactive, --client-id, --client-secret-file, \
                                 --imodel and --folder"
                .to_owned(),
            Self::Missing("--itwin") => {
                "add --itwin: the name of an iModel is unique in its iTwin only; or give --imodel an id".to_owned()
            }
            Self::Missing("--client-secret-file") => {
                format!("name the file with the secret, or set {SECRET_VARIABLE}")
            }
            Self::Missing(option) => format!("add {option}, or leave --non-interactive out to be asked"),
            Self::Exists(_) => {
                "edit it and run `itwin-syncd check`, replace it with --force, or write another file with --config"
                    .to_owned()
            }
            Self::SecretExists(path) => format!(
                "replace it with --force, or use it: leave --client-secret-file out, unset {SECRET_VARIABLE}; to keep both, \
                 move {} away",
                path.display()
            ),
            Self::Invalid { hint, .. } => return hint.clone(),
            Self::Platform(error) => return error.hint(),
            Self::Unreachable => "do what the hint above says; behind a proxy, add --proxy URL, and --ca-file FILE if it \
                                  intercepts TLS"
                .to_owned(),
            Self::NoItwin { member } => format!(
                "an administrator of the iTwin adds {member} as a member with a role, at developer.bentley.com/my-itwins; \
                 docs/getting-started.md, step 5, has the permissions"
            ),
            Self::NoImodel { itwin_id, member } => format!(
                "create one at https://developer.bentley.com/my-itwins/{itwin_id}/home/, or give {member} a role with the \
                 permission imodels_webview"
            ),
            Self::NoneNamed { noun, .. } => format!(
                "run without --{} to choose from a list, or give the application access to it",
                noun.to_lowercase()
            ),
            Self::SeveralNamed { noun, ids, .. } => {
                format!("set --{} to one of these ids: {}", noun.to_lowercase(), ids.join(", "))
            }
            Self::Folder(problem) => problem.hint(),
            Self::Checks => "do what the hints above say, then run the command again".to_owned(),
            Self::Write { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "run the command with sudo, or write another file with --config".to_owned()
            }
            Self::Command { .. } => {
                "do what its output above says; `journalctl -eu itwin-syncd` shows the log of the service".to_owned()
            }
            Self::NoService(_) => "run the command with sudo, without --config and on a machine with systemd; or without \
                                   --install, and start `itwin-syncd run` as you like"
                .to_owned(),
            Self::Ended | Self::Interrupted | Self::TooLong | Self::Input(_) | Self::Write { .. } => {
                return None;
            }
        })
    }

    /// Whether other answers can help.
    fn is_of_the_answers(&self) -> bool {
        match self {
            Self::Invalid { .. } => true,
            Self::Platform(error) => error
                .status()
                .is_some_and(|status| (400..500).contains(&status)),
            _ => false,
        }
    }
}

pub(super) async fn init(arguments: &Arguments) -> u8 {
    match run(arguments).await {
        Ok(()) => EXIT_GOOD,
        Err(error) => {
            print_error(&error, error.hint());
            if matches!(error, Error::Interrupted) {
                EXIT_INTERRUPTED
            } else {
                EXIT_FAILED
            }
        }
    }
}

/// What is known of the account, and what it is used with.
struct Account {
    answers: Answers,
    secret: Secret,
    client: Client,
}

async fn run(arguments: &Arguments) -> Result<(), Error> {
    let terminal = if arguments.non_interactive {
        None
    } else {
        Some(Terminal::open()?)
    };
    let terminal = terminal.as_ref();
    if terminal.is_none() {
        require(arguments)?;
    }
    let places = Places::of(&arguments.config.config)?;
    if arguments.install && !Uid::effective().is_root() {
        return Err(Error::NoService("this user is not root"));
    }
    if arguments.install && !places.is_of_the_service {
        return Err(Error::NoService(
            "no systemd runs here, or the service reads another configuration",
        ));
    }
    if places.config.exists() && !arguments.force {
        return Err(Error::Exists(places.config));
    }
    places.check()?;
    // An account is a service application. Signing in as a user gives an `Account` without a secret here.
    let mut account = sign_in(arguments, &places, terminal).await?;
    choose_imodel(arguments, &mut account, terminal).await?;
    choose_folder(arguments, &places, &mut account.answers, terminal).await?;
    let config = parse(&account.answers, &account.secret)?;
    if !test(&config, &account).await {
        let anyway = "Write the configuration all the same?";
        if !terminal.map_or(Ok(false), |terminal| terminal.agrees(anyway, Enter::No))? {
            return Err(Error::Checks);
        }
    }
    write(arguments, &places, account, terminal)
}

/// Whether there is an option for everything that cannot be asked. The account may come from elsewhere.
fn require(arguments: &Arguments) -> Result<(), Error> {
    let Some(imodel) = &arguments.imodel else {
        return Err(Error::Missing("--imodel"));
    };
    if uuid::Uuid::parse_str(imodel).is_err() && arguments.itwin.is_none() {
        return Err(Error::Missing("--itwin"));
    }
    match &arguments.folder {
        Some(_) => Ok(()),
        None => Err(Error::Missing("--folder")),
    }
}

/// Finds the account, and gets a token for it.
async fn sign_in(
    arguments: &Arguments,
    places: &Places,
    terminal: Option<&Terminal>,
) -> Result<Account, Error> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let given = arguments
        .client_id
        .clone()
        .or_else(|| variable("ITWIN_SYNCD_CLIENT_ID"));
    let mut answers = Answers {
        api_url: arguments
            .api_url
            .clone()
            .or_else(|| variable("ITWIN_SYNCD_API_URL")),
        issuer_url: arguments
            .issuer_url
            .clone()
            .or_else(|| variable("ITWIN_SYNCD_ISSUER_URL")),
        proxy: arguments.proxy.clone(),
        ca_file: arguments.ca_file.clone(),
        state_path: arguments.state_path.clone().or_else(|| places.state()),
        // Until the answers are there: any that are valid.
        folder: PathBuf::from("/"),
        name: "unnamed".to_owned(),
        imodel_id: "00000000-0000-0000-0000-000000000000".to_owned(),
        ..Answers::default()
    };
    let mut secret = given_secret(arguments, places)?;
    let mut client_id = given;
    if terminal.is_some() && (client_id.is_none() || secret.is_none()) {
        print_line(
            "The account: a service application, from https://developer.bentley.com/my-apps (docs/getting-started.md)",
        );
    }
    loop {
        let id = match (client_id.take(), terminal) {
            (Some(id), _) => id,
            (None, Some(terminal)) => terminal.ask("Client id", None)?,
            (None, None) => return Err(Error::Missing("--client-id")),
        };
        let known = match (secret.take(), terminal) {
            (Some(secret), _) => secret,
            (None, Some(terminal)) => ask_secret(terminal)?,
            (None, None) => return Err(Error::Missing("--client-secret-file")),
        };
        answers.client_id = id;
        match token(&answers, &known).await {
            Ok(client) => {
                print_line(&format!("Signed in as {}", client.service_user()));
                return Ok(Account {
                    answers,
                    secret: known,
                    client,
                });
            }
            Err(error) if terminal.is_some() && error.is_of_the_answers() => {
                // An option that is wrong stays wrong.
                if matches!(&error, Error::Invalid { option, .. } if option != "itwin.client_id") {
                    return Err(error);
                }
                complain(&error);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Prints an error in answer to an answer.
fn complain(error: &Error) {
    print_line(&format!("  error: {}", chain(error)));
    if let Some(hint) = error.hint() {
        print_line(&format!("  hint: {hint}"));
    }
}

fn ask_secret(terminal: &Terminal) -> Result<Secret, Error> {
    loop {
        match Secret::of_line(&terminal.hidden("Client secret")?) {
            Ok(secret) => return Ok(secret),
            Err(what) => print_line(&format!("  the secret {what}: paste it again")),
        }
    }
}

/// The secret from the option, the environment, or the file that is there.
fn given_secret(arguments: &Arguments, places: &Places) -> Result<Option<Secret>, Error> {
    if let Some(file) = &arguments.client_secret_file {
        return secret_of(file).map(Some);
    }
    let from = |text: &str, option: String| {
        Secret::of_line(text).map_err(|what| Error::Invalid {
            option,
            what: format!("the secret {what}"),
            hint: Some(SECRET_HINT.to_owned()),
        })
    };
    if let Some(text) = std::env::var_os(SECRET_VARIABLE).filter(|text| !text.is_empty()) {
        return from(&text.to_string_lossy(), SECRET_VARIABLE.to_owned()).map(Some);
    }
    let Some(kept) = places.kept_secret() else {
        return Ok(None);
    };
    print_line(&format!("Client secret: from {:?}", places.secret));
    from(&kept, format!("{:?}", places.secret)).map(Some)
}

/// The secret in a file, by the rules of the configuration.
fn secret_of(file: &Path) -> Result<Secret, Error> {
    let file = std::path::absolute(file).map_err(|source| Error::Write {
        path: file.to_owned(),
        source,
    })?;
    let answers = Answers {
        client_id: "unknown".to_owned(),
        client_secret_file: Some(file),
        folder: PathBuf::from("/"),
        name: "unnamed".to_owned(),
        imodel_id: "00000000-0000-0000-0000-000000000000".to_owned(),
        ..Answers::default()
    };
    let config = parsed(&answers, &Environment::default())?;
    Ok(config.itwin.client_secret.text)
}

/// The configuration with these answers.
fn parse(answers: &Answers, secret: &Secret) -> Result<Config, Error> {
    let environment = Environment {
        client_secret: Some(secret.clone()),
        ..Environment::default()
    };
    parsed(answers, &environment)
}

fn parsed(answers: &Answers, environment: &Environment) -> Result<Config, Error> {
    Config::parse(&answers.text(), "answers", environment).map_err(|errors| {
        let first = errors.iter().next();
        Error::Invalid {
            option: first
                .and_then(|error| error.key.clone())
                .unwrap_or_else(|| "answers".to_owned()),
            what: first.map_or_else(String::new, |error| error.what.clone()),
            hint: first.and_then(|error| error.hint.clone()),
        }
    })
}

/// Connects and gets a token.
async fn token(answers: &Answers, secret: &Secret) -> Result<Client, Error> {
    let config = parse(answers, secret)?;
    let client = service::client(&config)?;
    if !check::network(&mut Report::new(), &config, &client).await {
        return Err(Error::Unreachable);
    }
    client.check_token().await?;
    Ok(client)
}

/// Finds the iModel, and the iTwin before it if that is needed.
async fn choose_imodel(
    arguments: &Arguments,
    account: &mut Account,
    terminal: Option<&Terminal>,
) -> Result<(), Error> {
    let client = &account.client;
    let is_id = |text: &&String| uuid::Uuid::parse_str(text).is_ok();
    if let Some(id) = arguments.imodel.as_ref().filter(is_id) {
        let imodel = client.imodel(id).await?;
        account.answers.imodel = format!("iModel {:?}", imodel.display_name);
        account.answers.imodel_id = imodel.id;
        return Ok(());
    }
    loop {
        let itwin = match (&arguments.itwin, terminal) {
            (Some(wanted), _) => itwin_named(client, wanted).await?,
            (None, Some(terminal)) => ask_itwin(client, terminal).await?,
            (None, None) => return Err(Error::Missing("--itwin")),
        };
        let load = async |search: Option<String>, skip| {
            let page = client.imodels_of(&itwin.id, search.as_deref(), skip);
            page.await.map(choices)
        };
        let chosen = match (&arguments.imodel, terminal) {
            (Some(wanted), _) => {
                let found = client.imodels_named(&itwin.id, wanted).await?;
                let found = found.into_iter().map(Choice::from).collect();
                Some(only(wanted, "iModel", found)?)
            }
            (None, Some(terminal)) => choose(terminal, "iModel", load).await?,
            (None, None) => return Err(Error::Missing("--imodel")),
        };
        if let Some(imodel) = chosen {
            account.answers.imodel = format!("iModel {:?} in iTwin {:?}", imodel.name, itwin.name);
            account.answers.imodel_id = imodel.id;
            return Ok(());
        }
        let error = Error::NoImodel {
            itwin_id: itwin.id,
            member: client.service_user(),
        };
        let Some(terminal) = terminal.filter(|_| arguments.itwin.is_none()) else {
            return Err(error);
        };
        complain(&error);
        terminal.line("Press Enter to choose again: ")?;
    }
}

/// The iTwin with this id or name.
async fn itwin_named(client: &Client, wanted: &str) -> Result<Choice, Error> {
    if uuid::Uuid::parse_str(wanted).is_ok() {
        return Ok(Choice {
            id: wanted.to_owned(),
            name: wanted.to_owned(),
        });
    }
    let found = choices(client.itwins(Some(wanted), 0).await?);
    only(wanted, "iTwin", found.items)
}

async fn ask_itwin(client: &Client, terminal: &Terminal) -> Result<Choice, Error> {
    loop {
        let load = async |search: Option<String>, skip| {
            client.itwins(search.as_deref(), skip).await.map(choices)
        };
        if let Some(itwin) = choose(terminal, "iTwin", load).await? {
            return Ok(itwin);
        }
        complain(&Error::NoItwin {
            member: client.service_user(),
        });
        terminal.line("Press Enter to look again: ")?;
    }
}

/// Finds the folder and the name of the watch.
async fn choose_folder(
    arguments: &Arguments,
    places: &Places,
    answers: &mut Answers,
    terminal: Option<&Terminal>,
) -> Result<(), Error> {
    let mut given = arguments.folder.clone();
    answers.folder = loop {
        let written = match (given.take(), terminal) {
            (Some(path), _) => path,
            (None, Some(terminal)) => terminal.ask("Folder with the design files", None)?,
            (None, None) => return Err(Error::Missing("--folder")),
        };
        let usable = usable_folder(&written, places, terminal).await;
        match (usable, terminal) {
            (Ok(Some(path)), _) => break path,
            (Ok(None), _) => {}
            (Err(error @ Error::Folder(_)), Some(_)) => complain(&error),
            (Err(error), _) => return Err(error),
        }
    };
    let default = folder::name_of(&answers.folder);
    answers.name = match (&arguments.name, terminal) {
        (Some(name), _) => name.clone(),
        (None, Some(terminal)) => terminal.ask(
            "Name of this watch, for messages and commands",
            Some(&default),
        )?,
        (None, None) => default,
    };
    Ok(())
}

/// The folder; None if the user wants another.
async fn usable_folder(
    written: &str,
    places: &Places,
    terminal: Option<&Terminal>,
) -> Result<Option<PathBuf>, Error> {
    let path = folder::absolute(written)?;
    folder::check(&path).await?;
    if !places.is_of_the_service {
        return Ok(Some(path));
    }
    match folder::check_for_service(&path).await {
        Ok(()) => Ok(Some(path)),
        Err(problem) if problem.is_of_the_service() => {
            complain(&Error::Folder(problem));
            let agreed =
                terminal.map(|terminal| terminal.agrees("Use it all the same?", Enter::Yes));
            Ok(agreed.unwrap_or(Ok(true))?.then_some(path))
        }
        Err(problem) => Err(problem.into()),
    }
}

/// Tests access to the iModel, its storage and its synchronization, and the permissions.
async fn test(config: &Config, account: &Account) -> bool {
    let mut report = Report::new();
    check::platform(&mut report, config, &account.client, &BTreeMap::new()).await;
    let imodel_id = &account.answers.imodel_id;
    let Ok(imodel) = account.client.imodel(imodel_id).await else {
        // It is in the report.
        return report.is_good();
    };
    match account.client.permissions(&imodel.itwin_id).await {
        Ok(found) => {
            let missing: Vec<&str> = PERMISSIONS
                .into_iter()
                .filter(|one| !found.iter().any(|found| found == one))
                .collect();
            let name = format!("permissions in iTwin {}", imodel.itwin_id);
            if missing.is_empty() {
                Report::ok(&format!("{name}: all that are needed"));
            } else {
                // An organization administrator needs none, and an iModel can grant them itself.
                Report::note(
                    &format!("{name}: not granted by a role: {}", missing.join(", ")),
                    &format!(
                        "if uploads or runs are refused, add them to a role of {}",
                        account.client.service_user()
                    ),
                );
            }
        }
        Err(error) => Report::note(
            &format!("permissions cannot be read: {}", chain(&error)),
            "the first upload shows whether they suffice",
        ),
    }
    report.is_good()
}

/// Writes the files, installs the service if that is wanted, and prints what comes next.
fn write(
    arguments: &Arguments,
    places: &Places,
    account: Account,
    terminal: Option<&Terminal>,
) -> Result<(), Error> {
    let Account {
        mut answers,
        secret,
        ..
    } = account;
    let is_kept = places
        .kept_secret()
        .is_some_and(|kept| kept == secret.expose());
    let has_other = !is_kept && places.kept_secret().is_some();
    let own_file = arguments.client_secret_file.as_ref();
    let own_file = own_file.filter(|_| !places.is_of_the_service);
    if has_other && own_file.is_none() && !arguments.force {
        let question = format!("Replace the secret in {:?}?", places.secret);
        if !terminal.map_or(Ok(false), |one| one.agrees(&question, Enter::No))? {
            return Err(Error::SecretExists(places.secret.clone()));
        }
    }
    if let Some(terminal) = terminal {
        let question = format!("Write {:?}?", places.config);
        if !terminal.agrees(&question, Enter::Yes)? {
            return Err(Error::Interrupted);
        }
    }
    let can_install = places.is_of_the_service && Uid::effective().is_root();
    let wanted = |question: &str| match terminal {
        _ if arguments.install => Ok(true),
        Some(terminal) if can_install => terminal.agrees(question, Enter::Yes),
        _ => Ok(false),
    };
    let installs =
        !unit::is_installed() && wanted("Install the service: program, systemd unit and user?")?;
    // From here on, Ctrl-C waits for the end.
    let interrupted = signal(SignalKind::interrupt());
    if installs {
        unit::install()?;
    }
    answers.client_secret_file = match own_file {
        Some(file) => std::path::absolute(file).ok(),
        None => (!places.is_of_the_service).then(|| places.secret.clone()),
    };
    let existing = if arguments.force {
        Existing::Replace
    } else {
        Existing::Keep
    };
    let written = Some(&secret).filter(|_| own_file.is_none() && !is_kept);
    places.write(&answers.text(), written, existing)?;
    drop(interrupted);
    print_line(&format!("Wrote {:?}", places.config));
    if written.is_some() {
        print_line(&format!("Wrote {:?}, for its owner only", places.secret));
    }
    let starts = (arguments.install || can_install && unit::is_installed())
        && wanted("Start the service now, and with each boot?")?;
    if starts {
        unit::enable()?;
    }
    next(places, starts);
    Ok(())
}

/// The next two commands.
fn next(places: &Places, started: bool) {
    print_line("\nNext:");
    let sudo = if Uid::effective().is_root() {
        ""
    } else {
        "sudo "
    };
    if started {
        print_line(&format!("  {sudo}itwin-syncd status --watch"));
        print_line(&format!("  {sudo}journalctl -fu itwin-syncd"));
    } else if places.is_of_the_service {
        if !unit::is_installed() {
            print_line("  install the service: README.md, Install");
        }
        print_line(&format!("  {sudo}systemctl enable --now itwin-syncd"));
        print_line(&format!("  {sudo}itwin-syncd status --watch"));
    } else {
        let config = shell(&places.config);
        print_line(&format!("  itwin-syncd run --dry-run --config {config}"));
        print_line(&format!("  itwin-syncd run --config {config}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::render_variants;

    #[test]
    fn messages() {
        let io = || io::Error::from(io::ErrorKind::PermissionDenied);
        let errors = render_variants!(Error, Error::hint, {
            Error::NoTerminal => Error::NoTerminal,
            Error::Ended => Error::Ended,
            Error::Interrupted => Error::Interrupted,
            Error::TooLong => Error::TooLong,
            Error::Input(_) => Error::Input(io()),
            Error::Missing(_) => Error::Missing("--folder"),
            Error::Missing(_) => Error::Missing("--itwin"),
            Error::Missing(_) => Error::Missing("--client-secret-file"),
            Error::Exists(_) => Error::Exists("/etc/itwin-syncd/config.toml".into()),
            Error::SecretExists(_) => Error::SecretExists("/etc/itwin-syncd/client-secret".into()),
            Error::Invalid { .. } => Error::Invalid {
                option: "name".to_owned(),
                what: "must not be empty".to_owned(),
                hint: Some("write a name".to_owned()),
            },
            Error::Platform(_) => Error::Platform(itwin::unreachable_platform()),
            Error::Unreachable => Error::Unreachable,
            Error::NoItwin { .. } => Error::NoItwin { member: "service-x@apps.imsoidc.bentley.com".to_owned() },
            Error::NoImodel { .. } => Error::NoImodel {
                itwin_id: "11111111-2222-4333-8444-555555555555".to_owned(),
                member: "service-x@apps.imsoidc.bentley.com".to_owned(),
            },
            Error::NoneNamed { .. } => Error::NoneNamed { noun: "iModel", wanted: "North".to_owned() },
            Error::SeveralNamed { .. } => Error::SeveralNamed {
                noun: "iTwin",
                wanted: "North".to_owned(),
                ids: vec!["id-1".to_owned(), "id-2".to_owned()],
            },
            Error::Folder(_) => Error::Folder(Problem::Silent("/mnt/north".into())),
            Error::Checks => Error::Checks,
            Error::Write { .. } => Error::Write { path: "/etc/itwin-syncd/config.toml".into(), source: io() },
            Error::Write { .. } => Error::Write {
                path: "/etc/itwin-syncd/config.toml".into(),
                source: io::ErrorKind::StorageFull.into(),
            },
            Error::Command { .. } => Error::Command {
                command: "systemctl daemon-reload".to_owned(),
                source: io::Error::other("exit status: 1"),
            },
            Error::NoService(_) => Error::NoService("this user is not root"),
        });
        let problems = render_variants!(Problem, |problem| Some(problem.hint()), {
            Problem::Windows(_) => Problem::Windows("C:\\designs".to_owned()),
            Problem::Missing(_) => Problem::Missing("/srv/a b".into()),
            Problem::File(_) => Problem::File("/srv/north/house.ifc".into()),
            Problem::Unreadable { .. } => Problem::Unreadable { path: "/srv/north".into(), source: io() },
            Problem::Silent(_) => Problem::Silent("/mnt/north".into()),
            Problem::ServiceUser(_) => Problem::ServiceUser("/srv/north".into()),
            Problem::Hidden(_) => Problem::Hidden("/home"),
        });
        insta::assert_snapshot!(format!("{errors}\n{problems}"));
    }

    #[test]
    fn the_written_configuration_is_valid_for_any_answers() {
        let answers = Answers {
            client_id: "service-x".to_owned(),
            api_url: Some("http://127.0.0.1:8291".to_owned()),
            issuer_url: Some("http://127.0.0.1:8291".to_owned()),
            proxy: Some("http://proxy.example.com:3128".to_owned()),
            state_path: Some("/var/lib/a \"b\"".into()),
            folder: "/srv/it's \\ \"new\"".into(),
            name: "north".to_owned(),
            imodel_id: "c0ffee00-1234-4abc-8def-0123456789ab".to_owned(),
            imodel: "iModel \"North\" in iTwin \"Bridges\"".to_owned(),
            ..Answers::default()
        };
        let config = parse(&answers, &Secret::new("tiger-in-the-tank")).unwrap();
        assert_eq!(config.watches[0].path, answers.folder);
        assert_eq!(Some(config.state.path), answers.state_path);
        let plain = Answers {
            api_url: None,
            issuer_url: None,
            proxy: None,
            state_path: None,
            ..answers.clone()
        };
        insta::assert_snapshot!(format!("{}\n-----\n{}", answers.text(), plain.text()));
    }
}
