//! Times of day and weekly windows in local time. Pure: clock and time zone are passed in.
//!
//! A time of day comes at the first instant at which the wall clock reaches it. So a time that the clocks skip in
//! spring comes when they go forward, and one that they repeat in autumn comes once. A window that is skipped as a
//! whole opens at that moment, for its length.

use std::time::Duration;

use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan as _};

/// Days, as the config file writes them.
const DAYS: [(&str, Weekday); 7] = [
    ("mon", Weekday::Monday),
    ("tue", Weekday::Tuesday),
    ("wed", Weekday::Wednesday),
    ("thu", Weekday::Thursday),
    ("fri", Weekday::Friday),
    ("sat", Weekday::Saturday),
    ("sun", Weekday::Sunday),
];

/// Minutes of a day.
const DAY: i64 = 24 * 60;

/// Days ahead in which a window opens at the latest: a week, and what the clocks may skip.
const AHEAD: i32 = 9;

/// What is wrong with the text of a window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("must not be empty")]
    Empty,
    #[error("{0:?} is not a window")]
    Malformed(String),
    #[error("{0:?} has an unknown day {1:?}")]
    Day(String, String),
    #[error("{0:?} has an invalid time of day {1:?}")]
    Time(String, String),
    #[error("{0:?} never opens: it closes when it opens")]
    NeverOpens(String),
    #[error("{0:?} overlaps {1:?}")]
    Overlap(String, String),
}

/// A part of a day, from `start` to `end` in minutes after its midnight. It may reach into the next day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    day: Weekday,
    start: i64,
    end: i64,
}

/// The windows of a week; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Windows {
    windows: Vec<Window>,
    /// As written.
    text: Vec<String>,
}

/// Whether a window is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opening {
    /// It is.
    Open,
    /// None is, until this time.
    ClosedUntil(Timestamp),
}

impl Windows {
    /// Parses windows such as `"Mon-Fri 19:00-06:00"`, `"Sat,Sun"` and `"20:00-24:00"`.
    pub(crate) fn parse(texts: &[String]) -> Result<Self, Error> {
        if texts.is_empty() {
            return Err(Error::Empty);
        }
        let mut all: Vec<(Window, &str)> = Vec::new();
        for text in texts {
            for window in parse(text)? {
                // The end of a night may reach into a window of the next day.
                let overlapping = all.iter().find(|(other, _)| {
                    other.day == window.day && other.start < window.end && window.start < other.end
                });
                if let Some((_, other)) = overlapping {
                    return Err(Error::Overlap(text.clone(), (*other).to_owned()));
                }
                all.push((window, text));
            }
        }
        Ok(Self {
            windows: all.into_iter().map(|(window, _)| window).collect(),
            text: texts.to_vec(),
        })
    }

    /// Whether a window is open at this time, else when the next one opens.
    pub(crate) fn at(&self, now: Timestamp, zone: &TimeZone) -> Opening {
        let today = now.to_zoned_datetime(zone.clone()).date();
        let mut next: Option<Timestamp> = None;
        for date in (-2..=AHEAD).filter_map(|days| today.checked_add(days.days()).ok()) {
            let of_day = self.windows.iter().filter(|one| one.day == date.weekday());
            for (opens, closes) in of_day.filter_map(|one| one.on(date, zone)) {
                if opens <= now && now < closes {
                    return Opening::Open;
                }
                if opens > now && next.is_none_or(|next| opens < next) {
                    next = Some(opens);
                }
            }
        }
        // There is always a next one, except at the end of the calendar.
        next.map_or(Opening::Open, Opening::ClosedUntil)
    }

    /// The longest time of a week in which no window is open.
    pub(crate) fn longest_closed(&self) -> Duration {
        let place = |window: &Window, minutes: i64| {
            i64::from(window.day.to_monday_zero_offset()) * DAY + minutes
        };
        let week = 7 * DAY;
        let mut spans: Vec<(i64, i64)> = self
            .windows
            .iter()
            .map(|one| (place(one, one.start), place(one, one.end)))
            .collect();
        spans.sort_unstable();
        let again: Vec<_> = spans
            .iter()
            .map(|(from, to)| (from + week, to + week))
            .collect();
        let mut longest = 0;
        let mut closed_since = spans.first().map_or(0, |first| first.1);
        for (opens, closes) in spans.into_iter().chain(again) {
            longest = longest.max(opens - closed_since);
            closed_since = closed_since.max(closes);
        }
        Duration::from_mins(longest.unsigned_abs())
    }

