//! Compares the folders of a configuration on this machine.
//!
//! Input: watches and the directories for state and log. Output: errors, such as a path that is not a folder, two
//! watches that would upload the same files, or a ledger inside a watched folder. Paths are compared after resolving
//! symbolic links. A dead file server can block any file call, so each root is checked on its own thread with a time
//! limit. A root that is missing or does not answer in time is not an error: the daemon starts and waits for it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::document::{Place, Report};
use super::values::{InvalidValue, quoted};
use super::watches::{Placed, has_path};

/// Time limit for all roots together. A spun-down disk needs about ten seconds.
const TIMEOUT: Duration = Duration::from_secs(15);

/// As many links as the kernel follows, see `path_resolution(7)`.
const LINKS: usize = 40;

/// An existing folder.
#[derive(Debug, Clone)]
struct Look {
    /// Without symbolic links.
    real: PathBuf,
    /// Device and inode: the same folder may be mounted at two places.
    identity: (u64, u64),
}

/// The result of a check; `None` when the folder cannot be reached.
type Found = Result<Option<Look>, InvalidValue>;

/// A directory that the service writes to.
pub(super) struct Own<'a> {
    /// Its content, for messages: "the ledger" or "the log".
    pub(super) what: &'static str,
    pub(super) path: &'a Path,
    pub(super) place: Place,
}

/// Reports every error of the folders. No watch may be inside `state`, and neither `state` nor `log` inside a watch.
pub(super) fn check(
    watches: &[Placed],
    state: &Own<'_>,
    log: Option<&Own<'_>>,
    report: &mut Report,
) {
    let watches: Vec<&Placed> = watches
        .iter()
        .filter(|placed| has_path(&placed.watch))
        .collect();
    let paths: Vec<PathBuf> = watches
        .iter()
        .map(|placed| placed.watch.path.clone())
        .collect();
    let mut roots = Vec::new();
    for (placed, found) in watches.into_iter().zip(check_all(&paths, TIMEOUT, look)) {
        match found {
            Some(Ok(Some(look))) => roots.push((placed, look)),
            Some(Err(bad)) => report.add(placed.at_path.clone(), bad),
            Some(Ok(None)) | None => {}
        }
    }
    for (index, later) in roots.iter().enumerate() {
        for earlier in roots.iter().take(index) {
            if earlier.0.watch.is_same_table(&later.0.watch) {
                continue;
            }
            compare(earlier, later, report);
        }
    }
    let real_state = resolve(state.path, LINKS);
    for (placed, look) in &roots {
        if look.real.starts_with(&real_state) && look.real != real_state {
            let what = format!(
                "{} is inside state.path {}",
                quoted(&placed.watch.path),
                quoted(state.path)
            );
            report.add(
                placed.at_path.clone(),
                InvalidValue::new(what, "choose a state.path that contains nothing else"),
            );
        }
    }
    for own in [state].into_iter().chain(log) {
        let real = resolve(own.path, LINKS);
        if let Some((placed, _)) = roots.iter().find(|(_, look)| real.starts_with(&look.real)) {
            let what = format!(
                "{} is inside the folder of watch {:?}{}: {} would be treated as design files",
                quoted(own.path),
                placed.watch.name,
                at_line(&placed.at_path),
                own.what
            );
            report.add(
                own.place.clone(),
                InvalidValue::new(
                    what,
                    "choose a folder outside every watched folder, such as one below /var",
                ),
            );
        }
    }
}

/// A watch whose root answered.
type Root<'a> = (&'a Placed, Look);

/// Reports at the later watch, whichever of the two is the outer one.
fn compare(earlier: &Root<'_>, later: &Root<'_>, report: &mut Report) {
    let ((one, one_look), (other, other_look)) = (earlier, later);
    let (relation, outer) = if one_look.identity == other_look.identity {
        ("is also", None)
    } else if covers(earlier, later) {
        ("is inside", Some((one, one_look)))
    } else if covers(later, earlier) {
        ("contains", Some((other, other_look)))
    } else {
        return;
    };
    let what = format!(
        "{} {relation} the folder of watch {:?}{}: files would be uploaded twice",
        quoted(&other.watch.path),
        one.watch.name,
        at_line(&one.at_path),
    );
    let hint = match outer {
        Some((outer, look)) => {
            let inner = if relation == "contains" {
                one_look
            } else {
                other_look
            };
            let below = inner.real.strip_prefix(&look.real).unwrap_or(&inner.real);
            format!(
                "remove one of the two watches, or add {:?} to exclude of watch {:?}",
                format!("/{}/", below.display()),
                outer.watch.name
            )
        }
        None => "remove one of the two watches".to_owned(),
    };
    report.add(other.at_path.clone(), InvalidValue::new(what, hint));
}

