//! The metrics in Prometheus' text format.
//!
//! Gauges come from the ledger; counters start with the process, as usual. Written by hand: nearly every value is read
//! again at each scrape, so a registry of a library would hold nothing.
//!
//! Source: `prometheus.io/docs/instrumenting/exposition_formats`, `prometheus.io/docs/practices/naming`

mod process;
mod watches;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use jiff::Timestamp;

use super::connections::Counts;
use crate::ledger::{self, Ledger, Outcome, Overview, RootState};
use crate::runtime_status::{Histogram, StatusTracker};
use crate::version;
use watches::WATCH_GAUGES;

pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Results that are counted per query.
const AT_ONCE: u32 = 5000;

const OUTCOMES: [Outcome; 7] = [
    Outcome::Synchronized,
    Outcome::SynchronizedWithIssues,
    Outcome::Uploaded,
    Outcome::Unchanged,
    Outcome::Renamed,
    Outcome::Failed,
    Outcome::Vanished,
];

/// Results and runs counted since the process started.
#[derive(Debug)]
pub(super) struct Tally {
    last_result: i64,
    results: BTreeMap<(String, &'static str), u64>,
    /// Runs before this one are counted.
    first_run: i64,
    /// Runs from `first_run` on that are counted.
    counted: BTreeSet<i64>,
    runs: BTreeMap<String, u64>,
    run_seconds: Histogram,
}

/// The input of the metrics.
pub(super) struct Facts<'a> {
    pub(super) overview: &'a Overview,
    pub(super) live: &'a StatusTracker,
    pub(super) traffic: &'a [(String, Option<u16>, u64)],
    pub(super) tally: &'a Tally,
    pub(super) page: &'a Counts,
}

impl Tally {
    /// Counts what the ledger records from now on.
    pub(super) async fn new(reader: &Ledger) -> Result<Self, ledger::Error> {
        let mut tally = Self {
            last_result: reader.last_result().await?,
            results: BTreeMap::new(),
            first_run: 0,
            counted: BTreeSet::new(),
            runs: BTreeMap::new(),
            run_seconds: Histogram::new(&[
                5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 21_600.0,
            ]),
        };
        // Runs that ended before belong to the previous process.
        tally.take_runs(reader).await?;
        tally.runs.clear();
        tally.run_seconds = Histogram::new(
            &tally
                .run_seconds
                .buckets
                .iter()
                .map(|(bound, _)| *bound)
                .collect::<Vec<_>>(),
        );
        Ok(tally)
    }

    /// Counts what was recorded since the last call.
    pub(super) async fn count(&mut self, reader: &Ledger) -> Result<(), ledger::Error> {
        loop {
            let new = reader.results_after(self.last_result, AT_ONCE).await?;
            let Some(last) = new.last() else { break };
            self.last_result = last.id;
            for result in new {
                *self
                    .results
                    .entry((result.watch, result.outcome.as_str()))
                    .or_default() += 1;
            }
        }
        self.take_runs(reader).await
    }

    async fn take_runs(&mut self, reader: &Ledger) -> Result<(), ledger::Error> {
        let runs = reader.runs_from(self.first_run).await?;
        for entry in &runs {
            let Some(ended) = entry.run.ended_at else {
                continue;
            };
            if self.counted.insert(entry.number) {
                let result = entry.run.result.clone().unwrap_or_default();
                *self.runs.entry(result).or_default() += 1;
                let took = ended.duration_since(entry.run.requested_at);
                self.run_seconds.add(took.as_secs_f64());
            }
        }
        // Runs before the first open one need not be read again.
        let open = runs.iter().find(|entry| entry.run.ended_at.is_none());
        if let Some(first) = open.or(runs.last()) {
            self.first_run = first.number;
            self.counted = self.counted.split_off(&self.first_run);
        }
        Ok(())
    }
}

/// All metrics.
pub(super) fn text(facts: &Facts<'_>) -> String {
    let mut out = Text::default();
    out.family(
        "build_info",
        "gauge",
        "Version of the running program; always 1.",
    );
    out.value("", &[("version", version::FULL)], 1.0);
    out.family(
        "start_time_seconds",
        "gauge",
        "Start time of the service in seconds since the epoch.",
    );
    out.value("", &[], seconds_of(facts.live.began()));
    process::add(&mut out);
    counters(&mut out, facts);
    page(&mut out, facts.page);
    gauges(&mut out, facts);
    out.family(
        "upload_duration_seconds",
        "histogram",
        "Duration of file uploads.",
    );
    out.histogram(&facts.live.upload_seconds());
    out.family(
        "run_duration_seconds",
        "histogram",
        "Duration of runs, from the request to the observed end.",
    );
    out.histogram(&facts.tally.run_seconds);
    out.text
}

