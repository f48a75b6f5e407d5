//! Every error of a configuration as it is printed, recorded as snapshots: a changed text shows as a diff.
//!
//! Longer than most files because it has an example of every error.

use super::*;

/// Each input with the errors it causes; a temporary path is shown as `$`.
fn render<'a>(cases: impl IntoIterator<Item = &'a str>, errors: impl Fn(&str) -> String) -> String {
    let mut text = String::new();
    for case in cases {
        text += &format!("{case}\n→ {}\n\n", errors(case));
    }
    text
}

/// In the watch of [`LEAST`], from line 7 on.
#[test]
fn watch_keys() {
    let cases = [
        "settle = \"5\"",
        "settle = 5",
        "settle = true",
        "settle = \"soon\"",
        "settle = \"0s\"",
        "settle = \"-5s\"",
        "settle = \"2 months\"",
        "poll_interval = \"3 weeks\"",
        "setle = \"5s\"",
        "workers = 3",
        "recursive = \"yes\"",
        "run_window = \"19:00-06:00\"",
        "run_window = []",
        "run_window = [\"Mon-Fri 19:00-25:00\"]",
        "run_window = [\"Mon-Fry 19:00-06:00\"]",
        "run_window = [\"night\"]",
        "upload_window = [\"Mon 19:00-19:00\"]",
        "upload_window = [\"Mon-Fri 19:00-06:00\", \"Fri 20:00-21:00\"]",
        "window_stale = \"36h\"",
        "run_window = [\"Sat\"]\nwindow_stale = \"36\"",
        "formerly = \"\"",
        "formerly = 3",
        "formerly = \"a/b\"",
        "formerly = \"north\"",
        "rename = \"copy\"",
        "rename = true",
        "on_delete = \"purge\"",
        "on_delete = \"unmapp\"",
        "on_delete = true",
        "on_delet = \"unmap\"",
        "delete_after = \"24\"",
        "delete_after = \"0s\"",
        "storage_folder = 3",
        "storage_folder = \"/North\"",
        "storage_folder = \"a/b?\"",
        "storage_folder = \"a/b. \"",
        "connection = \" \"",
        "connection = \"ours {conector}\"",
        "connection = \"ours {watch}\"",
        "connection = \"ours {connector\"",
        "include = \"*.dgn\"",
        "exclude = [\n  \"fine\",\n  \"Piping\\\\*.dwg\",\n]",
        "upload_only = [\"[a\"]",
        "masters = []",
        "masters = [\"a/**b[\"]",
        "masters = [\n  \"*_M.dgn\",\n  \"/Refs/\",\n]\nupload_only = [\n  \"*.tif\",\n  \"/Refs/\",\n]",
        "connectors = [\"CIVIL\"]",
        "[watch.connectors]\ndgn = \"CIVIL\"\n\".dwg\" = \"DWG\"",
        "[watch.connectors]\n\"*.csv\" = \"\"",
        "[watch.connectors]\n\"Piping/\" = \"AUTOPLNT\"\ndwg = \"dwg\"",
        "[watch.connectors]\nfoo = \"NEWTYPE\"\nbar = \"custom:\"",
        "companions = [\"tfw\"]",
        "[watch.companions]\ntif = \"tfw\"",
        "[watch.companions]\ntif = [\"tfw\"]\n\".jpg\" = [\"jgw\"]\npng = []\nasc = [\"prj\", \"asc\", \"*.lyr\"]",
    ];
    insta::assert_snapshot!(render(cases, in_watch));
    let long = "x".repeat(300);
    insta::assert_snapshot!(
        "connection_name_too_long",
        in_watch(&format!("connection = \"{long} {{connector}}\""))
    );
    insta::assert_snapshot!(
        "watch_keys_too_long",
        in_watch(&format!("storage_folder = \"{long}\""))
    );
}

