//! Faults from JSON, checked: an unknown key, result or status is an error that names the accepted ones.

use std::str::FromStr;

use serde_json::{Map, Value};

use super::{AnyFault, Effect, Fault, RunFault, TaskFault};

/// Results of runs and tasks that the platform documents.
///
/// Source: developer.bentley.com/apis/synchronization/operations/get-storage-connection-run/
const RESULTS: [&str; 6] = [
    "Success",
    "PartialSuccess",
    "Error",
    "Skipped",
    "Cancelled",
    "TimedOut",
];

/// Allows any text as `result`, to test how a client treats a result that is not documented.
const ANY_RESULT: &str = "anyResult";

/// Statuses that a final response can have.
const STATUSES: std::ops::RangeInclusive<u16> = 200..=599;

/// Why a fault is rejected.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid fault: {0}")]
pub struct InvalidFault(String);

impl AnyFault {
    /// Reads a fault; the key `route`, `file` or `imodelId` decides its type.
    ///
    /// `"anyResult": true` beside `result` allows a result that is not documented.
    ///
    /// # Errors
    /// When the text is not a JSON object, or has an unknown key or value.
    pub fn from_json(text: &[u8]) -> Result<Self, InvalidFault> {
        let mut fields: Map<String, Value> = serde_json::from_slice(text)
            .map_err(|error| InvalidFault(format!("not a JSON object: {error}")))?;
        if fields.contains_key("route") {
            let fault: Fault = read(fields)?;
            check_status(&fault.effect)?;
            return Ok(Self::Request(fault));
        }
        let is_task = fields.contains_key("file");
        if !is_task && !fields.contains_key("imodelId") {
            return Err(InvalidFault(
                "missing key: a request fault needs `route`, a task fault `file`, a run fault `imodelId`"
                    .to_owned(),
            ));
        }
        let any_result = match fields.remove(ANY_RESULT) {
            None => false,
            Some(Value::Bool(any)) => any,
            Some(other) => {
                return Err(InvalidFault(format!(
                    "invalid {ANY_RESULT} {other}: expected true or false"
                )));
            }
        };
        if is_task {
            let fault: TaskFault = read(fields)?;
            check_result(Some(&fault.result), any_result)?;
            Ok(Self::Task(fault))
        } else {
            let fault: RunFault = read(fields)?;
            check_result(fault.result.as_deref(), any_result)?;
            Ok(Self::Run(fault))
        }
    }
}

impl FromStr for AnyFault {
    type Err = InvalidFault;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_json(text.as_bytes())
    }
}

/// Decodes a fault; serde names an unknown key and the known ones.
fn read<T: serde::de::DeserializeOwned>(fields: Map<String, Value>) -> Result<T, InvalidFault> {
    serde_json::from_value(Value::Object(fields)).map_err(|error| InvalidFault(error.to_string()))
}

fn check_status(effect: &Effect) -> Result<(), InvalidFault> {
    match effect {
        Effect::Status { status, .. } if !STATUSES.contains(status) => Err(InvalidFault(format!(
            "invalid status {status}: expected {} to {}",
            STATUSES.start(),
            STATUSES.end()
        ))),
        _ => Ok(()),
    }
}

fn check_result(result: Option<&str>, any_result: bool) -> Result<(), InvalidFault> {
    match result {
        Some(result) if !any_result && !RESULTS.contains(&result) => Err(InvalidFault(format!(
            "unknown result {result:?}: expected {}; add \"{ANY_RESULT}\": true to send it anyway",
            RESULTS.join(", ")
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_faults_are_read() {
        for text in [
            r#"{"route":"PUT *","effect":{"kind":"cutBody","after":5}}"#,
            r#"{"route":"PUT *","effect":{"kind":"revokeTokens"}}"#,
            r#"{"route":"PUT *","effect":{"kind":"status","status":503}}"#,
            r#"{"file":"a.ifc","result":"Skipped"}"#,
            r#"{"file":"a.ifc","result":"PartialSuccess","report":{"totalWarningsCount":3}}"#,
            r#"{"file":"a.ifc","result":"Unheard","anyResult":true}"#,
            r#"{"imodelId":"x","lost":true}"#,
            r#"{"imodelId":"x","result":"TimedOut"}"#,
        ] {
            assert!(AnyFault::from_json(text.as_bytes()).is_ok(), "{text}");
        }
    }

    #[test]
    fn an_error_names_the_rejected_key_or_value_and_the_accepted_ones() {
        for (text, expected) in [
            (
                "{}",
                "invalid fault: missing key: a request fault needs `route`, a task fault `file`, a run fault `imodelId`",
            ),
            (
                "[]",
                "invalid fault: not a JSON object: invalid type: sequence, expected a map at line 1 column 0",
            ),
            (
                r#"{"route":"PUT *","efect":{}}"#,
                "invalid fault: unknown field `efect`, expected one of `route`, `skip`, `count`, `effect`",
            ),
            (
                r#"{"route":"PUT *","effect":{"kind":"latency","mss":5}}"#,
                "invalid fault: unknown field `mss`, expected `ms` or `jitterMs`",
            ),
            (
                r#"{"route":"PUT *","effect":{"kind":"explode"}}"#,
                "invalid fault: unknown variant `explode`, expected one of `latency`, `status`, `reset`, `cutBody`, \
                 `cutAnswer`, `slow`, `revokeTokens`, `expireAddress`",
            ),
            (
                r#"{"route":"PUT *","effect":{"kind":"status","status":99}}"#,
                "invalid fault: invalid status 99: expected 200 to 599",
            ),
            (
                r#"{"route":"PUT *","effect":{"kind":"status","status":9999}}"#,
                "invalid fault: invalid status 9999: expected 200 to 599",
            ),
            (
                r#"{"file":"a.ifc","result":"Skipped","cuont":1}"#,
                "invalid fault: unknown field `cuont`, expected one of `file`, `result`, `error`, `report`, `count`",
            ),
            (
                r#"{"file":"a.ifc","result":"PartialSuccess","report":{"warnings":3}}"#,
                "invalid fault: unknown field `warnings`, expected one of `suggestedAction`, `message`, `totalErrorsCount`, \
                 `totalWarningsCount`, `totalOtherIssuesCount`",
            ),
            (
                r#"{"imodelId":"x","result":"success"}"#,
                "invalid fault: unknown result \"success\": expected Success, PartialSuccess, Error, Skipped, Cancelled, \
                 TimedOut; add \"anyResult\": true to send it anyway",
            ),
            (
                r#"{"file":"a.ifc","result":"Skipped","anyResult":1}"#,
                "invalid fault: invalid anyResult 1: expected true or false",
            ),
        ] {
            let error = AnyFault::from_json(text.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), expected, "{text}");
        }
    }
}
