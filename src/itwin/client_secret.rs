//! The client secret in use, and its replacement when the platform refuses it.
//!
//! A secret that a program printed may have been replaced in its vault: after a refusal the program runs again, and a
//! new secret is used at once. A program that prints the refused one again, or fails, runs again after a growing pause.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use crate::error_chain::chain;
use crate::retry::Policy;
use crate::secret::{ClientSecret, Secret};

/// Between two runs of the program without a new secret.
const PAUSES: Policy = Policy {
    first: Duration::from_secs(5),
    max: Duration::from_secs(15 * 60),
};

#[derive(Debug)]
pub(super) struct CurrentSecret {
    known: Mutex<ClientSecret>,
    runs: tokio::sync::Mutex<Runs>,
}

/// Runs of the program without a new secret.
#[derive(Debug, Default)]
struct Runs {
    without_a_new_one: u32,
    due: Option<Instant>,
}

impl CurrentSecret {
    pub(super) fn new(secret: ClientSecret) -> Self {
        Self {
            known: Mutex::new(secret),
            runs: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn get(&self) -> Secret {
        self.known().text.clone()
    }

    /// Replaces it, such as after a reload.
    pub(super) fn set(&self, secret: ClientSecret) {
        *self.known() = secret;
    }

    /// The platform refused this secret. Whether there is another one now.
    pub(super) async fn replace(&self, refused: &Secret) -> bool {
        let mut runs = self.runs.lock().await;
        let known = self.known().clone();
        if known.text != *refused {
            return true;
        }
        let Some(command) = known.command else {
            return false;
        };
        if runs.due.is_some_and(|due| Instant::now() < due) {
            return false;
        }
        // It may block for the time limit of the program.
        let printed = tokio::task::spawn_blocking(move || command.run()).await;
        let printed = match printed {
            Ok(printed) => printed,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        match printed {
            Ok(text) if text != *refused => {
                info!(
                    "the platform refused the client secret; itwin.client_secret_command printed a new one"
                );
                self.known().text = text;
                *runs = Runs::default();
                return true;
            }
            Ok(_) => warn!(
                hint = "store the current secret of the application where the program reads it",
                "the platform refuses the client secret, and itwin.client_secret_command prints the same one"
            ),
            Err(error) => warn!(
                error = chain(&error),
                hint = error.hint(),
                "the platform refuses the client secret, and itwin.client_secret_command prints no new one"
            ),
        }
        runs.without_a_new_one = runs.without_a_new_one.saturating_add(1);
        runs.due = Some(Instant::now() + PAUSES.delay(runs.without_a_new_one, None));
        false
    }

    fn known(&self) -> std::sync::MutexGuard<'_, ClientSecret> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
