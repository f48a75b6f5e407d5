//! `itwin-syncd login` and `logout`: a user signs in with a browser, and lets connections act for them.
//!
//! Input: the configuration, and what the browser brings back, over a listener on this machine or pasted into the
//! terminal. Output: the sign-in in the state directory, which a running daemon notices by itself. Codes and tokens are
//! never shown.

mod browser;
mod listener;

use std::io::Read as _;
use std::time::Duration;

use clap::Args;
use url::Url;

use super::{
    ConfigArgument, EXIT_CONFIG, EXIT_FAILED, EXIT_GOOD, print_config_errors, print_error,
    print_line, service_unit,
};
use crate::config::{Account, Config, UserAccount};
use crate::error_chain::chain;
use crate::itwin::{self, CallbackError, Client, PendingSignIn, RETURNED_MAX, SignOut};
use crate::login_file::{self, LoginFile};
use crate::secret::Secret;
use crate::shell;
use crate::{service, state_directory};
use listener::{Listener, Page};

/// How long the user may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Between two questions whether the user has consented.
const CONSENT_LOOK: Duration = Duration::from_secs(3);

#[derive(Debug, Args)]
pub(super) struct Login {
    #[command(flatten)]
    config: ConfigArgument,
    /// Print the address to open on any machine, and read the address to which the browser returned from the terminal
    #[arg(long)]
    no_browser: bool,
    /// Only let connections act for the user who is signed in, or renew that
    #[arg(long)]
    connector: bool,
}

#[derive(Debug, Args)]
pub(super) struct Logout {
    #[command(flatten)]
    config: ConfigArgument,
}

/// Why the user is not signed in, or not signed out.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum Error {
    #[error("the account of the configuration is a service application, which needs no sign-in")]
    Service,
    #[error(transparent)]
    Directory(#[from] state_directory::Error),
    #[error(transparent)]
    File(#[from] login_file::Error),
    #[error("another itwin-syncd process is using the sign-in")]
    Turn,
    #[error(transparent)]
    Platform(#[from] itwin::Error),
    #[error("cannot listen on {addresses}")]
    Ports {
        addresses: String,
        source: std::io::Error,
    },
    #[error(transparent)]
    Refused(CallbackError),
    #[error("the browser did not return within 5 minutes")]
    Late,
    #[error("no address was pasted")]
    Ended,
    #[error("cannot read the terminal")]
    Input(#[source] std::io::Error),
    #[error("the platform named no page on which connections can be allowed to act for the user")]
    NoPage,
    #[error("connections may not act for {0}: there was no consent")]
    NoConsent(String),
}

impl Error {
    pub(in crate::cli) fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Service => "set itwin.sign_in = \"user\", with the client id of a native application".to_owned(),
            Self::Directory(error) => error.hint(),
            Self::File(error) => error.hint(),
            Self::Turn => "run the command again in a moment".to_owned(),
            Self::Platform(error) => return error.hint(),
            Self::Ports { .. } => "end the program that uses the port, add another registered address to itwin.redirect_urls, or use --no-browser".to_owned(),
            Self::Refused(error) => error.hint(),
            Self::Late => "run the command again; with the browser on another machine, use --no-browser".to_owned(),
            Self::Ended => "run the command in a terminal, and paste the address from the browser".to_owned(),
            Self::NoConsent(_) => format!("run `{}`, and agree on the page that it opens", shell::command(["login", "--connector"])),
            Self::Input(_) | Self::NoPage => return None,
        })
    }
}

pub(super) async fn login(arguments: &Login) -> u8 {
    let config = match service_unit::load_as_caller(&arguments.config.config) {
        Ok(config) => config,
        Err(errors) => {
            print_config_errors(&errors);
            return EXIT_CONFIG;
        }
    };
    let way = if arguments.no_browser {
        Way::Pasted
    } else {
        Way::Browser
    };
    finish(login_with(&config, way, arguments.connector).await)
}

pub(super) async fn logout(arguments: &Logout) -> u8 {
    let config = match service_unit::load_as_caller(&arguments.config.config) {
        Ok(config) => config,
        Err(errors) => {
            print_config_errors(&errors);
            return EXIT_CONFIG;
        }
    };
    finish(logout_with(&config).await)
}

fn finish(done: Result<(), Error>) -> u8 {
    match done {
        Ok(()) => EXIT_GOOD,
        Err(error) => {
            print_error(&error, error.hint());
            EXIT_FAILED
        }
    }
}

/// How the browser's answer gets here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Way {
    /// The browser is on this machine.
    Browser,
    /// The user pastes it.
    Pasted,
}

