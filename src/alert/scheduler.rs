//! When to tell what: decisions only, told the time.
//!
//! What is new is told when its group time is over, with all that came meanwhile; what is gone by then is never told. A
//! reminder comes while something told lasts. The all-clear comes when nothing is wrong any more for a group time, so
//! that what fails again at once is one story.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Troubles;

/// What a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// Something new is wrong.
    Trouble,
    /// It still is.
    Reminder,
    /// Nothing is any more.
    AllClear,
}

impl Event {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Trouble => "trouble",
            Self::Reminder => "reminder",
            Self::AllClear => "all_clear",
        }
    }
}

/// What is remembered over a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Memo {
    /// Keys of what was told and is not known to be over.
    told: BTreeSet<String>,
    /// There were more than can be told by their keys.
    more: bool,
    /// When something was told last.
    at: Option<Timestamp>,
}

impl Memo {
    /// What cannot be read is forgotten: then something is told twice rather than never.
    pub(super) fn read(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_default()
    }
}

#[derive(Debug)]
pub(super) struct Desk {
    group: Duration,
    remind: Duration,
    memo: Memo,
    saved: Memo,
    /// Since when something waits to be told.
    new_since: Option<Timestamp>,
    /// Since when nothing is wrong.
    quiet_since: Option<Timestamp>,
    /// Since when something that was told is gone, while the rest lasts.
    gone: BTreeMap<String, Timestamp>,
}

impl Desk {
    pub(super) fn new(group: Duration, remind: Duration, memo: Memo) -> Self {
        Self {
            group,
            remind,
            saved: memo.clone(),
            memo,
            new_since: None,
            quiet_since: None,
            gone: BTreeMap::new(),
        }
    }

    /// Keys of what was told.
    pub(super) fn told(&self) -> &BTreeSet<String> {
        &self.memo.told
    }

    /// What is to be told now, if anything. It is asked for again until it is delivered.
    pub(super) fn look(&mut self, troubles: &Troubles, now: Timestamp) -> Option<Event> {
        let past = |since: Timestamp, wait: Duration| {
            // A moment ahead of now is of a clock that was set back: nobody knows how long ago it was.
            Duration::try_from(now.duration_since(since)).map_or(true, |passed| passed >= wait)
        };
        let anything = !troubles.list.is_empty() || troubles.more > 0;
        let open = !self.memo.told.is_empty() || self.memo.more;
        self.quiet_since = (!anything).then(|| self.quiet_since.unwrap_or(now));
        // What is over can be told again when it comes back; what merely flickers is not over.
        if self.quiet_since.is_none() && troubles.more == 0 {
            let current: BTreeSet<&str> =
                troubles.list.iter().map(|one| one.key.as_str()).collect();
            let (gone, group) = (&mut self.gone, self.group);
            gone.retain(|key, _| !current.contains(key.as_str()));
            self.memo.told.retain(|key| {
                current.contains(key.as_str())
                    || !past(*gone.entry(key.clone()).or_insert(now), group)
            });
        }
        let news = troubles
            .list
            .iter()
            .any(|trouble| !self.memo.told.contains(&trouble.key))
            || (troubles.more > 0 && !self.memo.more);
        self.new_since = news.then(|| self.new_since.unwrap_or(now));
        if let Some(since) = self.new_since {
            return past(since, self.group).then_some(Event::Trouble);
        }
        if let Some(since) = self.quiet_since {
            return (open && past(since, self.group)).then_some(Event::AllClear);
        }
        let due = self.memo.at.is_none_or(|at| past(at, self.remind));
        (open && !self.remind.is_zero() && due).then_some(Event::Reminder)
    }

    /// The message arrived.
    pub(super) fn delivered(&mut self, event: Event, troubles: &Troubles, now: Timestamp) {
        match event {
            Event::AllClear => self.memo = Memo::default(),
            Event::Trouble | Event::Reminder => {
                self.memo
                    .told
                    .extend(troubles.list.iter().map(|one| one.key.clone()));
                self.memo.more = troubles.more > 0;
                self.memo.at = Some(now);
                self.new_since = None;
            }
        }
    }