    /// As in the config file.
    pub(crate) fn text(&self) -> String {
        self.text.join(", ")
    }
}

impl Window {
    /// When it opens and closes on a date.
    fn on(self, date: Date, zone: &TimeZone) -> Option<(Timestamp, Timestamp)> {
        let midnight = date.at(0, 0, 0, 0);
        let opens = first_instant(midnight.checked_add(self.start.minutes()).ok()?, zone)?;
        let closes = first_instant(midnight.checked_add(self.end.minutes()).ok()?, zone)?;
        if closes > opens {
            return Some((opens, closes));
        }
        let length = SignedDuration::from_mins(self.end - self.start);
        Some((opens, opens.checked_add(length).ok()?))
    }
}

/// The first instant at which the wall clock shows this time or a later one.
pub(crate) fn first_instant(time: DateTime, zone: &TimeZone) -> Option<Timestamp> {
    let found = zone.to_ambiguous_timestamp(time);
    match found.offset() {
        AmbiguousOffset::Gap { .. } => {
            // The clocks go forward between these.
            let before = found.earlier().ok()?;
            zone.following(before).next().map(|one| one.timestamp())
        }
        AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => found.earlier().ok(),
    }
}

/// The next time after `after` at which the wall clock reaches this time of day; None at the end of the calendar.
pub(crate) fn next_at(time: Time, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let today = after.to_zoned_datetime(zone.clone()).date();
    (0..=2)
        .filter_map(|days| today.checked_add(days.days()).ok())
        .filter_map(|date| first_instant(date.to_datetime(time), zone))
        .find(|at| *at > after)
}

/// Parses a time of day such as `"23:00"`.
pub(crate) fn time_of_day(text: &str) -> Option<Time> {
    let minutes = minutes(text).filter(|minutes| *minutes < DAY)?;
    let (hour, minute) = (
        i8::try_from(minutes / 60).ok()?,
        i8::try_from(minutes % 60).ok()?,
    );
    Time::new(hour, minute, 0, 0).ok()
}

/// A coming time for a reader: the time of day, with the day unless it comes within 24 hours.
pub(crate) fn label(at: Timestamp, now: Timestamp, zone: &TimeZone) -> String {
    let local = at.to_zoned_datetime(zone.clone());
    let ahead = at.duration_since(now);
    if ahead < SignedDuration::from_hours(24) {
        local.strftime("%H:%M").to_string()
    } else if ahead < SignedDuration::from_hours(6 * 24) {
        local.strftime("%a %H:%M").to_string()
    } else {
        local.strftime("%Y-%m-%d %H:%M").to_string()
    }
}

/// The windows of one text, one for each day.
fn parse(text: &str) -> Result<Vec<Window>, Error> {
    let malformed = || Error::Malformed(text.to_owned());
    let words: Vec<&str> = text.split_whitespace().collect();
    let is_time = |word: &str| word.starts_with(|first: char| first.is_ascii_digit());
    let (days, times) = match words.as_slice() {
        [times] if is_time(times) => (None, Some(*times)),
        [days] => (Some(*days), None),
        [days, times] => (Some(*days), Some(*times)),
        _ => return Err(malformed()),
    };
    let days = match days {
        Some(days) => parse_days(text, days)?,
        None => DAYS.iter().map(|(_, day)| *day).collect(),
    };
    let (start, end) = match times {
        Some(times) => {
            let (from, to) = times.split_once('-').ok_or_else(malformed)?;
            let bad = |time: &str| Error::Time(text.to_owned(), time.to_owned());
            let start = minutes(from).filter(|start| *start < DAY);
            (
                start.ok_or_else(|| bad(from))?,
                minutes(to).ok_or_else(|| bad(to))?,
            )
        }
        None => (0, DAY),
    };
    if start == end {
        return Err(Error::NeverOpens(text.to_owned()));
    }
    let end = if end < start { end + DAY } else { end };
    let window = |day| Window { day, start, end };
    Ok(days.into_iter().map(window).collect())
}