fn counters(out: &mut Text, facts: &Facts<'_>) {
    out.family("file_results_total", "counter", "Results of file versions.");
    for watch in configured(facts.overview) {
        for outcome in OUTCOMES {
            let key = (watch.to_owned(), outcome.as_str());
            let count = facts.tally.results.get(&key).copied().unwrap_or(0);
            let labels = [("watch", watch), ("result", outcome.as_str())];
            out.value("", &labels, float(count));
        }
    }
    out.family("runs_total", "counter", "Ended runs by result.");
    for (result, count) in &facts.tally.runs {
        out.value("", &[("result", result)], float(*count));
    }
    out.family(
        "sent_bytes_total",
        "counter",
        "File bytes sent to storage, including retries.",
    );
    out.value("", &[], float(facts.live.bytes_sent()));
    out.family(
        "upload_retries_total",
        "counter",
        "Upload attempts after the first one of a job.",
    );
    out.value("", &[], float(facts.live.retries()));
    out.family(
        "http_requests_total",
        "counter",
        "HTTP requests by host and response status; none: no response.",
    );
    for (host, status, count) in facts.traffic {
        let status = status.map_or_else(|| "none".to_owned(), |status| status.to_string());
        out.value("", &[("host", host), ("status", &status)], float(*count));
    }
}

fn page(out: &mut Text, counts: &Counts) {
    out.family(
        "page_wrong_tokens_total",
        "counter",
        "Requests to the page with a wrong token.",
    );
    out.value("", &[], float(counts.wrong_tokens.load(Ordering::Relaxed)));
    out.family(
        "page_connections_refused_total",
        "counter",
        "Connections to the page closed because of the connection limit.",
    );
    out.value("", &[], float(counts.refused.load(Ordering::Relaxed)));
}

fn gauges(out: &mut Text, facts: &Facts<'_>) {
    out.family("jobs", "gauge", "Pending jobs by state.");
    for watch in facts
        .overview
        .watches
        .iter()
        .filter(|watch| watch.configured)
    {
        let counts = &watch.counts;
        for (state, count) in [
            ("due", counts.due),
            ("uploading", counts.uploading),
            ("stored", counts.stored),
            ("running", counts.running),
            ("failed", counts.failed),
        ] {
            let labels = [("watch", watch.name.as_str()), ("state", state)];
            out.value("", &labels, float(count));
        }
    }
    for (name, help, value) in WATCH_GAUGES {
        out.family(name, "gauge", help);
        let watches = facts.overview.watches.iter();
        for watch in watches.filter(|watch| watch.configured) {
            let labels = [("watch", watch.name.as_str())];
            out.value("", &labels, float(value(watch)));
        }
    }
    out.family(
        "roots",
        "gauge",
        "Watched folders by state: ok, polled, degraded or unavailable.",
    );
    for state in [
        RootState::Ok,
        RootState::Polled,
        RootState::Degraded,
        RootState::Unavailable,
    ] {
        let all = facts.overview.watches.iter();
        let count = all
            .filter(|watch| watch.configured && watch.root == state)
            .count();
        out.value("", &[("state", state.as_str())], float(count as u64));
    }
    out.family(
        "unreadable_files",
        "gauge",
        "Files by watch that could not be opened for more than a minute after the settle time.",
    );
    for (watch, files) in facts.live.unreadable_files() {
        out.value("", &[("watch", watch.as_str())], float(files));
    }
    out.family(
        "undelivered_receivers",
        "gauge",
        "Alerts and hooks of which several attempts to deliver a message failed in a row.",
    );
    out.value("", &[], float(facts.live.undelivered().len() as u64));
    // Not 0 without one: the time since then would be half a century.
    out.family(
        "oldest_pending_timestamp_seconds",
        "gauge",
        "Time since which the oldest pending file waits, in seconds since the epoch; absent when none is pending.",
    );
    if let Some(at) = facts.overview.oldest {
        out.value("", &[], seconds_of(at));
    }
    out.family(
        "last_success_timestamp_seconds",
        "gauge",
        "Time at which a file was last synchronized, in seconds since the epoch; absent before the first one.",
    );
    if let Some(at) = facts.overview.last_success {
        out.value("", &[], seconds_of(at));
    }
}