    /// The memo as text, when it has changed since the last time.
    pub(super) fn news(&mut self) -> Option<String> {
        if self.memo == self.saved {
            return None;
        }
        self.saved = self.memo.clone();
        serde_json::to_string(&self.memo).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Trouble;
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn wrong(keys: &[&str]) -> Troubles {
        Troubles {
            list: keys
                .iter()
                .map(|key| Trouble {
                    key: (*key).to_owned(),
                    kind: "file",
                    severe: true,
                    watch: "north".to_owned(),
                    failure: None,
                    path: Some((*key).to_owned()),
                    reason: "it is empty".to_owned(),
                    hint: None,
                })
                .collect(),
            more: 0,
        }
    }

    fn desk() -> Desk {
        Desk::new(
            Duration::from_secs(60),
            Duration::from_secs(3600),
            Memo::default(),
        )
    }

    /// Looks, and delivers what is due.
    fn step(desk: &mut Desk, second: i64, keys: &[&str]) -> Option<Event> {
        let event = desk.look(&wrong(keys), at(second))?;
        desk.delivered(event, &wrong(keys), at(second));
        Some(event)
    }

    #[test]
    fn a_burst_is_one_message_then_reminders_then_one_all_clear() {
        let mut desk = desk();
        assert_eq!(step(&mut desk, 0, &["a"]), None);
        assert_eq!(step(&mut desk, 30, &["a", "b"]), None);
        assert_eq!(step(&mut desk, 60, &["a", "b", "c"]), Some(Event::Trouble));
        assert_eq!(step(&mut desk, 61, &["a", "b", "c"]), None);
        assert_eq!(step(&mut desk, 3600, &["a"]), None);
        assert_eq!(step(&mut desk, 3660, &["a"]), Some(Event::Reminder));
        assert_eq!(step(&mut desk, 3700, &[]), None);
        assert_eq!(step(&mut desk, 3760, &[]), Some(Event::AllClear));
        assert_eq!(step(&mut desk, 9999, &[]), None);
    }

    #[test]
    fn a_clock_that_was_set_back_keeps_nothing_back() {
        let day = 86_400;
        let mut desk = desk();
        assert_eq!(step(&mut desk, 0, &["a"]), None);
        assert_eq!(step(&mut desk, -day, &["a"]), Some(Event::Trouble));
        assert_eq!(step(&mut desk, 5, &[]), None);
        assert_eq!(step(&mut desk, -day, &[]), Some(Event::AllClear));
    }

    #[test]
    fn what_passes_within_the_group_time_is_never_told() {
        let mut desk = desk();
        assert_eq!(step(&mut desk, 0, &["a"]), None);
        assert_eq!(step(&mut desk, 30, &[]), None);
        assert_eq!(step(&mut desk, 500, &[]), None);
    }

    #[test]
    fn what_fails_again_before_the_all_clear_is_not_told_again() {
        let mut desk = desk();
        step(&mut desk, 0, &["a"]);
        assert_eq!(step(&mut desk, 60, &["a"]), Some(Event::Trouble));
        assert_eq!(step(&mut desk, 100, &[]), None);
        assert_eq!(step(&mut desk, 130, &["a"]), None);
        assert_eq!(step(&mut desk, 300, &["a"]), None);
    }

    #[test]
    fn what_flickers_while_the_rest_lasts_is_told_once_and_what_comes_back_later_again() {
        let mut desk = desk();
        step(&mut desk, 0, &["a", "b"]);
        assert_eq!(step(&mut desk, 60, &["a", "b"]), Some(Event::Trouble));
        for second in (70..700).step_by(20) {
            assert_eq!(step(&mut desk, second, &["a"]), None);
            assert_eq!(step(&mut desk, second + 10, &["a", "b"]), None);
        }
        assert_eq!(step(&mut desk, 800, &["a"]), None);
        assert_eq!(step(&mut desk, 870, &["a"]), None);
        assert_eq!(step(&mut desk, 880, &["a", "b"]), None);
        assert_eq!(step(&mut desk, 940, &["a", "b"]), Some(Event::Trouble));
    }

    #[test]
    fn what_could_not_be_delivered_is_due_until_it_is() {
        let mut desk = desk();
        desk.look(&wrong(&["a"]), at(0));
        assert_eq!(desk.look(&wrong(&["a"]), at(60)), Some(Event::Trouble));
        assert_eq!(desk.look(&wrong(&["a", "b"]), at(90)), Some(Event::Trouble));
        assert_eq!(desk.look(&wrong(&[]), at(100)), None, "it passed meanwhile");
    }

    #[test]
    fn a_restart_repeats_nothing_and_keeps_the_all_clear() {
        let mut before = desk();
        step(&mut before, 0, &["a"]);
        step(&mut before, 60, &["a"]);
        let memo = Memo::read(&before.news().unwrap());
        assert_eq!(before.news(), None);
        let mut after = Desk::new(before.group, before.remind, memo);
        assert_eq!(step(&mut after, 200, &["a"]), None);
        assert_eq!(step(&mut after, 300, &[]), None);
        assert_eq!(step(&mut after, 360, &[]), Some(Event::AllClear));
    }
}
