//! The states of a run: a pure function of the time since its request. Its result is determined at the start, from the
//! content that is complete by then, because that is what it reads.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use uuid::Uuid;

use super::faults::{ActiveFaults, Report};
use super::model::{Connection, Covered, File, Run, SourceFile, State};
use super::switches::{GeospatialCompanions, Switches, UnchangedTask, UndocumentedExtension};

/// Documented results of tasks, from best to worst.
const RESULTS: [&str; 6] = [
    "Success",
    "Skipped",
    "PartialSuccess",
    "Cancelled",
    "TimedOut",
    "Error",
];

/// Extensions by connector, retired ones included.
const FORMATS: [(&str, &[&str]); 18] = [
    (
        "MSTN",
        &[
            "dgn", "dwg", "3dm", "3ds", "skp", "fbx", "obj", "dae", "hln", "igs", "jt", "sat",
            "stl", "stp", "x_t", "land.xml",
        ],
    ),
    ("CIVIL", &["dgn"]),
    ("OBD", &["dgn"]),
    ("PROSTRUCTURES", &["dgn", "dwg"]),
    ("DWG", &["dwg", "dxf"]),
    ("CIVIL3D", &["dwg"]),
    ("AUTOPLANT", &["dwg"]),
    ("AVEVAPID", &["dwg"]),
    ("IFC", &["ifc"]),
    ("REVIT", &["rvt"]),
    ("NWD", &["nwd", "nwc"]),
    ("GEOSPATIAL", &["shp", "geojson", "kml", "geodb"]),
    ("SPPID", &["zip", "pid"]),
    ("SPXREVIEW", &["vue"]),
    ("OPENTOWER", &["otxml", "xml"]),
    ("SHELLEDWCSV", &["csv"]),
    ("AVEVADIAGRAMS", &["vsd"]),
    ("PSEXCEL", &["xls", "xlsx", "csv"]),
];

/// A run at its start.
pub(super) fn new_run(
    connection_id: String,
    imodel_id: String,
    duration: Duration,
    now: Timestamp,
    covered: Vec<Covered>,
) -> Run {
    let tasks = covered.iter().filter(|file| file.has_task);
    let results: Vec<&str> = tasks.map(|file| file.result.as_str()).collect();
    let verdict = verdict(&results);
    let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let id = Uuid::new_v4().to_string();
    let (state, result) = ("NotStarted".to_owned(), "Undetermined".to_owned());
    Run {
        id,
        connection_id,
        imodel_id,
        requested_at: now,
        duration_ms,
        state,
        result,
        covered,
        verdict,
        error: None,
        removed: Vec::new(),
        creator: String::new(),
        applied: false,
    }
}

/// A run of a connection, with the result of each of its files. `file_check` returns the format that a file does not
/// match.
pub(super) fn for_connection(
    state: &State,
    connection: &Connection,
    duration: Duration,
    switches: &Switches,
    file_check: impl Fn(&File) -> Option<&'static str>,
    faults: &mut ActiveFaults,
    now: Timestamp,
) -> Run {
    let covered = connection
        .source_files
        .iter()
        .map(|source| {
            let file = state
                .files
                .get(&source.storage_file_id)
                .filter(|file| !file.deleted);
            let completed = file.and_then(|file| file.completed.as_ref());
            let name = file
                .map(|file| file.display_name.as_str())
                .unwrap_or_default();
            let (result, error) = if completed.is_none_or(|content| content.size == 0) {
                failure("the file is missing or empty")
            } else if !reads(
                &source.connector_type,
                name,
                switches.undocumented_extension,
            ) {
                failure(&format!("{} does not read {name}", source.connector_type))
            } else if let Some(format) = file.and_then(&file_check) {
                failure(&format!(
                    "{name} is not {format}: its first bytes do not match"
                ))
            } else if let Some(missing) = file
                .filter(|_| switches.geospatial_companions == GeospatialCompanions::Needed)
                .filter(|_| source.connector_type.eq_ignore_ascii_case("GEOSPATIAL"))
                .and_then(|file| missing_companion(state, file))
            {
                failure(&format!("{missing} not found"))
            } else {
                ("Success".to_owned(), None)
            };
            let version = completed.map(|content| content.version).unwrap_or_default();
            let fault = faults.for_task(&source.storage_file_id, name);
            let has_task = fault.is_some()
                || switches.unchanged_task == UnchangedTask::Listed
                || !was_processed(state, connection, source, version);
            let (result, error, report) = match fault {
                Some(fault) => (fault.result, fault.error, fault.report),
                None => (result, error, None),
            };
            let report = report.or_else(|| default_report(&result, error.is_some()));
            Covered {
                storage_file_id: source.storage_file_id.clone(),
                source_file_id: source.id.clone(),
                version,
                sha256: completed
                    .map(|content| content.sha256.clone())
                    .unwrap_or_default(),
                content: completed.and_then(|content| content.content.clone()),
                connector_type: source.connector_type.clone(),
                has_task,
                result,
                error,
                report,
            }
        })
        .collect();
    let mut run = new_run(
        connection.id.clone(),
        connection.imodel_id.clone(),
        duration,
        now,
        covered,
    );
    run.creator.clone_from(&connection.owner);
    run
}

