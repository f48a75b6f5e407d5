mod replays;

use notify::event::{
    CreateKind, DataChange, Flag, MetadataKind, ModifyKind, RemoveKind, RenameMode,
};

use super::hints::CHANNEL;
use super::*;

#[test]
fn messages() {
    insta::assert_snapshot!(crate::text::render_variants!(Error, |_| None, {
        Error::Limit => Error::Limit,
        Error::NoInstance(_) => Error::NoInstance("too many open files".to_owned()),
        Error::Gone => Error::Gone,
        Error::Other(_) => Error::Other("permission denied".to_owned()),
    }));
}

fn path(text: &str) -> Hint {
    Hint::Path(PathBuf::from(text))
}

/// The identity of any folder, by its number.
fn folder(number: u64) -> Identity {
    Identity::for_test(number)
}

impl Events {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table()
    }
}

impl Hints {
    fn all(&mut self) -> Vec<Hint> {
        let everything = self.overflow.happened.swap(false, Ordering::AcqRel);
        let everything = everything.then_some(Hint::Everything);
        let paths = std::iter::from_fn(|| self.paths.try_recv().ok());
        let mut paths: Vec<Hint> = paths.collect();
        paths.extend(everything);
        paths
    }
}

/// A root, what it watches by number, and where its hints arrive.
fn root(events: &Events, path: &str, folders: &[(&str, u64)]) -> (Watches, Hints) {
    let (sender, hints) = channel();
    let watches = events.of_root(Path::new(path), sender);
    for (name, number) in folders {
        let path: Arc<Path> = Path::new(path).join(name).into();
        let path: Arc<Path> = path.components().collect::<PathBuf>().into();
        let left = events.table().add(watches.id, 1, &path, folder(*number));
        assert!(left.is_none());
    }
    (watches, hints)
}

#[tokio::test]
async fn every_kind_of_change_is_a_hint_and_no_kind_of_reading_is() {
    let events = Events::default();
    let (_watches, mut hints) = root(&events, "/root", &[("", 1), ("b", 2)]);
    let mut check = |kind, name: &str, expected: Vec<Hint>| {
        let event = Event::new(kind).add_path(PathBuf::from("/root").join(name));
        events.table().dispatch(Ok(event));
        assert_eq!(hints.all(), expected);
    };
    check(
        EventKind::Create(CreateKind::File),
        "a.dgn",
        vec![path("a.dgn")],
    );
    check(
        EventKind::Modify(ModifyKind::Any),
        "b/a.dgn",
        vec![path("b/a.dgn")],
    );
    check(
        EventKind::Modify(ModifyKind::Name(RenameMode::To)),
        "a.dgn",
        vec![path("a.dgn")],
    );
    check(
        EventKind::Remove(RemoveKind::File),
        "a.dgn",
        vec![path("a.dgn")],
    );
    let close = |mode| EventKind::Access(AccessKind::Close(mode));
    check(close(AccessMode::Write), "a.dgn", vec![path("a.dgn")]);
    check(close(AccessMode::Read), "a.dgn", vec![]);
    let open = EventKind::Access(AccessKind::Open(AccessMode::Any));
    check(open, "a.dgn", vec![]);
}

#[tokio::test]
async fn lost_events_errors_and_events_of_the_root_ask_for_a_scan() {
    let events = Events::default();
    let (_watches, mut hints) = root(&events, "/root", &[("", 1)]);
    let lost = Event::new(EventKind::Other).set_flag(Flag::Rescan);
    let gone = Event::new(EventKind::Remove(RemoveKind::Folder)).add_path("/root".into());
    for event in [Ok(lost), Err(notify::Error::generic("failed")), Ok(gone)] {
        events.table().dispatch(event);
        assert_eq!(hints.all(), [Hint::Everything]);
    }
}

#[tokio::test]
async fn a_folder_that_two_roots_reach_gives_hints_to_both_by_their_own_paths() {
    let events = Events::default();
    let (north, mut to_north) = root(&events, "/north", &[("", 1), ("plans", 2)]);
    let (_bound, mut to_bound) = root(&events, "/bound", &[("", 2)]);
    // The kernel names the folder by the path that it was watched by last.
    let create = EventKind::Create(CreateKind::File);
    for folder in ["/bound", "/north/plans"] {
        let event = Event::new(create).add_path(Path::new(folder).join("a.dgn"));
        events.table().dispatch(Ok(event));
        assert_eq!(to_north.all(), [path("plans/a.dgn")]);
        assert_eq!(to_bound.all(), [path("a.dgn")]);
    }
    // One of them goes: the other one keeps the watch.
    let left = events.table().leave(north.id, 2);
    let others: Vec<_> = left
        .iter()
        .map(|one| (one.path.to_str().unwrap(), one.other.is_some()))
        .collect();
    assert_eq!(others.len(), 2);
    assert!(others.contains(&("/north", false)) && others.contains(&("/north/plans", true)));
    let event = Event::new(create).add_path("/bound/b.dgn".into());
    events.table().dispatch(Ok(event));
    assert_eq!(
        (to_north.all(), to_bound.all()),
        (vec![], vec![path("b.dgn")])
    );
}