/// In a table below [`LEAST`], from line 7 on, or at the top of the file.
#[test]
fn other_keys() {
    let cases = [
        "settle = 5s",
        "shutdown_grace = \"2h\"",
        "[upload]\nworkers = 0",
        "[upload]\nworkers = \"4\"",
        "[upload]\nblock_size = \"1GiB\"",
        "[upload]\nrate = 3",
        "[upload]\nrate = [3]",
        "[upload]\nrate = [{ from = \"7\", to = \"19:00\", limit = \"2MiB/s\" }]",
        "[upload]\nrate = [{ from = \"07:00\", to = \"19:00\", limit = \"2 potatoes\" }]",
        "[upload]\nrate = [{ from = \"07:00\", to = \"07:00\", limit = \"0\" }]",
        "[upload]\nrate = [{ from = \"07:00\", to = \"19:00\", limit = \"0B/s\" }]",
        "[upload]\nrate = [{ from = \"07:00\", limit = \"2MiB/s\" }]",
        "[upload]\nrate = [{ from = \"07:00\", to = \"19:00\", speed = \"2MiB/s\", limit = \"1B/s\" }]",
        "[upload]\nblock_size = 8388608",
        "[upload]\nblock_size = \"8 megs\"",
        "[upload]\nmemory = \"4MiB\"",
        "[sync]\nbatch_window = \"10m\"",
        "[retry]\nmax_delay = \"1s\"",
        "[log]\nlevel = \"verbose\"",
        "[state]\npath = \"state\"",
        "[state]\npath = \"/var/../x\"",
        "[uploads]\nworkers = 3",
        "[brake]\nfiles = 3",
        "[bulk_changes]\nmax_files = 3",
        "[bulk_change]\nmax_files = 0",
        "[bulk_change]\nmax_deletes = \"5\"",
        "[bulk_change]\nmax_delete = 5",
        "retry = 3",
        "[[imodel]]\nspatial_root = 3",
        "[[imodel]]\nid = \"00000000-0000-4000-8000-000000000000\"",
        "[imodel]\nid = \"x\"",
        "[sync]\nshutdown_grace = \"1s\"",
        "[retry]\nzzzzzzzzzzzz = 1",
    ];
    insta::assert_snapshot!(render(cases, in_file));
}

/// In the table of the iModel of [`LEAST`], from line 8 on.
#[test]
fn imodels() {
    let cases = [
        "spatial_root = \"Site/GCS.dgn\"",
        "spatial_root = { watch = \"north\" }",
        "spatial_root = { watch = \"north\", path = \"/Site/GCS.dgn\" }",
        "spatial_root = { watch = \"north\", path = \"../GCS.dgn\" }",
        "spatial_root = { watch = \"north\", path = \"GCS.dgn\", also = 1 }",
        "spatial_root = { watch = \"south\", path = \"Site/GCS.dgn\" }",
        "spatial_root = { watch = \"north\", path = \"Site/GCS.txt\" }",
        "spatial_root = { watch = \"north\", path = \"Site/GCS.bak\" }",
        "run_window = [\"19:00-06:00\"]\nwindow_stale = \"1s\"",
        "named_version = \"each\"",
        "named_version = { name = \"x\" }",
        "named_version = { when = \"25:00\" }",
        "named_version = { when = \"each\", name = 3 }",
        "named_version = { when = \"each\", name = \"  \" }",
        "named_version = { when = \"each\", name = \"{day}\" }",
        "named_version = { when = \"each\", description = \"a\\nb\" }",
        "named_version = { when = \"each\", when_partial = \"yes\" }",
        "named_version = { when = \"23:00\", when_partial = true }",
        "named_version = { when = \"each\", also = 1 }",
        "settings = true",
        "settings = { clamp_z_extent = \"yes\" }",
        "settings = { clamp_z_extent = { max = 3 } }",
        "settings = { clamp_z_extent = [1] }",
        "settings = { distance = nan }",
        "settings = { distance = 99999999999999999999 }",
        "settings = { \"Clamp-Z\" = true }",
        "settings = { clamp_z_extent = true, clampZExtent = false }",
        "settings = { aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa = true }",
        "named = 3",
        "[[imodel]]\nid = \"c0ffee00-1234-4abc-8def-0123456789ab\"",
    ];
    let with = |keys: &str| {
        in_file(&format!(
            "[[imodel]]\nid = \"c0ffee00-1234-4abc-8def-0123456789ab\"\n{keys}"
        ))
    };
    insta::assert_snapshot!(render(cases, with));
    let cases = [
        "create = true",
        "create = { name = \"Plant\" }",
        "create = { itwin_id = \"x\", name = \"Plant\" }",
        "create = { itwin_id = \"9a1f4e4c-54b7-4a3e-8d4e-0123456789ab\", name = \"\" }",
        "create = { itwin_id = \"9a1f4e4c-54b7-4a3e-8d4e-0123456789ab\", name = \"Plant\", extent = {} }",
        "create = { itwin_id = \"9a1f4e4c-54b7-4a3e-8d4e-0123456789ab\", name = \"Plant\" }",
        "id = \"c0ffee00-1234-4abc-8def-0123456789ab\"\n\
         create = { itwin_id = \"9a1f4e4c-54b7-4a3e-8d4e-0123456789ab\", name = \"Plant\" }",
    ];
    let with = |keys: &str| in_file(&format!("[[imodel]]\n{keys}"));
    insta::assert_snapshot!("imodels_to_create", render(cases, with));
    let create = "[[imodel]]\ncreate = { itwin_id = \"9a1f4e4c-54b7-4a3e-8d4e-0123456789ab\", name = \"Plant\" }\n";
    let named = |imodel: &str| {
        LEAST.replacen(
            "imodel_id = \"c0ffee00-1234-4abc-8def-0123456789ab\"",
            imodel,
            1,
        )
    };
    let mut text = String::new();
    for config in [
        named("imodel = \"Plant\""),
        named("imodel = \"Plan\"") + create,
        LEAST.to_owned() + "imodel = \"Plant\"\n" + create,
        named("imodel = \"Plant\"") + create + create,
    ] {
        text += &(errors(&config) + "\n");
    }
    insta::assert_snapshot!("watches_of_imodels_to_create", text);
    assert_eq!(errors(&(named("imodel = \"Plant\"") + create)), "none");
    let stored = LEAST.to_owned()
        + "upload_only = [\"/Site/\"]\n[[imodel]]\nid = \"c0ffee00-1234-4abc-8def-0123456789ab\"\n\
           spatial_root = { watch = \"north\", path = \"Site/GCS.dgn\" }\n";
    insta::assert_snapshot!("spatial_root_that_is_only_stored", errors(&stored));
}

