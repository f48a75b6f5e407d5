//! Decides whether a set of files, such as a shapefile, is whole, so that a run may read its main file.
//!
//! Input: the main files that wait for a run, with their companions, from the ledger. A set is whole when every
//! companion is in storage at its newest version and none that the format requires is missing. A main file of any other
//! set is put off, and fails when the set does not become whole in time; the ledger makes it wait for a run again when
//! a companion changes. The decision is pure.

use std::ffi::OsStr;
use std::time::Duration;

use jiff::Timestamp;
use tracing::{error, info};

use super::Synchronizer;
use crate::ledger::{
    self, Again, ConnectionRecord, FailureKind, FileId, JobState, Refusal, SetPart, WaitingSet,
};
use crate::names::QuotedPath;
use crate::next_attempt;
use crate::selection::{self, Lacking};
use crate::shell;

/// What follows for a main file that waits for a run.
#[derive(Debug)]
enum Verdict {
    /// It may be run.
    Whole,
    /// It may be run, but its format is better with this part.
    WholeWithout(Lacking),
    /// A companion is on its way; the end of its upload decides.
    Uploading,
    /// It is put off, or fails.
    Refused(Refusal),
}

/// What came of checking the sets that wait for a run.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sets {
    /// Those that are whole may be run; nothing was put off.
    Accepted,
    /// Some main files were put off, or failed.
    Refused,
}

impl Synchronizer {
    /// Puts off or fails the main files whose set is not whole.
    pub(super) async fn check_sets(
        &self,
        connection: &ConnectionRecord,
        now: Timestamp,
    ) -> Result<Sets, ledger::Error> {
        let sets = self.ledger.waiting_sets(connection.id, now).await?;
        let mut refusals: Vec<(FileId, Refusal)> = Vec::new();
        for set in &sets {
            let path = QuotedPath(&set.path);
            match judge(set, self.sync.batch_max, now) {
                Verdict::Whole | Verdict::Uploading => {}
                Verdict::WholeWithout(lacking) => {
                    info!(watch = set.watch, %path, "{}", without(&lacking));
                }
                Verdict::Refused(refusal) => {
                    if matches!(refusal.again, Again::Never) {
                        error!(
                            watch = set.watch, %path, reason = refusal.reason,
                            hint = refusal.hint.as_deref(), "file failed"
                        );
                    } else {
                        info!(watch = set.watch, %path, reason = refusal.reason, "file waits for the rest of its set");
                    }
                    refusals.push((set.file, refusal));
                }
            }
        }
        if refusals.is_empty() {
            return Ok(Sets::Accepted);
        }
        self.ledger.put_off_stored(&refusals, now).await?;
        Ok(Sets::Refused)
    }
}

/// Decides for one set. `grace` is how long it may lack a part since it changed last.
fn judge(set: &WaitingSet, grace: Duration, now: Timestamp) -> Verdict {
    let in_state = |state| {
        let with_job = set.companions.iter();
        with_job.filter(move |part| part.job == Some(state))
    };
    if in_state(JobState::Due).next().is_some() || in_state(JobState::Uploading).next().is_some() {
        return Verdict::Uploading;
    }
    if let Some(failed) = in_state(JobState::Failed).next() {
        return Verdict::Refused(not_uploaded(set, failed));
    }
    let name = set.path.file_name().unwrap_or_default();
    let present = || set.companions.iter().map(|part| part.name.as_os_str());
    if let Some(lacking) = selection::lacking(name, present()) {
        return Verdict::Refused(incomplete(set, &lacking, grace, now));
    }
    match selection::lacking_projection(name, present()) {
        Some(lacking) => Verdict::WholeWithout(lacking),
        None => Verdict::Whole,
    }
}

fn incomplete(set: &WaitingSet, lacking: &Lacking, grace: Duration, now: Timestamp) -> Refusal {
    let path = QuotedPath(&set.path);
    let names = listed(lacking);
    let until = next_attempt::after(set.changed_at, grace);
    // A time ahead of now was taken from a clock that was ahead: it must not delay the failure.
    let waits = set.changed_at <= now && until > now;
    if waits {
        return Refusal {
            kind: FailureKind::Incomplete,
            reason: format!(
                "{path} waits for {names}: the {} is not complete",
                lacking.format
            ),
            hint: None,
            again: Again::BusyUntil(until),
        };
    }
    Refusal {
        kind: FailureKind::Incomplete,
        reason: format!(
            "cannot synchronize {path}: the {} lacks {names}",
            lacking.format
        ),
        hint: Some(format!(
            "put {names} into the same folder; `{}` shows why a file that is there is not uploaded",
            shell::command(["explain", "FILE"])
        )),
        again: Again::Never,
    }
}