fn configured(overview: &Overview) -> impl Iterator<Item = &str> {
    overview
        .watches
        .iter()
        .filter(|watch| watch.configured)
        .map(|watch| watch.name.as_str())
}

#[derive(Default)]
struct Text {
    text: String,
    family: String,
}

impl Text {
    /// A metric of ours: the name gets its prefix.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.standard_family(&format!("itwin_syncd_{name}"), kind, help);
    }

    /// A metric that has the same name in every program.
    fn standard_family(&mut self, name: &str, kind: &str, help: &str) {
        name.clone_into(&mut self.family);
        let _infallible = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn value(&mut self, suffix: &str, labels: &[(&str, &str)], value: f64) {
        let mut shown = Vec::with_capacity(labels.len());
        for (name, value) in labels {
            shown.push(format!("{name}=\"{}\"", escaped(value)));
        }
        let labels = if shown.is_empty() {
            String::new()
        } else {
            format!("{{{}}}", shown.join(","))
        };
        let _infallible = writeln!(self.text, "{}{suffix}{labels} {value}", self.family);
    }

    fn histogram(&mut self, histogram: &Histogram) {
        for (bound, count) in &histogram.buckets {
            self.value("_bucket", &[("le", &bound.to_string())], float(*count));
        }
        self.value("_bucket", &[("le", "+Inf")], float(histogram.count));
        self.value("_sum", &[], histogram.sum);
        self.value("_count", &[], float(histogram.count));
    }
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[allow(
    clippy::cast_precision_loss,
    reason = "the format has no other numbers"
)]
fn float(count: u64) -> f64 {
    count as f64
}

#[allow(
    clippy::cast_precision_loss,
    reason = "the format has no other numbers"
)]
fn seconds_of(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Environment};
    use crate::ledger::Lists;
    use crate::secret::Secret;

    const CONFIG: &str = "[itwin]\nclient_id = \"one\"\n[[watch]]\nname = \"north\"\npath = \"/srv/north\"\n\
                          imodel_id = \"c0ffee00-1234-4abc-8def-0123456789ab\"\n";

    /// All metrics of a service whose platform has this URL and refuses the connection.
    async fn metrics(platform: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path()).await.unwrap();
        let environment = Environment {
            client_secret: Some(Secret::new("lion")),
            ..Environment::default()
        };
        let mut config = Config::parse(CONFIG, "config.toml", &environment).unwrap();
        config.itwin.issuer_url = platform.parse().unwrap();
        let client = crate::service::client(&config, None).unwrap();
        assert!(client.check_token().await.is_err());
        let lists = Lists {
            files: 0,
            groups: 0,
            results: 0,
            runs: 0,
        };
        let now = crate::clock::now();
        text(&Facts {
            overview: &ledger.overview(lists, now).await.unwrap(),
            live: &StatusTracker::new(),
            traffic: &client.traffic(),
            tally: &Tally::new(&ledger).await.unwrap(),
            page: &Counts::default(),
        })
    }

    #[tokio::test]
    async fn labels_contain_no_user_name_or_password_of_a_url() {
        let text = metrics("http://me:tiger@127.0.0.1:1/").await;
        assert!(
            text.contains("itwin_syncd_http_requests_total{host=\"127.0.0.1:1\",status=\"none\"}"),
            "{text}"
        );
        assert!(!text.contains("tiger") && !text.contains("me:"), "{text}");
    }

    #[tokio::test]
    async fn help_of_all_metrics() {
        let text = metrics("http://127.0.0.1:1/").await;
        let help: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("# HELP"))
            .collect();
        insta::assert_snapshot!(help.join("\n"));
    }

    #[test]
    fn labels_are_escaped_and_a_histogram_ends_with_the_total() {
        let mut out = Text::default();
        out.family("x_seconds", "histogram", "Help.");
        out.value("", &[("a", "\"\\\n")], 1.5);
        let mut histogram = Histogram::new(&[1.0]);
        histogram.add(0.5);
        histogram.add(2.0);
        out.histogram(&histogram);
        assert_eq!(
            out.text,
            "# HELP itwin_syncd_x_seconds Help.\n# TYPE itwin_syncd_x_seconds histogram\n\
             itwin_syncd_x_seconds{a=\"\\\"\\\\\\n\"} 1.5\n\
             itwin_syncd_x_seconds_bucket{le=\"1\"} 1\nitwin_syncd_x_seconds_bucket{le=\"+Inf\"} 2\n\
             itwin_syncd_x_seconds_sum 2.5\nitwin_syncd_x_seconds_count 2\n"
        );
    }
}