/// One run covers the files of all watches of an iModel.
#[test]
fn run_windows_that_differ() {
    let watch = LEAST.to_owned() + "run_window = [\"19:00-06:00\"]\nstorage_folder = \"a\"\n";
    let second = "[[watch]]\nname = \"south\"\npath = \"/srv/south\"\nstorage_folder = \"b\"\n\
                  imodel_id = \"c0ffee00-1234-4abc-8def-0123456789ab\"\n";
    let table = "[[imodel]]\nid = \"c0ffee00-1234-4abc-8def-0123456789ab\"\n";
    let other = "run_window = [\"20:00-06:00\"]\n";
    assert_eq!(errors(&format!("{watch}{second}")), "none");
    insta::assert_snapshot!(format!(
        "{}\n{}",
        errors(&format!("{watch}{second}{other}")),
        errors(&format!("{watch}{table}{other}")),
    ));
}

/// Watches of one connection share its settings.
#[test]
fn settings_of_one_connection_that_differ() {
    let first = LEAST.to_owned()
        + "storage_folder = \"a\"\n[watch.settings]\nenable_sheets_and_drawings = true\n";
    let second = "[[watch]]\nname = \"south\"\npath = \"/srv/south\"\nstorage_folder = \"b\"\n\
                  imodel_id = \"c0ffee00-1234-4abc-8def-0123456789ab\"\n";
    let other = "[watch.settings]\nenable_sheets_and_drawings = false\n";
    let same = "settings = { enableSheetsAndDrawings = true }\n";
    for fits in ["", same, "connection = \"mine\"\n[watch.settings]\na = 1\n"] {
        assert_eq!(errors(&format!("{first}{second}{fits}")), "none", "{fits}");
    }
    let many: Vec<String> = (0..51).map(|index| format!("s{index} = true")).collect();
    insta::assert_snapshot!(format!(
        "{}\n{}",
        errors(&format!("{first}{second}{other}")),
        errors(&format!("{LEAST}settings = {{ {} }}\n", many.join(", "))),
    ));
}

#[test]
fn urls() {
    let with =
        |url: &str| errors(&LEAST.replacen("[itwin]", &format!("[itwin]\napi_url = \"{url}\""), 1));
    let cases = [
        "http://api.bentley.com",
        "https://me:tiger@api.bentley.com",
        "https://api.bentley.com/?key=tiger",
        "api.bentley.com",
        "ftp://api.bentley.com",
    ];
    insta::assert_snapshot!(render(cases, with));
    for url in [
        "http://127.0.0.1:8080",
        "http://[::1]:1",
        "http://localhost:3000/base",
        "https://qa-api.bentley.com",
    ] {
        assert_eq!(with(url), "none", "{url}");
    }
}

