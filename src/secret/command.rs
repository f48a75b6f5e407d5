//! A secret that a program prints, such as the client of a vault.
//!
//! Input: the program and its arguments, without a shell. Output: the secret, one line on standard output. The program
//! has a time limit, its output a bound. What it prints as secret is never shown; what it prints on standard error is
//! shown shortened, without the secrets in use, and only when it fails.

use std::fmt;
use std::io::{self, Read};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use super::{LINE_MAX, Part, Secret, redact};

/// Time limit of the program.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a program that it started may keep its output open after its end, before it is killed.
const LEFTOVER: Duration = Duration::from_secs(1);

/// Characters of standard error that are shown.
const SHOWN: usize = 200;

/// Bytes of standard error that are kept for that.
const ERRORS_MAX: u64 = 4096;

/// A program that prints a secret, with its arguments. `Debug` shows the program only.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretCommand {
    program: String,
    arguments: Vec<String>,
}

/// A client secret, and the program that printed it, if it comes from one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientSecret {
    /// The secret.
    pub text: Secret,
    /// Prints the current one.
    pub command: Option<SecretCommand>,
}

impl From<Secret> for ClientSecret {
    fn from(text: Secret) -> Self {
        Self {
            text,
            command: None,
        }
    }
}

/// Why a program did not print a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// It cannot be started.
    #[error("cannot start {program:?}")]
    Start {
        /// The program.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// It did not end in time, and was killed.
    #[error("{program:?} did not end within {seconds} s")]
    Late {
        /// The program.
        program: String,
        /// The time limit.
        seconds: u64,
    },
    /// It failed.
    #[error("{program:?} failed ({status}){errors}")]
    Failed {
        /// The program.
        program: String,
        /// Its exit status.
        status: String,
        /// After a colon: the beginning of what it printed on standard error.
        errors: String,
    },
    /// What it printed is no secret.
    #[error("the secret that {program:?} printed {what}")]
    Unusable {
        /// The program.
        program: String,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl CommandError {
    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Start { .. } => {
                "write the full path of the program, and let the service's user execute it"
            }
            Self::Late { .. } => {
                "run the program as the service's user: it must neither ask for input nor wait for a login"
            }
            Self::Failed { .. } => "run the program as the service's user, and correct what it reports",
            Self::Unusable { .. } => {
                "the program must print the secret on one line of standard output and nothing else"
            }
        }
        .to_owned()
    }
}

impl fmt::Debug for SecretCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretCommand")
            .field("program", &self.program)
            .finish_non_exhaustive()
    }
}

impl SecretCommand {
    /// None without a program.
    #[must_use]
    pub fn new(words: Vec<String>) -> Option<Self> {
        let mut words = words.into_iter();
        let program = words.next().filter(|program| !program.is_empty())?;
        Some(Self {
            program,
            arguments: words.collect(),
        })
    }

    /// Runs the program. Blocks until it has ended, for at most half a minute.
    ///
    /// # Errors
    /// When it does not print a secret.
    pub fn run(&self) -> Result<Secret, CommandError> {
        self.run_for(PATIENCE)
    }

    fn run_for(&self, patience: Duration) -> Result<Secret, CommandError> {
        let program = || self.program.clone();
        let late = || CommandError::Late {
            program: program(),
            seconds: patience.as_secs(),
        };
        let start = |source| CommandError::Start {
            program: program(),
            source,
        };
        // A group of its own: programs that it started can be killed with it.
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(start)?;
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let printed = child
            .stdout
            .take()
            .map(|from| beginning(from, LINE_MAX + 2));
        let errors = child.stderr.take().map(|from| beginning(from, ERRORS_MAX));
        let ended = in_thread(move || child.wait());
        let status = match ended.recv_timeout(patience) {
            Ok(ended) => ended.map_err(start)?,
            Err(_) => {
                kill(group);
                return Err(late());
            }
        };
        let text = |output: Option<mpsc::Receiver<Vec<u8>>>| {
            let output = output?;
            let bytes = output.recv_timeout(LEFTOVER).or_else(|_| {
                kill(group);
                output.recv_timeout(LEFTOVER)
            });
            Some(String::from_utf8_lossy(&bytes.ok()?).into_owned())
        };
        let printed = text(printed);
        if !status.success() {
            // It may have printed the secret on both.
            let _known = printed.as_deref().map(|text| Secret::new(text.trim()));
            return Err(CommandError::Failed {
                program: program(),
                status: described(status),
                errors: shown(&text(errors).unwrap_or_default()),
            });
        }
        let printed = printed.ok_or_else(late)?;
        Secret::of_line(&printed).map_err(|what| CommandError::Unusable {
            program: program(),
            what,
        })
    }
}