/// Ends a run because the platform may not act for the owner of its connection.
pub(super) fn refuse_owner(run: &mut Run) {
    "Error".clone_into(&mut run.verdict);
    run.error = Some(
        json!({ "errorKey": "UserNotAuthenticated", "description": "the owner must sign in" }),
    );
    run.covered.clear();
}

/// The first of the files that a shapefile cannot be read without and that is not complete in its folder.
///
/// Source: desktop.arcgis.com/en/arcmap/10.5/manage-data/shapefiles/shapefile-file-extensions.htm
fn missing_companion(state: &State, file: &File) -> Option<String> {
    let (stem, extension) = file.display_name.rsplit_once('.')?;
    if !extension.eq_ignore_ascii_case("shp") {
        return None;
    }
    let is_there = |name: &str| {
        state.files.values().any(|other| {
            other.parent_folder_id == file.parent_folder_id
                && !other.deleted
                && other.completed.is_some()
                && other.display_name.eq_ignore_ascii_case(name)
        })
    };
    let needed = ["dbf", "shx"].map(|extension| format!("{stem}.{extension}"));
    needed.into_iter().find(|name| !is_there(name))
}

/// Whether an earlier run of the connection processed this version as this source file.
fn was_processed(
    state: &State,
    connection: &Connection,
    source: &SourceFile,
    version: u32,
) -> bool {
    let earlier = state
        .runs
        .values()
        .filter(|run| run.connection_id == connection.id);
    earlier.flat_map(|run| &run.covered).any(|covered| {
        covered.has_task
            && covered.source_file_id == source.id
            && covered.storage_file_id == source.storage_file_id
            && covered.connector_type == source.connector_type
            && covered.version == version
            && matches!(covered.result.as_str(), "Success" | "PartialSuccess")
    })
}

/// The default report of a task; None for a task without issues.
fn default_report(result: &str, has_error: bool) -> Option<Report> {
    if result == "PartialSuccess" {
        return Some(Report {
            suggested_action: "Read the warnings and correct the file.".to_owned(),
            message: "The file was synchronized with issues.".to_owned(),
            total_warnings_count: 1,
            ..Report::default()
        });
    }
    has_error.then(|| Report {
        suggested_action: "Open the file in the program that made it and save it again.".to_owned(),
        total_errors_count: 1,
        ..Report::default()
    })
}

fn failure(message: &str) -> (String, Option<serde_json::Value>) {
    let error = json!({
        "errorCode": "TAE_BRG_1000",
        "message": message,
        "description": message,
        "bridgeExitCode": u32::MAX,
        "canUserFix": true,
        "kbArticleLink": "",
    });
    ("Error".to_owned(), Some(error))
}

