//! When a named version is due, and how it is called; pure.

use std::time::Duration;

use jiff::civil::Time;
use jiff::{Timestamp, ZonedDateTime};

use crate::config::{NamedVersion, NamedVersionTime};
use crate::ledger::{Unnamed, VersionFiles};

/// The longest name or description that the platform accepts, in characters.
const LENGTH_MAX: usize = 255;

/// The pause where the next time of day cannot be computed.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Whether a named version is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    Now,
    /// At the next time of day, after this pause.
    In(Duration),
    /// After another run.
    Later,
}

/// Decides whether a named version is due.
pub(super) fn due(version: &NamedVersion, unnamed: Option<&Unnamed>, now: &ZonedDateTime) -> Due {
    let Some(unnamed) = unnamed else {
        return Due::Later;
    };
    match version.when {
        NamedVersionTime::EachRun if unnamed.partial && !version.when_partial => Due::Later,
        NamedVersionTime::EachRun => Due::Now,
        NamedVersionTime::DailyAt(time) => {
            // Also if the service was down at that time.
            if last_time(time, now).is_some_and(|last| unnamed.since < last) {
                return Due::Now;
            }
            let next = next_time(time, now).map(|next| next.duration_since(now.timestamp()));
            Due::In(
                next.and_then(|pause| pause.try_into().ok())
                    .unwrap_or(LOOK_AGAIN),
            )
        }
    }
}

/// The latest moment that had this time of day. A time that a change of the clocks skips counts as the moment after it.
fn last_time(time: Time, now: &ZonedDateTime) -> Option<Timestamp> {
    let today = at(time, now)?;
    if today <= now.timestamp() {
        return Some(today);
    }
    at(time, &now.yesterday().ok()?)
}

/// The next moment that has this time of day.
fn next_time(time: Time, now: &ZonedDateTime) -> Option<Timestamp> {
    let today = at(time, now)?;
    if today > now.timestamp() {
        return Some(today);
    }
    at(time, &now.tomorrow().ok()?)
}

fn at(time: Time, day: &ZonedDateTime) -> Option<Timestamp> {
    let moment = day
        .date()
        .to_datetime(time)
        .to_zoned_datetime(day.time_zone().clone());
    moment.ok().map(|moment| moment.timestamp())
}

/// Fills the placeholders of a name or a description. Everything it returns fits into the platform's limit.
pub(super) fn fill(template: &str, run: &str, files: &VersionFiles, now: &ZonedDateTime) -> String {
    let mut filled = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        filled += before;
        let Some((name, after)) = after.split_once('}') else {
            break;
        };
        match name {
            "date" => filled += &now.strftime("%Y-%m-%d").to_string(),
            "time" => filled += &now.strftime("%H:%M").to_string(),
            "run" => filled += run,
            "count" => filled += &files.count.to_string(),
            "watch" => filled += &files.watches.join(", "),
            "files" => filled += &files.paths.join(", "),
            _ => {}
        }
        rest = after;
    }
    filled += rest;
    filled.retain(|character| !character.is_control());
    shortened(filled.trim(), LENGTH_MAX)
}

fn shortened(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    text.chars()
        .take(length.saturating_sub(1))
        .chain(['…'])
        .collect()
}

/// The name with a number, if the name itself is taken.
pub(super) fn numbered(name: &str, number: u32) -> String {
    if number == 1 {
        return name.to_owned();
    }
    let suffix = format!(" ({number})");
    shortened(name, LENGTH_MAX - suffix.len()) + &suffix
}

