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
mod sign_in;
pub mod signals;
mod standby;
mod systemd;
mod tasks;
mod watchdog;

use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::config::{Account, Config};
use crate::itwin::{self, Client, Credentials, Settings};
use crate::lease::Lease;
use crate::ledger::{self, Inactive, Ledger, Outcome, Summary};
use crate::login_file::LoginFile;
use crate::watch as watching;
pub use reload::Reloads;
use tasks::Tasks;
pub(crate) use tasks::watch_specs;

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
        info!("stopped");
        return Ok(Pass::nothing(began));
    };
    clock::correct(&ledger).await?;
    let client = client(&config, ledger.lease()).map_err(Error::Client)?;
    host_backoffs::resume(&client, &ledger).await?;
    log_proxy(&config);
    config.know_imodels(&ledger.created_imodels().await?);
    let (known, mut imodel_known) = tokio::sync::mpsc::channel(1);
    let mut tasks = Tasks::start(&config, &ledger, &client, known).await?;
    tasks.start_sign_in(&ledger, &client, until).await?;
    tasks
        .start_interfaces(&config, &ledger, &client, until)
        .await?;
    systemd::ready(&watchdog::line(&ledger, None).await?);
    tasks.watchdog(&ledger);
    let mut prepared = Ok(());
    if until == Until::Done {
        prepared = tasks
            .await_imodels(&mut config, &ledger, &client, &stop)
            .await;
    }
    let pass = tasks.pass();
    let looked_at = ledger.clone();
    let done = async move {
        match until {
            Until::Done => once::done(pass, looked_at).await,
            Until::Stopped => std::future::pending().await,
        }
    };
    tokio::pin!(done);
    let ended = loop {
        if prepared.is_err() {
            break prepared;
        }
        tokio::select! {
            ended = tasks.unasked_end() => break Err(ended),
            error = ledger.taken_over() => break Err(error.into()),
            () = stop.cancelled() => break Ok(()),
            done = &mut done => break done,
            Some(()) = imodel_known.recv() => {
                prepared = tasks.use_created(&mut config, &ledger, &client).await;
            }
            (loaded, levels) = reload::next(&mut reloads) => {
                let note = match loaded {
                    Ok(new) => match tasks.reload(&config, new, &ledger, &client, levels).await {
                        Ok(taken) => {
                            config = taken;
                            None
                        }
                        Err(error) => break Err(error),
                    },
                    Err(mistakes) => Some(reload::refuse(&mistakes)),
                };
                match watchdog::line(&ledger, note.as_deref()).await {
                    Ok(line) => systemd::ready(&line),
                    Err(error) => break Err(error.into()),
                }
                tasks.note.send_replace(note);
            }
        }
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
    let results = ledger.results_since(began).await?;
    let open = ledger.summary(crate::clock::now()).await?;
    let awaiting = awaiting(&ledger).await?;
    ended?;
    // Not after an error, which may be the ledger's: then the next start checks the ledger.
    ledger.close().await;
    info!(
        pending = open.pending + open.later,
        failed = open.failed,
        "stopped"
    );
    Ok(Pass {
        results,
        open,
        unreachable,
        left_out,
        awaiting,
        ..Pass::nothing(began)
    })
}

/// Opens the ledger. A service waits for that while another host is active; None: it was stopped meanwhile.
async fn open_or_wait(
    config: &mut Config,
    until: Until,
    stop: &CancellationToken,
    reloads: &mut Option<Reloads>,
) -> Result<Option<Ledger>, Error> {
    let ledger = if until == Until::Stopped && config.state.path.server.is_some() {
        match standby::open_ledger(config, stop, reloads).await? {
            Some(ledger) => ledger,
            None => return Ok(None),
        }
    } else {
        open_ledger(config).await?
    };
    ledger.retry_corrected().await?;
    Ok(Some(ledger))
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

/// The platform's client as configured. It changes nothing on the platform while `lease` is not valid.
///
/// # Errors
/// When TLS cannot be set up.
pub fn client(config: &Config, lease: Option<Lease>) -> Result<Client, itwin::Error> {
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
    Client::within(settings, lease)
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
            Error::Ended(_) => Error::Ended("uploads".to_owned()),
            Error::Panicked(_) => Error::Panicked("task 7 panicked".to_owned()),
        }));
    }
}