/// Whether the watch of `outer` would scan the root of `inner`.
fn covers((outer, outer_look): &Root<'_>, (_, inner): &Root<'_>) -> bool {
    inner
        .real
        .strip_prefix(&outer_look.real)
        .is_ok_and(|below| outer.watch.scope.enters(below))
}

fn at_line(place: &Place) -> String {
    place
        .line
        .map_or_else(String::new, |line| format!(" (line {line})"))
}

/// Checks every path on its own thread. `None` for those that did not answer within `timeout`.
fn check_all(
    paths: &[PathBuf],
    timeout: Duration,
    look: impl Fn(&Path) -> Found + Clone + Send + 'static,
) -> Vec<Option<Found>> {
    let (sender, answers) = mpsc::channel();
    let mut found: Vec<Option<Found>> = paths.iter().map(|_| None).collect();
    let mut open = 0;
    for (index, path) in paths.iter().cloned().enumerate() {
        let (sender, look) = (sender.clone(), look.clone());
        let started = thread::Builder::new()
            .name(format!("look-{index}"))
            .spawn(move || {
                // The receiver is gone when the check took too long.
                sender.send((index, look(&path))).ok();
            });
        open += usize::from(started.is_ok());
    }
    let deadline = Instant::now() + timeout;
    while open > 0
        && let Ok((index, answer)) =
            answers.recv_timeout(deadline.saturating_duration_since(Instant::now()))
    {
        open -= 1;
        if let Some(place) = found.get_mut(index) {
            *place = Some(answer);
        }
    }
    found
}

/// `None` for a folder that cannot be reached now: its file server may come back at any time.
fn look(path: &Path) -> Result<Option<Look>, InvalidValue> {
    let Ok((real, metadata)) = path
        .canonicalize()
        .and_then(|real| real.metadata().map(|metadata| (real, metadata)))
    else {
        return Ok(None);
    };
    if !metadata.is_dir() {
        return Err(InvalidValue::new(
            format!("{} is not a folder", quoted(path)),
            "write the path of the folder that contains the files",
        ));
    }
    Ok(Some(Look {
        real,
        identity: (metadata.dev(), metadata.ino()),
    }))
}

/// The path without symbolic links, as far as it exists; what does not exist yet is kept as written. `links` bounds a
/// circle of links.
fn resolve(path: &Path, links: usize) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return path.to_owned();
    };
    let parent = resolve(parent, links);
    let here = parent.join(name);
    match here.read_link() {
        // A link to what does not exist yet: the folder will be created where it points.
        Ok(target) if links > 0 => resolve(&parent.join(target), links - 1),
        _ => here,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot continue has failed")]

    use super::*;

    #[test]
    fn a_root_that_never_answers_holds_up_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["/dead".into(), folder.path().to_owned(), "/absent".into()];
        let (_open, never) = mpsc::channel::<()>();
        let never = std::sync::Arc::new(std::sync::Mutex::new(never));
        let found = check_all(&paths, Duration::from_secs(1), move |path| {
            if path == Path::new("/dead") {
                never.lock().unwrap().recv().ok();
            }
            look(path)
        });
        assert!(
            matches!(found.as_slice(), [None, Some(Ok(Some(_))), Some(Ok(None))]),
            "{found:?}"
        );
    }

    #[test]
    fn a_circle_of_links_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(root.join("b"), root.join("a")).unwrap();
        std::os::unix::fs::symlink(root.join("a"), root.join("b")).unwrap();
        assert!(resolve(&root.join("a/state"), LINKS).starts_with(&root));
    }
}