/// Kills a program and those that it started, as far as there are any.
fn kill(group: Option<Pid>) {
    if let Some(group) = group {
        kill_process_group(group, Signal::KILL).ok();
    }
}

/// The beginning of an output, once it has ended; the rest is read and dropped, so that the program does not wait.
fn beginning(mut from: impl Read + Send + 'static, most: u64) -> mpsc::Receiver<Vec<u8>> {
    in_thread(move || {
        let mut kept = Vec::new();
        // What was read before an error is what there is.
        from.by_ref().take(most).read_to_end(&mut kept).ok();
        io::copy(&mut from, &mut io::sink()).ok();
        kept
    })
}

/// The result of `work`, which may never come.
fn in_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> mpsc::Receiver<T> {
    let (sender, receiver) = mpsc::channel();
    // Without a thread, nothing is ever received.
    std::thread::Builder::new()
        .name("secret command".to_owned())
        .spawn(move || sender.send(work()).ok())
        .ok();
    receiver
}

fn described(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// The beginning of what a program printed on standard error, on one line and without secrets.
fn shown(errors: &str) -> String {
    let safe = redact(errors, Part::Short);
    let words: Vec<String> = safe
        .split_whitespace()
        .map(|word| {
            word.escape_debug()
                .to_string()
                .replace("\\\"", "\"")
                .replace("\\'", "'")
        })
        .collect();
    let line = words.join(" ");
    let short: String = line.chars().take(SHOWN).collect();
    match (line.is_empty(), short.len() < line.len()) {
        (true, _) => String::new(),
        (false, true) => format!(": {short}…"),
        (false, false) => format!(": {short}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::time::Instant;

    use super::*;

    fn script(text: &str) -> SecretCommand {
        let words = ["/bin/sh", "-c", text].map(str::to_owned);
        SecretCommand::new(words.to_vec()).unwrap()
    }

    #[test]
    fn one_line_of_standard_output_is_the_secret() {
        let secret = script("echo noise >&2; echo kP7wQ2zN").run().unwrap();
        assert_eq!(secret.expose(), "kP7wQ2zN");
        assert!(SecretCommand::new(Vec::new()).is_none());
        assert!(!format!("{:?}", script("echo tiger")).contains("tiger"));
    }

    #[test]
    fn failures_are_described_without_what_was_printed_as_secret() {
        let absent = SecretCommand::new(vec!["/absent/vault".to_owned()]).unwrap();
        let mut text = String::new();
        for command in [
            absent,
            script("echo vQ9fT3xR8m; echo 'denied\u{202e}\u{1b}[1m for vQ9fT3xR8m' >&2; exit 3"),
            script("head -c 100000 /dev/zero | tr '\\0' x >&2; exit 4"),
            script("kill -9 $$"),
            script("true"),
            script("echo a; echo b"),
            script("yes | tr -d '\\n' | head -c 100000"),
        ] {
            let error = command.run().unwrap_err();
            text += &crate::text::rendered(&error, Some(error.hint()));
        }
        assert!(!text.contains("vQ9fT3xR8m"), "{text}");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn a_program_that_does_not_end_is_killed_with_those_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let late = script(&format!("sleep 600 & echo $! >{pid:?}; wait"))
            .run_for(Duration::from_secs(1))
            .unwrap_err();
        assert_eq!(late.to_string(), "\"/bin/sh\" did not end within 1 s");
        let pid = std::fs::read_to_string(pid).unwrap();
        let status = format!("/proc/{}/status", pid.trim());
        let deadline = Instant::now() + Duration::from_secs(30);
        // Nobody may have reaped it yet.
        let lives =
            || std::fs::read_to_string(&status).is_ok_and(|text| !text.contains("(zombie)"));
        while lives() {
            assert!(Instant::now() < deadline, "still there: {pid}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_program_that_it_started_does_not_keep_the_secret_back() {
        let printed = script("echo kP7wQ2zN; sleep 600 &").run_for(Duration::from_secs(30));
        assert_eq!(printed.unwrap().expose(), "kP7wQ2zN");
    }
}
