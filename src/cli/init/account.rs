//! The account of a configuration: where client id and secret come from, and whether the platform accepts them.
//!
//! An account is a service application, or a user who signs in (`user`).

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::files::{Answers, Places};
use super::terminal::{Enter, Terminal};
use super::{Arguments, Error, SignIn, complain, user};
use crate::cli::check::{self, Report};
use crate::cli::print_line;
use crate::config::{self, CLIENT_SECRET_VARIABLE, Config, Environment, SECRET_HINT};
use crate::itwin::Client;
use crate::secret::Secret;
use crate::service;

/// What is known of the account, and what it is used with.
pub(super) struct Account {
    pub(super) answers: Answers,
    /// None for a user.
    pub(super) secret: Option<Secret>,
    pub(super) client: Client,
    /// The state directory with the sign-in of a user, until there is one.
    pub(super) sign_in: Option<TempDir>,
}

/// Finds the account, and gets a token for it.
pub(super) async fn sign_in(
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
        option: places.option(),
        // Until the answers are there: any that are valid.
        folder: PathBuf::from("/"),
        name: "unnamed".to_owned(),
        imodel_id: "00000000-0000-0000-0000-000000000000".to_owned(),
        ..Answers::default()
    };
    let is_user = arguments.sign_in == Some(SignIn::User);
    let mut secret = if is_user {
        None
    } else {
        given_secret(arguments, places)?
    };
    let mut client_id = given;
    if terminal.is_some() && (client_id.is_none() || secret.is_none()) {
        print_line(if is_user {
            "The account: a native application, from https://developer.bentley.com/my-apps (docs/sign-in.md)"
        } else {
            "The account: a service application, from https://developer.bentley.com/my-apps (docs/getting-started.md); \
             or a native application, to sign in as a user (docs/sign-in.md)"
        });
    }
    loop {
        let id = match (client_id.take(), terminal) {
            (Some(id), _) => id,
            // Often only the secret was wrong: Enter keeps the id.
            (None, Some(terminal)) => {
                let former = Some(answers.client_id.clone()).filter(|id| !id.is_empty());
                terminal.ask("Client id", former.as_deref())?
            }
            (None, None) => return Err(Error::Missing("--client-id")),
        };
        // The ids of native applications begin with this word.
        let may_be_user = arguments.sign_in.is_none() && id.starts_with("native-");
        let question = "Sign in as a user, with a browser?";
        let agreed = match terminal {
            Some(terminal) if may_be_user => terminal.agrees(question, Enter::Yes)?,
            _ => false,
        };
        if is_user || agreed {
            answers.client_id = id;
            answers.is_user = true;
            if terminal.is_none() {
                return Err(Error::NoBrowser);
            }
            let (client, state) = user::sign_in(parse(&answers, None)?).await?;
            return Ok(Account {
                answers,
                secret: None,
                client,
                sign_in: Some(state),
            });
        }
        let known = match (secret.take(), terminal) {
            (Some(secret), _) => secret,
            (None, Some(terminal)) => ask_secret(terminal)?,
            (None, None) => return Err(Error::Missing("--client-secret-file")),
        };
        answers.client_id = id;
        match token(&answers, &known).await {
            Ok(client) => {
                print_line(&format!("Signed in as {}", client.member()));
                return Ok(Account {
                    answers,
                    secret: Some(known),
                    client,
                    sign_in: None,
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
    if let Some(text) = std::env::var_os(CLIENT_SECRET_VARIABLE).filter(|text| !text.is_empty()) {
        return from(&text.to_string_lossy(), CLIENT_SECRET_VARIABLE.to_owned()).map(Some);
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
    match config.itwin.account {
        config::Account::Service(secret) => Ok(secret.text),
        config::Account::User(_) => Err(Error::Missing("--client-secret-file")),
    }
}

/// The configuration with these answers.
pub(super) fn parse(answers: &Answers, secret: Option<&Secret>) -> Result<Config, Error> {
    let environment = Environment {
        client_secret: secret.cloned(),
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
    let config = parse(answers, Some(secret))?;
    let client = service::client(&config, None)?;
    if !check::network(&mut Report::new(), &config, &client).await {
        return Err(Error::Unreachable);
    }
    client.check_token().await?;
    Ok(client)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let config = parse(&answers, Some(&Secret::new("tiger-in-the-tank"))).unwrap();
        assert_eq!(config.watches[0].path, answers.folder);
        assert_eq!(Some(config.state.path.to_path_buf()), answers.state_path);
        let plain = Answers {
            api_url: None,
            issuer_url: None,
            proxy: None,
            state_path: None,
            ..answers.clone()
        };
        let user = Answers {
            is_user: true,
            option: " --config /etc/itwin-syncd/plant/config.toml".to_owned(),
            ..plain.clone()
        };
        let config = parse(&user, None).unwrap();
        assert!(config.itwin.user().is_some());
        let texts = [answers.text(), plain.text(), user.text()];
        insta::assert_snapshot!(texts.join("\n-----\n"));
    }
}
