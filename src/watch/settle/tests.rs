#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;

use super::*;

const SETTLE: Duration = Duration::from_secs(10);

fn policy(max_wait: Option<u64>, upload_interval: u64) -> SettlePolicy {
    SettlePolicy {
        settle: SETTLE,
        max_wait: max_wait.map(Duration::from_secs),
        upload_interval: Duration::from_secs(upload_interval),
    }
}

fn print(size: u64) -> Fingerprint {
    Fingerprint {
        size,
        mtime_ns: 1,
        ctime_ns: 1,
    }
}

fn seen(at: Instant, size: u64) -> Observation {
    Observation {
        began: at,
        ended: at,
        fingerprint: print(size),
    }
}

fn second(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Probes the one file whenever the bookkeeping asks for it, at whole seconds; returns the second it was ready.
fn ready_after(start: Instant, settling: &mut Settling, size_at: impl Fn(u64) -> u64) -> u64 {
    let path = Path::new("a.dgn");
    assert_eq!(settling.observe(path, seen(start, size_at(0))), Step::Wait);
    for s in 1..1000 {
        let now = start + second(s);
        for due in settling.take_due(now, 10) {
            if settling.observe(&due, seen(now, size_at(s))) == Step::Ready {
                return s;
            }
        }
    }
    panic!("never ready");
}

#[test]
fn a_file_that_rests_is_ready_after_the_settle_time() {
    let mut settling = Settling::new(policy(None, 0));
    assert_eq!(ready_after(Instant::now(), &mut settling, |_| 7), 10);
    assert!(settling.is_empty());
}

#[test]
fn a_change_of_the_size_or_of_either_time_begins_a_new_rest() {
    let changes: [fn(&mut Fingerprint); 3] = [
        |print| print.size += 1,
        |print| print.mtime_ns -= 1,
        |print| print.ctime_ns -= 1,
    ];
    for (which, change) in changes.into_iter().enumerate() {
        let mut settling = Settling::new(policy(None, 0));
        let (path, start) = (Path::new("a.dgn"), Instant::now());
        let mut changed = print(1);
        change(&mut changed);
        let mut step = |at: u64, fingerprint| {
            let at = start + second(at);
            settling.observe(
                path,
                Observation {
                    began: at,
                    ended: at,
                    fingerprint,
                },
            )
        };
        assert_eq!(step(0, print(1)), Step::Wait);
        assert_eq!(step(9, changed), Step::Wait);
        assert_eq!(step(11, changed), Step::Wait, "{which}");
        assert_eq!(step(19, changed), Step::Ready, "{which}");
    }
}

#[test]
fn a_file_that_grows_with_pauses_shorter_than_the_settle_time_is_not_ready_before_it_rests() {
    let mut settling = Settling::new(policy(None, 0));
    let ready = ready_after(Instant::now(), &mut settling, |s| s.min(60) / 8);
    assert!((66..=80).contains(&ready), "{ready}");
}

/// The seconds at which a file is finished that a program saves in place again and again.
fn finished_at(policy: SettlePolicy, hours: u64, size_at: impl Fn(u64) -> u64) -> Vec<u64> {
    let mut settling = Settling::new(policy);
    let (path, start) = (Path::new("a.dgn"), Instant::now());
    let (mut finished, mut known) = (Vec::new(), None);
    for s in 0..hours * 3600 {
        let now = start + second(s);
        let changed = s == 0 || size_at(s) != size_at(s - 1);
        let mut due_paths = settling.take_due(now, 10);
        // An event reports a change of a file that was handed over.
        if changed && !settling.touch(path, now) && due_paths.is_empty() {
            due_paths.push(path.to_owned());
        }
        for due in due_paths {
            if known == Some(size_at(s)) {
                settling.forget(&due);
            } else if settling.observe(&due, seen(now, size_at(s))) == Step::Ready {
                finished.push(s);
                known = Some(size_at(s));
            }
        }
    }
    finished
}

#[test]
fn a_file_that_is_saved_in_place_all_day_is_taken_at_intervals_and_in_its_last_state() {
    // Saved every four seconds for eight hours.
    let size_at = |s: u64| (s / 4).min(8 * 900);
    let finished = finished_at(policy(Some(600), 1800), 9, size_at);
    assert!((16..=18).contains(&finished.len()), "{finished:?}");
    assert!(
        finished.windows(2).all(|pair| pair[1] - pair[0] >= 1800),
        "{finished:?}"
    );
    assert!(
        *finished.last().unwrap() >= 8 * 3600,
        "the last state too: {finished:?}"
    );
    let without = finished_at(policy(None, 0), 9, size_at);
    assert_eq!(without.len(), 1, "not before it rests: {without:?}");
}

#[test]
fn a_file_that_is_saved_at_every_pause_is_not_taken_at_every_pause() {
    let size_at = |s: u64| (s / 20).min(180);
    let finished = finished_at(policy(None, 600), 2, size_at);
    assert!((6..=8).contains(&finished.len()), "{finished:?}");
    assert!(*finished.last().unwrap() >= 3600);
}

#[test]
fn events_bring_the_next_look_forward_but_not_more_often_than_once_a_second() {
    let mut settling = Settling::new(policy(None, 0));
    let path = Path::new("a.dgn");
    let start = Instant::now();
    assert!(!settling.touch(path, start));
    settling.observe(path, seen(start, 1));
    for ms in [10, 20, 300] {
        assert!(settling.touch(path, start + Duration::from_millis(ms)));
    }
    assert_eq!(
        settling.take_due(start + Duration::from_millis(999), 10),
        Vec::<PathBuf>::new()
    );
    assert_eq!(
        settling.take_due(start + second(1), 10),
        vec![path.to_owned()]
    );
    assert_eq!(
        settling.take_due(start + second(1), 10),
        Vec::<PathBuf>::new(),
        "one look at a time"
    );
    settling.observe(path, seen(start + second(1), 2));
    assert_eq!(
        settling.take_due(start + second(10), 10),
        Vec::<PathBuf>::new(),
        "the change began a new rest"
    );
    assert_eq!(
        settling.take_due(start + second(11), 10),
        vec![path.to_owned()]
    );
    assert_eq!(
        settling.observe(path, seen(start + second(11), 2)),
        Step::Ready
    );
}

#[test]
fn a_look_that_took_long_does_not_count_as_rest() {
    let mut settling = Settling::new(policy(None, 0));
    let path = Path::new("a.dgn");
    let start = Instant::now();
    let slow = Observation {
        began: start,
        ended: start + second(60),
        fingerprint: print(1),
    };
    assert_eq!(settling.observe(path, slow), Step::Wait);
    assert_eq!(
        settling.observe(path, seen(start + second(61), 1)),
        Step::Wait
    );
    assert_eq!(
        settling.observe(path, seen(start + second(70), 1)),
        Step::Ready
    );
}

#[test]
fn a_busy_file_is_asked_less_and_less_often_and_starts_to_rest_when_it_can_be_read() {
    let mut settling = Settling::new(policy(None, 0));
    let path = Path::new("a.dgn");
    let start = Instant::now();
    assert!(settling.busy(path, start));
    for (asked, next) in [(2, 6), (6, 14), (14, 30), (30, 60)] {
        assert_eq!(settling.take_due(start + second(asked), 10).len(), 1);
        assert!(!settling.busy(path, start + second(asked)));
        assert!(settling.take_due(start + second(next - 1), 10).is_empty());
    }
    settling.observe(path, seen(start + second(60), 1));
    assert_eq!(
        settling.observe(path, seen(start + second(70), 1)),
        Step::Ready
    );
}

#[test]
fn files_of_a_set_are_ready_together() {
    let mut settling = Settling::new(policy(None, 0));
    let start = Instant::now();
    let parts = ["a.shp", "a.dbf", "a.shx"].map(Path::new);
    // The second when each of them changes last.
    let last_change = [0, 20, 5];
    let mut ready = Vec::new();
    for s in 0..100 {
        let now = start + second(s);
        if s == 0 {
            for part in parts {
                settling.join_set(part, PathBuf::from("a"));
                settling.observe(part, seen(now, 0));
            }
        }
        // The last of them to be complete makes the others due at once.
        loop {
            let due = settling.take_due(now, 10);
            if due.is_empty() {
                break;
            }
            for due in due {
                let part = parts.iter().position(|part| **part == due).unwrap();
                let size = s.min(last_change[part]);
                settling.join_set(&due, PathBuf::from("a"));
                if settling.observe(&due, seen(now, size)) == Step::Ready {
                    ready.push((s, part));
                }
            }
        }
    }
    assert!(ready.iter().all(|(s, _)| *s == ready[0].0), "{ready:?}");
    assert!(ready.len() == 3 && ready[0].0 >= 30, "{ready:?}");
    assert!(settling.is_empty());
}

#[test]
fn a_set_waits_for_a_part_that_cannot_be_read_but_a_single_pass_does_not() {
    let mut settling = Settling::new(policy(None, 0));
    let start = Instant::now();
    let (master, part) = (Path::new("a.shp"), Path::new("a.dbf"));
    for path in [master, part] {
        settling.join_set(path, PathBuf::from("a"));
    }
    settling.observe(master, seen(start, 1));
    settling.busy(part, start);
    for s in 1..100 {
        let now = start + second(s);
        for due in settling.take_due(now, 10) {
            if due == master {
                assert_eq!(settling.observe(master, seen(now, 1)), Step::Wait);
            } else {
                settling.busy(part, now);
            }
        }
    }
    assert!(settling.is_stuck());
    settling.forget(part);
    assert!(!settling.is_stuck());
    let now = start + second(200);
    assert_eq!(settling.observe(master, seen(now, 1)), Step::Ready);
}

#[test]
fn a_settle_time_of_zero_still_needs_a_second_look() {
    let mut settling = Settling::new(SettlePolicy {
        settle: Duration::ZERO,
        ..policy(None, 0)
    });
    let path = Path::new("a.dgn");
    let start = Instant::now();
    assert_eq!(settling.observe(path, seen(start, 1)), Step::Wait);
    assert_eq!(settling.take_due(start, 10).len(), 1);
    assert_eq!(
        settling.observe(path, seen(start + second(1), 1)),
        Step::Ready
    );
}

/// What happens to the one file, with the milliseconds that pass before it.
#[derive(Debug, Clone)]
enum Happening {
    Change,
    Event,
    Busy,
}

fn happening() -> impl Strategy<Value = (u64, Happening)> {
    let what = prop_oneof![
        3 => Just(Happening::Change),
        3 => Just(Happening::Event),
        1 => Just(Happening::Busy),
    ];
    (0..15_000_u64, what)
}

proptest! {
    #[test]
    fn whatever_happens_a_file_is_ready_only_after_a_rest_and_then_surely(
        happenings in proptest::collection::vec(happening(), 1..60),
        slow_look in 0..3000_u64,
        max_wait in proptest::option::of(20..100_u64),
        upload_interval in 0..60_u64,
    ) {
        let policy = policy(max_wait, upload_interval);
        let mut settling = Settling::new(policy);
        let path = Path::new("a.dgn");
        let start = Instant::now();
        let ms = |n: u64| start + Duration::from_millis(n);
        let (mut now, mut size, mut changed_at) = (0, 0, 0);
        // What was handed over last, and when.
        let (mut known, mut last_ready) = (None, None);
        let mut waiting = happenings.into_iter().map(|(after, what)| (after, Some(what))).collect::<Vec<_>>();
        // Long enough for everything to come to rest.
        waiting.push((400_000, None));
        for (after, what) in waiting {
            let until = now + after;
            // Looks that are due before the next thing happens.
            while let Some(at) = settling.next_probe().filter(|at| *at <= ms(until)) {
                now = now.max(u64::try_from(at.duration_since(start).as_millis()).unwrap());
                for due in settling.take_due(ms(now), 10) {
                    let began = now;
                    now += slow_look;
                    if known == Some(size) {
                        settling.forget(&due);
                        continue;
                    }
                    let observation = Observation { began: ms(began), ended: ms(now), fingerprint: print(size) };
                    if settling.observe(&due, observation) == Step::Ready {
                        let rest = if max_wait.is_some() { PROBE_GAP } else { SETTLE };
                        prop_assert!(began - changed_at >= u64::try_from(rest.as_millis()).unwrap(), "no rest");
                        if let Some(last) = last_ready {
                            prop_assert!(began - last >= upload_interval * 1000, "too soon after the last time");
                        }
                        (known, last_ready) = (Some(size), Some(now));
                    }
                }
            }
            now = now.max(until);
            match what {
                Some(Happening::Change) => {
                    size += 1;
                    changed_at = now;
                    if !settling.touch(path, ms(now)) {
                        settling.observe(path, Observation { began: ms(now), ended: ms(now), fingerprint: print(size) });
                    }
                }
                Some(Happening::Event) => drop(settling.touch(path, ms(now))),
                Some(Happening::Busy) if known != Some(size) && size > 0 => {
                    settling.busy(path, ms(now));
                }
                Some(Happening::Busy) | None => {}
            }
        }
        prop_assert!(size == 0 || known == Some(size), "never ready: {known:?} of {size}");
    }
}

#[test]
fn what_was_finished_is_remembered_of_a_bounded_number_of_files() {
    let start = Instant::now();
    let mut settling = Settling::new(policy(None, 30));
    for number in 0..FINISHED_MAX + 10 {
        let path = PathBuf::from(format!("{number}.dgn"));
        settling.observe(&path, seen(start, 7));
        let ready = settling.observe(&path, seen(start + SETTLE, 7));
        assert_eq!(ready, Step::Ready);
        assert!(settling.finished.len() <= FINISHED_MAX);
    }
    // The last one waits for the upload interval.
    let path = PathBuf::from(format!("{}.dgn", FINISHED_MAX + 9));
    let again = start + SETTLE + second(1);
    settling.observe(&path, seen(again, 8));
    assert_eq!(settling.observe(&path, seen(again + SETTLE, 8)), Step::Wait);
}

#[test]
fn an_event_during_a_probe_is_known_when_the_reply_arrives() {
    let path = Path::new("a.dgn");
    let start = Instant::now();
    for comes in [false, true] {
        let mut settling = Settling::new(policy(None, 0));
        settling.observe(path, seen(start, 1));
        let probed = start + SETTLE;
        assert_eq!(settling.take_due(probed, 10), [path]);
        if comes {
            assert!(settling.touch(path, probed + Duration::from_millis(5)));
        }
        assert_eq!(settling.is_touched(path), comes);
        // What the probe saw had settled, whatever came after it.
        assert_eq!(settling.observe(path, seen(probed, 1)), Step::Ready);
        assert!(!settling.touch(path, probed), "to be probed anew");
    }
}
