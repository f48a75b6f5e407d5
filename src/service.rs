//! The supervisor: starts every task of the service by name, watches that none of them ends, and stops them in order.
//!
//! A task that ends unexpectedly, by an error or a panic, stops the service with an error: systemd restarts it, and the
//! ledger knows the state of all work. At the stop signal no new work is started; running uploads may finish within the
//! grace period; the rest continues at the next start.
//!
//! The service is ready when configuration, ledger and client are, not when every share is: an unreachable one is
//! reported (`watchdog`). SIGHUP reloads the configuration (`reload`). `systemd` receives all of it.

mod clock;
mod descriptors;
mod host_backoffs;
mod imodels;
mod interfaces;
mod new_imodels;
mod once;
mod reload;
mod shares;
mod sign_in;
pub mod signals;
mod standby;
mod standby_uploads;
mod systemd;
mod tasks;
mod watchdog;

use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::config::{Account, Config};
use crate::itwin::{self, Client, Credentials, Settings};
use crate::ledger::{self, Inactive, Ledger, Outcome, Summary};
use crate::login_file::LoginFile;
use crate::watch as watching;
pub use reload::Reloads;
use tasks::Tasks;
pub(crate) use tasks::watch_specs;

/// A stop waits for the ledger no longer than this, beside the grace period: its server may be away for any time.
const LEDGER_GRACE: Duration = Duration::from_secs(5);

/// After that it gives up its lease, if the server responds within this time.
const RELEASE_GRACE: Duration = Duration::from_secs(2);

/// When the service ends without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// At the stop signal.
    Stopped,
    /// When all files that were found are processed (`run --once`).
    Done,
}

/// The result of `run --once`.
#[derive(Debug, Clone)]
pub struct Pass {
    /// When it began.
    pub began: Timestamp,
    /// Results of this run, by kind.
    pub results: Vec<(Outcome, u64)>,
    /// Jobs that are left.
    pub open: Summary,
    /// Watches whose folder cannot be reached, with the reason.
    pub unreachable: Vec<(String, String)>,
    /// Watches that are only partly readable, with the reason.
    pub left_out: Vec<(String, String)>,
    /// Watches whose iModel is not there, with the reason.
    pub awaiting: Vec<(String, String)>,
}

/// Why the service failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    /// The client could not be set up.
    #[error("cannot set up the client for the iTwin Platform")]
    Client(#[source] itwin::Error),
    /// A watch failed.
    #[error(transparent)]
    Watch(#[from] watching::Error),
    /// The configuration of a standby is not that of the active host.
    #[error("the watches of this host differ from those of the active host {active}: {}", watches.join(", "))]
    DifferentWatches {
        /// The name of the active host.
        active: String,
        /// Their names.
        watches: Vec<String>,
    },
    /// Another host sees more of the folders.
    #[error(
        "the folders of this host are not all available, and {host} sees them: it becomes active"
    )]
    LeftToAnother {
        /// Its name.
        host: String,
    },
    /// A single pass was stopped, and its results are not known.
    #[error("stopped while waiting for the ledger")]
    Unfinished,
    /// A task ended that should run until the stop.
    #[error("task {0:?} ended unexpectedly")]
    Ended(String),
    /// A task panicked.
    #[error("a task panicked: {0}")]
    Panicked(String),
}

impl Error {
    /// What the reader can do about it, when there is something specific.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        if matches!(self, Self::DifferentWatches { .. }) {
            let hint = "give all hosts the same [[watch]] sections; a change comes to the active host first";
            return Some(hint.to_owned());
        }
        if matches!(self, Self::LeftToAnother { .. }) {
            let hint = "check the mounts of this host; it is standby after its restart";
            return Some(hint.to_owned());
        }
        self.of_ledger().and_then(ledger::Error::hint)
    }

    /// Whether another process uses the state directory or the database of the ledger.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        use ledger::Error::{InUse, ServerInUse};
        matches!(self.of_ledger(), Some(InUse { .. } | ServerInUse { .. }))
    }

    /// Whether another host has taken over.
    fn is_taken_over(&self) -> bool {
        matches!(self.of_ledger(), Some(ledger::Error::TakenOver))
    }

    fn of_ledger(&self) -> Option<&ledger::Error> {
        match self {
            Self::Ledger(error) | Self::Watch(watching::Error::Ledger(error)) => Some(error),
            _ => None,
        }
    }
}

