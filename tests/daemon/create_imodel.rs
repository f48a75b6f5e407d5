//! iModels that the configuration names: found or created once, waited for, and never created twice.

use std::path::PathBuf;

use itwin_syncd::emulator::{
    Builder, CreateLimit, DEFAULT_IMODEL_ID, DEFAULT_ITWIN_ID, Fault, NewImodelList,
    NewImodelState, Switches,
};

use super::other_client::{OtherClient, shared_platform};
use super::support::{Daemon, Site, eventually, platform, write};

/// Where a process may die while an iModel is created.
pub(super) const POINTS: [&str; 3] = ["imodel created", "imodel recorded", "imodel ready"];

const NAME: &str = "Plant North";
const ROUTE: &str = "POST /imodels";

/// A site whose watch goes into an iModel that is created, and its folder.
async fn site(switch: impl FnOnce(&mut Switches)) -> (Site, PathBuf) {
    let mut switches = Switches::default();
    switch(&mut switches);
    site_of(shared_platform().switches(switches)).await
}

async fn site_of(platform: Builder) -> (Site, PathBuf) {
    let mut site = Site::new(platform).await;
    let folder = watch(&mut site, "north");
    create(&mut site, "");
    (site, folder)
}

fn create(site: &mut Site, keys: &str) {
    site.tables += &format!(
        "[[imodel]]\ncreate = {{ itwin_id = {DEFAULT_ITWIN_ID:?}, name = {NAME:?} }}\n{keys}\n"
    );
}

fn watch(site: &mut Site, name: &str) -> PathBuf {
    let folder = site.watch(name, "?", &format!("storage_folder = {name:?}"));
    site.replace_in_watches("imodel_id = \"?\"", &format!("imodel = {NAME:?}"));
    folder
}

/// The ids of the iModels with the name.
fn created(site: &Site) -> Vec<String> {
    let state = site.emulator.state();
    let named = state.imodels.values();
    let named = named.filter(|imodel| imodel.display_name == NAME);
    named.map(|imodel| imodel.id.clone()).collect()
}

fn posts(site: &Site) -> usize {
    let posts = site.requests("POST", "/imodels").into_iter();
    posts.filter(|one| one.path.ends_with("/imodels")).count()
}

/// Files whose content is in the created iModel.
fn contents(site: &Site) -> usize {
    let state = site.emulator.state();
    let ids = created(site);
    ids.iter().map(|id| state.imodels[id].contents.len()).sum()
}

async fn synchronized(site: &Site, files: usize, daemon: &Daemon) {
    eventually(|| contents(site) == files, || daemon.log()).await;
    site.synchronized(files, daemon).await;
}