fn reads(connector: &str, name: &str, undocumented: UndocumentedExtension) -> bool {
    let name = name.to_ascii_lowercase();
    let also = name.ends_with(".step") || name.ends_with(".iges");
    if also && connector.eq_ignore_ascii_case("MSTN") {
        return undocumented == UndocumentedExtension::Read;
    }
    FORMATS
        .iter()
        .filter(|(known, _)| connector.eq_ignore_ascii_case(known))
        .any(|(_, formats)| {
            formats
                .iter()
                .any(|format| name.ends_with(&format!(".{format}")))
        })
        || connector.eq_ignore_ascii_case("INTELLIPID") && name.ends_with(".json")
}

/// The result of a run from those of its tasks; `Success` without tasks.
pub(super) fn verdict(results: &[&str]) -> String {
    let Some(first) = results.first() else {
        return "Success".to_owned();
    };
    if results.iter().all(|result| result == first) {
        (*first).to_owned()
    } else if results.iter().all(|result| RESULTS.contains(result)) {
        "PartialSuccess".to_owned()
    } else {
        "Error".to_owned()
    }
}

fn elapsed(run: &Run, now: Timestamp) -> u128 {
    Duration::try_from(now.duration_since(run.requested_at))
        .unwrap_or_default()
        .as_millis()
}

/// The end of a run.
pub(super) fn end(run: &Run) -> Timestamp {
    let end = run
        .requested_at
        .saturating_add(Duration::from_millis(run.duration_ms));
    end.unwrap_or(Timestamp::MAX)
}

/// Whether a run has ended.
pub(super) fn has_ended(run: &Run, now: Timestamp) -> bool {
    elapsed(run, now) >= u128::from(run.duration_ms)
}

/// The id of a file's task in a run.
pub(super) fn task_id(run_id: &str, storage_file_id: &str) -> String {
    format!("{run_id}-{storage_file_id}")
}

/// When connectors execute, in thousandths of the duration of a run.
const EXECUTING: std::ops::Range<u64> = 250..900;

/// State of a task at a time.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) state: &'static str,
    pub(super) started_at: Option<Timestamp>,
    pub(super) ended_at: Option<Timestamp>,
}

/// State of task number `at` of `count`; tasks execute one after the other.
pub(super) fn progress(run: &Run, at: usize, count: usize, now: Timestamp) -> Progress {
    let (at, count) = (at as u64, count.max(1) as u64);
    let length = EXECUTING.end - EXECUTING.start;
    let moment = |tasks: u64| {
        let thousandths = EXECUTING.start + length * tasks / count;
        let after = run.duration_ms.saturating_mul(thousandths) / 1000;
        run.requested_at
            .saturating_add(Duration::from_millis(after))
            .unwrap_or(Timestamp::MAX)
    };
    let (start, end) = (moment(at), moment(at + 1));
    let over = has_ended(run, now);
    Progress {
        state: match () {
            () if over || now >= end => "Completed",
            () if now >= start => "Executing",
            () => "NotStarted",
        },
        started_at: (over || now >= start).then_some(start),
        ended_at: (over || now >= end).then_some(end),
    }
}

/// The phase of a run, once it is planned.
pub(super) fn phase(run: &Run, now: Timestamp) -> Option<&'static str> {
    match elapsed(run, now) * 100 / u128::from(run.duration_ms.max(1)) {
        ..15 => None,
        15..25 => Some("Preprocessor"),
        25..80 => Some("MasterFile"),
        80.. => Some("ReferenceFile"),
    }
}

