//! `status --watch`: the report, updated in place on a terminal; elsewhere a line for each change.
//!
//! It reads what `status` reads, once a second, and changes nothing. On a terminal it shows as much of the report as
//! fits ([`viewport`]), and gives the terminal back as it was ([`screen`]), whatever ends it.

mod changes;
mod screen;
mod viewport;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Error, Report, named_watches, text};
use crate::config::ReadOnlyConfig;
use crate::ledger::{Ledger, Lists};
use crate::state_directory;
use screen::{Keys, Screen};
use viewport::{Key, Viewport};

/// Pause between two updates.
const PAUSE: Duration = Duration::from_secs(1);

/// What the report lists: it can be scrolled.
const LISTS: Lists = Lists {
    files: 100,
    groups: 50,
    results: 20,
    runs: 1,
};

/// Why the screen ends.
enum End {
    /// The user quits, or a signal asks for it.
    Quit,
    /// The shell suspends the command.
    Suspend,
}

/// What the user and the terminal ask for by signals. Received from the start to the end: a suspended command gets what
/// was sent meanwhile when it continues.
struct Signals {
    resized: Signal,
    suspended: Signal,
    interrupted: Signal,
    terminated: Signal,
    hung_up: Signal,
}

impl Signals {
    fn receive() -> Result<Self, Error> {
        let of = |kind| signal(kind).map_err(Error::Write);
        Ok(Self {
            resized: of(SignalKind::window_change())?,
            suspended: of(SignalKind::from_raw(rustix::process::Signal::TSTP.as_raw()))?,
            interrupted: of(SignalKind::interrupt())?,
            terminated: of(SignalKind::terminate())?,
            hung_up: of(SignalKind::hangup())?,
        })
    }
}

pub(super) async fn watch(config: &ReadOnlyConfig, words: &[PathBuf]) -> Result<(), Error> {
    let watches = named_watches(words, config).ok_or_else(|| {
        let is_no_watch = |word: &&PathBuf| named_watches(&[(*word).clone()], config).is_none();
        Error::NotAWatch(words.iter().find(is_no_watch).cloned().unwrap_or_default())
    })?;
    state_directory::act_as_owner(&config.state.path)?;
    let ledger = Ledger::read(&config.state.path).await?;
    if !std::io::stdout().is_terminal() {
        return tokio::select! {
            printed = changes::print(&ledger, &watches) => printed,
            _ = tokio::signal::ctrl_c() => Ok(()),
        };
    }
    let mut keys = Keys::default();
    let mut viewport = Viewport::default();
    let mut signals = Signals::receive()?;
    let read = async || Report::read(config, &ledger, &watches, LISTS).await;
    loop {
        let screen = Screen::enter()?;
        let shown = show(&read, &screen, &mut keys, &mut signals, &mut viewport).await;
        drop(screen);
        match shown? {
            End::Suspend => screen::suspend(),
            End::Quit => break,
        }
    }
    let report = read().await?;
    super::print(&text::head(&report.view, &report.surroundings, report.now))
}

/// Shows the report until something ends it.
async fn show(
    read: &impl AsyncFn() -> Result<Report, Error>,
    screen: &Screen,
    keys: &mut Keys,
    signals: &mut Signals,
    viewport: &mut Viewport,
) -> Result<End, Error> {
    let mut updates = tokio::time::interval(PAUSE);
    updates.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = String::new();
    loop {
        tokio::select! {
            _ = updates.tick() => {
                let report = read().await?;
                let text = text::report(&report.view, &report.surroundings, report.now);
                viewport.set_text(&text);
            }
            key = keys.next() => match key {
                Some(Key::Quit) => return Ok(End::Quit),
                Some(key) => viewport.press(key),
                // Nobody can press a key any more.
                None => {}
            },
            _ = signals.resized.recv() => last.clear(),
            _ = signals.suspended.recv() => return Ok(End::Suspend),
            _ = signals.interrupted.recv() => return Ok(End::Quit),
            _ = signals.terminated.recv() => return Ok(End::Quit),
            _ = signals.hung_up.recv() => return Ok(End::Quit),
        }
        let (width, height) = screen::size();
        let frame = viewport.frame(width, height);
        // Nothing flickers that did not change.
        if frame != last {
            screen.draw(&frame)?;
            last = frame;
        }
    }
}
