//! What a changed configuration will do with the files that are known already, for `check` and `run --dry-run`.
//!
//! Input: the configuration and the ledger of the last start. It changes nothing.

use crate::config::Config;
use crate::ledger::{self, Ledger, PlannedWatch, WatchChange};
use crate::service::watch_specs;
use crate::shell;

/// What will happen to a watch, and what the operator may want to do about it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Announcement {
    /// The name of the watch.
    pub(super) watch: String,
    pub(super) text: String,
    pub(super) hint: Option<String>,
}

/// The watches of a configuration, and what a start with it will change.
#[derive(Debug, Default)]
pub(super) struct Announcements {
    watches: Vec<PlannedWatch>,
    pub(super) lines: Vec<Announcement>,
}

impl Announcements {
    /// The name in the ledger of the watch at this position of the configuration, if what is known of its files stays.
    pub(super) fn known_as(&self, watch: usize) -> Option<&str> {
        let planned = self.watches.get(watch)?;
        let begins_anew = |change: &WatchChange| matches!(change, WatchChange::Imodel { .. });
        if planned.changes.iter().any(begins_anew) {
            return None;
        }
        planned.known_as.as_deref()
    }

    /// Those of one watch.
    pub(super) fn of<'s>(&'s self, watch: &'s str) -> impl Iterator<Item = &'s Announcement> {
        self.lines.iter().filter(move |line| line.watch == watch)
    }
}

/// Compares a configuration with the ledger.
pub(super) async fn announcements(
    config: &Config,
    ledger: &Ledger,
) -> Result<Announcements, ledger::Error> {
    let planned = ledger.planned_watches(&watch_specs(config)).await?;
    let mut lines = Vec::new();
    for (watch, planned) in config.watches.iter().zip(&planned.watches) {
        for change in &planned.changes {
            lines.push(announcement(
                &watch.name,
                change,
                config.bulk_change.max_files,
            ));
        }
    }
    for (watch, change) in &planned.removed {
        lines.push(announcement(watch, change, config.bulk_change.max_files));
    }
    for former in planned.former_imodels {
        lines.push(Announcement {
            text: format!("watch {:?}: {}", former.watch, former.text()),
            hint: Some(former.hint()),
            watch: former.watch,
        });
    }
    Ok(Announcements {
        watches: planned.watches,
        lines,
    })
}

fn announcement(watch: &str, change: &WatchChange, limit: u64) -> Announcement {
    let bulk = match change {
        WatchChange::StorageFolder { files, .. } if *files > limit => Some(format!(
            "more than bulk_change.max_files ({limit}): the watch waits for `{}`",
            shell::command(["resume", watch])
        )),
        _ => None,
    };
    Announcement {
        watch: watch.to_owned(),
        text: change.text(watch),
        hint: bulk.or_else(|| change.hint(watch)),
    }
}
