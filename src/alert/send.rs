//! Delivers messages to webhooks, mail servers and programs. URLs are secrets: errors show only their host.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

use super::Receivers;
use super::mail;
use super::message::Message;
use super::problems::Problems;
use super::scheduler::Event;
use crate::config::{Address, Alert, Format};

/// Time limit for a program.
const PROGRAM: Duration = Duration::from_secs(60);

/// Time limit for the rest of its standard error after its end.
const ERRORS: Duration = Duration::from_secs(1);

/// How much of that is kept, in bytes.
const ERRORS_MAX: usize = 4096;

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
    #[error("program {program:?} failed ({status}){output}")]
    Failed {
        program: String,
        status: String,
        /// The beginning of its standard error, after a colon; empty if there is none.
        output: String,
    },
    #[error(transparent)]
    Mail(#[from] mail::Error),
}

impl Error {
    /// What the reader can do about it.
    pub(super) fn hint(&self) -> Option<String> {
        match self {
            Self::Mail(error) => error.hint(),
            _ => None,
        }
    }
}

/// A receiver of an alert that has several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Receiver {
    Webhook,
    Mail,
    Command,
}

/// Where one alert goes.
pub(super) struct Sender {
    receivers: Receivers,
    alert: Alert,
    host: String,
    /// The event that some receivers have already received and others have not.
    halfway: Mutex<Option<(Event, Vec<Receiver>)>>,
}

impl Sender {
    pub(super) fn new(alert: &Alert, receivers: Receivers) -> Self {
        let host = rustix::system::uname();
        Self {
            receivers,
            alert: alert.clone(),
            host: host.nodename().to_string_lossy().into_owned(),
            halfway: Mutex::new(None),
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
            Event::Reminder | Event::Resolved | Event::Test => problems.list.iter().collect(),
        };
        let message = Message {
            alert: &self.alert.name,
            host: &self.host,
            event,
            at,
            shown,
            problems,
        };
        // A receiver that fails must not repeat the message to the others.
        let mut received = match self.halfway().take() {
            Some((of, received)) if of == event => received,
            _ => Vec::new(),
        };
        for receiver in [Receiver::Webhook, Receiver::Mail, Receiver::Command] {
            if received.contains(&receiver) {
                continue;
            }
            if let Err(error) = self.deliver(receiver, &message).await {
                *self.halfway() = Some((event, received));
                return Err(error);
            }
            received.push(receiver);
        }
        Ok(())
    }

    async fn deliver(&self, receiver: Receiver, message: &Message<'_>) -> Result<(), Error> {
        let alert = &self.alert;
        match receiver {
            Receiver::Webhook => {
                let Some(url) = &alert.url else {
                    return Ok(());
                };
                let body = match alert.format {
                    Format::Json => message.json(),
                    Format::Teams => message.teams(),
                    Format::Slack => message.slack(),
                };
                answer(
                    url,
                    self.receivers.http.post(url.expose().clone()).json(&body),
                )
                .await
            }
            Receiver::Mail => match &alert.mail {
                Some(mail) => Ok(mail::send(mail, &self.receivers, message).await?),
                None => Ok(()),
            },
            Receiver::Command => match &alert.command {
                Some(command) => run(command, message.event.as_str(), message.text()).await,
                None => Ok(()),
            },
        }
    }

    fn halfway(&self) -> MutexGuard<'_, Option<(Event, Vec<Receiver>)>> {
        self.halfway.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Calls a URL, for its side effect only.
pub(super) async fn call(http: &reqwest::Client, url: &Address) -> Result<(), Error> {
    answer(url, http.get(url.expose().clone())).await
}

/// Sends a request; any status 2xx is a success.
pub(super) async fn answer(url: &Address, request: reqwest::RequestBuilder) -> Result<(), Error> {
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

/// Runs a program with this text on its standard input.
pub(super) async fn run(command: &[String], event: &str, text: String) -> Result<(), Error> {
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
        .env("ITWIN_SYNCD_EVENT", event)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let input = child.stdin.take();
    let errors = child.stderr.take();
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keeps = Arc::clone(&kept);
    let mut reading = tokio::spawn(async move {
        if let Some(errors) = errors {
            keep_beginning(errors, &keeps).await;
        }
    });
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
    // A program that it has started may keep the pipe open.
    if tokio::time::timeout(ERRORS, &mut reading).await.is_err() {
        reading.abort();
    }
    let status = ended
        .unwrap_or_else(|late| Err(late.into()))
        .map_err(failed)?;
    if status.success() {
        return Ok(());
    }
    let kept = std::mem::take(&mut *kept.lock().unwrap_or_else(PoisonError::into_inner));
    let output = mail::visible(&String::from_utf8_lossy(&kept));
    Err(Error::Failed {
        program: program.clone(),
        status: status.to_string(),
        output: if output.is_empty() {
            String::new()
        } else {
            format!(": {output}")
        },
    })
}

/// Keeps what a program prints, up to a limit; the rest is read and dropped, so that the program does not wait for it.
async fn keep_beginning(mut from: impl AsyncRead + Unpin, kept: &Mutex<Vec<u8>>) {
    let mut piece = [0; 1024];
    while let Ok(count @ 1..) = from.read(&mut piece).await {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let free = ERRORS_MAX.saturating_sub(kept.len()).min(count);
        kept.extend_from_slice(piece.get(..free).unwrap_or_default());
    }
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
                output: ": mail: cannot open /var/spool/postfix/maildrop".to_owned(),
            },
            Error::Mail(_) => Error::Mail(mail::Error::NoTls {
                server: "mail.example.com:25".to_owned(),
            }),
        });
        assert!(!text.contains("tiger"), "{text}");
        insta::assert_snapshot!(text);
    }
}