async fn login_with(config: &Config, way: Way, connector: bool) -> Result<(), Error> {
    let Account::User(account) = &config.itwin.account else {
        return Err(Error::Service);
    };
    state_directory::act_as_owner(&config.state.path)?;
    let client = service::client(config, None)?;
    if !connector {
        sign_in(&client, account, way).await?;
    }
    consent(&client, account, way, connector).await
}

/// Signs a user in.
pub(in crate::cli) async fn sign_in(
    client: &Client,
    account: &UserAccount,
    way: Way,
) -> Result<(), Error> {
    // Before the user does anything in vain.
    let file = LoginFile::new(&account.state);
    drop(file.try_lock()?.ok_or(Error::Turn)?.reserve()?);
    let ended = match way {
        Way::Browser => {
            let mut listener = Listener::bind(&account.redirect_urls).await?;
            let ended = tokio::time::timeout(PATIENCE, by_browser(client, &mut listener)).await;
            listener.close().await;
            ended
        }
        Way::Pasted => {
            let Some(redirect) = account.redirect_urls.first() else {
                return Err(Error::Service);
            };
            tokio::time::timeout(PATIENCE, by_paste(client, redirect)).await
        }
    };
    let user = ended.map_err(|_| Error::Late)??;
    let user = user.unwrap_or_else(|| "a user whose name the platform does not tell".to_owned());
    print_line(&format!("Signed in as {user}"));
    Ok(())
}

async fn begin(client: &Client, redirect: &Url) -> Result<PendingSignIn, Error> {
    client.begin_sign_in(redirect).await?.ok_or(Error::Service)
}

async fn by_browser(client: &Client, listener: &mut Listener) -> Result<Option<String>, Error> {
    let pending = begin(client, listener.redirect()).await?;
    show(pending.address(), "sign in");
    print_line(
        "Waiting for the browser, for 5 minutes. Is it on another machine? Use --no-browser.",
    );
    loop {
        let returned = listener.next().await.ok_or(Error::Late)?;
        match pending.code(&returned.address) {
            Ok(code) => {
                let user = client.complete_sign_in(&pending, &code).await;
                returned.answer(match &user {
                    Ok(_) => Page::SignedIn,
                    Err(_) => Page::Failed,
                });
                return Ok(user?);
            }
            Err(error @ CallbackError::Refused { .. }) => {
                returned.answer(Page::Failed);
                return Err(Error::Refused(error));
            }
            // Of an earlier sign-in, or of another page: the right one may still come.
            Err(_) => returned.answer(Page::Unknown),
        }
    }
}

async fn by_paste(client: &Client, redirect: &Url) -> Result<Option<String>, Error> {
    let pending = begin(client, redirect).await?;
    print_line(&format!(
        "Open this address in a browser on any machine, and sign in:\n\n  {}\n\nThen the browser goes to {redirect}… and shows an error, \
         because that is not on its machine. Paste that whole address here:",
        pending.address()
    ));
    loop {
        let code = match pending.code(&line().await?) {
            Ok(code) => code,
            Err(error @ CallbackError::Refused { .. }) => return Err(Error::Refused(error)),
            Err(error) => {
                complain(&error);
                continue;
            }
        };
        return Ok(client.complete_sign_in(&pending, &code).await?);
    }
}

fn complain(error: &CallbackError) {
    print_line(&format!("  error: {}", chain(error)));
    print_line(&format!("  hint: {}", error.hint()));
}

/// Prints an address, and opens it if there is a browser.
fn show(address: &Url, what: &str) {
    let how = if browser::open(address) {
        "A browser opens. If it does not, open this address"
    } else {
        "Open this address in a browser on this machine"
    };
    print_line(&format!("{how}, and {what}:\n\n  {address}\n"));
}

/// Lets connections act for the user, if they may not yet, or renews that.
pub(in crate::cli) async fn consent(
    client: &Client,
    account: &UserAccount,
    way: Way,
    renew: bool,
) -> Result<(), Error> {
    let Some(redirect) = account.redirect_urls.first() else {
        return Err(Error::Service);
    };
    let user = client.user_name().await?;
    let user = user.unwrap_or_else(|| client.member());
    // The browser returns to the address that the question had.
    let listener = match way {
        Way::Browser if renew || !client.authorization(redirect).await?.is_authorized => {
            Some(Listener::bind(&account.redirect_urls).await?)
        }
        _ => None,
    };
    let redirect = listener
        .as_ref()
        .map_or(redirect, Listener::redirect)
        .clone();
    let found = client.authorization(&redirect).await?;
    if found.is_authorized && !renew {
        return Ok(());
    }
    let page = found.page.ok_or(Error::NoPage)?;
    print_line(
        "Runs on the platform act for the user, who has to allow that; about every 30 days again.",
    );
    let mut listener = listener;
    let waited = tokio::time::timeout(PATIENCE, async {
        match &mut listener {
            Some(listener) => {
                show(&page, "agree");
                returned_or_authorized(client, listener, &redirect, renew).await
            }
            None => {
                print_line(&format!(
                    "Open this address in a browser on any machine, and agree:\n\n  {page}\n\nThen press Enter here."
                ));
                line().await.map(drop)
            }
        }
    })
    .await;
    let is_authorized = client.authorization(&redirect).await?.is_authorized;
    if let Some(listener) = listener {
        listener.close().await;
    }
    waited.map_err(|_| Error::Late)??;
    if !is_authorized {
        return Err(Error::NoConsent(user));
    }
    client.note_authorized().await?;
    print_line(&format!("Runs may act for {user}"));
    Ok(())
}

