//! What happened per day, for charts and scripts.
//!
//! Days are those of the machine's time zone. Days that are over do not change, so they are read once and kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::Shared;
use super::answer::{Answer, Parameters, answer, parameters};
use super::problem::Problem;
use crate::ledger::{self, Activity, Ledger, Outcome};
use crate::local_time;

/// Days that are shown without a request for more or fewer.
const DAYS: u16 = 30;

/// Days that are shown at most.
const DAYS_MAX: u16 = 90;

/// A run may end, and a corrected clock may write, this many days after the day it belongs to.
const OPEN_DAYS: i64 = 2;

const HINT: &str = "the parameter is days, from 1 to 90";

/// What happened on a day.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct DayView {
    date: Date,
    results: ResultsView,
    /// From detection to result.
    file_seconds: Option<SecondsView>,
    runs: u64,
    unsuccessful_runs: u64,
    run_seconds: Option<SecondsView>,
}

/// Results by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct ResultsView {
    synchronized: u64,
    synchronized_with_issues: u64,
    uploaded: u64,
    unchanged: u64,
    renamed: u64,
    failed: u64,
    vanished: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct SecondsView {
    average: f64,
    longest: f64,
}

/// Days that are over.
pub(super) type Days = Mutex<BTreeMap<Date, DayView>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    days: Option<u16>,
}

#[derive(Serialize)]
pub(super) struct History {
    days: Vec<DayView>,
}

pub(super) async fn history(
    State(shared): State<Arc<Shared>>,
    query: Parameters<Query>,
) -> Answer<History> {
    let days = parameters(query, HINT)?.days.unwrap_or(DAYS);
    if !(1..=DAYS_MAX).contains(&days) {
        let error = format!("cannot show {days} days");
        return Err(Problem::new(axum::http::StatusCode::BAD_REQUEST, error).hint(HINT));
    }
    let today = crate::clock::now()
        .to_zoned_datetime(TimeZone::system())
        .date();
    // One request at a time reads what is missing.
    let mut over = shared.days.lock().await;
    let dates = (0..i64::from(days)).rev();
    let dates: Vec<Date> = dates
        .filter_map(|back| today.checked_sub(back.days()).ok())
        .collect();
    let missing = dates.iter().filter(|date| !over.contains_key(date)).min();
    let mut read = match missing {
        Some(first) => read(&shared.reader, *first, today).await?,
        None => BTreeMap::new(),
    };
    let mut found = Vec::new();
    for date in dates {
        let Some(day) = over.get(&date).cloned().or_else(|| read.remove(&date)) else {
            continue;
        };
        let age = today
            .since(date)
            .map_or(0, |span| i64::from(span.get_days()));
        if age > OPEN_DAYS {
            over.insert(date, day.clone());
        }
        found.push(day);
    }
    while over.len() > usize::from(DAYS_MAX) {
        over.pop_first();
    }
    answer(History { days: found })
}

/// The days from `first` to `last`.
async fn read(
    reader: &Ledger,
    first: Date,
    last: Date,
) -> Result<BTreeMap<Date, DayView>, ledger::Error> {
    let mut dates = Vec::new();
    let mut bounds = Vec::new();
    let mut date = first;
    // The calendar ends in the year 9999.
    while date <= last
        && let Some(start) = start_of(date)
        && let Ok(next) = date.tomorrow()
    {
        dates.push(date);
        bounds.push(start);
        date = next;
    }
    bounds.extend(start_of(date));
    let days = reader.activity(&bounds).await?;
    Ok(dates
        .into_iter()
        .zip(&days)
        .map(|(date, activity)| (date, view(date, activity)))
        .collect())
}

fn start_of(date: Date) -> Option<Timestamp> {
    let midnight = date.to_datetime(Time::midnight());
    local_time::first_instant(midnight, &TimeZone::system())
}

fn view(date: Date, activity: &Activity) -> DayView {
    let mut results = ResultsView::default();
    for (outcome, count) in &activity.results {
        let of_kind = match outcome {
            Outcome::Synchronized => &mut results.synchronized,
            Outcome::SynchronizedWithIssues => &mut results.synchronized_with_issues,
            Outcome::Uploaded => &mut results.uploaded,
            Outcome::Unchanged => &mut results.unchanged,
            Outcome::Renamed => &mut results.renamed,
            Outcome::Failed => &mut results.failed,
            Outcome::Vanished => &mut results.vanished,
        };
        *of_kind += count;
    }
    let seconds = |durations: ledger::Durations| SecondsView {
        average: seconds(durations.average),
        longest: seconds(durations.longest),
    };
    DayView {
        date,
        results,
        file_seconds: activity.files.map(seconds),
        runs: activity.runs,
        unsuccessful_runs: activity.unsuccessful_runs,
        run_seconds: activity.run_durations.map(seconds),
    }
}

#[allow(clippy::cast_precision_loss, reason = "seconds for a report")]
fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}
