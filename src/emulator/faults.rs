//! Injected failures: of requests by method and path, of the tasks of a run by file, of runs as a whole.
//!
//! In: faults built by a test ([`Fault::on`]) or read from JSON ([`AnyFault::from_json`]). Out: what applies to a
//! request, a file or a run ([`ActiveFaults`]). Faults are kept in memory only: a restart of the emulator has none.

mod active;
mod parse;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub(super) use active::{ActiveFaults, AppliedFault};
pub use parse::InvalidFault;

/// Any fault, as `POST /_emulator/faults` and `emulator --fault` take it.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum AnyFault {
    /// Of requests.
    Request(Fault),
    /// Of the tasks of a file.
    Task(TaskFault),
    /// Of runs.
    Run(RunFault),
}

/// A failure of requests.
///
/// ```
/// # use itwin_syncd::emulator::Fault;
/// let overloaded = Fault::on("POST /storage/folders/*/files").status(503).times(2);
/// let lost_reply = Fault::on("POST */run").reset().after_effect();
/// ```
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// Method and path, such as `POST /storage/folders/*/files`; `*` matches anything, case is ignored.
    pub route: String,
    /// Number of matching requests to let through first.
    #[serde(default)]
    pub skip: u32,
    /// Number of requests to fail after that; None means all.
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
    /// It is delayed.
    Latency {
        /// Milliseconds.
        ms: u64,
        /// Upper bound of a random delay on top, in milliseconds.
        #[serde(default)]
        jitter_ms: u64,
    },
    /// It is answered with this status.
    Status {
        /// HTTP status, 200 to 599.
        status: u16,
        /// Body; empty by default.
        #[serde(default)]
        body: String,
        /// Such as `Retry-After`.
        #[serde(default)]
        headers: Vec<(String, String)>,
        /// Whether the request is carried out first.
        #[serde(default)]
        after_effect: bool,
    },
    /// The connection closes without a response.
    Reset {
        /// Whether the request is carried out first.
        #[serde(default)]
        after_effect: bool,
    },
    /// The connection closes after this part of the request body; nothing is carried out.
    CutBody {
        /// Bytes.
        after: u64,
    },
    /// The connection closes in the middle of the response body.
    CutAnswer,
    /// Request and response body are throttled.
    Slow {
        /// Bytes per second.
        bytes_per_second: u64,
    },
    /// All tokens are revoked before the request is authorized.
    RevokeTokens,
    /// The upload address in the response expires after this time.
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

/// Another result for a file's task in a run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TaskFault {
    /// Storage file id or file name.
    pub file: String,
    /// The task's result. Any text in a test; JSON is checked, see [`AnyFault::from_json`].
    pub result: String,
    /// The task's error object.
    #[serde(default)]
    pub error: Option<serde_json::Value>,
    /// The task's report. By default a `PartialSuccess` reports one warning, a task with an error object one error.
    #[serde(default)]
    pub report: Option<Report>,
    /// Number of runs; None means all.
    #[serde(default)]
    pub count: Option<u32>,
}

/// Another result, duration or fate for a run as a whole.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunFault {
    /// The iModel that is synchronized.
    pub imodel_id: String,
    /// The run's result, which its tasks get as well. Any text in a test; JSON is checked, see [`AnyFault::from_json`].
    #[serde(default)]
    pub result: Option<String>,
    /// The run's error object.
    #[serde(default)]
    pub error: Option<serde_json::Value>,
    /// Duration, in milliseconds, instead of the usual one.
    #[serde(default)]
    pub duration_ms: Option<u64>,
    /// Whether the run is accepted and then unknown to every later request.
    #[serde(default)]
    pub lost: bool,
    /// Number of runs; None means all.
    #[serde(default)]
    pub count: Option<u32>,
}

/// A route that has no effect yet; see [`Fault::on`].
#[derive(Debug, Clone)]
#[must_use]
pub struct Route(String);

impl Fault {
    /// Starts a fault for the requests of this method and path, such as `POST /storage/folders/*/files`; `*` matches
    /// anything.
    ///
    /// Without [`Fault::times`] it applies to every matching request.
    pub fn on(route: impl Into<String>) -> Route {
        Route(route.into())
    }

    /// Limits the fault to this number of requests.
    #[must_use]
    pub fn times(self, count: u32) -> Self {
        Self {
            count: Some(count),
            ..self
        }
    }

    /// Lets this number of matching requests through first.
    #[must_use]
    pub fn skip(self, skip: u32) -> Self {
        Self { skip, ..self }
    }

    /// Carries the request out before it fails. Only statuses and resets know the difference.
    #[must_use]
    pub fn after_effect(mut self) -> Self {
        if let Effect::Status { after_effect, .. } | Effect::Reset { after_effect } =
            &mut self.effect
        {
            *after_effect = true;
        }
        self
    }

    /// Adds a header to the response. Only a fault with a status has one.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Effect::Status { headers, .. } = &mut self.effect {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// Sets the body of the response. Only a fault with a status has one.
    #[must_use]
    pub fn body(mut self, text: impl Into<String>) -> Self {
        if let Effect::Status { body, .. } = &mut self.effect {
            *body = text.into();
        }
        self
    }
}

impl Route {
    /// Any effect.
    #[must_use]
    pub fn effect(self, effect: Effect) -> Fault {
        Fault {
            route: self.0,
            skip: 0,
            count: None,
            effect,
        }
    }

    /// Answers with this status, without a body, and carries nothing out.
    #[must_use]
    pub fn status(self, status: u16) -> Fault {
        self.effect(Effect::Status {
            status,
            body: String::new(),
            headers: Vec::new(),
            after_effect: false,
        })
    }

    /// Closes the connection without a response, and carries nothing out.
    #[must_use]
    pub fn reset(self) -> Fault {
        self.effect(Effect::Reset {
            after_effect: false,
        })
    }

    /// Delays the request.
    #[must_use]
    pub fn latency(self, delay: Duration) -> Fault {
        let ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.effect(Effect::Latency { ms, jitter_ms: 0 })
    }

    /// Throttles request and response body.
    #[must_use]
    pub fn slow(self, bytes_per_second: u64) -> Fault {
        self.effect(Effect::Slow { bytes_per_second })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builder_limits_and_orders_a_fault() {
        let fault = Fault::on("PUT *").status(503).times(2).skip(1);
        assert_eq!(
            (fault.route.as_str(), fault.skip, fault.count),
            ("PUT *", 1, Some(2))
        );
        let fault = Fault::on("PUT *")
            .status(429)
            .header("retry-after", "2")
            .body("later")
            .after_effect();
        let expected = Effect::Status {
            status: 429,
            body: "later".to_owned(),
            headers: vec![("retry-after".to_owned(), "2".to_owned())],
            after_effect: true,
        };
        assert_eq!((fault.count, fault.effect), (None, expected));
        assert_eq!(
            Fault::on("*").reset().after_effect().effect,
            Effect::Reset { after_effect: true }
        );
    }
}
