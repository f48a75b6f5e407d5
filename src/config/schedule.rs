//! `run_window`, `upload_window` and `window_stale`, which a watch and an `[[imodel]]` table may have.
//!
//! Input: the keys of one table. Output: a [`Schedule`] for each window.

use std::collections::BTreeMap;
use std::time::Duration;

use toml::de::DeValue;

use super::document::{Place, Section};
use super::sections::{DAY, MINUTE};
use super::values::{self, InvalidValue};
use crate::ids::ImodelId;
use crate::local_time::{Error, Windows};

/// When work may start, in local time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// It may start in these windows.
    pub windows: Windows,
    /// A file that waits longer than this is reported.
    pub stale: Duration,
}

/// Runs of each iModel start in these windows only.
pub type RunSchedules = BTreeMap<ImodelId, Schedule>;

/// The schedules of one table, and where they are.
#[derive(Debug, Clone, Default)]
pub(super) struct Placed {
    pub(super) run: Option<Schedule>,
    pub(super) upload: Option<Schedule>,
    pub(super) at_run: Place,
}

/// The least default of `window_stale`, unless a window is closed for longer.
pub(crate) const STALE: Duration = Duration::from_hours(36);

/// Beyond the longest time that a window is closed.
const STALE_SLACK: Duration = Duration::from_hours(12);

/// Reads the keys of one table.
pub(super) fn read(section: &mut Section<'_>) -> Placed {
    let run = section.read("run_window", windows);
    let upload = section.read("upload_window", windows);
    let stale = section.read("window_stale", values::duration(MINUTE..=30 * DAY));
    if section.has("window_stale") && !section.has("run_window") && !section.has("upload_window") {
        section.add(
            "window_stale",
            InvalidValue::new(
                "has no effect without run_window or upload_window",
                "add a window to this table, or remove the key",
            ),
        );
    }
    let schedule = |windows: Windows| Schedule {
        stale: stale.unwrap_or_else(|| STALE.max(windows.longest_closed() + STALE_SLACK)),
        windows,
    };
    Placed {
        run: run.map(schedule),
        upload: upload.map(schedule),
        at_run: section.place("run_window"),
    }
}

fn windows(value: &DeValue<'_>) -> Result<Windows, InvalidValue> {
    let texts = values::list(value).map_err(|bad| InvalidValue {
        hint: Some(EXAMPLE.to_owned()),
        ..bad
    })?;
    Windows::parse(&texts).map_err(|error| {
        let hint = match &error {
            Error::Day(..) => "write days as Mon, Tue, Wed, Thu, Fri, Sat or Sun, such as \"Mon-Fri\"",
            Error::Time(..) => "write times from 00:00 to 24:00 such as \"06:00\"",
            Error::NeverOpens(_) => {
                "write another end; a whole day is \"Sat\", every day at any time is no window at all"
            }
            Error::Overlap(..) => "remove one of them, or merge them into one",
            Error::Empty => "write at least one window, or remove the key",
            Error::Malformed(_) => EXAMPLE,
        };
        InvalidValue::new(error.to_string(), hint)
    })
}

/// How windows are written.
const EXAMPLE: &str = "write windows like [\"Mon-Fri 19:00-06:00\", \"Sat,Sun\"]";