/// State and result of a run at a time.
pub(super) fn status(run: &Run, now: Timestamp) -> (String, String) {
    if has_ended(run, now) {
        return ("Completed".to_owned(), run.verdict.clone());
    }
    let retries = run.covered.iter().any(|file| file.result != "Success");
    let state = match elapsed(run, now) * 100 / u128::from(run.duration_ms.max(1)) {
        ..3 => "NotStarted",
        3..6 => "Idle",
        6..15 => "Queued",
        15..25 => "WaitingToExecute",
        60..70 if retries => "WaitingToRetry",
        25..90 => "Executing",
        _ => "Finalizing",
    };
    (state.to_owned(), "Undetermined".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covered(result: &str) -> Covered {
        let (storage_file_id, sha256) = ("f".to_owned(), String::new());
        let connector_type = "IFC".to_owned();
        Covered {
            storage_file_id,
            source_file_id: String::new(),
            version: 1,
            sha256,
            content: None,
            connector_type,
            has_task: true,
            result: result.to_owned(),
            error: None,
            report: None,
        }
    }

    #[test]
    fn a_run_passes_through_its_states_and_has_no_result_before_the_end() {
        let start = Timestamp::UNIX_EPOCH;
        let run = new_run(
            "c".to_owned(),
            "m".to_owned(),
            Duration::from_secs(100),
            start,
            vec![covered("Success")],
        );
        let at = |seconds| status(&run, start + Duration::from_secs(seconds));
        for (seconds, state) in [
            (0, "NotStarted"),
            (4, "Idle"),
            (6, "Queued"),
            (20, "WaitingToExecute"),
            (50, "Executing"),
            (95, "Finalizing"),
        ] {
            assert_eq!(at(seconds), (state.to_owned(), "Undetermined".to_owned()));
        }
        assert_eq!(at(100), ("Completed".to_owned(), "Success".to_owned()));
        let bad = new_run(
            "c".to_owned(),
            "m".to_owned(),
            Duration::from_secs(100),
            start,
            vec![covered("Error")],
        );
        assert_eq!(
            status(&bad, start + Duration::from_secs(65)).0,
            "WaitingToRetry"
        );
    }

    #[test]
    fn tasks_end_one_after_the_other_within_the_run() {
        let start = Timestamp::UNIX_EPOCH;
        let files = vec![covered("Success"), covered("Error")];
        let run = new_run(
            "c".to_owned(),
            "m".to_owned(),
            Duration::from_secs(100),
            start,
            files,
        );
        let at = |seconds| {
            let now = start + Duration::from_secs(seconds);
            let tasks = [0, 1].map(|at| progress(&run, at, 2, now).state);
            (phase(&run, now), tasks)
        };
        for (seconds, phase, tasks) in [
            (5, None, ["NotStarted", "NotStarted"]),
            (20, Some("Preprocessor"), ["NotStarted", "NotStarted"]),
            (30, Some("MasterFile"), ["Executing", "NotStarted"]),
            (60, Some("MasterFile"), ["Completed", "Executing"]),
            (95, Some("ReferenceFile"), ["Completed", "Completed"]),
            (200, Some("ReferenceFile"), ["Completed", "Completed"]),
        ] {
            assert_eq!(at(seconds), (phase, tasks), "{seconds}");
        }
    }

    #[test]
    fn a_run_is_as_good_as_its_files() {
        for (results, expected) in [
            (&["Success", "Success"][..], "Success"),
            (&["Success", "Error"], "PartialSuccess"),
            (&["Error", "Error"], "Error"),
            (&["Skipped"], "Skipped"),
            (&["Success", "Levitated"], "Error"),
            (&[], "Success"),
        ] {
            assert_eq!(verdict(results), expected, "{results:?}");
        }
    }

    #[test]
    fn a_connector_reads_its_own_formats_only() {
        for (connector, name, expected) in [
            ("IFC", "House.IFC", true),
            ("MSTN", "a.i.dgn", true),
            ("MSTN", "survey.land.xml", true),
            ("MSTN", "a.zip", false),
            ("MSTN", "a.step", true),
            ("IFC", "a.step", false),
            ("INTELLIPID", "a.json", true),
            ("NOVEL", "a.ifc", false),
        ] {
            let read = UndocumentedExtension::Read;
            assert_eq!(reads(connector, name, read), expected, "{connector} {name}");
        }
        assert!(!reads("MSTN", "a.iges", UndocumentedExtension::Failed));
    }
}
