use std::io::Write as _;

use super::*;
use crate::ledger::WatchId;
use crate::upload::slots::Slots;

#[test]
fn messages() {
    insta::assert_snapshot!(crate::text::render_variants!(Error, |_| None, {
        Error::Gone => Error::Gone,
        Error::Changed => Error::Changed,
        Error::Unreadable(_) => Error::Unreadable(Arc::new(io::ErrorKind::PermissionDenied.into())),
        Error::Hangs => Error::Hangs,
        Error::Stuck => Error::Stuck,
    }));
}

fn slot() -> Slot {
    Slots::default().take(WatchId::for_test(1), false)
}

fn file(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.dgn"), content).unwrap();
    (dir, PathBuf::from("a.dgn"))
}

/// Reads the rest, in blocks of `len` bytes.
async fn read_all(source: &Source<'_>, len: usize, mut left: usize) -> Vec<u8> {
    let pool = Pool::new(4_000_000, 100_000);
    let mut all = Vec::new();
    while left > 0 {
        let block = source.next(&pool, len.min(left)).await.unwrap();
        let bytes = block.bytes.as_ref();
        let mut crc64 = crc64fast_nvme::Digest::new();
        crc64.write(bytes);
        assert_eq!(block.crc64, crc64.sum64());
        left -= bytes.len();
        all.extend_from_slice(bytes);
    }
    all
}

#[tokio::test]
async fn blocks_make_the_whole_file_and_its_hash_however_they_are_cut() {
    let slot = slot();
    let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let (dir, path) = file(&bytes);
    for len in [1000, 4096, 399_999, 400_000] {
        let source = Source::open(&slot, dir.path(), &path).await.unwrap();
        assert_eq!(read_all(&source, len, bytes.len()).await, bytes);
        let content = source.finish().await.unwrap();
        assert_eq!(content.bytes, 400_000);
        assert_eq!(content.digest, *blake3::hash(&bytes).as_bytes());
        assert_eq!(source.hash().await.unwrap(), content);
    }
}

/// Too large to be read when it is opened.
fn large() -> Vec<u8> {
    b"0123456789".repeat(20_000)
}

#[tokio::test]
async fn a_rewind_begins_the_hash_anew() {
    let slot = slot();
    for bytes in [b"0123456789".to_vec(), large()] {
        let (dir, path) = file(&bytes);
        let source = Source::open(&slot, dir.path(), &path).await.unwrap();
        read_all(&source, 4, 4).await;
        assert!(matches!(source.finish().await, Err(Error::Changed)));
        source.rewind().await.unwrap();
        assert_eq!(read_all(&source, 30_000, bytes.len()).await, bytes);
        let digest = source.finish().await.unwrap().digest;
        assert_eq!(digest, *blake3::hash(&bytes).as_bytes());
    }
}

#[tokio::test]
async fn a_small_file_is_as_it_was_when_it_was_opened() {
    let slot = slot();
    for bytes in [vec![], b"x".to_vec(), vec![7; hash::SLICE]] {
        let (dir, path) = file(&bytes);
        let source = Source::open(&slot, dir.path(), &path).await.unwrap();
        std::fs::write(dir.path().join(&path), "something else").unwrap();
        let hashed = source.hash().await.unwrap();
        assert_eq!(hashed.digest, *blake3::hash(&bytes).as_bytes());
        source.rewind().await.unwrap();
        assert_eq!(read_all(&source, 50_000, bytes.len()).await, bytes);
        assert_eq!(source.finish().await.unwrap(), hashed);
    }
}

#[tokio::test]
async fn many_files_are_looked_for_in_one_request() {
    let slot = slot();
    let (dir, path) = file(b"x");
    std::fs::create_dir(dir.path().join("folder.dgn")).unwrap();
    let missing = PathBuf::from("missing/b.dgn");
    let asked = vec![path, missing.clone(), "folder.dgn".into(), missing];
    let found = gone(&slot, dir.path(), asked.clone()).await.unwrap();
    assert_eq!(found, [false, true, false, true]);
    let found = gone(&slot, &dir.path().join("unmounted"), asked).await;
    assert_eq!(found.unwrap(), [true; 4]);
}