#[test]
fn network() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("empty.pem"), "no certificate").unwrap();
    let block = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    fs::write(folder.path().join("bad.pem"), block).unwrap();
    let broken = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
    fs::write(folder.path().join("broken.pem"), broken).unwrap();
    let cases = [
        "proxy = \"proxy:3128\"",
        "proxy = \"socks5://proxy:1080\"",
        "proxy = \"http://proxy/path\"",
        "proxy = \"http://me:tiger2@proxy:3128\"",
        "proxy = \"http://proxy:3128\"\nproxy_user = \"me\"",
        "proxy = \"http://proxy:3128\"\nproxy_password_file = \"/absent\"",
        "no_proxy = [\"a\"]",
        "proxy = \"http://p\"\nno_proxy = [\"a, b\"]",
        "ca_file = \"/absent.pem\"",
        "ca_file = \"$/empty.pem\"",
        "ca_file = \"$/bad.pem\"",
        "ca_file = \"$/broken.pem\"",
        "idle_timeout = \"5\"",
    ];
    let root = folder.path().display().to_string();
    let text = render(cases, |lines| {
        let lines = format!("[network]\n{}", lines.replace('$', &root));
        in_file(&lines).replace(&root, "$")
    });
    assert!(!text.replace("me:tiger2", "").contains("tiger2"), "{text}");
    insta::assert_snapshot!(text);
}

#[test]
fn notifications() {
    let folder = tempfile::tempdir().unwrap();
    let weak = secret_file(folder.path(), "fifteen-letters\n", 0o600);
    let cases = [
        "[[alert]]\nname = \"team\"",
        "[[alert]]\ncommand = [\"x\"]",
        "[[alert]]\nname = \"team\"\nurl = \"hooks/tiger\"",
        "[[alert]]\nname = \"team\"\nurl = \"file:/absent\"",
        "[[alert]]\nname = \"team\"\ncommand = []",
        "[[alert]]\nname = \"team\"\ncommand = [\"x\"]\nlevel = \"info\"",
        "[[alert]]\nname = \"team\"\ncommand = [\"x\"]\nformat = \"xml\"",
        "[[alert]]\nname = \"team\"\ncommand = [\"x\"]\n[[alert]]\nname = \"team\"\ncommand = [\"y\"]",
        "[[alert]]\nname = \"team\"\ncommand = [\"x\"]\nto = [\"a@example.com\"]",
        "[[alert]]\nname = \"team\"\nsmtp = \"mail.example.com\"",
        "[[alert]]\nname = \"team\"\nsmtp = \"user:tiger@mail.example.com\"\nfrom = \"a@example.com\"\nto = [\"cad\"]",
        "[[alert]]\nname = \"team\"\nsmtp = \"mail.example.com\"\nfrom = \"a@example.com\"\nto = []\nsmtp_tls = \"ssl\"",
        "[[alert]]\nname = \"team\"\nsmtp = \"mail.example.com\"\nfrom = \"a@example.com\"\nto = [\"b@example.com\"]\nsmtp_tls = \"none\"",
        "[[alert]]\nname = \"team\"\nsmtp = \"localhost\"\nfrom = \"a@example.com\"\nto = [\"b@example.com\"]\nsmtp_user = \"a\"",
        "[[alert]]\nname = \"team\"\nsmtp = \"localhost\"\nfrom = \"a@example.com\"\nto = [\"b@example.com\"]\nsmtp_user = \"a\"\nsmtp_password_file = \"/absent\"",
        "[[hook]]\nname = \"ci\"\non = []",
        "[[hook]]\nname = \"ci\"\nurl = \"tiger\"\non = [\"night\"]\nresults = [\"good\"]",
        "[[hook]]\nname = \"ci\"\ncommand = [\"x\"]\nsecret_file = \"/absent\"\nwatches = [\"nroth\"]\nresults = []\ndigest_at = \"6 pm\"",
        "[[hook]]\nname = \"ci\"\ncommand = [\"x\"]\n[[hook]]\nname = \"ci\"\nurl = \"https://a.example\"\ncommand = [\"x\"]",
        "[heartbeat]\nurl = \"nowhere\"",
        "[web]\nlisten = \"8291\"",
        "[web]\nlisten = \"0.0.0.0:8291\"",
        "[web]\ntoken_file = \"$\"",
    ];
    let text = render(cases, |lines| {
        in_file(&lines.replace('$', &weak)).replace(&weak, "$")
    });
    insta::assert_snapshot!(text);
}

