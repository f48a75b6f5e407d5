//! Probes single paths of a root, on a thread of their own, by opening them.
//!
//! Apart from the scan, so that a look never waits for the walk of a large root.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tokio::sync::mpsc as async_mpsc;

use super::settle::Observation;
use super::thread_on_demand::ThreadOnDemand;
use crate::failpoint::panicpoint;
use crate::rooted_fs::{self, Identity, Kind, RootDir};

/// Paths to look at, and whether the root itself is still the one it was.
pub(super) type Request = Vec<PathBuf>;

/// What the looks saw, in the order of the request, and the root that they saw it in.
#[derive(Debug)]
pub(super) struct ProbeReply {
    pub(super) root: io::Result<Identity>,
    pub(super) paths: Vec<(PathBuf, Probe)>,
}

/// What is at a path.
#[derive(Debug)]
pub(super) enum Probe {
    File(Observation),
    Folder,
    /// A link, FIFO, socket or device.
    Other,
    Gone,
    /// It is there, but cannot be opened now.
    Busy(io::Error),
}

/// What answers requests, as long as `answers` has a receiver.
pub(super) fn prober(
    name: &str,
    root: PathBuf,
    answers: async_mpsc::Sender<ProbeReply>,
) -> ThreadOnDemand<Request> {
    ThreadOnDemand::new(format!("probe {name}"), move |request| {
        match answers.blocking_send(probe_all(&root, request)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })
}

fn probe_all(root: &Path, paths: Vec<PathBuf>) -> ProbeReply {
    panicpoint("probe");
    match RootDir::open(root).and_then(|root| Ok((root.identity()?, root))) {
        Ok((identity, root)) => {
            let paths = paths
                .into_iter()
                .map(|path| {
                    let probe = probe(&root, &path);
                    (path, probe)
                })
                .collect();
            ProbeReply {
                root: Ok(identity),
                paths,
            }
        }
        Err(error) => ProbeReply {
            root: Err(error),
            paths: Vec::new(),
        },
    }
}

fn probe(root: &RootDir, path: &Path) -> Probe {
    let began = Instant::now();
    let probe = root.kind(path).and_then(|kind| match kind {
        Kind::Folder => Ok(Probe::Folder),
        Kind::Other => Ok(Probe::Other),
        Kind::Regular => {
            let fingerprint = rooted_fs::fingerprint(root.file(path)?)?;
            Ok(Probe::File(Observation {
                began,
                ended: Instant::now(),
                fingerprint,
            }))
        }
    });
    probe.unwrap_or_else(|error| {
        if rooted_fs::is_gone(&error) {
            Probe::Gone
        } else {
            Probe::Busy(error)
        }
    })
}
