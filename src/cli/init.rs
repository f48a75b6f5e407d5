//! `itwin-syncd init`: from questions, or options, to a configuration that works.
//!
//! Input: answers. Output: the configuration and the file with the client secret, both written at the end, after
//! everything was tested; as root the service too. It never replaces a file without `--force` or a yes, never shows the
//! secret, and changes nothing on the platform.
//!
//! Each answer goes through the checks of `config`, by way of a configuration with the answers so far, and through
//! those of `check`.

mod account;
mod choose;
mod error;
mod files;
mod folder;
mod terminal;
mod unit;
mod user;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use nix::unistd::Uid;
use tokio::signal::unix::{SignalKind, signal};

use super::check::{self, Report};
use super::{ConfigArgument, EXIT_FAILED, EXIT_GOOD, print_error, print_line};
use crate::config::Config;
use crate::error_chain::chain;
use crate::itwin::Client;
use account::{Account, parse, sign_in};
use choose::{Choice, choices, choose, only};
use error::Error;
use files::{Answers, Existing, Places};
use terminal::{Enter, Terminal};

/// The user that the service runs as.
const SERVICE_USER: &str = "itwin-syncd";

/// Exit code after Ctrl-C, as shells have it.
const EXIT_INTERRUPTED: u8 = 130;

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
    /// Who uses the platform; if not given, an id that begins with `native-` leads to a question
    #[arg(long, value_name = "KIND", value_enum)]
    sign_in: Option<SignIn>,
    /// Client id of the application; or the environment variable `ITWIN_SYNCD_CLIENT_ID`
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

/// Who uses the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum SignIn {
    /// A service application, with a secret
    Service,
    /// A user, through a native application
    User,
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
    let mut account = sign_in(arguments, &places, terminal).await?;
    choose_imodel(arguments, &mut account, terminal).await?;
    choose_folder(arguments, &places, &mut account.answers, terminal).await?;
    let config = parse(&account.answers, account.secret.as_ref())?;
    if !test(&config, &account).await {
        let anyway = "Write the configuration all the same?";
        if !terminal.map_or(Ok(false), |terminal| terminal.agrees(anyway, Enter::No))? {
            return Err(Error::Checks);
        }
    }
    write(arguments, &places, account, terminal).await
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

/// Prints an error in answer to an answer.
fn complain(error: &Error) {
    print_line(&format!("  error: {}", chain(error)));
    if let Some(hint) = error.hint() {
        print_line(&format!("  hint: {hint}"));
    }
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
            member: client.member(),
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
            member: client.member(),
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
    let service = places.service.as_ref();
    let Some(service) = service.filter(|_| places.is_of_the_service) else {
        return Ok(Some(path));
    };
    match folder::check_for_service(&path, service).await {
        Ok(()) => Ok(Some(path)),
        Err(problem) if problem.is_of_the_service() => match terminal {
            Some(terminal) => {
                complain(&Error::Folder(problem));
                let agreed = terminal.agrees("Use it all the same?", Enter::Yes)?;
                Ok(agreed.then_some(path))
            }
            None => {
                Report::new().note(&problem.to_string(), &problem.hint());
                Ok(Some(path))
            }
        },
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
                report.ok(&format!("{name}: all that are needed"));
            } else {
                // An organization administrator needs none, and an iModel can grant them itself.
                report.note(
                    &format!("{name}: not granted by a role: {}", missing.join(", ")),
                    &format!(
                        "if uploads or runs are refused, add them to a role of {}",
                        account.client.member()
                    ),
                );
            }
        }
        Err(error) => report.note(
            &format!("permissions cannot be read: {}", chain(&error)),
            "the first upload shows whether they suffice",
        ),
    }
    report.is_good()
}

/// Writes the files, installs the service if that is wanted, and prints what comes next.
async fn write(
    arguments: &Arguments,
    places: &Places,
    account: Account,
    terminal: Option<&Terminal>,
) -> Result<(), Error> {
    let Account {
        mut answers,
        secret,
        sign_in,
        ..
    } = account;
    let is_kept = places
        .kept_secret()
        .zip(secret.as_ref())
        .is_some_and(|(kept, secret)| kept == secret.expose());
    let has_other = secret.is_some() && !is_kept && places.kept_secret().is_some();
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
        !places.has_unit() && wanted("Install the service: program, systemd unit and user?")?;
    let can_start = arguments.install || can_install && (installs || places.has_unit());
    let starts = can_start && wanted("Start the service, now and with each boot?")?;
    // From here on, Ctrl-C does nothing: there is no further question.
    let interrupted = signal(SignalKind::interrupt());
    if installs {
        unit::install()?;
    }
    answers.client_secret_file = match own_file {
        _ if secret.is_none() => None,
        Some(file) => std::path::absolute(file).ok(),
        None => (!places.is_of_the_service).then(|| places.secret.clone()),
    };
    let existing = if arguments.force {
        Existing::Replace
    } else {
        Existing::Keep
    };
    let written = secret.as_ref().filter(|_| own_file.is_none() && !is_kept);
    places.write(&answers.text(), written, existing)?;
    print_line(&format!("Wrote {:?}", places.config));
    if written.is_some() {
        print_line(&format!("Wrote {:?}, for its owner only", places.secret));
    }
    // Its user has existed only since then.
    if installs
        && let Some(service) = &places.service
        && let Err(problem) = folder::check_for_service(&answers.folder, service).await
    {
        complain(&Error::Folder(problem));
    }
    if can_install {
        unit::load_secret(&places.service_name(), secret.is_some())?;
    }
    if starts {
        unit::start(&places.service_name())?;
    }
    let start = match (starts, existing) {
        (true, _) => Start::Done,
        (false, Existing::Keep) => Start::First,
        (false, Existing::Replace) => Start::Again,
    };
    next(places, start);
    if let Some(sign_in) = sign_in {
        // The last step: as root, it acts as the service's user from then on.
        user::keep(&sign_in, &places.config)?;
    }
    drop(interrupted);
    Ok(())
}

/// Whether the service has this configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Done,
    /// It has had no configuration before.
    First,
    /// It may run with another one.
    Again,
}

/// The next two commands.
fn next(places: &Places, start: Start) {
    print_line("\nNext:");
    // With sudo, the user who types the next commands is not root.
    let by_sudo = std::env::var_os("SUDO_USER").is_some();
    let sudo = if Uid::effective().is_root() && !by_sudo {
        ""
    } else {
        "sudo "
    };
    let service = places.service_name();
    let option = places.option();
    if start == Start::Done {
        print_line(&format!("  {sudo}itwin-syncd status --watch{option}"));
        print_line(&format!("  {sudo}journalctl -fu {service}"));
    } else if places.is_of_the_service {
        if !places.has_unit() {
            print_line("  install the service: README.md, Install");
        }
        let start = if start == Start::Again {
            "restart"
        } else {
            "enable --now"
        };
        print_line(&format!("  {sudo}systemctl {start} {service}"));
        print_line(&format!("  {sudo}itwin-syncd status --watch{option}"));
    } else {
        print_line(&format!("  itwin-syncd run --dry-run{option}"));
        print_line(&format!("  itwin-syncd run{option}"));
    }
}
