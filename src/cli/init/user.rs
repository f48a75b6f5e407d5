//! A user as the account: signs in with a browser before the first other question.
//!
//! The sign-in is kept in a temporary state directory until the configuration is written.

use std::path::Path;

use tempfile::TempDir;

use super::Error;
use crate::cli::check::{self, Report};
use crate::cli::login::{self, Way};
use crate::cli::print_line;
use crate::config::{self, Config};
use crate::itwin::Client;
use crate::login_file::LoginFile;
use crate::{service, state_directory};

/// Signs in the user of a configuration, and lets runs act for them. Returns the state directory with the sign-in.
pub(super) async fn sign_in(mut config: Config) -> Result<(Client, TempDir), Error> {
    let state = tempfile::tempdir().map_err(|source| Error::Write {
        path: std::env::temp_dir(),
        source,
    })?;
    let config::Account::User(user) = &mut config.itwin.account else {
        return Err(Error::NoBrowser);
    };
    state.path().clone_into(&mut user.state);
    let user = user.clone();
    let client = service::client(&config, None)?;
    if !check::network(&mut Report::new(), &config, &client).await {
        return Err(Error::Unreachable);
    }
    let has = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let way = if has("DISPLAY") || has("WAYLAND_DISPLAY") {
        Way::Browser
    } else {
        Way::Pasted
    };
    let signed_in = login::sign_in(&client, &user, way).await;
    signed_in.map_err(Error::SignIn)?;
    let consented = login::consent(&client, &user, way, false).await;
    consented.map_err(Error::SignIn)?;
    Ok((client, state))
}

/// Puts the sign-in where the service of this configuration finds it.
pub(super) fn keep(sign_in: &TempDir, config: &Path) -> Result<(), Error> {
    let failed = |error: login::Error| Error::SignIn(error);
    let state = &config::state_path(config);
    let read = LoginFile::new(sign_in.path()).read();
    let Some(login) = read.map_err(|error| failed(error.into()))? else {
        return Ok(());
    };
    state_directory::act_as_owner(state).map_err(|error| failed(error.into()))?;
    let store = || {
        let locked = LoginFile::new(state).try_lock()?;
        locked
            .ok_or(login::Error::Turn)?
            .reserve()?
            .replace(&login)?;
        Ok::<(), login::Error>(())
    };
    store().map_err(failed)?;
    print_line(&format!("Stored the sign-in in {state:?}"));
    Ok(())
}
