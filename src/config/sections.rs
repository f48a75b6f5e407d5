//! The keys outside `[[watch]]`: their defaults and limits.
//!
//! Input: sections of the file. Output: the public types of `config`. Every default is here or in `watches`; a test
//! compares them with `config.example.toml`.

use std::time::Duration;

use super::document::{Keys, Section};
use super::values::{self, InvalidValue, show_duration, show_size};
use super::{
    BulkChange, Environment, Level, Log, Retry, SettlePolicy, State, Sync, Upload, ledger_location,
};
use crate::connection_name::ConnectionName;

/// Every table and its keys; `""` is the top of the file.
pub(super) const KEYS: &Keys = &[
    (
        "",
        &[
            "settle",
            "rescan_interval",
            "poll_interval",
            "max_wait",
            "upload_interval",
            "shutdown_grace",
            "itwin",
            "network",
            "state",
            "log",
            "upload",
            "sync",
            "retry",
            "bulk_change",
            "web",
            "alert",
            "hook",
            "heartbeat",
            "watch",
            "imodel",
        ],
    ),
    (
        "imodel",
        &[
            "id",
            "create",
            "spatial_root",
            "named_version",
            "run_window",
            "upload_window",
            "window_stale",
            "settings",
        ],
    ),
    (
        "itwin",
        &[
            "api_url",
            "issuer_url",
            "client_id",
            "client_secret_file",
            "client_secret_command",
            "sign_in",
            "redirect_urls",
            "takeover",
            "scope",
            "requests_per_minute",
            "requests_per_hour",
        ],
    ),
    (
        "network",
        &[
            "proxy",
            "proxy_user",
            "proxy_password_file",
            "no_proxy",
            "ca_file",
            "connect_timeout",
            "idle_timeout",
            "total_timeout",
        ],
    ),
    (
        "state",
        &["path", "url", "password_file", "ca_file", "keep_history"],
    ),
    ("web", &["listen", "token_file", "hosts"]),
    (
        "alert",
        &[
            "name",
            "url",
            "format",
            "command",
            "smtp",
            "smtp_tls",
            "smtp_user",
            "smtp_password_file",
            "from",
            "to",
            "level",
            "group",
            "remind",
        ],
    ),
    (
        "hook",
        &[
            "name",
            "on",
            "results",
            "watches",
            "url",
            "format",
            "secret_file",
            "command",
            "digest_at",
        ],
    ),
    ("heartbeat", &["url", "interval"]),
    ("log", &["level", "format", "directory", "keep_files"]),
    ("upload", &["workers", "block_size", "memory", "rate"]),
    (
        "sync",
        &[
            "connection",
            "batch_window",
            "batch_max",
            "poll_interval",
            "poll_max",
            "run_deadline",
            "remap",
        ],
    ),
    ("retry", &["first_delay", "max_delay", "give_up"]),
    (
        "bulk_change",
        &["max_files", "max_new_files", "max_deletes"],
    ),
    (
        "watch",
        &[
            "name",
            "formerly",
            "path",
            "imodel_id",
            "imodel",
            "recursive",
            "rename",
            "on_delete",
            "delete_after",
            "settle",
            "rescan_interval",
            "poll_interval",
            "max_wait",
            "upload_interval",
            "storage_folder",
            "connection",
            "run_window",
            "upload_window",
            "window_stale",
            "include",
            "exclude",
            "masters",
            "upload_only",
            "connectors",
            "companions",
            "settings",
        ],
    ),
];

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_mins(1);
pub(super) const HOUR: Duration = Duration::from_hours(1);
pub(super) const DAY: Duration = Duration::from_hours(24);
const MIB: u64 = 1024 * 1024;

/// Shorter pauses than this only burn the processor; tests need them short all the same.
const SHORTEST: Duration = Duration::from_millis(1);
/// Source: learn.microsoft.com/rest/api/storageservices/put-block (100 MiB per block in the versions before
/// 2019-12-12).
const BLOCK_LIMIT: u64 = 100 * MIB;
/// More than any machine that this runs on can spare.
const MEMORY_LIMIT: u64 = 64 * 1024 * MIB;

/// Times that the top of the file sets for all watches.
#[derive(Clone, Copy)]
pub(super) struct Times {
    pub(super) settle: Duration,
    pub(super) rescan_interval: Duration,
    pub(super) poll_interval: Duration,
    max_wait: Option<Duration>,
    upload_interval: Option<Duration>,
}

impl Times {
    /// Reads the keys, at the top of the file or in a watch, over what holds already.
    pub(super) fn read(self, section: &mut Section<'_>) -> Self {
        Self {
            settle: duration(section, "settle", self.settle, DAY),
            rescan_interval: duration(section, "rescan_interval", self.rescan_interval, 30 * DAY),
            poll_interval: duration(section, "poll_interval", self.poll_interval, DAY),
            max_wait: section
                .read("max_wait", values::duration(SHORTEST..=DAY))
                .or(self.max_wait),
            upload_interval: section
                .read("upload_interval", values::duration(Duration::ZERO..=DAY))
                .or(self.upload_interval),
        }
    }

