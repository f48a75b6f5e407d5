//! What goes wrong on demand: for requests by method and path, for the tasks of a run by file, for runs as a whole.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Anything that goes wrong on demand, as it is sent to `/_emulator/faults`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AnyFault {
    /// With requests.
    Request(Fault),
    /// With files.
    Task(TaskFault),
    /// With runs.
    Run(RunFault),
}

/// Something that goes wrong with requests.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// Method and path, such as `POST /storage/folders/*/files`; `*` stands for anything, case does not matter.
    pub route: String,
    /// So many matching requests are let through first.
    #[serde(default)]
    pub skip: u32,
    /// So many are struck then; all of them when left out.
    #[serde(default)]
    pub count: Option<u32>,
    /// What happens to them.
    pub effect: Effect,
}

/// What happens to a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub enum Effect {
    /// It waits before anything else happens.
    Latency {
        /// Milliseconds.
        ms: u64,
        /// Up to so many more, by chance.
        #[serde(default)]
        jitter_ms: u64,
    },
    /// It is answered with this status.
    Status {
        /// HTTP status.
        status: u16,
        /// Body; empty when left out.
        #[serde(default)]
        body: String,
        /// Such as `Retry-After`.
        #[serde(default)]
        headers: Vec<(String, String)>,
        /// Although it was carried out.
        #[serde(default)]
        after_effect: bool,
    },
    /// The connection closes without an answer.
    Reset {
        /// Although it was carried out.
        #[serde(default)]
        after_effect: bool,
    },
    /// The connection closes after so many bytes of its body, and nothing is carried out.
    CutBody {
        /// Bytes.
        after: u64,
    },
    /// The connection closes in the middle of the answer's body.
    CutAnswer,
    /// Its body is read, and the answer's body written, no faster than this.
    Slow {
        /// Bytes a second.
        bytes_per_second: u64,
    },
    /// All tokens are revoked before it is looked at.
    RevokeTokens,
    /// The upload address that it hands out expires after this.
    ExpireAddress {
        /// Milliseconds.
        ms: u64,
    },
}

/// The summary that a task carries in `details.synchronizationReport`.
///
/// Source: developer.bentley.com/apis/synchronization/operations/get-storage-connection-run/
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Report {
    /// What the user should do.
    pub suggested_action: String,
    /// Free text.
    pub message: String,
    /// Number of errors.
    pub total_errors_count: u64,
    /// Number of warnings.
    pub total_warnings_count: u64,
    /// Number of issues that are neither.
    pub total_other_issues_count: u64,
}

/// Something that goes wrong with a file's task in a run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TaskFault {
    /// Storage file id or file name.
    pub file: String,
    /// The task's result, any word.
    pub result: String,
    /// The task's error object.
    #[serde(default)]
    pub error: Option<serde_json::Value>,
    /// The task's report. When left out, a `PartialSuccess` reports one warning, a task with an error object one error.
    #[serde(default)]
    pub report: Option<Report>,
    /// In so many runs; in all of them when left out.
    #[serde(default)]
    pub count: Option<u32>,
}

/// Something that goes wrong with a run as a whole.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunFault {
    /// The iModel that runs.
    pub imodel_id: String,
    /// The run's result, any word; its tasks get the same.
    #[serde(default)]
    pub result: Option<String>,
    /// The run's error object.
    #[serde(default)]
    pub error: Option<serde_json::Value>,
    /// How long it takes instead, in milliseconds.
    #[serde(default)]
    pub duration_ms: Option<u64>,
    /// It is accepted, and then nobody knows it.
    #[serde(default)]
    pub lost: bool,
    /// In so many runs; in all of them when left out.
    #[serde(default)]
    pub count: Option<u32>,
}

/// The faults that are set.
#[derive(Debug)]
pub(super) struct Faults {
    requests: Vec<Fault>,
    tasks: Vec<TaskFault>,
    runs: Vec<RunFault>,
    chance: fastrand::Rng,
}

/// What strikes one request: at most one answer, and whatever else fits.
#[derive(Debug, Default)]
pub(super) struct Strike {
    pub(super) latency: Duration,
    pub(super) bytes_per_second: Option<u64>,
    pub(super) revoke_tokens: bool,
    pub(super) address_lifetime: Option<Duration>,
    pub(super) effect: Option<Effect>,
}