#[test]
fn all_errors_of_a_file_in_its_order() {
    let text = "[upload]\nworkers = 0\n[[watch]]\nname = \"a/b\"\npath = \"relative\"\nimodel_id = \"north\"\n[[watch]]\n";
    assert_eq!(parse(text).unwrap_err().iter().count(), 8);
    insta::assert_snapshot!(errors(text));
}

#[test]
fn empty_file() {
    insta::assert_snapshot!(errors(""));
}

#[test]
fn single_brackets_around_watch() {
    insta::assert_snapshot!(errors(&LEAST.replace("[[watch]]", "[watch]")));
}

/// A second watch, from line 7 on.
fn second(name: &str, path: &str, more: &str) -> String {
    format!(
        "{LEAST}[[watch]]\nname = \"{name}\"\npath = \"{path}\"\nimodel_id = \"c0ffee00-1234-4abc-8def-0123456789ab\"\n{more}\n"
    )
}

#[test]
fn two_watches_with_one_name() {
    let text = second("North", "/srv/other", "").replacen("c0ffee00", "decaf000", 1);
    insta::assert_snapshot!(errors(&text));
}

#[test]
fn two_watches_with_one_former_name() {
    let text = second(
        "south",
        "/srv/south",
        "storage_folder = \"b\"\nformerly = \"West\"",
    );
    let text = text.replacen(
        "[[watch]]",
        "[[watch]]\nformerly = \"west\"\nstorage_folder = \"a\"",
        1,
    );
    insta::assert_snapshot!(errors(&text));
}

#[test]
fn two_watches_of_one_imodel_overlap_in_storage() {
    for (folder, refused) in [
        ("", true),
        ("a", true),
        ("A/B", true),
        ("a/b/c", true),
        ("a/bc", false),
        ("b", false),
    ] {
        let text = second(
            "south",
            "/srv/other",
            &format!("storage_folder = \"{folder}\""),
        )
        .replacen("imodel_id", "storage_folder = \"a/b\"\nimodel_id", 1);
        assert_eq!(errors(&text) != "none", refused, "{folder}");
        let other_imodel = text.replacen("c0ffee00", "decaf000", 1);
        assert_eq!(errors(&other_imodel), "none", "{folder}");
    }
    insta::assert_snapshot!(errors(&second("south", "/srv/other", "")));
}

#[test]
fn sign_in() {
    let in_itwin = |keys: &str| errors(&LEAST.replacen("[itwin]", &format!("[itwin]\n{keys}"), 1));
    let cases = [
        "sign_in = \"person\"",
        "sign_in = true",
        "sign_in = \"user\"\nclient_secret_file = \"/etc/itwin-syncd/client-secret\"",
        "sign_in = \"user\"\nclient_secret_command = [\"/bin/echo\", \"x\"]",
        "takeover = true",
        "redirect_urls = [\"http://localhost:3301/signin-callback\"]",
        "sign_in = \"user\"\nredirect_urls = []",
        "sign_in = \"user\"\nredirect_urls = [\"http://localhost/signin-callback\"]",
        "sign_in = \"user\"\nredirect_urls = [\"http://localhost:3301\"]",
        "sign_in = \"user\"\nredirect_urls = [\"https://sync.example.com:3301/x\"]",
        "sign_in = \"user\"\nredirect_urls = [\"http://localhost:3301/x?y=z\"]",
        "sign_in = \"user\"\ntakeover = 1",
    ];
    insta::assert_snapshot!(render(cases, in_itwin));
}

#[test]
fn client_secret() {
    insta::assert_snapshot!(
        "client_secret_in_the_file",
        errors(&LEAST.replacen("[itwin]", "[itwin]\nclient_secret = \"x\"", 1))
    );
    insta::assert_snapshot!(
        "client_secret_nowhere",
        Config::parse(LEAST, "config.toml", &Environment::default()).unwrap_err()
    );
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_str().unwrap();
    let mut text = String::new();
    for (content, mode) in [
        ("tiger", 0o640),
        ("tiger", 0o604),
        ("\n", 0o600),
        ("a\nb\n", 0o600),
        ("tiger \n", 0o600),
        ("tiger\u{a0}\n", 0o600),
        (&*"x".repeat(5000), 0o600),
    ] {
        let path = secret_file(folder.path(), content, mode);
        let shown: String = content.chars().take(9).collect();
        text += &format!(
            "{shown:?}, mode {mode:o}\n→ {}\n\n",
            errors(&with_secret_file(&path))
        );
    }
    text += &format!("a folder\n→ {}\n\n", errors(&with_secret_file(root)));
    let absent = format!("{root}/absent");
    text += &format!("absent\n→ {}\n", errors(&with_secret_file(&absent)));
    insta::assert_snapshot!("client_secret_file", text.replace(root, "$"));
}