#[tokio::test]
async fn an_imodel_is_created_once_and_two_watches_synchronize_into_it() {
    let (mut site, folder) = site(|_| {}).await;
    site.tables += "named_version = { when = \"each\", name = \"Issue\" }\nrun_window = [\"Mon-Sun\"]\n\
         settings = { clamp_z_extent = true }\n";
    let with_settings =
        "imodel = \"Plant North\"\nsettings = { enable_sheets_and_drawings = true }";
    site.replace_in_watches("imodel = \"Plant North\"", with_settings);
    let other = watch(&mut site, "south");
    write(&folder.join("a.dgn"), "a");
    write(&other.join("b.dgn"), "b");
    let daemon = site.start();
    synchronized(&site, 2, &daemon).await;
    let ids = created(&site);
    assert_eq!(ids.len(), 1);
    assert_eq!(posts(&site), 1);
    let configurations = site.emulator.state().configurations;
    assert_eq!(configurations.len(), 2, "{configurations:#?}");
    daemon.says("iModel created").await;
    site.shows(&ids[0], &daemon).await;
    let versions = || site.emulator.state().imodels[&ids[0]].named_versions.len();
    eventually(|| versions() >= 1, || daemon.log()).await;
    daemon.stop().await;

    let checked = site.run(&["check"]).await;
    assert!(
        checked
            .out
            .contains(&format!("iModel {} ({NAME:?})", ids[0])),
        "{checked:?}"
    );
    write(&folder.join("c.dgn"), "c");
    let daemon = site.start();
    synchronized(&site, 3, &daemon).await;
    assert_eq!(posts(&site), 1);
    daemon.stop().await;
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn no_file_is_uploaded_before_the_uploads_know_the_created_imodel() {
    let (site, folder) = site(|_| {}).await;
    write(&folder.join("a.dgn"), "a");
    let daemon = site.start_with(&[("ITWIN_SYNCD_SLOWPOINT", "watches registered")]);
    daemon.says("iModel created").await;
    // Ready for its upload while the ledger knows the iModel and the uploads do not.
    write(&folder.join("b.dgn"), "b");
    synchronized(&site, 2, &daemon).await;
    let (_, log) = daemon.stop().await;
    assert!(!log.contains("upload failed"), "{log}");
}

#[tokio::test]
async fn check_and_dry_run_create_nothing_and_a_pass_creates_it() {
    let (site, folder) = site(|_| {}).await;
    write(&folder.join("a.dgn"), "a");
    let checked = site.run(&["check"]).await;
    assert!(
        checked.out.contains("\"Plant North\" in iTwin"),
        "{checked:?}"
    );
    assert!(checked.out.contains("will be created"), "{checked:?}");
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let planned = site.run(&["run", "--dry-run"]).await;
    assert!(planned.out.contains("or else created"), "{planned:?}");
    assert_eq!(created(&site), Vec::<String>::new());
    let passed = site.run(&["run", "--once"]).await;
    assert_eq!(passed.code, Some(0), "{passed:?}");
    assert_eq!((created(&site).len(), contents(&site)), (1, 1));
    // With another ledger it is found by its name.
    std::fs::remove_dir_all(site.path("state")).unwrap();
    let checked = site.run(&["check"]).await;
    assert!(
        checked.out.contains("exists, will be used (id"),
        "{checked:?}"
    );
}

#[tokio::test]
async fn an_imodel_that_lists_do_not_have_yet_is_found_once_its_name_is_refused() {
    let (site, folder) = site(|switches| switches.new_imodel_list = NewImodelList::Lagging).await;
    write(&folder.join("a.dgn"), "a");
    site.emulator
        .fault(Fault::on(ROUTE).reset().after_effect().times(1));
    let daemon = site.start();
    synchronized(&site, 1, &daemon).await;
    daemon.says("iModel found by its name").await;
    assert_eq!((created(&site).len(), posts(&site)), (1, 2));
    daemon.stop().await;
}

#[tokio::test]
async fn an_imodel_whose_response_was_lost_is_found_by_its_name() {
    let (site, folder) = site(|_| {}).await;
    write(&folder.join("a.dgn"), "a");
    site.emulator
        .fault(Fault::on(ROUTE).reset().after_effect().times(1));
    let daemon = site.start();
    synchronized(&site, 1, &daemon).await;
    assert_eq!((created(&site).len(), posts(&site)), (1, 1));
    daemon.stop().await;
}

#[tokio::test]
async fn a_taken_name_that_no_list_has_is_shown_with_what_to_do() {
    let (site, _folder) = site(|switches| switches.new_imodel_list = NewImodelList::Absent).await;
    site.emulator
        .fault(Fault::on(ROUTE).reset().after_effect().times(1));
    let daemon = site.start();
    site.shows("refuses this name as taken", &daemon).await;
    site.shows("set another name in create", &daemon).await;
    assert_eq!(created(&site).len(), 1);
    daemon.stop().await;
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_kill_at_any_point_leaves_one_imodel() {
    for point in POINTS {
        let (site, folder) = site(|_| {}).await;
        write(&folder.join("a.dgn"), "a");
        let daemon = site.start_with(&[("ITWIN_SYNCD_FAILPOINT", point)]);
        let (status, log) = daemon.killed().await;
        assert!(!status.success(), "{point}: {log}");
        let daemon = site.start();
        synchronized(&site, 1, &daemon).await;
        assert_eq!((created(&site).len(), posts(&site)), (1, 1), "{point}");
        daemon.stop().await;
    }
}

#[tokio::test]
async fn files_wait_until_the_imodel_is_initialized() {
    let (site, folder) = site(|switches| switches.new_imodel = NewImodelState::Later).await;
    write(&folder.join("a.dgn"), "a");
    let daemon = site.start();
    daemon.says("waiting for the iModel").await;
    synchronized(&site, 1, &daemon).await;
    daemon.says("iModel is ready").await;
    assert_eq!(posts(&site), 1);
    daemon.stop().await;
}

#[tokio::test]
async fn a_failed_initialization_is_shown_and_other_watches_continue() {
    let (mut site, folder) = site(|switches| switches.new_imodel = NewImodelState::Failed).await;
    let other = site.watch("other", DEFAULT_IMODEL_ID, "storage_folder = \"other\"");
    write(&folder.join("a.dgn"), "a");
    write(&other.join("b.dgn"), "b");
    let daemon = site.start();
    site.shows("the platform failed to initialize it", &daemon)
        .await;
    site.shows("delete this iModel in the iTwin portal", &daemon)
        .await;
    daemon.says("file synchronized watch=\"other\"").await;
    assert_eq!((contents(&site), posts(&site)), (0, 1));
    let state = site.emulator.state();
    assert!(
        state
            .files
            .values()
            .all(|file| file.display_name != "a.dgn")
    );
    daemon.stop().await;
    let passed = site.run(&["run", "--once"]).await;
    assert_eq!(passed.code, Some(1), "{passed:?}");
    assert!(
        passed
            .out
            .contains("watch \"north\": waits: iModel \"Plant North\""),
        "{passed:?}"
    );
}

#[tokio::test]
async fn a_limit_of_new_imodels_is_waited_for() {
    let (site, folder) = site(|switches| switches.create_limit = CreateLimit::Five).await;
    write(&folder.join("a.dgn"), "a");
    let limited = "{\"error\":{\"code\":\"RateLimitExceeded\",\"message\":\"too many\"}}";
    site.emulator.fault(
        Fault::on(ROUTE)
            .status(429)
            .body(limited)
            .header("retry-after", "1")
            .times(4),
    );
    let daemon = site.start();
    synchronized(&site, 1, &daemon).await;
    assert_eq!((created(&site).len(), posts(&site)), (1, 5));
    daemon.stop().await;
}

#[tokio::test]
async fn a_missing_permission_is_named_and_its_correction_noticed() {
    let (site, folder) = site(|_| {}).await;
    write(&folder.join("a.dgn"), "a");
    let refused = "{\"error\":{\"code\":\"InsufficientPermissions\",\"message\":\"refused\"}}";
    site.emulator
        .fault(Fault::on(ROUTE).status(403).body(refused).times(2));
    let daemon = site.start();
    site.shows("imodels_manage", &daemon).await;
    synchronized(&site, 1, &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn no_other_imodel_is_created_in_place_of_one_that_is_gone() {
    let (mut site, folder) = site(|_| {}).await;
    write(&folder.join("a.dgn"), "a");
    let daemon = site.start();
    synchronized(&site, 1, &daemon).await;
    daemon.stop().await;
    let id = created(&site).remove(0);
    let other = OtherClient::signs_in(&site.emulator).await;
    assert!(other.deletes_the_imodel(&id).await);
    write(&folder.join("b.dgn"), "b");
    let daemon = site.start();
    site.shows("it is not there any more", &daemon).await;
    site.shows("set another name in create", &daemon).await;
    assert_eq!(posts(&site), 1);
    daemon.stop().await;
    // What the message says.
    site.tables = site.tables.replace(NAME, "Plant Two");
    site.replace_in_watches(NAME, "Plant Two");
    let daemon = site.start();
    daemon.says("iModel created").await;
    site.synchronized(2, &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn several_imodels_of_the_name_are_listed_and_an_id_ends_that() {
    let ids = [
        "11111111-0000-4000-8000-000000000001",
        "11111111-0000-4000-8000-000000000002",
    ];
    let platform = platform()
        .itwin(DEFAULT_ITWIN_ID, "Site")
        .imodel(ids[0], DEFAULT_ITWIN_ID, NAME)
        .imodel(ids[1], DEFAULT_ITWIN_ID, NAME);
    let (mut site, folder) = site_of(platform).await;
    write(&folder.join("a.dgn"), "a");
    let daemon = site.start();
    site.shows(&format!("{}, {}", ids[0], ids[1]), &daemon)
        .await;
    assert_eq!(posts(&site), 0);
    // Nothing of the watch is in progress, so no restart is needed.
    site.replace_in_watches(
        &format!("imodel = {NAME:?}"),
        &format!("imodel_id = {:?}", ids[1]),
    );
    let at = site.tables.find("[[imodel]]").unwrap();
    site.tables.truncate(at);
    site.config();
    daemon.signal("HUP");
    site.synchronized(1, &daemon).await;
    daemon.stop().await;
}