impl Pass {
    fn nothing(began: Timestamp) -> Self {
        Self {
            began,
            results: Vec::new(),
            open: Summary::default(),
            unreachable: Vec::new(),
            left_out: Vec::new(),
            awaiting: Vec::new(),
        }
    }

    /// Whether every file that was found is synchronized.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.open == Summary::default()
            && self.unreachable.is_empty()
            && self.left_out.is_empty()
            && self.awaiting.is_empty()
    }
}

/// Runs the whole service until `stop` is cancelled, or until it is done. `reloads` provides new configurations
/// meanwhile.
///
/// # Errors
/// When the ledger cannot be opened or fails, or a task ends unexpectedly.
pub async fn run(
    mut config: Config,
    until: Until,
    stop: CancellationToken,
    mut reloads: Option<Reloads>,
) -> Result<Pass, Error> {
    if until == Until::Done {
        forget_schedules(&mut config);
    }
    crate::clock::make_steady();
    let began = crate::clock::now();
    descriptors::raise();
    let Some(ledger) = open_or_wait(&mut config, until, &stop, &mut reloads).await? else {
        return stopped_early(until, began);
    };
    let (known, mut imodel_known) = tokio::sync::mpsc::channel(1);
    let started = tokio::select! {
        started = start(&mut config, &ledger, until, known) => started?,
        () = overdue(&ledger, &stop) => return stopped_early(until, began),
    };
    let (client, mut tasks) = started;
    let mut prepared = Ok(());
    if until == Until::Done {
        prepared = tasks
            .await_imodels(&mut config, &ledger, &client, &stop)
            .await;
    }
    let pass = tasks.pass();
    let looked_at = ledger.clone();
    // With all that it waits for: what holds a connection would keep the ledger from being closed.
    let work = async {
        let done = async move {
            match until {
                Until::Done => once::done(pass, looked_at).await,
                Until::Stopped => std::future::pending().await,
            }
        };
        tokio::pin!(done);
        let seen_by_another =
            shares::seen_by_another_only(ledger.clone(), tasks.upload_settings.subscribe(), until);
        tokio::pin!(seen_by_another);
        loop {
            if prepared.is_err() {
                break prepared;
            }
            tokio::select! {
                ended = tasks.unasked_end() => break Err(ended),
                error = ledger.taken_over() => break Err(error.into()),
                host = &mut seen_by_another => break Err(Error::LeftToAnother { host }),
                () = stop.cancelled() => break Ok(()),
                done = &mut done => break done,
                Some(()) = imodel_known.recv() => {
                    prepared = tasks.use_created(&mut config, &ledger, &client).await;
                }
                loaded = reload::next(&mut reloads) => {
                    if let Err(error) = tasks.take_up(loaded, &mut config, &ledger, &client).await {
                        break Err(error);
                    }
                }
            }
        }
    };
    let ended = tokio::select! {
        ended = work => ended,
        // A reload or another step waits for the ledger.
        () = overdue(&ledger, &stop) => Ok(()),
    };
    systemd::stopping(config.shutdown_grace);
    let unreachable = tasks.troubles(|progress| progress.problem.clone());
    let left_out = tasks.troubles(|progress| progress.left_out.clone());
    tasks.stop(grace(&config, &ended)).await;
    if let Err(error) = &ended
        && let Some(error) = error.of_ledger()
    {
        ledger.mark_corrupt(error);
    }
    if let Err(error @ Error::LeftToAnother { .. }) = ended {
        // The other host waits for that.
        ledger.close().await;
        return Err(error);
    }
    let passed = tokio::select! {
        passed = passed(&ledger, began) => passed?,
        () = overdue(&ledger, &stop) => {
            ended?;
            // If the server is away, the lease of this host ends by itself.
            tokio::time::timeout(RELEASE_GRACE, ledger.close()).await.ok();
            return stopped_early(until, began);
        }
    };
    ended?;
    // Not after an error, which may be the ledger's: then the next start checks the ledger.
    ledger.close().await;
    info!(
        pending = passed.open.pending + passed.open.later,
        failed = passed.open.failed,
        "stopped"
    );
    Ok(Pass {
        unreachable,
        left_out,
        ..passed
    })
}

