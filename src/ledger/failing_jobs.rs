//! The jobs that have a failure: what their index and all reports of failures have in common.

/// The condition of the index `jobs_failure_group` on the job `j`.
macro_rules! fails {
    () => {
        "j.kind IS NOT NULL AND j.reason IS NOT NULL"
    };
}
pub(super) use fails;