/// Days such as `Mon-Fri` and `Mon,Wed-Fri`.
fn parse_days(text: &str, days: &str) -> Result<Vec<Weekday>, Error> {
    let position = |day: &str| {
        let found = DAYS
            .iter()
            .position(|(name, _)| name.eq_ignore_ascii_case(day));
        found.ok_or_else(|| Error::Day(text.to_owned(), day.to_owned()))
    };
    let mut all = Vec::new();
    for part in days.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (position(first)?, position(last)?),
            None => (position(part)?, position(part)?),
        };
        let count = (last + DAYS.len() - first) % DAYS.len() + 1;
        let of_part = DAYS.iter().cycle().skip(first).take(count);
        all.extend(of_part.map(|(_, day)| *day));
    }
    Ok(all)
}

/// Minutes after midnight of `HH:MM`, up to `24:00`.
fn minutes(text: &str) -> Option<i64> {
    let (hour, minute) = text.split_once(':')?;
    let number = |digits: &str| {
        let plain = digits.len() <= 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<i64>().ok().filter(|_| plain)
    };
    if minute.len() != 2 {
        return None;
    }
    let (hour, minute) = (number(hour)?, number(minute)?);
    let minutes = hour * 60 + minute;
    (minute < 60 && minutes <= DAY).then_some(minutes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn windows(texts: &[&str]) -> Result<Windows, Error> {
        let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        Windows::parse(&texts)
    }

    fn berlin() -> TimeZone {
        TimeZone::get("Europe/Berlin").unwrap()
    }

    /// An instant, with its offset from UTC in hours because clocks repeat an hour.
    fn instant(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn windows_open_and_close_by_the_wall_clock() {
        let nights = ["Mon-Fri 19:00-06:00", "Sat,Sun"];
        for (texts, at, opens) in [
            // Thursday.
            (
                &nights[..],
                "2026-11-26T18:59:59+01",
                Some("2026-11-26T19:00+01"),
            ),
            (&nights, "2026-11-26T19:00:00+01", None),
            // Over midnight.
            (&nights, "2026-11-27T00:00:00+01", None),
            (&nights, "2026-11-27T05:59:59+01", None),
            (
                &nights,
                "2026-11-27T06:00:00+01",
                Some("2026-11-27T19:00+01"),
            ),
            // Friday's night reaches into Saturday, and Sunday ends at midnight.
            (&nights, "2026-11-28T06:00:00+01", None),
            (&nights, "2026-11-29T23:59:59+01", None),
            (
                &nights,
                "2026-11-30T00:00:00+01",
                Some("2026-11-30T19:00+01"),
            ),
            (
                &["Sun 12:00-24:00"],
                "2026-11-30T00:00:00+01",
                Some("2026-12-06T12:00+01"),
            ),
            (
                &["Fri-Mon 08:00-09:00"],
                "2026-11-30T09:00:00+01",
                Some("2026-12-04T08:00+01"),
            ),
            (&["08:00-09:00"], "2026-11-30T08:30:00+01", None),
            // Clocks go forward from 02:00 to 03:00: a time between them comes at 03:00.
            (
                &["22:00-02:30"],
                "2026-03-29T03:00:00+02",
                Some("2026-03-29T22:00+02"),
            ),
            (&["22:00-02:30"], "2026-03-29T01:59:59+01", None),
            (
                &["02:30-05:00"],
                "2026-03-29T01:59:59+01",
                Some("2026-03-29T03:00+02"),
            ),
            (&["02:30-05:00"], "2026-03-29T03:00:00+02", None),
            // What is skipped as a whole opens then, for its length.
            (
                &["02:15-02:45"],
                "2026-03-29T01:59:59+01",
                Some("2026-03-29T03:00+02"),
            ),
            (&["02:15-02:45"], "2026-03-29T03:29:59+02", None),
            (
                &["02:15-02:45"],
                "2026-03-29T03:30:00+02",
                Some("2026-03-30T02:15+02"),
            ),
            // Clocks go back from 03:00 to 02:00: a repeated time comes once, the first time.
            (&["02:15-02:45"], "2026-10-25T02:30:00+02", None),
            (
                &["02:15-02:45"],
                "2026-10-25T02:30:00+01",
                Some("2026-10-26T02:15+01"),
            ),
            (&["22:00-02:30"], "2026-10-25T02:15:00+02", None),
            (
                &["22:00-02:30"],
                "2026-10-25T02:15:00+01",
                Some("2026-10-25T22:00+01"),
            ),
            (&["01:00-04:00"], "2026-10-25T02:30:00+01", None),
        ] {
            let expected = opens.map_or(Opening::Open, |at| Opening::ClosedUntil(instant(at)));
            let windows = windows(texts).unwrap();
            assert_eq!(
                windows.at(instant(at), &berlin()),
                expected,
                "{texts:?} {at}"
            );
        }
    }

    #[test]
    fn a_time_of_day_comes_once_a_day() {
        for (time, after, expected) in [
            ("23:00", "2026-11-26T22:59+01", "2026-11-26T23:00+01"),
            ("23:00", "2026-11-26T23:00+01", "2026-11-27T23:00+01"),
            ("00:00", "2026-11-26T23:59+01", "2026-11-27T00:00+01"),
            ("02:30", "2026-03-29T01:00+01", "2026-03-29T03:00+02"),
            ("02:30", "2026-03-29T03:00+02", "2026-03-30T02:30+02"),
            ("02:30", "2026-10-25T01:00+02", "2026-10-25T02:30+02"),
            ("02:30", "2026-10-25T02:30+02", "2026-10-26T02:30+01"),
        ] {
            let next = next_at(time_of_day(time).unwrap(), instant(after), &berlin());
            assert_eq!(next, Some(instant(expected)), "{time} {after}");
        }
        assert_eq!(time_of_day("9:00"), time_of_day("09:00"));
        for bad in [
            "24:00", "25:00", "9:0", "12:60", "noon", "", "12:00:00", "+1:00",
        ] {
            assert_eq!(time_of_day(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_minute_of_a_year_is_in_a_window_or_before_the_next_one() {
        for zone in [
            "Europe/Berlin",
            "America/Santiago",
            "Australia/Lord_Howe",
            "Pacific/Apia",
        ] {
            let zone = TimeZone::get(zone).unwrap();
            let windows = windows(&["Mon-Fri 23:30-00:30", "Sat 02:05-02:10"]).unwrap();
            let mut at = instant("2011-12-01T00:00Z");
            while at < instant("2012-12-01T00:00Z") {
                if let Opening::ClosedUntil(next) = windows.at(at, &zone) {
                    assert!(next > at, "{at}");
                    assert_eq!(windows.at(next, &zone), Opening::Open, "{at} {next}");
                    let just_before = next - SignedDuration::from_secs(1);
                    assert_ne!(windows.at(just_before, &zone), Opening::Open, "{at} {next}");
                    at = next;
                }
                at += SignedDuration::from_mins(17);
            }
        }
    }

    #[test]
    fn the_longest_closed_time_of_a_week() {
        for (texts, hours) in [
            (&["Mon-Fri 19:00-06:00", "Sat,Sun"][..], 19),
            (&["Sat,Sun"], 5 * 24),
            (&["20:00-06:00"], 14),
            (&["Mon-Sun"], 0),
            (&["Wed 12:00-13:00"], 7 * 24 - 1),
        ] {
            let closed = windows(texts).unwrap().longest_closed();
            assert_eq!(closed, Duration::from_hours(hours), "{texts:?}");
        }
    }

    #[test]
    fn messages() {
        let mut text = String::new();
        for bad in [
            &[][..],
            &[""],
            &["Mon Tue 10:00-11:00"],
            &["Mon-Fry 19:00-06:00"],
            &["19:00"],
            &["25:00-06:00"],
            &["24:00-06:00"],
            &["19:00-6:0"],
            &["Mon 19:00-19:00"],
            &["Mon-Fri 19:00-06:00", "Fri 20:00-22:00"],
            &["Sat,Sat"],
        ] {
            text += &format!("{bad:?}: {}\n", windows(bad).unwrap_err());
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn labels() {
        let now = instant("2026-11-26T12:00+01");
        for (at, expected) in [
            ("2026-11-26T19:00+01", "19:00"),
            ("2026-11-27T06:00+01", "06:00"),
            ("2026-11-28T00:00+01", "Sat 00:00"),
            ("2026-12-06T00:00+01", "2026-12-06 00:00"),
        ] {
            assert_eq!(label(instant(at), now, &berlin()), expected);
        }
    }
}