/// Starts all tasks, and says that the service is ready.
async fn start(
    config: &mut Config,
    ledger: &Ledger,
    until: Until,
    known: tokio::sync::mpsc::Sender<()>,
) -> Result<(Client, Tasks), Error> {
    ledger.retry_corrected().await?;
    // A standby has used the clock of the active host.
    crate::clock::make_steady();
    clock::correct(ledger).await?;
    let client = client(config, Some(ledger)).map_err(Error::Client)?;
    host_backoffs::resume(&client, ledger).await?;
    log_proxy(config);
    config.know_imodels(&ledger.created_imodels().await?);
    let mut tasks = Tasks::start(config, ledger, &client, known).await?;
    tasks.start_sign_in(ledger, &client, until).await?;
    tasks
        .start_interfaces(config, ledger, &client, until)
        .await?;
    systemd::ready(&watchdog::line(ledger, None).await?);
    tasks.watchdog(ledger);
    Ok((client, tasks))
}

/// What the ledger says of a pass.
async fn passed(ledger: &Ledger, began: Timestamp) -> Result<Pass, Error> {
    Ok(Pass {
        results: ledger.results_since(began).await?,
        open: ledger.summary(crate::clock::now()).await?,
        awaiting: awaiting(ledger).await?,
        ..Pass::nothing(began)
    })
}

/// Returns [`LEDGER_GRACE`] after the stop signal, if the ledger is on a server.
async fn overdue(ledger: &Ledger, stop: &CancellationToken) {
    if !ledger.is_shared() {
        std::future::pending::<()>().await;
    }
    stop.cancelled().await;
    tokio::time::sleep(LEDGER_GRACE).await;
}

/// The end of a service that was stopped while it waited for its ledger.
fn stopped_early(until: Until, began: Timestamp) -> Result<Pass, Error> {
    match until {
        Until::Stopped => {
            info!("stopped");
            Ok(Pass::nothing(began))
        }
        // Nobody knows whether everything is synchronized.
        Until::Done => Err(Error::Unfinished),
    }
}

/// Opens the ledger. A service waits for that while another host is active; None: it was stopped meanwhile.
async fn open_or_wait(
    config: &mut Config,
    until: Until,
    stop: &CancellationToken,
    reloads: &mut Option<Reloads>,
) -> Result<Option<Ledger>, Error> {
    if until == Until::Stopped && config.state.path.server.is_some() {
        return Box::pin(standby::open_ledger(config, stop, reloads)).await;
    }
    tokio::select! {
        opened = open_ledger(config) => Ok(Some(opened?)),
        () = stop.cancelled() => Ok(None),
    }
}

/// Whoever starts a single pass has chosen its time.
fn forget_schedules(config: &mut Config) {
    config.run_schedules.clear();
    for watch in &mut config.watches {
        watch.upload_schedule = None;
    }
}

/// How long running uploads may continue: not where another host works.
fn grace(config: &Config, ended: &Result<(), Error>) -> Duration {
    match ended {
        Err(error) if error.is_taken_over() => Duration::ZERO,
        Ok(()) | Err(_) => config.shutdown_grace,
    }
}

async fn open_ledger(config: &Config) -> Result<Ledger, ledger::Error> {
    let ledger = systemd::extending_timeout(Ledger::open(&config.state.path)).await?;
    if let Some((path, what)) = ledger.moved_aside() {
        error!(
            ?path,
            what,
            hint = "no action needed: all folders are scanned and compared with storage",
            "ledger damaged: moved it aside and started a new one"
        );
    }
    Ok(ledger)
}

