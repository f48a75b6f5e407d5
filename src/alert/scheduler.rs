//! Decides when to send which message. Pure; the clock is passed in.
//!
//! New problems are sent when the group time is over, together with those that occurred meanwhile; what is resolved by
//! then is never sent. A reminder follows while a sent problem persists. The resolved message is sent when there was no
//! problem for a group time, so that a file that fails again at once causes one message only.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::problems::Problems;

/// What a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// There is a new problem.
    NewProblem,
    /// A problem persists.
    Reminder,
    /// All problems are resolved.
    Resolved,
    /// The operator tests the alert.
    Test,
}

impl Event {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::NewProblem => "problem",
            Self::Reminder => "reminder",
            Self::Resolved => "resolved",
            Self::Test => "test",
        }
    }
}

/// What was sent, kept across a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NotifiedState {
    /// Keys of problems that were sent and are not resolved.
    sent_keys: BTreeSet<String>,
    /// There were more problems than keys.
    more: bool,
    /// When a message was last sent.
    at: Option<Timestamp>,
}

impl NotifiedState {
    /// Unreadable state counts as empty: a message is repeated rather than lost.
    pub(super) fn read(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_default()
    }
}

#[derive(Debug)]
pub(super) struct Scheduler {
    group: Duration,
    remind: Duration,
    notified: NotifiedState,
    saved: NotifiedState,
    /// Since when a new problem waits to be sent.
    new_since: Option<Timestamp>,
    /// Since when there is no problem.
    quiet_since: Option<Timestamp>,
    /// Since when a sent problem is resolved, while others persist.
    gone: BTreeMap<String, Timestamp>,
}

impl Scheduler {
    pub(super) fn new(group: Duration, remind: Duration, notified: NotifiedState) -> Self {
        Self {
            group,
            remind,
            saved: notified.clone(),
            notified,
            new_since: None,
            quiet_since: None,
            gone: BTreeMap::new(),
        }
    }

    /// Keys of the sent problems.
    pub(super) fn sent_keys(&self) -> &BTreeSet<String> {
        &self.notified.sent_keys
    }

    /// The message to send now, if any. It stays due until it is delivered.
    pub(super) fn check(&mut self, problems: &Problems, now: Timestamp) -> Option<Event> {
        let past = |since: Timestamp, wait: Duration| {
            // A time in the future means that the clock was set back: the real age is unknown.
            Duration::try_from(now.duration_since(since)).map_or(true, |passed| passed >= wait)
        };
        let anything = !problems.list.is_empty() || problems.more > 0;
        let open = !self.notified.sent_keys.is_empty() || self.notified.more;
        self.quiet_since = (!anything).then(|| self.quiet_since.unwrap_or(now));
        // A resolved problem is sent again when it returns; one that flickers is not resolved.
        if self.quiet_since.is_none() && problems.more == 0 {
            let current: BTreeSet<&str> =
                problems.list.iter().map(|one| one.key.as_str()).collect();
            let (gone, group) = (&mut self.gone, self.group);
            gone.retain(|key, _| !current.contains(key.as_str()));
            self.notified.sent_keys.retain(|key| {
                current.contains(key.as_str())
                    || !past(*gone.entry(key.clone()).or_insert(now), group)
            });
        }
        let has_new = problems
            .list
            .iter()
            .any(|problem| !self.notified.sent_keys.contains(&problem.key))
            || (problems.more > 0 && !self.notified.more);
        self.new_since = has_new.then(|| self.new_since.unwrap_or(now));
        if let Some(since) = self.new_since {
            return past(since, self.group).then_some(Event::NewProblem);
        }
        if let Some(since) = self.quiet_since {
            return (open && past(since, self.group)).then_some(Event::Resolved);
        }
        let due = self.notified.at.is_none_or(|at| past(at, self.remind));
        (open && !self.remind.is_zero() && due).then_some(Event::Reminder)
    }

    /// The message was delivered.
    pub(super) fn delivered(&mut self, event: Event, problems: &Problems, now: Timestamp) {
        match event {
            Event::Resolved => self.notified = NotifiedState::default(),
            Event::NewProblem | Event::Reminder => {
                self.notified
                    .sent_keys
                    .extend(problems.list.iter().map(|one| one.key.clone()));
                self.notified.more = problems.more > 0;
                self.notified.at = Some(now);
                self.new_since = None;
            }
            Event::Test => {}
        }
    }

    /// The state as text, when it has changed since it was saved.
    pub(super) fn changed_state(&self) -> Option<String> {
        if self.notified == self.saved {
            return None;
        }
        serde_json::to_string(&self.notified).ok()
    }