#[tokio::test]
async fn a_file_that_changed_while_it_was_read_is_detected() {
    let slot = slot();
    let changes: [fn(&Path); 4] = [
        |path| {
            File::options()
                .append(true)
                .open(path)
                .unwrap()
                .write_all(b"more")
                .unwrap();
        },
        |path| {
            File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(3)
                .unwrap();
        },
        |path| {
            std::fs::write(path.with_extension("new"), large()).unwrap();
            std::fs::rename(path.with_extension("new"), path).unwrap();
        },
        |path| std::fs::remove_file(path).unwrap(),
    ];
    for change in changes {
        let (dir, path) = file(&large());
        let source = Source::open(&slot, dir.path(), &path).await.unwrap();
        read_all(&source, 100_000, large().len()).await;
        change(&dir.path().join(&path));
        assert!(matches!(source.finish().await, Err(Error::Changed)));
    }
}

#[tokio::test]
async fn a_file_cut_short_has_changed() {
    let slot = slot();
    let (dir, path) = file(&large());
    let source = Source::open(&slot, dir.path(), &path).await.unwrap();
    std::fs::write(dir.path().join(&path), "012").unwrap();
    let pool = Pool::new(100, 100);
    assert!(matches!(source.next(&pool, 10).await, Err(Error::Changed)));
    assert!(matches!(source.hash().await, Err(Error::Changed)));
}

fn asked(slot: &Slot) -> ReadThread<'_> {
    let (_guard, key) = slot.thread(Path::new("a.dgn")).unwrap();
    ReadThread {
        slot,
        path: PathBuf::from("a.dgn"),
        key,
        progress: Arc::default(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_share_that_does_not_answer_is_waited_for_until_the_deadline_only() {
    let slot = slot();
    let (_thread, answer) = oneshot::channel::<Answer<()>>();
    let waited =
        tokio::time::timeout(2 * ANSWER_MAX, asked(&slot).await_answer(answer, None)).await;
    assert!(matches!(waited, Ok(Err(Error::Hangs))), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_share_that_is_slow_is_waited_for_as_long_as_it_answers() {
    let slot = slot();
    let asked = asked(&slot);
    let (thread, answer) = oneshot::channel::<Answer<()>>();
    let progress = Arc::clone(&asked.progress);
    tokio::spawn(async move {
        for _ in 0..10 {
            tokio::time::sleep(ANSWER_MAX / 2).await;
            progress.fetch_add(1, Ordering::Relaxed);
        }
        drop(thread.send(Ok(Some(()))));
    });
    let waited = asked.await_answer(answer, None).await;
    assert!(matches!(waited, Ok(Some(()))), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_share_that_does_not_answer_keeps_neither_buffer_nor_slot() {
    let slots = Slots::default();
    let slot = slots.take(WatchId::for_test(1), true);
    let pool = Pool::new(100, 100);
    let buffer = Arc::new(Mutex::new(Some(pool.take(None, 100).await)));
    let loan = Loan(Arc::clone(&buffer));
    let asked = asked(&slot);
    let (thread, answer) = oneshot::channel::<Answer<()>>();
    let others = async {
        tokio::time::sleep(STALL * 2).await;
        assert_eq!(slots.busy().all, 0);
        let buffer = tokio::time::timeout(STALL, pool.take(None, 100)).await;
        assert!(buffer.is_ok(), "the buffer is not given back");
        drop(thread.send(Ok(None)));
    };
    let (waited, ()) = tokio::join!(asked.await_answer(answer, Some(&loan)), others);
    assert!(matches!(waited, Ok(None)), "{waited:?}");
    assert_eq!(slots.busy().all, 1);
}

#[test]
fn a_block_whose_buffer_was_taken_back_is_read_once_more() {
    let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let (dir, path) = file(&bytes);
    let mut reader = Reader::open(dir.path().to_owned(), path, Arc::default()).unwrap();
    let pool = Pool::new(1_000_000, 1_000_000);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let buffer = || Mutex::new(Some(runtime.block_on(pool.take(None, 200_000))));
    let first = reader.next(&buffer(), 200_000).unwrap().unwrap();
    assert!(reader.next(&Mutex::new(None), 200_000).unwrap().is_none());
    let second = reader.next(&buffer(), 200_000).unwrap().unwrap();
    let both = [first.bytes.as_ref(), second.bytes.as_ref()].concat();
    assert_eq!(both, bytes);
    let content = reader.finish().unwrap();
    assert_eq!(content.digest, *blake3::hash(&bytes).as_bytes());
}

#[tokio::test]
async fn a_missing_file_is_gone() {
    let slot = slot();
    let (dir, _) = file(b"x");
    assert!(matches!(
        Source::open(&slot, dir.path(), Path::new("b.dgn")).await,
        Err(Error::Gone)
    ));
}
