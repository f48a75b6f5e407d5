//! `status --watch`: the report, updated in place on a terminal; elsewhere a line for each change.

use std::collections::HashMap;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::time::Duration;

use super::{Error, LISTS, text};
use crate::config::ReadOnlyConfig;
use crate::ledger::{Ledger, Lists, Outcome};
use crate::names::QuotedPath;
use crate::next_attempt::clock_time;
use crate::state_directory;
use crate::status_view::{self, StatusView, Surroundings};

/// Pause between two updates.
const PAUSE: Duration = Duration::from_secs(1);

/// Files whose changes are printed without a terminal.
const CHANGES: Lists = Lists {
    files: 1000,
    groups: 0,
    results: 200,
    runs: 1,
};

/// Another screen without cursor, and back. Source: xterm's control sequences, DECSET 1049 and 25
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

pub(super) async fn watch(config: &ReadOnlyConfig) -> Result<(), Error> {
    state_directory::act_as_owner(&config.state.path)?;
    let ledger = Ledger::read(&config.state.path).await?;
    let ended = tokio::signal::ctrl_c();
    if !std::io::stdout().is_terminal() {
        return tokio::select! {
            printed = print_changes(&ledger) => printed,
            _ = ended => Ok(()),
        };
    }
    write(ENTER)?;
    let mut last = String::new();
    let shown = tokio::select! {
        shown = redraw(config, &ledger, &mut last) => shown,
        _ = ended => Ok(()),
    };
    write(LEAVE)?;
    shown?;
    super::print(&last)
}

async fn redraw(config: &ReadOnlyConfig, ledger: &Ledger, last: &mut String) -> Result<(), Error> {
    loop {
        let (daemon, unreachable) = super::daemon(config).await;
        let surroundings = Surroundings {
            unreachable,
            disk_full: state_directory::full(&config.state.path),
        };
        let now = crate::clock::now();
        let overview = ledger.overview(LISTS, now).await?;
        let view = StatusView::new(&overview, daemon.as_ref());
        *last = text::report(&view, &surroundings, now);
        let (width, height) = size();
        let mut screen = String::from("\x1b[H");
        let lines: Vec<&str> = last.lines().collect();
        // The last row stays free, so that nothing scrolls.
        let fitting = usize::from(height).saturating_sub(2);
        for line in lines.iter().take(fitting) {
            screen.extend(line.chars().take(usize::from(width)));
            screen.push_str("\x1b[K\r\n");
        }
        let more = lines.len().saturating_sub(fitting);
        if more > 0 {
            screen.push_str(&format!("… {more} more lines"));
        } else {
            screen.push_str("Press Ctrl-C to quit; the daemon keeps running");
        }
        screen.push_str("\x1b[K\x1b[J");
        write(&screen)?;
        tokio::time::sleep(PAUSE).await;
    }
}

/// One line for each change of a file.
async fn print_changes(ledger: &Ledger) -> Result<(), Error> {
    let mut known: HashMap<String, (&'static str, Option<String>)> = HashMap::new();
    // Results before the start of this command are not shown.
    let mut last = ledger.last_result().await?;
    loop {
        let overview = ledger.overview(CHANGES, crate::clock::now()).await?;
        for file in overview.open.iter().chain(&overview.failed) {
            let state = (status_view::word(file), file.reason.clone());
            if known.get(&file.id.to_string()) != Some(&state) {
                let reason = file
                    .reason
                    .as_ref()
                    .map(|reason| format!(": {reason}"))
                    .unwrap_or_default();
                print_change(&file.watch, &file.path, &format!("{}{reason}", state.0))?;
                known.insert(file.id.to_string(), state);
            }
        }
        for result in ledger.results_after(last, CHANGES.results).await? {
            last = result.id;
            // Failures are printed as states above.
            if result.outcome != Outcome::Failed {
                print_change(&result.watch, &result.path, result.outcome.as_str())?;
                known.remove(&result.file.to_string());
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn print_change(watch: &str, path: &Path, what: &str) -> Result<(), Error> {
    let now = clock_time(crate::clock::now());
    write(&format!("{now} {watch}: {} {what}\n", QuotedPath(path)))
}

fn size() -> (u16, u16) {
    match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col, size.ws_row),
        _ => (100, 30),
    }
}

fn write(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}
