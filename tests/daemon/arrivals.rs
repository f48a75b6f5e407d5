//! Files that arrive by a rename, as many programs save them, long before they have rested for the settle time.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use tokio::time::Instant;

use crate::support::{PATIENCE, Site, platform, write};

const SETTLE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_file_that_was_closed_before_its_rename_is_taken_soon_and_one_that_is_open_is_not() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    site.top = format!("settle = \"{}s\"\n", SETTLE.as_secs());
    let daemon = site.start();
    daemon.says("scan finished").await;
    let holds = |name: &str, content: &str| {
        site.holds(&BTreeMap::from([(name.to_owned(), content.to_owned())]))
    };
    let arrive = async |name: &str, content: &str| {
        let began = Instant::now();
        while !holds(name, content) {
            assert!(began.elapsed() < PATIENCE, "{name}: {}", daemon.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let mut open = std::fs::File::create(folder.join("open.tmp")).unwrap();
    open.write_all(b"half").unwrap();
    std::fs::rename(folder.join("open.tmp"), folder.join("open.dgn")).unwrap();
    let began = Instant::now();
    write(&folder.join("closed.tmp"), "whole");
    std::fs::rename(folder.join("closed.tmp"), folder.join("closed.dgn")).unwrap();
    arrive("closed.dgn", "whole").await;
    let took = began.elapsed();
    assert!(took < SETTLE, "taken after {took:?}: {}", daemon.log());
    assert_eq!(site.emulator.state().files.len(), 1, "{}", daemon.log());
    open.write_all(b" and half").unwrap();
    drop(open);
    arrive("open.dgn", "half and half").await;
    assert_eq!(site.stored("open.dgn").completions, 1);
    daemon.stop().await;
}