/// What identifies an attempt: a request that was refused for good is not repeated before one of these changes.
pub(super) fn subject(version: &NamedVersion, run: &str) -> String {
    format!("{}\n{}\n{run}", version.name, version.description)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::ledger::RunId;

    fn version(when: NamedVersionTime, when_partial: bool) -> NamedVersion {
        NamedVersion {
            when,
            name: String::new(),
            description: String::new(),
            when_partial,
        }
    }

    fn unnamed(since: &str, partial: bool) -> Unnamed {
        Unnamed {
            since: since.parse::<ZonedDateTime>().unwrap().timestamp(),
            run_id: RunId::default(),
            run: "r".to_owned(),
            partial,
        }
    }

    #[test]
    fn a_version_is_due_after_a_run_without_failures() {
        let now: ZonedDateTime = "2026-11-25T10:00[Europe/Berlin]".parse().unwrap();
        let since = "2026-11-25T09:00[Europe/Berlin]";
        for (partial, when_partial, expected) in [
            (false, false, Due::Now),
            (true, false, Due::Later),
            (true, true, Due::Now),
        ] {
            let version = version(NamedVersionTime::EachRun, when_partial);
            assert_eq!(
                due(&version, Some(&unnamed(since, partial)), &now),
                expected
            );
            assert_eq!(due(&version, None, &now), Due::Later);
        }
    }

    #[test]
    fn a_daily_version_is_due_once_its_time_has_passed_since_the_first_file() {
        let hours = |hours: u64| Due::In(Duration::from_secs(hours * 3600));
        for (time, since, now, expected) in [
            ("23:00", "2026-11-25T09:00", "2026-11-25T22:00", hours(1)),
            ("23:00", "2026-11-25T09:00", "2026-11-25T23:00", Due::Now),
            // The service was down at 23:00.
            ("23:00", "2026-11-25T09:00", "2026-11-26T08:00", Due::Now),
            ("23:00", "2026-11-25T23:30", "2026-11-26T08:00", hours(15)),
            ("00:00", "2026-11-25T23:30", "2026-11-26T00:00", Due::Now),
            // The clocks go forward from 02:00 to 03:00, and back from 03:00 to 02:00.
            (
                "02:30",
                "2026-03-29T01:00",
                "2026-03-29T01:30",
                hours(1), /* 03:30 */
            ),
            ("02:30", "2026-03-29T01:00", "2026-03-29T03:30", Due::Now),
            ("02:30", "2026-10-25T01:00", "2026-10-25T01:30", hours(1)),
            ("02:30", "2026-10-25T01:00", "2026-10-25T03:00", Due::Now),
            ("12:00", "2026-10-24T13:00", "2026-10-25T11:00", hours(1)),
            ("12:00", "2026-10-24T13:00", "2026-10-24T12:00", hours(25)),
        ] {
            let zoned = |text: &str| format!("{text}[Europe/Berlin]");
            let version = version(
                NamedVersionTime::DailyAt(Time::strptime("%H:%M", time).unwrap()),
                false,
            );
            let now: ZonedDateTime = zoned(now).parse().unwrap();
            let unnamed = unnamed(&zoned(since), true);
            assert_eq!(
                due(&version, Some(&unnamed), &now),
                expected,
                "{time} {now}"
            );
        }
    }

    #[test]
    fn placeholders_are_filled_once_and_the_text_fits() {
        let now: ZonedDateTime = "2026-11-25T23:00[Europe/Berlin]".parse().unwrap();
        let files = VersionFiles {
            count: 2,
            watches: vec!["north".to_owned(), "south".to_owned()],
            paths: vec!["a/{date}.dgn".to_owned(), "b\n.ifc".to_owned()],
        };
        for (template, expected) in [
            ("{date} {time}", "2026-11-25 23:00"),
            (
                "{count} of {watch}: {files}",
                "2 of north, south: a/{date}.dgn, b.ifc",
            ),
            (" Issue {run} ", "Issue 42"),
            ("plain", "plain"),
        ] {
            assert_eq!(fill(template, "42", &files, &now), expected);
        }
        let long = fill(&"ä{date}".repeat(40), "42", &files, &now);
        assert_eq!(long.chars().count(), LENGTH_MAX);
        assert!(long.ends_with('…'));
        let numbered = numbered(&long, 9);
        assert_eq!(numbered.chars().count(), LENGTH_MAX);
        assert!(numbered.ends_with("… (9)"), "{numbered}");
    }
}
