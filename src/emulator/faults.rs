//! What goes wrong on demand: for requests by method and path, and for the tasks of a run by file.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Something that goes wrong with requests.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
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
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum Effect {
    /// It waits before anything else happens.
    Latency {
        /// Milliseconds.
        ms: u64,
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
}

/// Something that goes wrong with a file's task in a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskFault {
    /// Storage file id or file name.
    pub file: String,
    /// The task's result, any word.
    pub result: String,
    /// The task's error object.
    #[serde(default)]
    pub error: Option<serde_json::Value>,
    /// In so many runs; in all of them when left out.
    #[serde(default)]
    pub count: Option<u32>,
}

/// The faults that are set.
#[derive(Debug, Default)]
pub(super) struct Faults {
    requests: Vec<Fault>,
    tasks: Vec<TaskFault>,
}

/// What strikes one request: at most one answer, after all its latencies.
#[derive(Debug, Default)]
pub(super) struct Strike {
    pub(super) latency: Duration,
    pub(super) effect: Option<Effect>,
}

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) {
        self.requests.push(fault);
    }

    pub(super) fn add_task(&mut self, fault: TaskFault) {
        self.tasks.push(fault);
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
                Effect::Latency { ms } => strike.latency += Duration::from_millis(*ms),
                other => strike.effect = Some(other.clone()),
            }
        }
        strike
    }

    /// How the task of this file ends instead; counts it.
    pub(super) fn task(
        &mut self,
        id: &str,
        name: &str,
    ) -> Option<(String, Option<serde_json::Value>)> {
        let fault = self.tasks.iter_mut().find(|fault| {
            fault.count != Some(0) && (fault.file == id || fault.file.eq_ignore_ascii_case(name))
        })?;
        fault.count = fault.count.map(|count| count - 1);
        Some((fault.result.clone(), fault.error.clone()))
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

    fn fault(skip: u32, count: Option<u32>) -> Fault {
        let effect = Effect::Status {
            status: 503,
            body: String::new(),
            headers: Vec::new(),
            after_effect: false,
        };
        Fault {
            route: "POST /storage/*/Files".to_owned(),
            skip,
            count,
            effect,
        }
    }

    #[test]
    fn a_fault_strikes_after_those_it_skips_and_as_often_as_it_counts() {
        let mut faults = Faults::default();
        faults.add(fault(1, Some(2)));
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
