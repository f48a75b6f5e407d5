//! `itwin-syncd alert test`

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{
    ConfigArgument, EXIT_CONFIG, EXIT_FAILED, EXIT_GOOD, chain, json, print_config_errors,
    print_line, print_to_stderr, service_unit,
};
use crate::alert::{self, Receivers};
use crate::config::{self, Config};
use crate::state_directory;

/// Time limit of a request to a webhook.
const REQUEST: Duration = Duration::from_secs(20);

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Send a test message through an alert
    ///
    /// Sends it to every receiver of the alert: webhook, mail server and program. Run it as the user of the service. A
    /// program that works here may still fail in the sandbox of the systemd unit; the log has its standard error then.
    ///
    /// Exit codes: 0 delivered; 1 not delivered; 78 invalid configuration.
    Test(Test),
}

#[derive(Debug, Args)]
pub(super) struct Test {
    #[command(flatten)]
    config: ConfigArgument,
    /// The name of the alert
    #[arg(value_name = "NAME")]
    name: String,
    /// Print one JSON object for programs
    #[arg(long)]
    json: bool,
}

/// What became of the test message, as JSON.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Delivery {
    version: u32,
    /// The name of the alert.
    alert: String,
    /// Whether every receiver has accepted the message.
    ok: bool,
    /// Why not.
    reason: Option<String>,
    hint: Option<String>,
}

/// Why no message was sent.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("no [[alert]] has the name {name:?}; names: {known}")]
    Unknown { name: String, known: String },
    #[error("no [[alert]] is configured")]
    None,
    #[error(transparent)]
    Directory(#[from] state_directory::Error),
    #[error("cannot set up the client for webhooks: {0}")]
    Client(String),
}

pub(super) async fn alert(command: &Command) -> u8 {
    let Command::Test(arguments) = command;
    let config = match service_unit::load(&arguments.config.config) {
        Ok(config) => config,
        Err(errors) => {
            print_config_errors(&errors);
            return EXIT_CONFIG;
        }
    };
    let sent = match prepare(&config, &arguments.name) {
        Ok((alert, receivers)) => alert::test(alert, receivers).await,
        Err(error) => Err((chain(&error), None)),
    };
    let code = if sent.is_ok() { EXIT_GOOD } else { EXIT_FAILED };
    if arguments.json {
        let ok = sent.is_ok();
        let (reason, hint) = sent
            .err()
            .map_or((None, None), |(why, hint)| (Some(why), hint));
        print_line(&json::text(&Delivery {
            version: json::VERSION,
            alert: arguments.name.clone(),
            ok,
            reason,
            hint,
        }));
        return code;
    }
    match sent {
        Ok(()) => print_line(&format!(
            "alert {:?}: test message delivered",
            arguments.name
        )),
        Err((why, hint)) => {
            print_to_stderr(&format!("error: {why}"));
            if let Some(hint) = hint {
                print_to_stderr(&format!("  hint: {hint}"));
            }
        }
    }
    code
}

fn prepare<'c>(config: &'c Config, name: &str) -> Result<(&'c config::Alert, Receivers), Error> {
    let alerts = &config.alerts;
    let Some(alert) = alerts.iter().find(|alert| alert.name == name) else {
        let known: Vec<String> = alerts
            .iter()
            .map(|alert| format!("{:?}", alert.name))
            .collect();
        return Err(if known.is_empty() {
            Error::None
        } else {
            Error::Unknown {
                name: name.to_owned(),
                known: known.join(", "),
            }
        });
    };
    // A program runs with the rights that it has when the service runs it.
    state_directory::act_as_owner(&config.state.path)?;
    let network = &config.network;
    let receivers = Receivers {
        http: network
            .client(REQUEST)
            .map_err(|error| Error::Client(chain(&error)))?,
        certificates: network.extra_certificates.clone(),
        dialog: network.total_timeout,
    };
    Ok((alert, receivers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        insta::assert_snapshot!(crate::text::render_variants!(Error, |_| None, {
            Error::Unknown { .. } => Error::Unknown {
                name: "tema".to_owned(),
                known: "\"team\"".to_owned(),
            },
            Error::None => Error::None,
            Error::Client(_) => Error::Client("no certificates".to_owned()),
            Error::Directory(_) => Error::Directory(state_directory::Error::Writable {
                path: "/var/lib/itwin-syncd".into(),
                mode: 0o777,
            }),
        }));
    }
}
