//! Follows the sign-in of the user: keeps all work waiting while nobody is signed in, and continues it afterwards.
//!
//! Input: what the client finds out when it needs a token, and the file with the sign-in, which `login` and `logout`
//! change. Output: the wait in the ledger, which keeps jobs from being claimed and is shown everywhere, and a wake-up
//! of all stages when it is over.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use super::tasks::Tasks;
use super::{Error, Until};
use crate::error_chain::chain;
use crate::itwin::{Client, SignedOut};
use crate::ledger::{Ledger, SignInWait};
use crate::login_file::{Login, LoginFile, Stamp};
use crate::retry::Policy;

/// How often the file is checked.
const LOOK: Duration = Duration::from_secs(1);

/// Between two attempts to find out whether the sign-in works.
const PAUSES: Policy = Policy {
    first: Duration::from_secs(2),
    max: Duration::from_secs(300),
};

/// What is done about a change of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Change {
    /// Tokens of before belong to nobody, or to someone else.
    forget_token: bool,
    /// The user has signed in, or allowed connections to act for them.
    wake: bool,
}

/// Decides that. Another process that renewed the sign-in changes the refresh token only. Pure.
fn change(before: Option<&Login>, now: Option<&Login>) -> Change {
    let session = |login: &Login| (login.signed_in_at, login.client_id.clone());
    let is_same = before.map(session) == now.map(session);
    let authorized = |login: Option<&Login>| login.and_then(|login| login.authorized_at);
    Change {
        forget_token: !is_same,
        wake: now.is_some() && (!is_same || authorized(before) != authorized(now)),
    }
}

/// The sign-in of the user, as far as the service knows it.
struct SignIn {
    client: Client,
    ledger: Ledger,
    file: LoginFile,
    seen: (Option<Stamp>, Option<Login>),
    signed_out: watch::Receiver<Option<SignedOut>>,
    failures: u32,
    not_before: Option<Instant>,
}

impl Tasks {
    /// Starts the task that follows the sign-in, if the account is a user. A single pass waits for its first result.
    pub(super) async fn start_sign_in(
        &mut self,
        ledger: &Ledger,
        client: &Client,
        until: Until,
    ) -> Result<(), Error> {
        let Some(file) = client.login_file().cloned() else {
            ledger.needs_no_user().await?;
            return Ok(());
        };
        let mut sign_in = SignIn {
            signed_out: client.signed_out(),
            client: client.clone(),
            ledger: ledger.clone(),
            seen: (None, None),
            file,
            failures: 0,
            // A wait of the last process may be over.
            not_before: Some(Instant::now()),
        };
        sign_in.seen = sign_in.read().await;
        let (stop, uploads) = (self.stop.clone(), self.wake_uploads.clone());
        let synchronizers = self.wake_synchronizers.clone();
        let wake = move || {
            uploads.notify_one();
            synchronizers.send_modify(|asked| *asked += 1);
        };
        if until == Until::Done && sign_in.try_token().await? {
            wake();
        }
        self.spawn("sign-in".to_owned(), async move {
            let follow = async {
                loop {
                    if sign_in.look().await? {
                        wake();
                    }
                    let changed = sign_in.signed_out.changed();
                    // The sender lives as long as the client.
                    tokio::time::timeout(LOOK, changed).await.ok();
                }
            };
            tokio::select! {
                ended = follow => ended,
                () = stop.cancelled() => Ok(()),
            }
        });
        Ok(())
    }
}

impl SignIn {
    /// Looks once. Returns whether work can continue that could not before.
    async fn look(&mut self) -> Result<bool, Error> {
        let mut wake = false;
        if self.file.stamp() != self.seen.0 {
            let now = self.read().await;
            let change = change(self.seen.1.as_ref(), now.1.as_ref());
            self.seen = now;
            if change.forget_token {
                self.client.forget_token().await;
            }
            if change.wake {
                self.failures = 0;
                self.not_before = None;
                wake = true;
            }
        }
        let is_out = self.signed_out.borrow_and_update().is_some();
        let is_due = self.not_before.is_none_or(|at| Instant::now() >= at);
        // Asks for no token that the file does not have; with one that works it asks nobody.
        if self.seen.0.is_none() || wake || (is_out || self.not_before.is_some()) && is_due {
            wake |= self.try_token().await?;
        } else if is_out {
            self.record().await?;
        }
        Ok(wake)
    }

    /// Gets a token, and records whether that is possible. Returns whether it is, and was not before.
    async fn try_token(&mut self) -> Result<bool, Error> {
        match self.client.check_token().await {
            Ok(()) => {
                self.failures = 0;
                self.not_before = None;
            }
            Err(error) if error.signed_out().is_some() => {
                // The change of the file ends this.
                self.not_before = None;
            }
            Err(error) => {
                debug!(%error, "cannot find out whether the sign-in works; trying again");
                self.failures = self.failures.saturating_add(1);
                self.not_before = Some(Instant::now() + PAUSES.delay(self.failures, error.floor()));
                // An outage is no end of the sign-in.
                return Ok(false);
            }
        }
        self.record().await
    }

    /// Records why nobody is signed in. Returns whether that was the case, and is no longer.
    async fn record(&mut self) -> Result<bool, Error> {
        let out = self.signed_out.borrow_and_update().clone();
        let wait = out.map(|out| SignInWait {
            reason: out.to_string(),
            hint: out.hint(),
        });
        if !self.ledger.record_sign_in_wait(wait.as_ref()).await? {
            return Ok(false);
        }
        match &wait {
            Some(SignInWait { reason, hint }) => {
                error!(reason, hint, "all work waits for a user to sign in");
                Ok(false)
            }
            None => {
                info!(user = self.client.member(), "signed in; work continues");
                Ok(true)
            }
        }
    }

    async fn read(&self) -> (Option<Stamp>, Option<Login>) {
        let file = self.file.clone();
        let read = tokio::task::spawn_blocking(move || (file.stamp(), file.read())).await;
        match read {
            Ok((stamp, Ok(login))) => (stamp, login),
            Ok((stamp, Err(error))) => {
                warn!(
                    error = chain(&error),
                    hint = error.hint(),
                    "cannot read the sign-in"
                );
                (stamp, None)
            }
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::secret::Secret;

    #[test]
    fn only_what_the_user_did_ends_a_wait() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let login = |token: &str, signed_in, authorized: Option<i64>| Login {
            issuer: "https://ims.bentley.com/".to_owned(),
            client_id: "native-x".to_owned(),
            refresh_token: Secret::new(token),
            signed_in_at: at(signed_in),
            user: None,
            authorized_at: authorized.map(at),
        };
        let first = login("tiger-1-in-the-tank", 1, None);
        for (before, now, forget_token, wake) in [
            (None, Some(&first), true, true),
            (Some(&first), None, true, false),
            (
                Some(&first),
                Some(&login("tiger-2-in-the-tank", 1, None)),
                false,
                false,
            ),
            (
                Some(&first),
                Some(&login("tiger-2-in-the-tank", 2, None)),
                true,
                true,
            ),
            (
                Some(&first),
                Some(&login("tiger-1-in-the-tank", 1, Some(5))),
                false,
                true,
            ),
            (
                Some(&login("tiger-1-in-the-tank", 1, Some(5))),
                Some(&login("tiger-2-in-the-tank", 1, Some(5))),
                false,
                false,
            ),
            (None, None, false, false),
        ] {
            let expected = Change { forget_token, wake };
            assert_eq!(change(before, now), expected, "{before:?} {now:?}");
        }
    }
}