#[tokio::test]
async fn a_folder_that_was_replaced_is_watched_in_place_of_the_old_one() {
    let events = Events::default();
    let (watches, mut hints) = root(&events, "/root", &[("", 1), ("plans", 2)]);
    let plans: Arc<Path> = Path::new("/root/plans").into();
    let left = events
        .table()
        .add(watches.id, 2, &plans, folder(3))
        .unwrap();
    assert!(left.path == plans && left.other.is_none());
    let event = Event::new(EventKind::Any).add_path("/root/plans/a.dgn".into());
    events.table().dispatch(Ok(event));
    assert_eq!(hints.all(), [path("plans/a.dgn")]);
    // The scan that found it did not come to the root, say.
    let left = events.table().leave(watches.id, 2);
    assert_eq!(left.len(), 1);
    assert_eq!(events.table().paths.len(), 1);
}

#[tokio::test]
async fn a_mount_concerns_the_roots_that_it_is_below_or_above() {
    let events = Events::default();
    let (_a, mut a) = root(&events, "/srv/a", &[]);
    let (_b, mut b) = root(&events, "/srv/b", &[]);
    let table = events.table();
    table.on_mounts_changed(&["/srv/a/deep/share".into()]);
    assert_eq!((a.all(), b.all()), (vec![Hint::Everything], vec![]));
    table.on_mounts_changed(&["/srv".into(), "/elsewhere".into()]);
    assert_eq!((a.all().len(), b.all().len()), (1, 1));
    table.on_mounts_changed(&["/srv/ab".into(), "/srv/b2/c".into()]);
    assert_eq!((a.all(), b.all()), (vec![], vec![]));
    drop(table);
}

#[tokio::test]
async fn a_full_channel_becomes_one_hint_for_everything() {
    let (sender, mut hints) = channel();
    for n in 0..CHANNEL + 10 {
        sender.send(path(&n.to_string()));
    }
    assert_eq!(hints.next().await, Hint::Everything);
    assert_eq!(hints.next().await, path("0"));
}

/// The last hint after events of files in one folder.
fn last_hint(steps: &[(EventKind, &[&str])]) -> Hint {
    let events = Events::default();
    let (_watches, mut hints) = root(&events, "/root", &[("", 1)]);
    for (kind, names) in steps {
        let mut event = Event::new(*kind);
        for name in *names {
            event = event.add_path(PathBuf::from("/root").join(name));
        }
        events.table().dispatch(Ok(event));
    }
    hints.all().pop().unwrap()
}

#[tokio::test]
async fn a_file_arrives_by_a_rename_if_it_was_closed_and_not_changed_since() {
    let create = EventKind::Create(CreateKind::File);
    let data = EventKind::Modify(ModifyKind::Data(DataChange::Any));
    let rights = EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any));
    let close = EventKind::Access(AccessKind::Close(AccessMode::Write));
    let read = EventKind::Access(AccessKind::Open(AccessMode::Any));
    let (from, to, both) = (
        EventKind::Modify(ModifyKind::Name(RenameMode::From)),
        EventKind::Modify(ModifyKind::Name(RenameMode::To)),
        EventKind::Modify(ModifyKind::Name(RenameMode::Both)),
    );
    let removed = EventKind::Remove(RemoveKind::File);
    let new: &[&str] = &["new.tmp"];
    let name: &[&str] = &["a.dgn"];
    let pair: &[&str] = &["new.tmp", "a.dgn"];
    let arrived = Hint::Arrived("a.dgn".into());
    let rename = [(from, new), (to, name), (both, pair)];
    let after = |before: &[(EventKind, &'static [&'static str])]| {
        let mut steps = before.to_vec();
        steps.extend(rename);
        last_hint(&steps)
    };
    // Saved into a new file, which is closed.
    assert_eq!(after(&[(create, new), (data, new), (close, new)]), arrived);
    assert_eq!(
        after(&[(data, new), (close, new), (rights, new), (read, new)]),
        arrived
    );
    // Through two names.
    let other: &[&str] = &["b.tmp", "new.tmp"];
    let first: &[&str] = &["b.tmp"];
    let twice = [
        (data, first),
        (close, first),
        (from, first),
        (to, new),
        (both, other),
    ];
    assert_eq!(after(&twice), arrived);
    // Still open, opened again, replaced by another, closed under another name, or from outside.
    for before in [
        &[][..],
        &[(create, new), (data, new)],
        &[(data, new), (close, new), (data, new)],
        &[(data, new), (close, new), (create, new)],
        &[(data, new), (close, new), (removed, new)],
        &[(data, new), (close, new), (to, new)],
        &[(data, name), (close, name)],
    ] {
        assert_eq!(after(before), path("a.dgn"), "{before:?}");
    }
    // Events were lost since.
    let events = Events::default();
    let (_watches, mut hints) = root(&events, "/root", &[("", 1)]);
    let tell = |event: Event| events.table().dispatch(Ok(event));
    tell(Event::new(close).add_path("/root/new.tmp".into()));
    tell(Event::new(EventKind::Other).set_flag(Flag::Rescan));
    tell(
        Event::new(both)
            .add_path("/root/new.tmp".into())
            .add_path("/root/a.dgn".into()),
    );
    assert!(!hints.all().contains(&arrived));
}

#[tokio::test]
async fn a_file_that_arrived_before_events_were_lost_counts_as_changed() {
    let (sender, mut hints) = channel();
    let arrived = |name: &str| Hint::Arrived(name.into());
    sender.send(arrived("a.dgn"));
    sender.send(Hint::Everything);
    assert_eq!(hints.next().await, Hint::Everything);
    sender.send(arrived("b.dgn"));
    assert_eq!(hints.try_next(), Some(path("a.dgn")));
    assert_eq!(hints.try_next(), Some(arrived("b.dgn")));
    assert_eq!(hints.try_next(), None);
}
