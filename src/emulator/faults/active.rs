//! The faults that are set, and which of them applies to a request, a file or a run.

use std::time::Duration;

use super::{AnyFault, Effect, Fault, RunFault, TaskFault};

/// The faults that are set. Each lookup counts as one use.
#[derive(Debug)]
pub(in crate::emulator) struct ActiveFaults {
    requests: Vec<Fault>,
    tasks: Vec<TaskFault>,
    runs: Vec<RunFault>,
    random: fastrand::Rng,
}

/// What applies to one request: at most one response or abort, and any number of the other effects.
#[derive(Debug, Default)]
pub(in crate::emulator) struct AppliedFault {
    pub(in crate::emulator) latency: Duration,
    pub(in crate::emulator) bytes_per_second: Option<u64>,
    pub(in crate::emulator) revoke_tokens: bool,
    pub(in crate::emulator) address_lifetime: Option<Duration>,
    pub(in crate::emulator) effect: Option<Effect>,
}

impl ActiveFaults {
    /// No faults; `seed` determines every random delay.
    pub(in crate::emulator) fn new(seed: u64) -> Self {
        Self {
            requests: Vec::new(),
            tasks: Vec::new(),
            runs: Vec::new(),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    pub(in crate::emulator) fn add(&mut self, fault: AnyFault) {
        match fault {
            AnyFault::Request(fault) => self.requests.push(fault),
            AnyFault::Task(fault) => self.tasks.push(fault),
            AnyFault::Run(fault) => self.runs.push(fault),
        }
    }

    pub(in crate::emulator) fn clear(&mut self) {
        self.requests.clear();
        self.tasks.clear();
        self.runs.clear();
    }

    /// What applies to a request of this method and path.
    pub(in crate::emulator) fn for_request(&mut self, method: &str, path: &str) -> AppliedFault {
        let route = format!("{method} {path}").to_ascii_lowercase();
        let mut applied = AppliedFault::default();
        for fault in &mut self.requests {
            if applied.effect.is_some()
                || fault.count == Some(0)
                || !matches(&fault.route.to_ascii_lowercase(), &route)
            {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
                continue;
            }
            fault.count = fault.count.map(|count| count - 1);
            match &fault.effect {
                Effect::Latency { ms, jitter_ms } => {
                    let jitter = self.random.u64(0..=*jitter_ms);
                    applied.latency += Duration::from_millis(ms.saturating_add(jitter));
                }
                Effect::Slow { bytes_per_second } => {
                    applied.bytes_per_second = Some((*bytes_per_second).max(1));
                }
                Effect::RevokeTokens => applied.revoke_tokens = true,
                Effect::ExpireAddress { ms } => {
                    applied.address_lifetime = Some(Duration::from_millis(*ms));
                }
                other => applied.effect = Some(other.clone()),
            }
        }
        applied
    }

    /// The fault for the task of the file with this id or name.
    pub(in crate::emulator) fn for_task(&mut self, id: &str, name: &str) -> Option<TaskFault> {
        let fault = self.tasks.iter_mut().find(|fault| {
            fault.count != Some(0) && (fault.file == id || fault.file.eq_ignore_ascii_case(name))
        })?;
        fault.count = fault.count.map(|count| count - 1);
        Some(fault.clone())
    }

    /// The fault for the next run of this iModel.
    pub(in crate::emulator) fn for_run(&mut self, imodel_id: &str) -> Option<RunFault> {
        let fault = self
            .runs
            .iter_mut()
            .find(|fault| fault.count != Some(0) && fault.imodel_id == imodel_id)?;
        fault.count = fault.count.map(|count| count - 1);
        Some(fault.clone())
    }
}

/// Whether a text matches a pattern in which `*` matches anything.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            rest.char_indices()
                .any(|(at, _)| rest.get(at..).is_some_and(|rest| matches(after, rest)))
                || matches(after, "")
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: &str = "POST /storage/*/Files";

    #[test]
    fn a_fault_applies_after_skip_and_at_most_count_times() {
        let mut faults = ActiveFaults::new(0);
        faults.add(AnyFault::Request(Fault::on(ROUTE).reset().skip(1).times(2)));
        let path = "/storage/folders/x/files";
        let applied: Vec<bool> = (0..5)
            .map(|_| faults.for_request("POST", path).effect.is_some())
            .collect();
        assert_eq!(applied, [false, true, true, false, false]);
        assert!(faults.for_request("GET", path).effect.is_none());
    }

    #[test]
    fn the_seed_determines_the_jitter() {
        let latencies = |seed| {
            let mut faults = ActiveFaults::new(seed);
            let effect = Effect::Latency {
                ms: 10,
                jitter_ms: 90,
            };
            faults.add(AnyFault::Request(Fault::on(ROUTE).effect(effect)));
            (0..20)
                .map(|_| faults.for_request("POST", "/storage/x/files").latency)
                .collect::<Vec<_>>()
        };
        let first = latencies(7);
        assert_eq!(first, latencies(7));
        assert_ne!(first, latencies(8));
        let bounds = Duration::from_millis(10)..=Duration::from_millis(100);
        assert!(first.iter().all(|one| bounds.contains(one)), "{first:?}");
    }

    #[test]
    fn an_asterisk_matches_anything() {
        for (pattern, text, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "a", true),
            ("a*c", "abbc", true),
            ("a*c", "abb", false),
            ("*b*", "abc", true),
            ("put *", "put /x", true),
            ("a*/run", "a/run/x/run", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