#[test]
fn unreadable_config_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    let root = folder.path().to_str().unwrap();
    let shown = || {
        Config::load(&path)
            .unwrap_err()
            .to_string()
            .replace(root, "$")
    };
    insta::assert_snapshot!("absent_config_file", shown());
    fs::write(&path, b"# \xff").unwrap();
    insta::assert_snapshot!("config_file_that_is_no_text", shown());
}

/// Loads a configuration with these watches (name, path, further lines), state and log folder below a temporary `$`,
/// which also holds the folders.
fn load(
    watches: &[(&str, &str, &str)],
    state: &str,
    log: &str,
    prepare: impl FnOnce(&Path),
) -> String {
    let temporary = tempfile::tempdir().unwrap();
    let root = temporary.path().canonicalize().unwrap();
    for folder in ["a/b", "c"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    prepare(&root);
    let secret = secret_file(&root, "tiger", 0o600);
    let head = format!(
        "[itwin]\nclient_id = \"id\"\nclient_secret_file = \"{secret}\"\n[state]\npath = \"{state}\"\n[log]\ndirectory = \"{log}\"\n"
    );
    let tables = watches.iter().map(|(name, path, more)| {
        format!(
            "[[watch]]\nname = \"{name}\"\npath = \"{path}\"\nimodel_id = \"c0ffee00-1234-4abc-8def-0123456789ab\"\nstorage_folder = \"{name}\"\n{more}\n"
        )
    });
    let text: String = std::iter::once(head).chain(tables).collect();
    let path = root.join("config.toml");
    let root = root.to_str().unwrap();
    fs::write(&path, text.replace('$', root)).unwrap();
    Config::load(&path).map_or_else(
        |errors| errors.to_string().replace(root, "$"),
        |_| "none".to_owned(),
    )
}

#[test]
fn folders_that_overlap() {
    let no = |_: &Path| {};
    let load_two = |one: (&str, &str), other: (&str, &str), prepare: fn(&Path)| {
        load(
            &[("one", one.0, one.1), ("two", other.0, other.1)],
            "$/state",
            "$/log",
            prepare,
        )
    };
    let link = |root: &Path| symlink(root.join("a"), root.join("link")).unwrap();
    assert_eq!(load_two(("$/a", ""), ("$/c", ""), no), "none");
    let excluded = ("$/a", "exclude = [\"/b/\"]");
    assert_eq!(load_two(excluded, ("$/a/b", ""), no), "none");
    let flat = ("$/a", "recursive = false");
    assert_eq!(load_two(flat, ("$/a/b", ""), no), "none");
    let refused = [
        load_two(("$/a", ""), ("$/a/b", ""), no),
        load_two(("$/a/b", ""), ("$/a", ""), no),
        load_two(flat, ("$/link", ""), link),
    ];
    insta::assert_snapshot!(refused.join("\n"));
}

#[test]
fn a_root_must_be_a_folder_but_need_not_exist() {
    let load_one = |path: &str| {
        load(&[("one", path, "")], "$/state", "$/log", |root| {
            fs::write(root.join("file"), "").unwrap();
        })
    };
    assert_eq!(load_one("$/absent"), "none", "its share may be unmounted");
    insta::assert_snapshot!(load_one("$/file"));
}

#[test]
fn ledger_and_log_inside_a_watched_folder() {
    let link = |root: &Path| symlink(root.join("a/new"), root.join("link")).unwrap();
    let load_one = |state: &str, log: &str| load(&[("one", "$/a", "")], state, log, link);
    assert_eq!(load_one("$/elsewhere/state", "$/log"), "none");
    let around = load(&[("one", "$/c/in", "")], "$/c", "$/log", |root| {
        fs::create_dir(root.join("c/in")).unwrap();
    });
    let refused = [
        load_one("$/a", "$/log"),
        load_one("$/a/not/yet", "$/log"),
        // A link to a folder that does not exist yet.
        load_one("$/link", "$/log"),
        load_one("$/state", "$/a/b/log"),
        around,
    ];
    insta::assert_snapshot!(refused.join("\n"));
}