    pub(super) fn settle_policy(&self) -> SettlePolicy {
        SettlePolicy {
            settle: self.settle,
            max_wait: self.max_wait,
            upload_interval: self.upload_interval.unwrap_or(self.settle * 3),
        }
    }
}

impl Default for Times {
    fn default() -> Self {
        Self {
            settle: 10 * SECOND,
            rescan_interval: HOUR,
            poll_interval: 30 * SECOND,
            max_wait: None,
            upload_interval: None,
        }
    }
}

pub(super) fn shutdown_grace(section: &mut Section<'_>) -> Duration {
    section
        .read("shutdown_grace", values::duration(Duration::ZERO..=HOUR))
        .unwrap_or(30 * SECOND)
}

pub(super) fn state(section: &mut Section<'_>, environment: &Environment) -> State {
    State {
        path: ledger_location::read(section, environment),
        keep_history: duration(section, "keep_history", 365 * DAY, 3650 * DAY),
    }
}

pub(super) fn bulk_change(section: &mut Section<'_>) -> BulkChange {
    let mut count = |key, default| {
        let files = section.read(key, values::count(1..=1_000_000_000));
        files.map_or(default, |files| files as u64)
    };
    BulkChange {
        max_files: count("max_files", 1000),
        max_new_files: count("max_new_files", 1000),
        max_deletes: count("max_deletes", 20),
    }
}

pub(super) fn log(section: &mut Section<'_>) -> Log {
    Log {
        level: section.read("level", values::level).unwrap_or(Level::Info),
        format: section.read("format", values::log_format),
        directory: section.read("directory", values::absolute),
        keep_files: section
            .read("keep_files", values::count(1..=3650))
            .unwrap_or(14),
    }
}

pub(super) fn upload(section: &mut Section<'_>) -> Upload {
    let upload = Upload {
        workers: section.read("workers", values::count(1..=64)).unwrap_or(8),
        block_size: section
            .read("block_size", values::size(1..=BLOCK_LIMIT))
            .unwrap_or(8 * MIB),
        memory: section
            .read("memory", values::size(1..=MEMORY_LIMIT))
            .unwrap_or(16 * MIB),
        rate: section.read("rate", values::periods).unwrap_or_default(),
    };
    if upload.block_size > upload.memory {
        let [block, memory] = [upload.block_size, upload.memory].map(show_size);
        let what = format!("block_size ({block}) is larger than memory ({memory})");
        let key = if section.has("block_size") {
            "block_size"
        } else {
            "memory"
        };
        section.add(
            key,
            InvalidValue::new(what, "lower block_size or raise memory"),
        );
    }
    upload
}

pub(super) fn sync(section: &mut Section<'_>) -> Sync {
    let sync = Sync {
        connection: section
            .read("connection", values::connection_name)
            .unwrap_or_else(|| ConnectionName::from("itwin-syncd".to_owned())),
        batch_window: duration(section, "batch_window", 10 * SECOND, HOUR),
        batch_max: duration(section, "batch_max", 5 * MINUTE, DAY),
        poll_interval: duration(section, "poll_interval", 10 * SECOND, HOUR),
        poll_max: duration(section, "poll_max", MINUTE, HOUR),
        run_deadline: duration(section, "run_deadline", 6 * HOUR, 30 * DAY),
        remap: section.read("remap", values::flag).unwrap_or(true),
    };
    at_least(
        section,
        ("batch_max", sync.batch_max),
        ("batch_window", sync.batch_window),
    );
    at_least(
        section,
        ("poll_max", sync.poll_max),
        ("poll_interval", sync.poll_interval),
    );
    sync
}

pub(super) fn retry(section: &mut Section<'_>) -> Retry {
    let retry = Retry {
        first_delay: duration(section, "first_delay", 5 * SECOND, HOUR),
        max_delay: duration(section, "max_delay", 15 * MINUTE, DAY),
        give_up: duration(section, "give_up", 3 * DAY, 365 * DAY),
    };
    at_least(
        section,
        ("max_delay", retry.max_delay),
        ("first_delay", retry.first_delay),
    );
    at_least(
        section,
        ("give_up", retry.give_up),
        ("max_delay", retry.max_delay),
    );
    retry
}

pub(super) fn duration(
    section: &mut Section<'_>,
    key: &str,
    default: Duration,
    longest: Duration,
) -> Duration {
    section
        .read(key, values::duration(SHORTEST..=longest))
        .unwrap_or(default)
}

/// Reports `upper` when it is below `lower`; also when one of them is a default that the file does not show.
fn at_least(section: &mut Section<'_>, upper: (&str, Duration), lower: (&str, Duration)) {
    if upper.1 < lower.1 {
        let [above, below] = [upper.1, lower.1].map(|duration| show_duration(&duration));
        let what = format!(
            "{} ({above}) is shorter than {} ({below})",
            upper.0, lower.0
        );
        let key = if section.has(upper.0) {
            upper.0
        } else {
            lower.0
        };
        section.add(
            key,
            InvalidValue::new(what, format!("raise {} or lower {}", upper.0, lower.0)),
        );
    }
}
