//! The metrics of the process that Prometheus expects of every program, from the kernel.
//!
//! What cannot be read is left out. `/proc/stat` is never read: the systemd unit hides it.
//!
//! Source: `prometheus.io/docs/instrumenting/writing_clientlibs`, `proc_pid_stat(5)`

use std::fs;
use std::sync::OnceLock;

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::{Text, float};

/// Adds all of them.
pub(super) fn add(out: &mut Text) {
    let mut metric = |name: &'static str, kind: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            out.standard_family(name, kind, help);
            out.value("", &[], value);
        }
    };
    metric(
        "process_cpu_seconds_total",
        "counter",
        "User and system CPU time in seconds.",
        Some(seconds(ClockId::ProcessCPUTime)),
    );
    metric(
        "process_resident_memory_bytes",
        "gauge",
        "Resident memory size in bytes.",
        fs::read_to_string("/proc/self/status")
            .ok()
            .and_then(|status| resident(&status)),
    );
    metric(
        "process_open_fds",
        "gauge",
        "Number of open file descriptors.",
        open_descriptors(),
    );
    metric(
        "process_max_fds",
        "gauge",
        "Maximum number of open file descriptors.",
        getrlimit(Resource::Nofile).current.map(float),
    );
    metric(
        "process_start_time_seconds",
        "gauge",
        "Start time of the process in seconds since the epoch.",
        start(),
    );
}

fn seconds(clock: ClockId) -> f64 {
    let now = clock_gettime(clock);
    let parts = (now.tv_sec.try_into(), now.tv_nsec.try_into());
    match parts {
        (Ok(whole), Ok(nanos)) => std::time::Duration::new(whole, nanos).as_secs_f64(),
        _ => 0.0,
    }
}

/// `VmRSS` in bytes.
fn resident(status: &str) -> Option<f64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(float(kibibytes * 1024))
}

/// Without the one that counts them.
fn open_descriptors() -> Option<f64> {
    let all = fs::read_dir("/proc/self/fd").ok()?.count();
    Some(float((all as u64).saturating_sub(1)))
}

/// Read once: the system clock may be corrected later.
fn start() -> Option<f64> {
    static START: OnceLock<Option<f64>> = OnceLock::new();
    *START.get_or_init(|| {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let after_boot =
            float(started_ticks(&stat)?) / float(rustix::param::clock_ticks_per_second());
        let boot = seconds(ClockId::Realtime) - seconds(ClockId::Boottime);
        Some(boot + after_boot)
    })
}

/// Ticks from the boot to the start of the process. The name of the program, in parentheses, may contain anything.
fn started_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn the_files_of_the_kernel_are_read() {
        let stat = "812 (itwin) -syncd) S 1 812 812 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 7355608 1234 99 1844 1\n";
        assert_eq!(started_ticks(stat), Some(7_355_608));
        assert_eq!(started_ticks("812 (x"), None);
        assert_eq!(
            resident("VmHWM:\t  9 kB\nVmRSS:\t   2048 kB\n"),
            Some(2_097_152.0)
        );
        assert_eq!(resident("VmRSS:\t many kB\n"), None);
        assert_eq!(resident(""), None);
    }

    #[test]
    fn every_metric_of_the_process_is_there_and_plausible() {
        let mut out = Text::default();
        add(&mut out);
        let value = |name: &str| -> f64 {
            let line = out.text.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name}: {}", out.text))
                .trim()
                .parse()
                .unwrap()
        };
        let now = seconds(ClockId::Realtime);
        let started = value("process_start_time_seconds ");
        assert!(started < now + 1.0 && started > now - 86400.0, "{started}");
        assert!(value("process_cpu_seconds_total ") > 0.0);
        assert!(value("process_resident_memory_bytes ") > 1_000_000.0);
        assert!(value("process_open_fds ") >= 3.0);
        assert!(value("process_max_fds ") >= value("process_open_fds "));
    }
}
