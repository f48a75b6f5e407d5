//! Questions in a terminal. It never shows what is typed for a secret, and restores the terminal on every way out.

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::fd::AsFd as _;

use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};

use super::Error;
use crate::cli::print_line;

/// The longest answer, in bytes: a path.
const ANSWER_MAX: u64 = 8192;

/// The user at a terminal.
#[derive(Debug)]
pub(super) struct Terminal(());

/// What Enter means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Enter {
    Yes,
    No,
}

impl Terminal {
    /// The terminal of standard input.
    pub(super) fn open() -> Result<Self, Error> {
        if io::stdin().is_terminal() {
            Ok(Self(()))
        } else {
            Err(Error::NoTerminal)
        }
    }

    /// Asks for a line; Enter gives the default. Without one, it is asked again until there is an answer.
    pub(super) fn ask(&self, question: &str, default: Option<&str>) -> Result<String, Error> {
        loop {
            let answer = match default {
                Some(default) => self.line(&format!("{question} [{default}]: "))?,
                None => self.line(&format!("{question}: "))?,
            };
            match default {
                _ if !answer.is_empty() => return Ok(answer),
                Some(default) => return Ok(default.to_owned()),
                None => {}
            }
        }
    }

    /// Asks a question to which yes and no are answers.
    pub(super) fn agrees(&self, question: &str, enter: Enter) -> Result<bool, Error> {
        let choice = if enter == Enter::Yes { "Y/n" } else { "y/N" };
        loop {
            let answer = self.line(&format!("{question} [{choice}] "))?;
            match answer.to_lowercase().as_str() {
                "" => return Ok(enter == Enter::Yes),
                "y" | "yes" => return Ok(true),
                "n" | "no" => return Ok(false),
                _ => print_line("  answer yes or no"),
            }
        }
    }

    /// Asks for a line, which may be empty.
    pub(super) fn line(&self, prompt: &str) -> Result<String, Error> {
        show(prompt);
        let mut bytes = Vec::new();
        let mut input = io::stdin().lock();
        // Byte by byte: standard input has no limit of its own for a line.
        let mut byte = [0];
        loop {
            match input.read(&mut byte) {
                Ok(0) if bytes.is_empty() => return Err(Error::Ended),
                Ok(0) => break,
                Ok(_) if byte == *b"\n" => break,
                Ok(_) if bytes.len() as u64 == ANSWER_MAX => return Err(Error::TooLong),
                Ok(_) => bytes.extend(byte),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Input(error)),
            }
        }
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// Asks for a line that is not shown.
    pub(super) fn hidden(&self, question: &str) -> Result<String, Error> {
        let silent = Silent::begin()?;
        show(&format!("{question} (not shown): "));
        let mut input = io::stdin().lock();
        let (mut bytes, mut byte) = (Vec::new(), [0]);
        let end = loop {
            match input.read(&mut byte) {
                Ok(0) => break Err(Error::Ended),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => break Err(Error::Input(error)),
                Ok(_) => {}
            }
            match byte[0] {
                b'\r' | b'\n' => break Ok(()),
                // Ctrl-C and Ctrl-D.
                3 => break Err(Error::Interrupted),
                4 if bytes.is_empty() => break Err(Error::Ended),
                4 => break Ok(()),
                // Backspace and Ctrl-U.
                8 | 127 => drop(bytes.pop()),
                21 => bytes.clear(),
                _ if bytes.len() as u64 == ANSWER_MAX => break Err(Error::TooLong),
                other => bytes.push(other),
            }
        };
        drop(silent);
        print_line("");
        end.map(|()| String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn show(prompt: &str) {
    let mut out = io::stdout().lock();
    // Without its output, the next line that is printed ends the command.
    if write!(out, "{prompt}").is_ok() {
        out.flush().ok();
    }
}

/// The terminal without echo, line editing and signals; ends with the value.
struct Silent(Termios);

impl Silent {
    fn begin() -> Result<Self, Error> {
        let failed = |error: rustix::io::Errno| Error::Input(error.into());
        let stdin = io::stdin();
        let before = tcgetattr(stdin.as_fd()).map_err(failed)?;
        let mut silent = before.clone();
        silent
            .local_modes
            .remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        silent.special_codes[SpecialCodeIndex::VMIN] = 1;
        silent.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(stdin.as_fd(), OptionalActions::Now, &silent).map_err(failed)?;
        Ok(Self(before))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // There is no one to report a terminal to that has gone.
        tcsetattr(io::stdin().as_fd(), OptionalActions::Now, &self.0).ok();
    }
}
