//! Looks at single paths of a root, on a thread of its own, each by opening it.
//!
//! Apart from the scan, so that a look never waits for the walk of a large root.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Instant;

use tokio::sync::mpsc as async_mpsc;

use super::settle::Look;
use crate::failpoint::panicpoint;
use crate::rooted_fs::{self, Identity, Kind, Root};

/// Paths to look at, and whether the root itself is still the one it was.
pub(super) type Request = Vec<PathBuf>;

/// What the looks saw, in the order of the request, and the root that they saw it in.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) root: io::Result<Identity>,
    pub(super) paths: Vec<(PathBuf, Sight)>,
}

/// What is at a path.
#[derive(Debug)]
pub(super) enum Sight {
    File(Look),
    Folder,
    /// A link, FIFO, socket or device.
    Other,
    Gone,
    /// It is there, but cannot be opened now.
    Busy(io::Error),
}

/// Starts the thread. It ends when the returned sender or the receiver of `answers` is dropped.
pub(super) fn spawn(
    name: &str,
    root: PathBuf,
    answers: async_mpsc::Sender<Seen>,
) -> io::Result<mpsc::Sender<Request>> {
    let (requests, inbox) = mpsc::channel::<Request>();
    std::thread::Builder::new()
        .name(format!("look {name}"))
        .spawn(move || {
            for request in inbox {
                if answers.blocking_send(look_at(&root, request)).is_err() {
                    return;
                }
            }
        })?;
    Ok(requests)
}

fn look_at(root: &Path, paths: Vec<PathBuf>) -> Seen {
    panicpoint("look");
    match Root::open(root).and_then(|root| Ok((root.identity()?, root))) {
        Ok((identity, root)) => {
            let paths = paths
                .into_iter()
                .map(|path| {
                    let sight = sight(&root, &path);
                    (path, sight)
                })
                .collect();
            Seen {
                root: Ok(identity),
                paths,
            }
        }
        Err(error) => Seen {
            root: Err(error),
            paths: Vec::new(),
        },
    }
}

fn sight(root: &Root, path: &Path) -> Sight {
    let began = Instant::now();
    let look = root.kind(path).and_then(|kind| match kind {
        Kind::Folder => Ok(Sight::Folder),
        Kind::Other => Ok(Sight::Other),
        Kind::Regular => {
            let fingerprint = rooted_fs::fingerprint(root.file(path)?)?;
            Ok(Sight::File(Look {
                began,
                ended: Instant::now(),
                fingerprint,
            }))
        }
    });
    look.unwrap_or_else(|error| {
        if rooted_fs::is_gone(&error) {
            Sight::Gone
        } else {
            Sight::Busy(error)
        }
    })
}
