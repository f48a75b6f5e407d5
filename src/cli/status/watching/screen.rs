//! The terminal of `status --watch`: another screen without cursor and without echo, and back.
//!
//! What was changed is undone when the [`Screen`] is dropped, and before the message of a panic is printed. Signals do
//! not end the process here: the caller waits for them and drops the screen.

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::sync::{Mutex, Once, PoisonError};

use rustix::termios::{self, LocalModes, OptionalActions, Termios};
use tokio::sync::mpsc;

use super::viewport::{Key, keys};

/// Another screen without cursor, and back. Source: xterm's control sequences, DECSET 1049 and 25
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// A frame that terminals show at once: DECSET 2026. Others ignore it.
const BEGIN: &str = "\x1b[?2026h\x1b[H";
const END: &str = "\x1b[J\x1b[?2026l";

/// The terminal as it was; None if there is nothing to undo.
static BEFORE: Mutex<Option<Option<Termios>>> = Mutex::new(None);

/// The terminal shows the screen of this command.
pub(super) struct Screen(());

impl Screen {
    pub(super) fn enter() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let print = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                leave();
                print(panic);
            }));
        });
        let input = io::stdin();
        let before = if input.is_terminal() {
            let before = termios::tcgetattr(&input)?;
            let mut quiet = before.clone();
            // Keys arrive at once and are not echoed. Ctrl-C and Ctrl-Z are still signals.
            quiet
                .local_modes
                .remove(LocalModes::ICANON | LocalModes::ECHO);
            termios::tcsetattr(&input, OptionalActions::Now, &quiet)?;
            Some(before)
        } else {
            None
        };
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        let screen = Self(());
        write(ENTER)?;
        Ok(screen)
    }

    /// Shows lines that each end with a line break, all at once.
    #[allow(clippy::unused_self, reason = "only an entered screen is drawn on")]
    pub(super) fn draw(&self, frame: &str) -> io::Result<()> {
        // What is right of a line is erased with it, so that nothing flickers.
        let frame = frame.replace('\n', "\x1b[K\r\n");
        write(&format!("{BEGIN}{frame}{END}"))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

/// Gives the terminal back as it was. Does nothing the second time.
fn leave() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before {
        // If the terminal is gone, there is nothing to give back.
        write(LEAVE).ok();
        if let Some(before) = before {
            termios::tcsetattr(io::stdin(), OptionalActions::Now, &before).ok();
        }
    }
}

/// Stops this process, as the default of Ctrl-Z does, until the shell continues it.
pub(super) fn suspend() {
    let own = rustix::process::getpid();
    rustix::process::kill_process(own, rustix::process::Signal::STOP).ok();
}

/// Columns and rows of the terminal.
pub(super) fn size() -> (usize, usize) {
    match termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (100, 30),
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// The keys that are pressed.
#[derive(Default)]
pub(super) struct Keys {
    /// None before the first look; a thread reads the terminal.
    pressed: Option<mpsc::Receiver<Key>>,
    ended: bool,
}

impl Keys {
    /// The next key. None once there are none any more; after that it waits forever.
    pub(super) async fn next(&mut self) -> Option<Key> {
        if self.ended {
            return std::future::pending().await;
        }
        let key = self.pressed.get_or_insert_with(read).recv().await;
        self.ended = key.is_none();
        key
    }
}

/// Starts the thread that reads keys. It ends with the process, as nothing can interrupt its read.
fn read() -> mpsc::Receiver<Key> {
    let (pressed, keys_of) = mpsc::channel(64);
    let reading = std::thread::Builder::new().name("keys".to_owned());
    let started = reading.spawn(move || {
        if !io::stdin().is_terminal() {
            return;
        }
        let mut bytes = [0; 64];
        loop {
            match io::stdin().lock().read(&mut bytes) {
                Ok(0) => return,
                Ok(read) => {
                    for key in keys(bytes.get(..read).unwrap_or_default()) {
                        if pressed.blocking_send(key).is_err() {
                            return;
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
    if let Err(error) = started {
        tracing::debug!(%error, "cannot read keys");
    }
    keys_of
}