fn not_uploaded(set: &WaitingSet, companion: &SetPart) -> Refusal {
    let (path, name) = (QuotedPath(&set.path), QuotedPath(companion.name.as_ref()));
    let reason = companion.reason.as_deref().unwrap_or("its upload failed");
    Refusal {
        kind: FailureKind::Incomplete,
        reason: format!(
            "cannot synchronize {path}: {name}, which belongs to it, is not in storage: {reason}"
        ),
        hint: Some(format!(
            "correct {name}, or remove it if {path} does not need it; the set is then synchronized"
        )),
        again: Again::Never,
    }
}

/// What the log says of a set that can be read without this part.
fn without(lacking: &Lacking) -> String {
    format!(
        "{} has no {}: its coordinate system is unknown to the connector",
        lacking.format,
        listed(lacking)
    )
}

fn listed(lacking: &Lacking) -> String {
    let quoted = |name: &OsStr| QuotedPath(name.as_ref()).to_string();
    let names: Vec<String> = lacking.names.iter().map(|name| quoted(name)).collect();
    names.join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    /// A shapefile that changed at second 0, with these companions.
    fn set(companions: &[(&str, Option<JobState>)]) -> WaitingSet {
        let part = |&(name, job): &(&str, Option<JobState>)| SetPart {
            name: name.into(),
            job,
            reason: (job == Some(JobState::Failed)).then(|| "the file is empty".to_owned()),
        };
        WaitingSet {
            file: FileId::default(),
            watch: "north".to_owned(),
            path: "gis/lots.shp".into(),
            changed_at: at(0),
            companions: companions.iter().map(part).collect(),
        }
    }

    fn decided(set: &WaitingSet, now: i64) -> String {
        match judge(set, Duration::from_secs(300), at(now)) {
            Verdict::Whole => "whole".to_owned(),
            Verdict::WholeWithout(lacking) => without(&lacking),
            Verdict::Uploading => "uploading".to_owned(),
            Verdict::Refused(Refusal {
                again,
                reason,
                hint,
                ..
            }) => {
                let when = match again {
                    Again::BusyUntil(until) => {
                        format!("until {}", until.duration_since(at(0)).as_secs())
                    }
                    _ => "failed".to_owned(),
                };
                let hint = hint
                    .map(|hint| format!("\n  hint: {hint}"))
                    .unwrap_or_default();
                format!("{when}: {reason}{hint}")
            }
        }
    }

    #[test]
    fn a_set_is_whole_when_every_companion_is_stored_and_none_is_missing() {
        let all = [("lots.dbf", None), ("LOTS.SHX", None), ("lots.prj", None)];
        assert_eq!(decided(&set(&all), 1), "whole");
        for open in [JobState::Due, JobState::Uploading] {
            let mut companions = all;
            companions[2].1 = Some(open);
            // It is waited for however long its upload takes.
            assert_eq!(decided(&set(&companions), 5000), "uploading");
        }
    }

    #[test]
    fn a_set_that_lacks_a_required_part_waits_and_then_fails() {
        let no_index = set(&[("lots.dbf", None), ("lots.prj", None)]);
        assert!(decided(&no_index, 0).starts_with("until 300: "));
        assert!(decided(&no_index, 299).starts_with("until 300: "));
        assert!(decided(&no_index, 300).starts_with("failed: "));
        // The clock was set back.
        assert!(decided(&no_index, -5000).starts_with("failed: "));
    }

    #[test]
    fn messages() {
        let cases = [
            (set(&[("lots.dbf", None), ("lots.shx", None)]), 0),
            (set(&[("lots.dbf", None)]), 10),
            (set(&[]), 10),
            (set(&[("lots.dbf", None)]), 300),
            (set(&[]), 300),
            (
                set(&[
                    ("lots.dbf", Some(JobState::Failed)),
                    ("lots.shx", None),
                    ("lots.prj", None),
                ]),
                0,
            ),
        ];
        let shown: Vec<String> = cases.iter().map(|(set, now)| decided(set, *now)).collect();
        insta::assert_snapshot!(shown.join("\n"));
    }
}