impl Faults {
    /// No faults; chance is settled by the seed.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            requests: Vec::new(),
            tasks: Vec::new(),
            runs: Vec::new(),
            chance: fastrand::Rng::with_seed(seed),
        }
    }

    pub(super) fn add(&mut self, fault: AnyFault) {
        match fault {
            AnyFault::Request(fault) => self.requests.push(fault),
            AnyFault::Task(fault) => self.tasks.push(fault),
            AnyFault::Run(fault) => self.runs.push(fault),
        }
    }

    pub(super) fn clear(&mut self) {
        self.requests.clear();
        self.tasks.clear();
        self.runs.clear();
    }

    /// What strikes this request; counts it.
    pub(super) fn strike(&mut self, method: &str, path: &str) -> Strike {
        let route = format!("{method} {path}").to_ascii_lowercase();
        let mut strike = Strike::default();
        for fault in &mut self.requests {
            if strike.effect.is_some()
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
                    let more = self.chance.u64(0..=*jitter_ms);
                    strike.latency += Duration::from_millis(ms.saturating_add(more));
                }
                Effect::Slow { bytes_per_second } => {
                    strike.bytes_per_second = Some((*bytes_per_second).max(1));
                }
                Effect::RevokeTokens => strike.revoke_tokens = true,
                Effect::ExpireAddress { ms } => {
                    strike.address_lifetime = Some(Duration::from_millis(*ms));
                }
                other => strike.effect = Some(other.clone()),
            }
        }
        strike
    }

    /// The fault that strikes the task of this file; counts it.
    pub(super) fn task(&mut self, id: &str, name: &str) -> Option<TaskFault> {
        let fault = self.tasks.iter_mut().find(|fault| {
            fault.count != Some(0) && (fault.file == id || fault.file.eq_ignore_ascii_case(name))
        })?;
        fault.count = fault.count.map(|count| count - 1);
        Some(fault.clone())
    }

    /// What goes wrong with the next run of this iModel; counts it.
    pub(super) fn run(&mut self, imodel_id: &str) -> Option<RunFault> {
        let fault = self
            .runs
            .iter_mut()
            .find(|fault| fault.count != Some(0) && fault.imodel_id == imodel_id)?;
        fault.count = fault.count.map(|count| count - 1);
        Some(fault.clone())
    }
}

/// Whether a text matches a pattern in which `*` stands for anything.
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

    fn fault(skip: u32, count: Option<u32>, effect: Effect) -> AnyFault {
        AnyFault::Request(Fault {
            route: "POST /storage/*/Files".to_owned(),
            skip,
            count,
            effect,
        })
    }

    #[test]
    fn a_fault_strikes_after_those_it_skips_and_as_often_as_it_counts() {
        let mut faults = Faults::new(0);
        faults.add(fault(
            1,
            Some(2),
            Effect::Reset {
                after_effect: false,
            },
        ));
        let struck: Vec<bool> = (0..5)
            .map(|_| {
                faults
                    .strike("POST", "/storage/folders/x/files")
                    .effect
                    .is_some()
            })
            .collect();
        assert_eq!(struck, [false, true, true, false, false]);
        assert!(
            faults
                .strike("GET", "/storage/folders/x/files")
                .effect
                .is_none()
        );
    }

    #[test]
    fn chance_is_settled_by_the_seed() {
        let latencies = |seed| {
            let mut faults = Faults::new(seed);
            let effect = Effect::Latency {
                ms: 10,
                jitter_ms: 90,
            };
            faults.add(fault(0, None, effect));
            (0..20)
                .map(|_| faults.strike("POST", "/storage/x/files").latency)
                .collect::<Vec<_>>()
        };
        let first = latencies(7);
        assert_eq!(first, latencies(7));
        assert_ne!(first, latencies(8));
        let bounds = Duration::from_millis(10)..=Duration::from_millis(100);
        assert!(first.iter().all(|one| bounds.contains(one)), "{first:?}");
    }

    #[test]
    fn a_fault_is_read_from_json_and_a_typing_error_is_none() {
        for (text, expected) in [
            (
                r#"{"route":"PUT *","effect":{"kind":"cutBody","after":5}}"#,
                true,
            ),
            (
                r#"{"route":"PUT *","effect":{"kind":"revokeTokens"}}"#,
                true,
            ),
            (r#"{"file":"a.ifc","result":"Skipped"}"#, true),
            (
                r#"{"file":"a.ifc","result":"PartialSuccess","report":{"totalWarningsCount":3}}"#,
                true,
            ),
            (
                r#"{"file":"a.ifc","result":"PartialSuccess","report":{"warnings":3}}"#,
                false,
            ),
            (r#"{"imodelId":"x","lost":true}"#, true),
            (
                r#"{"route":"PUT *","effect":{"kind":"latency","mss":5}}"#,
                false,
            ),
            (r#"{"file":"a.ifc","result":"Skipped","cuont":1}"#, false),
            ("{}", false),
        ] {
            assert_eq!(
                serde_json::from_str::<AnyFault>(text).is_ok(),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn a_star_stands_for_anything() {
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
