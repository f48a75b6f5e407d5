//! Delivers messages to webhooks and programs. URLs are secrets: errors show only their host.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use jiff::Timestamp;
use tokio::io::AsyncWriteExt as _;

use super::Problems;
use super::message::Message;
use super::scheduler::Event;
use crate::config::{Address, Alert, Format};

/// Time limit for a program.
const PROGRAM: Duration = Duration::from_secs(60);

/// Variables that the program does not get.
const SECRETS: [&str; 3] = [
    "ITWIN_SYNCD_CLIENT_SECRET",
    "CREDENTIALS_DIRECTORY",
    "NOTIFY_SOCKET",
];

/// Why a message was not delivered.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("cannot reach {url}")]
    Unreachable {
        url: Address,
        source: reqwest::Error,
    },
    #[error("{url} returned status {status}")]
    Refused { url: Address, status: u16 },
    #[error("cannot run program {program:?}")]
    Program {
        program: String,
        source: std::io::Error,
    },
    #[error("program {program:?} failed ({status})")]
    Failed { program: String, status: String },
}

/// Where one alert goes.
pub(super) struct Sender {
    http: reqwest::Client,
    alert: Alert,
    host: String,
    /// The event that the webhook already received and the command did not.
    halfway: std::sync::Mutex<Option<Event>>,
}

impl Sender {
    pub(super) fn new(alert: &Alert, http: reqwest::Client) -> Self {
        let host = rustix::system::uname();
        Self {
            http,
            alert: alert.clone(),
            host: host.nodename().to_string_lossy().into_owned(),
            halfway: std::sync::Mutex::new(None),
        }
    }

    /// Sends the problems that are not in `sent_keys`, or all of them in reminders.
    pub(super) async fn send(
        &self,
        event: Event,
        problems: &Problems,
        sent_keys: &BTreeSet<String>,
        at: Timestamp,
    ) -> Result<(), Error> {
        let new = problems
            .list
            .iter()
            .filter(|one| !sent_keys.contains(&one.key));
        let shown = match event {
            Event::NewProblem => new.collect(),
            Event::Reminder | Event::Resolved => problems.list.iter().collect(),
        };
        let message = Message {
            alert: &self.alert.name,
            host: &self.host,
            event,
            at,
            shown,
            problems,
        };
        let done = |half: Option<Event>| {
            let mut halfway = self
                .halfway
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            std::mem::replace(&mut *halfway, half)
        };
        // A failing program must not repeat the message to the webhook.
        let webhook_knows = done(None) == Some(event);
        if let Some(url) = self.alert.url.as_ref().filter(|_| !webhook_knows) {
            let body = match self.alert.format {
                Format::Json => message.json(),
                Format::Teams => message.teams(),
                Format::Slack => message.slack(),
            };
            answer(url, self.http.post(url.expose().clone()).json(&body)).await?;
        }
        if let Some(command) = &self.alert.command {
            run(command, &message).await.inspect_err(|_| {
                if self.alert.url.is_some() {
                    done(Some(event));
                }
            })?;
        }
        Ok(())
    }
}

/// Calls a URL, for its side effect only.
pub(super) async fn call(http: &reqwest::Client, url: &Address) -> Result<(), Error> {
    answer(url, http.get(url.expose().clone())).await
}

async fn answer(url: &Address, request: reqwest::RequestBuilder) -> Result<(), Error> {
    let answer = request.send().await.map_err(|error| Error::Unreachable {
        url: url.clone(),
        source: error.without_url(),
    })?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    Err(Error::Refused {
        url: url.clone(),
        status: status.as_u16(),
    })
}

async fn run(command: &[String], message: &Message<'_>) -> Result<(), Error> {
    let Some((program, arguments)) = command.split_first() else {
        return Ok(());
    };
    let failed = |source| Error::Program {
        program: program.clone(),
        source,
    };
    let mut child = tokio::process::Command::new(program);
    for secret in SECRETS {
        child.env_remove(secret);
    }
    let mut child = child
        .args(arguments)
        .env("ITWIN_SYNCD_EVENT", message.event.as_str())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let text = message.text();
    let input = child.stdin.take();
    let work = async {
        if let Some(mut input) = input
            && let Err(error) = input.write_all(text.as_bytes()).await
            // The program need not read its input.
            && error.kind() != std::io::ErrorKind::BrokenPipe
        {
            return Err(error);
        }
        child.wait().await
    };
    let ended = tokio::time::timeout(PROGRAM, work).await;
    let status = ended
        .unwrap_or_else(|late| Err(late.into()))
        .map_err(failed)?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Failed {
        program: program.clone(),
        status: status.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages() {
        let url = Address::parse("https://hooks.example.com/services/tiger").unwrap();
        let unreachable = reqwest::Client::new().get("nowhere:").send().await;
        let text = crate::text::render_variants!(Error, |_| None, {
            Error::Unreachable { .. } => Error::Unreachable {
                url: url.clone(),
                source: unreachable.unwrap_err().without_url(),
            },
            Error::Refused { .. } => Error::Refused { url, status: 500 },
            Error::Program { .. } => Error::Program {
                program: "/usr/bin/mail".to_owned(),
                source: std::io::ErrorKind::NotFound.into(),
            },
            Error::Failed { .. } => Error::Failed {
                program: "/usr/bin/mail".to_owned(),
                status: "exit status: 1".to_owned(),
            },
        });
        assert!(!text.contains("tiger"), "{text}");
        insta::assert_snapshot!(text);
    }
}