    /// The state is saved.
    pub(super) fn saved(&mut self) {
        self.saved = self.notified.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::super::problems::AlertProblem;
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn wrong(keys: &[&str]) -> Problems {
        Problems {
            list: keys
                .iter()
                .map(|key| AlertProblem {
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

    fn scheduler() -> Scheduler {
        Scheduler::new(
            Duration::from_secs(60),
            Duration::from_secs(3600),
            NotifiedState::default(),
        )
    }

    /// Looks, and delivers what is due.
    fn step(scheduler: &mut Scheduler, second: i64, keys: &[&str]) -> Option<Event> {
        let event = scheduler.check(&wrong(keys), at(second))?;
        scheduler.delivered(event, &wrong(keys), at(second));
        Some(event)
    }

    #[test]
    fn a_burst_is_one_message_then_reminders_then_one_resolved_message() {
        let mut scheduler = scheduler();
        assert_eq!(step(&mut scheduler, 0, &["a"]), None);
        assert_eq!(step(&mut scheduler, 30, &["a", "b"]), None);
        assert_eq!(
            step(&mut scheduler, 60, &["a", "b", "c"]),
            Some(Event::NewProblem)
        );
        assert_eq!(step(&mut scheduler, 61, &["a", "b", "c"]), None);
        assert_eq!(step(&mut scheduler, 3600, &["a"]), None);
        assert_eq!(step(&mut scheduler, 3660, &["a"]), Some(Event::Reminder));
        assert_eq!(step(&mut scheduler, 3700, &[]), None);
        assert_eq!(step(&mut scheduler, 3760, &[]), Some(Event::Resolved));
        assert_eq!(step(&mut scheduler, 9999, &[]), None);
    }

    #[test]
    fn a_clock_that_was_set_back_delays_nothing() {
        let day = 86_400;
        let mut scheduler = scheduler();
        assert_eq!(step(&mut scheduler, 0, &["a"]), None);
        assert_eq!(step(&mut scheduler, -day, &["a"]), Some(Event::NewProblem));
        assert_eq!(step(&mut scheduler, 5, &[]), None);
        assert_eq!(step(&mut scheduler, -day, &[]), Some(Event::Resolved));
    }

    #[test]
    fn problems_resolved_within_the_group_time_are_never_sent() {
        let mut scheduler = scheduler();
        assert_eq!(step(&mut scheduler, 0, &["a"]), None);
        assert_eq!(step(&mut scheduler, 30, &[]), None);
        assert_eq!(step(&mut scheduler, 500, &[]), None);
    }

    #[test]
    fn a_problem_that_returns_before_the_resolved_message_is_not_sent_again() {
        let mut scheduler = scheduler();
        step(&mut scheduler, 0, &["a"]);
        assert_eq!(step(&mut scheduler, 60, &["a"]), Some(Event::NewProblem));
        assert_eq!(step(&mut scheduler, 100, &[]), None);
        assert_eq!(step(&mut scheduler, 130, &["a"]), None);
        assert_eq!(step(&mut scheduler, 300, &["a"]), None);
    }

    #[test]
    fn a_flickering_problem_is_sent_once_and_a_returning_one_again() {
        let mut scheduler = scheduler();
        step(&mut scheduler, 0, &["a", "b"]);
        assert_eq!(
            step(&mut scheduler, 60, &["a", "b"]),
            Some(Event::NewProblem)
        );
        for second in (70..700).step_by(20) {
            assert_eq!(step(&mut scheduler, second, &["a"]), None);
            assert_eq!(step(&mut scheduler, second + 10, &["a", "b"]), None);
        }
        assert_eq!(step(&mut scheduler, 800, &["a"]), None);
        assert_eq!(step(&mut scheduler, 870, &["a"]), None);
        assert_eq!(step(&mut scheduler, 880, &["a", "b"]), None);
        assert_eq!(
            step(&mut scheduler, 940, &["a", "b"]),
            Some(Event::NewProblem)
        );
    }

    #[test]
    fn an_undelivered_message_stays_due() {
        let mut scheduler = scheduler();
        scheduler.check(&wrong(&["a"]), at(0));
        assert_eq!(
            scheduler.check(&wrong(&["a"]), at(60)),
            Some(Event::NewProblem)
        );
        assert_eq!(
            scheduler.check(&wrong(&["a", "b"]), at(90)),
            Some(Event::NewProblem)
        );
        assert_eq!(
            scheduler.check(&wrong(&[]), at(100)),
            None,
            "it passed meanwhile"
        );
    }

    #[test]
    fn a_restart_repeats_nothing_and_keeps_the_resolved_message() {
        let mut before = scheduler();
        step(&mut before, 0, &["a"]);
        step(&mut before, 60, &["a"]);
        let notified = NotifiedState::read(&before.changed_state().unwrap());
        before.saved();
        assert_eq!(before.changed_state(), None);
        let mut after = Scheduler::new(before.group, before.remind, notified);
        assert_eq!(step(&mut after, 200, &["a"]), None);
        assert_eq!(step(&mut after, 300, &[]), None);
        assert_eq!(step(&mut after, 360, &[]), Some(Event::Resolved));
    }
}