/// Returns when the browser is back or, if there was no consent before, when there is one.
async fn returned_or_authorized(
    client: &Client,
    listener: &mut Listener,
    redirect: &Url,
    renew: bool,
) -> Result<(), Error> {
    loop {
        tokio::select! {
            returned = listener.next() => {
                let returned = returned.ok_or(Error::Late)?;
                let is_authorized = client.authorization(redirect).await?.is_authorized;
                returned.answer(if is_authorized { Page::Allowed } else { Page::Failed });
                return Ok(());
            }
            () = tokio::time::sleep(CONSENT_LOOK) => {
                if !renew && client.authorization(redirect).await?.is_authorized {
                    return Ok(());
                }
            }
        }
    }
}

/// A line from standard input.
async fn line() -> Result<String, Error> {
    let read = tokio::task::spawn_blocking(|| {
        let mut input = std::io::stdin().lock();
        let (mut bytes, mut byte) = (Vec::new(), [0]);
        loop {
            match input.read(&mut byte) {
                Ok(0) if bytes.is_empty() => return Err(Error::Ended),
                Ok(0) => break,
                Ok(_) if byte == *b"\n" => break,
                // One more than is accepted, so that it is refused.
                Ok(_) if bytes.len() > RETURNED_MAX => {}
                Ok(_) => bytes.extend(byte),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Input(error)),
            }
        }
        // It has the code: registered, so that no text shows it.
        Ok(Secret::new(String::from_utf8_lossy(&bytes)))
    });
    match read.await {
        Ok(line) => line.map(|line| line.expose().to_owned()),
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

async fn logout_with(config: &Config) -> Result<(), Error> {
    state_directory::act_as_owner(&config.state.path)?;
    let done = match &config.itwin.account {
        Account::User(_) => service::client(config, None)?.sign_out().await?,
        // The sign-in of an earlier configuration.
        Account::Service(_) => {
            let file = LoginFile::new(&config.state.path);
            if file.read().is_ok_and(|found| found.is_none()) {
                SignOut::Nobody
            } else {
                file.try_lock()?.ok_or(Error::Turn)?.remove()?;
                SignOut::Deleted(None)
            }
        }
    };
    match done {
        SignOut::Nobody => print_line("Nobody is signed in"),
        SignOut::Revoked => print_line("Signed out"),
        SignOut::Deleted(None) => print_line("Signed out: the sign-in was deleted on this machine"),
        SignOut::Deleted(Some(error)) => {
            print_line("Signed out: the sign-in was deleted on this machine");
            print_line(&format!(
                "note    the platform could not be told, so a copy of it would still work: {}",
                chain(&error)
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        insta::assert_snapshot!(crate::text::render_variants!(Error, Error::hint, {
            Error::Service => Error::Service,
            Error::Directory(_) => Error::Directory(state_directory::Error::Writable {
                path: "/var/lib/itwin-syncd".into(),
                mode: 0o777,
            }),
            Error::File(_) => Error::File(login_file::Error::Damaged {
                path: "/var/lib/itwin-syncd/login".into(),
            }),
            Error::Turn => Error::Turn,
            Error::Platform(_) => Error::Platform(itwin::unreachable_platform()),
            Error::Ports { .. } => Error::Ports {
                addresses: "http://localhost:3301/signin-callback".to_owned(),
                source: std::io::ErrorKind::AddrInUse.into(),
            },
            Error::Refused(_) => Error::Refused(CallbackError::Refused {
                reason: "access_denied".to_owned(),
            }),
            Error::Late => Error::Late,
            Error::Ended => Error::Ended,
            Error::Input(_) => Error::Input(std::io::ErrorKind::BrokenPipe.into()),
            Error::NoPage => Error::NoPage,
            Error::NoConsent(_) => Error::NoConsent("Ada (ada@example.com)".to_owned()),
        }));
    }
}
