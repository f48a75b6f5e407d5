//! The progress of `run --once` in a terminal, below the log.
//!
//! It reads what `status` reads, twice a second: the ledger and the runtime status. It draws through the bars of
//! `telemetry`, which log lines are written above, and removes all of it at the end. Synchronization does not depend on
//! it: what cannot be read is not shown.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;

use crate::cli::status::run_progress;
use crate::control::{self, Answer, Request};
use crate::ledger::{Ledger, Lists};
use crate::ledger_location::LedgerLocation;
use crate::names::QuotedPath;
use crate::status_view::{RunView, StatusView, UploadView};
use crate::text::span_of;

/// Pause between two updates.
const PAUSE: Duration = Duration::from_millis(500);

/// Runs and uploads that are shown, so that the log keeps its place.
const SHOWN: usize = 8;

const LISTS: Lists = Lists {
    files: 0,
    groups: 0,
    results: 0,
    runs: 0,
};

/// A line below the log.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    /// What stays the same from one update to the next.
    key: String,
    text: String,
    shape: Shape,
}

/// What a line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Text,
    Bar { sent: u64, bytes: u64 },
}

/// Shows the progress until `stop`, and leaves nothing of it.
pub(in crate::cli) async fn show(
    bars: MultiProgress,
    state: LedgerLocation,
    stop: CancellationToken,
) {
    tokio::select! {
        () = draw(&bars, &state) => {}
        () = stop.cancelled() => {}
    }
    // Fails only if the terminal is gone.
    bars.clear().ok();
}

async fn draw(bars: &MultiProgress, state: &LedgerLocation) {
    let mut ledger = None;
    let mut drawn = HashMap::new();
    loop {
        tokio::time::sleep(PAUSE).await;
        if ledger.is_none() {
            ledger = Ledger::read(state).await.ok();
        }
        if let Some(ledger) = &ledger
            && let Some(view) = read(ledger, state).await
        {
            update(bars, &mut drawn, lines(&view));
        }
    }
}

async fn read(ledger: &Ledger, state: &Path) -> Option<StatusView> {
    let overview = ledger.overview(LISTS, crate::clock::now()).await.ok()?;
    match control::ask(state, &Request::Status).await {
        Ok(Some(Answer::Status(now))) => Some(StatusView::new(&overview, Some(&now))),
        _ => Some(StatusView::new(&overview, None)),
    }
}

/// What is in progress, the whole first.
fn lines(view: &StatusView) -> Vec<Line> {
    let batch = view.batch.iter().map(|batch| Line {
        key: "batch".to_owned(),
        text: batch.text.clone(),
        shape: Shape::Text,
    });
    let runs = view.watches.iter().filter_map(|watch| {
        let run = watch.last_run.as_ref()?;
        run.elapsed_seconds.map(|elapsed| Line {
            key: format!("run {}", watch.name),
            text: format!("run of {:?}: {}", watch.name, run_text(run, elapsed)),
            shape: Shape::Text,
        })
    });
    let uploads = view.uploads.iter().map(upload_line);
    batch.chain(runs).chain(uploads).take(SHOWN).collect()
}

fn run_text(run: &RunView, elapsed: u64) -> String {
    let progress = run.progress.as_ref();
    let progress = progress.map_or_else(|| "requested".to_owned(), run_progress);
    format!("{progress}, for {}", span_of(elapsed))
}

fn upload_line(upload: &UploadView) -> Line {
    let path = QuotedPath(Path::new(&upload.path));
    Line {
        key: format!("upload {}/{}", upload.watch, upload.path),
        text: format!("{path} of {:?}", upload.watch),
        shape: Shape::Bar {
            sent: upload.sent,
            bytes: upload.bytes,
        },
    }
}

/// Draws these lines in place of the last ones.
fn update(bars: &MultiProgress, drawn: &mut HashMap<String, ProgressBar>, lines: Vec<Line>) {
    drawn.retain(|key, bar| {
        let stays = lines.iter().any(|line| line.key == *key);
        if !stays {
            bar.finish_and_clear();
            bars.remove(bar);
        }
        stays
    });
    for (index, line) in lines.into_iter().enumerate() {
        let bar = drawn.entry(line.key).or_insert_with(|| {
            let bar = ProgressBar::no_length().with_style(style(line.shape));
            bars.insert(index, bar)
        });
        if let Shape::Bar { sent, bytes } = line.shape {
            bar.set_length(bytes);
            bar.set_position(sent);
        }
        bar.set_message(line.text);
        bar.tick();
    }
}

fn style(shape: Shape) -> ProgressStyle {
    // The templates are valid: a test parses both.
    ProgressStyle::with_template(template(shape)).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Each line is cut at the width of the terminal.
fn template(shape: Shape) -> &'static str {
    match shape {
        Shape::Bar { .. } => "  {bar:20} {percent:>3} % of {binary_total_bytes} {wide_msg}",
        Shape::Text => "{spinner} {wide_msg}",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn the_templates_are_valid() {
        for shape in [Shape::Text, Shape::Bar { sent: 0, bytes: 0 }] {
            ProgressStyle::with_template(template(shape)).unwrap();
        }
    }

    #[test]
    fn names_cannot_move_the_cursor() {
        let line = upload_line(&UploadView {
            watch: "north".to_owned(),
            path: "a\u{1b}[2J\n.dgn".to_owned(),
            bytes: 4,
            sent: 1,
            percent: 25,
            bytes_per_second: 1,
            since: jiff::Timestamp::UNIX_EPOCH,
        });
        assert_eq!(line.text, r#""a\u{1b}[2J\n.dgn" of "north""#);
        assert_eq!(line.shape, Shape::Bar { sent: 1, bytes: 4 });
    }
}