fn log_proxy(config: &Config) {
    if let Some(proxy) = &config.network.proxy {
        let no_proxy = &config.network.no_proxy;
        let no_proxy = (!no_proxy.is_empty()).then(|| no_proxy.join(", "));
        info!(
            proxy = proxy.url.authority(),
            no_proxy, "connecting to the platform through a proxy"
        );
    }
}

/// Watches whose iModel is not there, with the reason.
async fn awaiting(ledger: &Ledger) -> Result<Vec<(String, String)>, ledger::Error> {
    let reports = ledger.watch_reports(crate::clock::now()).await?.into_iter();
    let waiting = reports.filter_map(|watch| match watch.inactive {
        Some(
            inactive @ (Inactive::AwaitsImodel { .. }
            | Inactive::AwaitsSignIn(_)
            | Inactive::OtherLedger(_)),
        ) if watch.configured => {
            let reason = inactive.reason(&watch.name);
            Some((watch.name, reason))
        }
        _ => None,
    });
    Ok(waiting.collect())
}

/// The platform's client as configured. If other hosts share the ledger, it changes nothing on the platform while the
/// lease of this one is not valid, and shares limits and pauses with them.
///
/// # Errors
/// When TLS cannot be set up.
pub fn client(config: &Config, ledger: Option<&Ledger>) -> Result<Client, itwin::Error> {
    let settings = Settings {
        api_url: config.itwin.api_url.clone(),
        issuer_url: config.itwin.issuer_url.clone(),
        client_id: config.itwin.client_id.clone(),
        credentials: match &config.itwin.account {
            Account::Service(secret) => Credentials::Service(secret.clone()),
            Account::User(user) => Credentials::User(LoginFile::new(&user.state)),
        },
        scope: config.itwin.scope.clone(),
        limits: config.itwin.limits,
        rate: config.upload.rate.clone(),
        network: config.network.clone(),
    };
    let lease = ledger.and_then(Ledger::lease);
    let portions = ledger.and_then(Ledger::portions);
    Client::within(settings, lease, portions)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client with a certificate that is none.
    fn unusable_client() -> itwin::Error {
        let environment = crate::config::Environment {
            client_secret: Some(crate::secret::Secret::new("tiger")),
            ..crate::config::Environment::default()
        };
        let text = "[itwin]\nclient_id = \"one\"\n[[watch]]\nname = \"north\"\npath = \"/srv/north\"\n\
                    imodel_id = \"c0ffee00-1234-4abc-8def-0123456789ab\"\n";
        let mut config = Config::parse(text, "config.toml", &environment).unwrap();
        config.network.extra_certificates = vec![b"no certificate".to_vec()];
        client(&config, None).unwrap_err()
    }

    #[test]
    fn messages() {
        insta::assert_snapshot!(crate::text::render_variants!(Error, Error::hint, {
            Error::Ledger(_) => Error::Ledger(ledger::Error::InUse {
                path: "/var/lib/itwin-syncd".into(),
                pid: Some("812".to_owned()),
            }),
            Error::Client(_) => Error::Client(unusable_client()),
            Error::Watch(_) => Error::Watch(watching::Error::Ledger(ledger::Error::Missing {
                path: "/var/lib/itwin-syncd".into(),
            })),
            Error::DifferentWatches { .. } => Error::DifferentWatches {
                active: "cad1".to_owned(),
                watches: vec!["north".to_owned(), "south".to_owned()],
            },
            Error::LeftToAnother { .. } => Error::LeftToAnother {
                host: "cad2".to_owned(),
            },
            Error::Unfinished => Error::Unfinished,
            Error::Ended(_) => Error::Ended("uploads".to_owned()),
            Error::Panicked(_) => Error::Panicked("task 7 panicked".to_owned()),
        }));
    }
}
