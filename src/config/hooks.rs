//! Every `[[hook]]`: who gets the results of files, runs and days.
//!
//! Input: the tables and the names of the watches. Output: checked [`Hook`]s.

use std::collections::BTreeSet;

use jiff::civil::Time;
use toml::Spanned;
use toml::de::DeValue;

use super::credentials;
use super::document::{Report, Section};
use super::environment::{Environment, Mode};
use super::notifications::{Address, Format, address, format};
use super::sections::KEYS;
use super::values::{self, InvalidValue};
use super::watches::Placed;
use crate::local_time::time_of_day;
use crate::secret::Secret;

/// Who gets results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Unique; part of what is remembered over a restart.
    pub name: String,
    /// What a message is about; at least one.
    pub on: BTreeSet<HookEvent>,
    /// Results that are sent.
    pub results: Vec<HookOutcome>,
    /// Names of the watches whose results are sent; None: all.
    pub watches: Option<Vec<String>>,
    /// Where to send messages to.
    pub url: Option<Address>,
    /// What the receiver of `url` understands.
    pub format: Format,
    /// The key of the signature.
    pub secret: Option<Secret>,
    /// A program and its arguments, which gets the message on its standard input.
    pub command: Option<Vec<String>>,
    /// When the message of a day is sent.
    pub digest_at: Time,
}

/// What a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HookEvent {
    /// One result of one file.
    File,
    /// All results of a run.
    Run,
    /// A named version that was created.
    Version,
    /// A day.
    Day,
}

/// A result that can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookOutcome {
    /// In the iModel.
    Synchronized,
    /// In the iModel, with errors or warnings of the connector.
    SynchronizedWithIssues,
    /// In storage only.
    Uploaded,
    /// Failed.
    Failed,
}

impl HookOutcome {
    /// As the config file and messages write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Synchronized => "synchronized",
            Self::SynchronizedWithIssues => "synchronized with issues",
            Self::Uploaded => "uploaded",
            Self::Failed => "failed",
        }
    }
}

/// Results that can be sent.
const RESULTS: [HookOutcome; 4] = [
    HookOutcome::Synchronized,
    HookOutcome::SynchronizedWithIssues,
    HookOutcome::Uploaded,
    HookOutcome::Failed,
];

/// Reads every table, and reports the errors of each.
pub(super) fn read<'d>(
    tables: &[&'d Spanned<DeValue<'d>>],
    watches: &[Placed],
    environment: &Environment,
    mode: Mode,
    report: &mut Report,
) -> Vec<Hook> {
    let mut hooks: Vec<Hook> = Vec::new();
    for table in tables {
        let mut section = Section::one_of(table, "hook", KEYS, report);
        let hook = hook(&mut section, watches, environment, mode);
        if hooks.iter().any(|other| other.name == hook.name) {
            section.add(
                "name",
                InvalidValue::new(
                    format!("duplicate hook name {:?}", hook.name),
                    "give each [[hook]] a unique name",
                ),
            );
        }
        hooks.push(hook);
    }
    hooks
}

fn hook(
    section: &mut Section<'_>,
    watches: &[Placed],
    environment: &Environment,
    mode: Mode,
) -> Hook {
    let name = section.require(
        "name",
        "add a short name, such as name = \"build-server\"",
        values::watch_name,
    );
    let on = section.read("on", events);
    let url = address(section, environment, mode);
    let command = section.read("command", values::list);
    if command.as_ref().is_some_and(Vec::is_empty) {
        section.add(
            "command",
            InvalidValue::new(
                "must not be empty",
                "write [\"/usr/local/bin/notify\", \"argument\"]",
            ),
        );
    }
    if section.has("url") == section.has("command") {
        section.add(
            "url",
            InvalidValue::new(
                "either url or command is required",
                "set one of them; write two [[hook]] tables for two receivers",
            ),
        );
    }
    let secret = section.read("secret_file", credentials::path);
    if secret.is_some() && !section.has("url") {
        section.add(
            "secret_file",
            InvalidValue::new("has no effect without url", "set url, or remove this key"),
        );
    }
    let secret = secret.filter(|_| mode == Mode::Daemon).and_then(|file| {
        let secret = credentials::read(&file, environment);
        secret.map_err(|bad| section.add("secret_file", bad)).ok()
    });
    let mut names = section.read("watches", values::list);
    for name in names.iter().flatten() {
        if !watches.iter().any(|placed| placed.watch.name == *name) {
            section.add(
                "watches",
                InvalidValue::new(
                    format!("no watch has the name {name:?}"),
                    "write names of [[watch]] tables, or remove the key for all watches",
                ),
            );
        }
    }
    if let Some(names) = &mut names {
        let followers = watches.iter().filter(|placed| {
            let leader = placed.watch.follows.as_ref();
            leader.is_some_and(|leader| names.contains(&leader.watch))
        });
        let followers: Vec<String> = followers.map(|placed| placed.watch.name.clone()).collect();
        names.extend(followers);
    }
    let on = on.unwrap_or_else(|| BTreeSet::from([HookEvent::Run]));
    if section.has("digest_at") && !on.contains(&HookEvent::Day) {
        section.add(
            "digest_at",
            InvalidValue::new(
                "has no effect without \"day\" in on",
                "write on = [\"day\"], or remove this key",
            ),
        );
    }
    Hook {
        name: name.unwrap_or_default(),
        on,
        results: section
            .read("results", results)
            .unwrap_or_else(|| RESULTS.to_vec()),
        watches: names,
        url,
        format: section.read("format", format).unwrap_or_default(),
        secret,
        command,
        digest_at: section
            .read("digest_at", digest_at)
            .unwrap_or(Time::constant(18, 0, 0, 0)),
    }
}

fn events(value: &DeValue<'_>) -> Result<BTreeSet<HookEvent>, InvalidValue> {
    let bad = || {
        InvalidValue::new(
            "expected an array of \"file\", \"run\", \"version\" and \"day\"",
            "write on = [\"run\"] for one message after each run",
        )
    };
    let words = values::list(value).map_err(|_| bad())?;
    let events = words.iter().map(|word| match word.as_str() {
        "file" => Ok(HookEvent::File),
        "run" => Ok(HookEvent::Run),
        "version" => Ok(HookEvent::Version),
        "day" => Ok(HookEvent::Day),
        _ => Err(bad()),
    });
    let events = events.collect::<Result<BTreeSet<_>, _>>()?;
    if events.is_empty() {
        return Err(bad());
    }
    Ok(events)
}

fn results(value: &DeValue<'_>) -> Result<Vec<HookOutcome>, InvalidValue> {
    let known = RESULTS.map(|one| format!("{:?}", one.as_str())).join(", ");
    let bad = |what: String| InvalidValue::new(what, format!("write some of [{known}]"));
    let words = values::list(value)?;
    if words.is_empty() {
        return Err(bad("must not be empty".to_owned()));
    }
    let find = |word: &String| {
        let mut all = RESULTS.into_iter();
        all.find(|one| one.as_str() == word)
            .ok_or_else(|| bad(format!("unknown result {word:?}")))
    };
    words.iter().map(find).collect()
}

fn digest_at(value: &DeValue<'_>) -> Result<Time, InvalidValue> {
    let text = values::text(value)?;
    time_of_day(&text).ok_or_else(|| {
        InvalidValue::new(
            format!("invalid time of day {text:?}"),
            "write it like \"18:00\"",
        )
    })
}
