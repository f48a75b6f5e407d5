#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use proptest::prelude::*;

use super::sections::KEYS;
use super::*;

const EXAMPLE: &str = include_str!("../../config.example.toml");

/// The least that is a configuration: lines 1 to 6.
const LEAST: &str = r#"[itwin]
client_id = "service-AbCdEfGhIjKlMnOpQrStUvWx"
[[watch]]
name = "north"
path = "/srv/projects/north"
imodel_id = "c0ffee00-1234-4abc-8def-0123456789ab"
"#;

fn environment() -> Environment {
    Environment {
        client_secret: Some(Secret::new("tiger")),
        ..Environment::default()
    }
}

fn parse(text: &str) -> Result<Config, Mistakes> {
    Config::parse(text, "config.toml", &environment())
}

fn mistakes(text: &str) -> String {
    parse(text).map_or_else(|mistakes| mistakes.to_string(), |_| "none".to_owned())
}

/// Adds `lines` to the watch of [`LEAST`], from line 7 on.
fn in_watch(lines: &str) -> String {
    mistakes(&format!("{LEAST}{lines}\n"))
}

/// Adds `lines` below [`LEAST`], from line 7 on, in a table of their own or at the top of the file (then the rest moves down).
fn in_file(lines: &str) -> String {
    if lines.starts_with('[') {
        in_watch(lines)
    } else {
        mistakes(&format!("{lines}\n{LEAST}"))
    }
}

#[test]
fn example_loads_and_shows_the_defaults() {
    let example = parse(EXAMPLE).unwrap();
    let least = parse(LEAST).unwrap();
    assert_eq!(format!("{example:#?}"), format!("{least:#?}"));
}

#[test]
fn example_loads_with_every_optional_key_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let secret = secret_file(folder.path(), "tiger-burning-bright\n", 0o600);
    let text = every_key_in_force();
    let certificate = folder.path().join("ca.pem");
    let authority = rcgen::generate_simple_self_signed(["company".to_owned()]).unwrap();
    fs::write(&certificate, authority.cert.pem()).unwrap();
    let text = text
        .replace("/etc/itwin-syncd/client-secret", &secret)
        .replace("/etc/itwin-syncd/web-token", &secret)
        .replace("/etc/itwin-syncd/proxy-password", &secret)
        .replace(
            "/etc/itwin-syncd/company-ca.pem",
            &certificate.display().to_string(),
        );
    let config = parse(&text).unwrap();
    let proxy = config.network.proxy.unwrap();
    assert_eq!(proxy.login.unwrap().0, "itwin-syncd");
    assert_eq!(config.network.no_proxy.len(), 2);
    assert_eq!(config.network.extra_certificates.len(), 1);
    assert_eq!(config.alerts.len(), 1);
    let watch = config.watches.first().unwrap();
    assert_eq!(watch.settling.settle, Duration::from_secs(20));
    assert_eq!(watch.connection, "itwin-syncd north");
    assert_eq!(config.state.path, Path::new("/var/lib/itwin-syncd"));
}

/// The example without the marks before its optional keys.
fn every_key_in_force() -> String {
    let lines = EXAMPLE.lines().map(|line| {
        line.strip_prefix("# ")
            .filter(|rest| is_key_line(rest) || rest.starts_with("[["))
            .unwrap_or(line)
            .to_owned()
            + "\n"
    });
    lines.collect()
}

fn is_key_line(line: &str) -> bool {
    line.split_once(" = ")
        .is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
}

#[test]
fn example_shows_every_known_key() {
    let mut table = "";
    let mut shown = Vec::new();
    for line in EXAMPLE.lines() {
        let line = line.strip_prefix("# ").unwrap_or(line);
        if line.starts_with('[') {
            table = line.trim_matches(['[', ']']);
            shown.push(("", table));
        } else if is_key_line(line) {
            shown.push((table, line.split(' ').next().unwrap()));
        }
    }
    let known: Vec<_> = KEYS
        .iter()
        .flat_map(|(table, keys)| keys.iter().map(move |key| (*table, *key)))
        .collect();
    let missing: Vec<_> = known.iter().filter(|key| !shown.contains(key)).collect();
    assert!(
        missing.is_empty(),
        "not in config.example.toml: {missing:?}"
    );
}

#[test]
fn what_tells_people_is_checked_and_its_addresses_are_never_shown() {
    let secret = "https://hooks.example.com/services/T0/tiger";
    let alert = |lines: &str| mistakes(&format!("{LEAST}[[alert]]\nname = \"team\"\n{lines}\n"));
    assert_eq!(alert(&format!("url = {secret:?}")), "none");
    let folder = tempfile::tempdir().unwrap();
    let file = secret_file(folder.path(), &format!("{secret}\n"), 0o600);
    assert_eq!(alert(&format!("url = \"file:{file}\"")), "none");
    let config = parse(&format!(
        "{LEAST}[[alert]]\nname = \"team\"\nurl = {secret:?}\n[heartbeat]\nurl = {secret:?}\n"
    ))
    .unwrap();
    let shown = format!("{config:?}");
    assert!(shown.contains("https://hooks.example.com/…"), "{shown}");
    assert!(
        !shown.contains("services") && !shown.contains("tiger"),
        "{shown}"
    );
    for (lines, told) in [
        ("", "alert.url: is missing"),
        ("url = \"hooks/tiger\"", "alert.url: is no web address"),
        ("command = []", "alert.command: is empty"),
        (
            "command = [\"x\"]\nlevel = \"info\"",
            "alert.level: \"info\" is no level",
        ),
        (
            "command = [\"x\"]\nformat = \"xml\"",
            "alert.format: \"xml\" is no shape",
        ),
        ("command = [\"x\"]\nfoo = 1", "alert.foo: "),
        (
            "command = [\"x\"]\n[[alert]]\nname = \"team\"\ncommand = [\"y\"]",
            "is the name of another",
        ),
    ] {
        let mistakes = alert(lines);
        assert!(mistakes.contains(told), "{lines}: {mistakes}");
        assert!(!mistakes.contains("tiger"), "{mistakes}");
    }
}

#[test]
fn a_page_that_others_can_reach_needs_a_token() {
    let web = |listen: &str| mistakes(&format!("{LEAST}[web]\nlisten = {listen:?}\n"));
    assert_eq!(web("127.0.0.1:8291"), "none");
    assert_eq!(web("[::1]:8291"), "none");
    for open in ["0.0.0.0:8291", "[::]:8291", "192.0.2.1:80"] {
        assert!(web(open).contains("there is no token"), "{}", web(open));
    }
    assert!(web("8291").contains("is no address with a port"));
    let folder = tempfile::tempdir().unwrap();
    let with = |token: &str| {
        let token = secret_file(folder.path(), &format!("{token}\n"), 0o600);
        mistakes(&format!(
            "{LEAST}[web]\nlisten = \"0.0.0.0:1\"\ntoken_file = {token:?}\n"
        ))
    };
    for weak in [
        "x",
        "word",
        "fifteen-letters",
        "aaaaaaaaaaaaaaaaaaaaaaaa",
        "abababababababababababab",
    ] {
        let told = with(weak);
        assert!(told.contains("too easy to guess"), "{weak}: {told}");
        assert!(told.contains("openssl rand"), "{weak}: {told}");
        assert!(weak == "x" || !told.contains(weak), "{weak}: {told}");
    }
    for strong in ["a4f0c1d2e3b49586", "sixteen-letters!"] {
        assert_eq!(with(strong), "none", "{strong}");
    }
}

#[test]
fn a_watch_takes_its_own_value_then_the_files_then_the_default() {
    let config = parse(&format!(
        "settle = \"1h 30m\"\npoll_interval = \"250ms\"\n{LEAST}poll_interval = \"3 days\"\n"
    ))
    .err();
    assert!(config.is_some(), "three days between two polls is absurd");
    let text = format!(
        "settle = \"1h 30m\"\npoll_interval = \"250ms\"\n[sync]\nconnection = \"ours\"\n{LEAST}poll_interval = \"2m\"\n"
    );
    let config = parse(&text).unwrap();
    let watch = config.watches.first().unwrap();
    assert_eq!(watch.settling.settle, Duration::from_mins(90));
    assert_eq!(watch.poll_interval, Duration::from_mins(2));
    assert_eq!(watch.rescan_interval, Duration::from_hours(1));
    assert_eq!(watch.connection, "ours");
}

#[test]
fn values_are_normalized() {
    let text = LEAST.replace(
        "c0ffee00-1234-4abc-8def-0123456789ab",
        "C0FFEE00-1234-4ABC-8DEF-0123456789AB",
    );
    let config = parse(&format!(
        "{text}storage_folder = \"Bru\\u0308cken/Su\\u0308d\"\n"
    ))
    .unwrap();
    let watch = config.watches.first().unwrap();
    assert_eq!(watch.imodel_id, "c0ffee00-1234-4abc-8def-0123456789ab");
    assert_eq!(watch.storage_folder, ["Br\u{fc}cken", "S\u{fc}d"]);
}

#[test]
fn state_lives_where_systemd_says_unless_the_file_says_otherwise() {
    let environment = Environment {
        state_directory: Some("/var/lib/private/x".into()),
        ..environment()
    };
    let config = Config::parse(LEAST, "config.toml", &environment).unwrap();
    assert_eq!(config.state.path, Path::new("/var/lib/private/x"));
    let config = Config::parse(
        &format!("{LEAST}[state]\npath = \"/ledger\"\n"),
        "config.toml",
        &environment,
    )
    .unwrap();
    assert_eq!(config.state.path, Path::new("/ledger"));
}

#[test]
fn each_mistake_in_a_watch_has_its_message() {
    for (lines, expected) in [
        (
            "settle = \"5\"",
            "config.toml line 7, watch \"north\", settle: \"5\" has no unit\n  hint: write \"5s\" or \"2m\"",
        ),
        (
            "settle = 5",
            "config.toml line 7, watch \"north\", settle: 5 has no unit\n  hint: write \"5s\" or \"2m\"",
        ),
        (
            "settle = \"soon\"",
            "config.toml line 7, watch \"north\", settle: \"soon\" is no duration\n  hint: write it like \"5s\", \"2m\", \"1h 30m\" or \"3 days\"",
        ),
        (
            "settle = \"0s\"",
            "config.toml line 7, watch \"north\", settle: \"0s\" is too short\n  hint: write a value from \"1ms\" to \"24h\"",
        ),
        (
            "settle = \"-5s\"",
            "config.toml line 7, watch \"north\", settle: \"-5s\" is no duration\n  hint: write it like \"5s\", \"2m\", \"1h 30m\" or \"3 days\"",
        ),
        (
            "settle = \"2 months\"",
            "config.toml line 7, watch \"north\", settle: \"2 months\" is no duration\n  hint: write it like \"5s\", \"2m\", \"1h 30m\" or \"3 days\"",
        ),
        (
            "poll_interval = \"3 weeks\"",
            "config.toml line 7, watch \"north\", poll_interval: \"3 weeks\" is too long\n  hint: write a value from \"1ms\" to \"24h\"",
        ),
        (
            "setle = \"5s\"",
            "config.toml line 7, watch \"north\", setle: is no key that is known here\n  hint: write \"settle\"",
        ),
        (
            "workers = 3",
            "config.toml line 7, watch \"north\", workers: is no key that is known here\n  hint: move it into the [upload] table",
        ),
        (
            "recursive = \"yes\"",
            "config.toml line 7, watch \"north\", recursive: is text\n  hint: write true or false, without quotes",
        ),
        (
            "storage_folder = \"/North\"",
            "config.toml line 7, watch \"north\", storage_folder: \"/North\" has an empty part\n  hint: write the names with one \"/\" between them, as in \"Projects/North\"; \"\" is the root folder",
        ),
        (
            "storage_folder = \"a/b?\"",
            "config.toml line 7, watch \"north\", storage_folder: \"a/b?\" has '?' in it, which iTwin Storage refuses\n  hint: leave it out; names are separated by \"/\"",
        ),
        (
            "storage_folder = \"a/b. \"",
            "config.toml line 7, watch \"north\", storage_folder: \"b. \" starts or ends with a space or dot, which iTwin Storage refuses\n  hint: write \"b\"",
        ),
        (
            "connection = \" \"",
            "config.toml line 7, watch \"north\", connection: is empty, or has space around it or control characters in it\n  hint: write the bare text",
        ),
        (
            "include = \"*.dgn\"",
            "config.toml line 7, watch \"north\", include: is no list of text\n  hint: write [\"first\", \"second\"]",
        ),
        (
            "exclude = [\n  \"fine\",\n  \"Piping\\\\*.dwg\",\n]",
            "config.toml line 9, watch \"north\", exclude: \"Piping\\\\*.dwg\" has a backslash\n  hint: write \"/\" between folders, brackets around a special character, as in \"[*]\", and \"?\" for a backslash in a name",
        ),
        (
            "upload_only = [\"[a\"]",
            "config.toml line 7, watch \"north\", upload_only: \"[a\" is no glob: unclosed character class; missing ']'\n  hint: close every \"[\" and \"{\", or write \"[[]\" and \"[{]\" for the characters themselves",
        ),
        (
            "connectors = [\"CIVIL\"]",
            "config.toml line 7, watch \"north\", connectors: is no table of connector types\n  hint: write connectors = { dgn = \"CIVIL\", \"Piping/**/*.dwg\" = \"AUTOPLANT\" }",
        ),
        (
            "[watch.connectors]\ndgn = \"CIVIL\"\n\".dwg\" = \"DWG\"",
            "config.toml line 9, watch \"north\", connectors: \".dwg\" has a dot too many\n  hint: write \"dwg\"",
        ),
        (
            "[watch.connectors]\n\"*.csv\" = \"\"",
            "config.toml line 8, watch \"north\", connectors: \"*.csv\" is given no connector type, or one with space around it\n  hint: write a type such as \"CIVIL\"; to leave such files alone, name them in exclude",
        ),
    ] {
        assert_eq!(in_watch(lines), expected, "{lines}");
    }
}

#[test]
fn each_mistake_elsewhere_has_its_message() {
    for (lines, expected) in [
        (
            "settle = 5s",
            "config.toml line 1, column 10: string values must be quoted, expected literal string\n  hint: put text, durations and sizes in quotes: key = \"value\"",
        ),
        (
            "shutdown_grace = \"2h\"",
            "config.toml line 1, shutdown_grace: \"2h\" is too long\n  hint: write a value from \"0s\" to \"1h\"",
        ),
        (
            "[upload]\nworkers = 0",
            "config.toml line 8, upload.workers: 0 is out of range\n  hint: write a number from 1 to 64",
        ),
        (
            "[upload]\nworkers = \"4\"",
            "config.toml line 8, upload.workers: is text where a whole number is expected\n  hint: write a number from 1 to 64",
        ),
        (
            "[upload]\nblock_size = \"1GiB\"",
            "config.toml line 8, upload.block_size: \"1GiB\" is too large\n  hint: write a value from \"1B\" to \"100MiB\"",
        ),
        (
            "[upload]\nrate = [{ from = \"7\", to = \"19:00\", limit = \"2MiB/s\" }]",
            "config.toml line 8, upload.rate: has \"7\", which is no time of day\n  hint: write [{ from = \"07:00\", to = \"19:00\", limit = \"2MiB/s\" }]",
        ),
        (
            "[upload]\nrate = [{ from = \"07:00\", to = \"19:00\", limit = \"2 potatoes\" }]",
            "config.toml line 8, upload.rate: has \"2 potatoes\", which is no speed\n  hint: write [{ from = \"07:00\", to = \"19:00\", limit = \"2MiB/s\" }]",
        ),
        (
            "[upload]\nrate = [{ from = \"07:00\", limit = \"2MiB/s\" }]",
            "config.toml line 8, upload.rate: has a period without to\n  hint: write [{ from = \"07:00\", to = \"19:00\", limit = \"2MiB/s\" }]",
        ),
        (
            "[upload]\nblock_size = 8388608",
            "config.toml line 8, upload.block_size: 8388608 has no unit\n  hint: write \"8MiB\" or \"512KiB\"",
        ),
        (
            "[upload]\nblock_size = \"8 megs\"",
            "config.toml line 8, upload.block_size: \"8 megs\" is no size\n  hint: write it like \"512KiB\", \"8MiB\" or \"1GiB\"",
        ),
        (
            "[upload]\nmemory = \"4MiB\"",
            "config.toml line 8, upload.memory: one block of 8MiB does not fit into memory of 4MiB\n  hint: write a smaller block_size or a larger memory",
        ),
        (
            "[sync]\nbatch_window = \"10m\"",
            "config.toml line 8, sync.batch_window: batch_max of 5m is shorter than batch_window of 10m\n  hint: write a longer batch_max or a shorter batch_window",
        ),
        (
            "[retry]\nmax_delay = \"1s\"",
            "config.toml line 8, retry.max_delay: max_delay of 1s is shorter than first_delay of 5s\n  hint: write a longer max_delay or a shorter first_delay",
        ),
        (
            "[log]\nlevel = \"verbose\"",
            "config.toml line 8, log.level: \"verbose\" is no level\n  hint: write \"error\", \"warn\", \"info\", \"debug\" or \"trace\"",
        ),
        (
            "[state]\npath = \"state\"",
            "config.toml line 8, state.path: is no absolute path\n  hint: write the whole path, starting with \"/\"",
        ),
        (
            "[state]\npath = \"/var/../x\"",
            "config.toml line 8, state.path: has \"..\" in it\n  hint: write the path without \"..\"",
        ),
        (
            "[uploads]\nworkers = 3",
            "config.toml line 7, uploads: is no key that is known here\n  hint: write \"upload\"",
        ),
        (
            "retry = 3",
            "config.toml line 1, retry: is a number where a table is expected\n  hint: write [retry] on a line of its own",
        ),
        (
            "[sync]\nshutdown_grace = \"1s\"",
            "config.toml line 8, sync.shutdown_grace: is no key that is known here\n  hint: move it to the top of the file, above the first [table]",
        ),
        (
            "[retry]\nzzzzzzzzzzzz = 1",
            "config.toml line 8, retry.zzzzzzzzzzzz: is no key that is known here\n  hint: known here: first_delay, max_delay, give_up",
        ),
    ] {
        assert_eq!(in_file(lines), expected, "{lines}");
    }
}

#[test]
fn each_mistake_in_an_address_has_its_message() {
    for (url, expected) in [
        (
            "http://api.bentley.com",
            "\"http://api.bentley.com\" would send the secret unencrypted\n  hint: write \"https://api.bentley.com\"; http is for this machine only",
        ),
        (
            "https://me:tiger@api.bentley.com",
            "holds a user name or password\n  hint: write the bare address; the client secret has a place of its own",
        ),
        (
            "https://api.bentley.com/?key=tiger",
            "holds a query (\"?\") or fragment (\"#\")\n  hint: write the bare address, such as \"https://api.bentley.com\"",
        ),
        (
            "api.bentley.com",
            "is no web address\n  hint: write it like \"https://api.bentley.com\"",
        ),
        (
            "ftp://api.bentley.com",
            "is no web address\n  hint: write it like \"https://api.bentley.com\"",
        ),
    ] {
        let text = LEAST.replacen("[itwin]", &format!("[itwin]\napi_url = \"{url}\""), 1);
        assert_eq!(
            mistakes(&text),
            format!("config.toml line 2, itwin.api_url: {expected}"),
            "{url}"
        );
    }
    for url in [
        "http://127.0.0.1:8080",
        "http://[::1]:1",
        "http://localhost:3000/base",
        "https://qa-api.bentley.com",
    ] {
        let text = LEAST.replacen("[itwin]", &format!("[itwin]\napi_url = \"{url}\""), 1);
        assert_eq!(mistakes(&text), "none", "{url}");
    }
}

#[test]
fn all_mistakes_come_at_once_in_the_order_of_the_file() {
    let text = "[upload]\nworkers = 0\n[[watch]]\nname = \"a/b\"\npath = \"relative\"\nimodel_id = \"north\"\n[[watch]]\n";
    let expected = "\
config.toml, itwin.client_id: is missing
  hint: write the client id of a service application, registered at developer.bentley.com/my-apps
config.toml line 2, upload.workers: 0 is out of range
  hint: write a number from 1 to 64
config.toml line 4, watch 1, name: \"a/b\" cannot be a name
  hint: write 1 to 64 letters a to z, digits, \".\", \"_\", \"-\" or spaces between them
config.toml line 5, watch 1, path: is no absolute path
  hint: write the whole path, starting with \"/\"
config.toml line 6, watch 1, imodel_id: \"north\" is no UUID
  hint: copy the id from the iModel's page: 32 digits and letters a to f in five groups
config.toml line 7, watch 2, name: is missing
  hint: write name = \"north\": any short name for the log
config.toml line 7, watch 2, path: is missing
  hint: write the folder to watch, such as path = \"/srv/projects/north\"
config.toml line 7, watch 2, imodel_id: is missing
  hint: write the id of the iModel that receives the files";
    assert_eq!(mistakes(text), expected);
    assert_eq!(parse(text).unwrap_err().iter().count(), 8);
}

#[test]
fn an_empty_file_is_told_what_is_missing() {
    let expected = "\
config.toml, itwin.client_id: is missing
  hint: write the client id of a service application, registered at developer.bentley.com/my-apps
config.toml: no folder is watched
  hint: add a [[watch]] table with name, path and imodel_id";
    assert_eq!(mistakes(""), expected);
}

#[test]
fn single_brackets_around_watch_are_explained() {
    assert_eq!(
        mistakes(&LEAST.replace("[[watch]]", "[watch]")),
        "config.toml line 3, watch: is a table where a list of tables is expected\n  hint: write [[watch]], with double brackets"
    );
}

/// A second watch, from line 7 on.
fn second(name: &str, path: &str, more: &str) -> String {
    format!(
        "{LEAST}[[watch]]\nname = \"{name}\"\npath = \"{path}\"\nimodel_id = \"c0ffee00-1234-4abc-8def-0123456789ab\"\n{more}\n"
    )
}

#[test]
fn two_watches_cannot_share_a_name() {
    let text = second("North", "/srv/other", "").replacen("c0ffee00", "decaf000", 1);
    assert_eq!(
        mistakes(&text),
        "config.toml line 8, watch \"North\", name: \"North\" is the name of another watch (line 4)\n  hint: give each watch a name of its own; upper and lower case count as one"
    );
}

#[test]
fn two_watches_of_one_imodel_cannot_meet_in_storage() {
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
        assert_eq!(mistakes(&text) != "none", refused, "{folder}");
        let other_imodel = text.replacen("c0ffee00", "decaf000", 1);
        assert_eq!(mistakes(&other_imodel), "none", "{folder}");
    }
    assert_eq!(
        mistakes(&second("south", "/srv/other", "")),
        "config.toml line 7, watch \"south\", storage_folder: \"\" overlaps \"\" of watch \"north\" (line 3), so files of one name would overwrite each other\n  hint: give each watch of an iModel a storage_folder of its own, such as \"south\""
    );
}

#[test]
fn no_message_shows_a_secret() {
    for text in [
        "[itwin]\nclient_secret = tiger\"\n",
        "[itwin]\nclient_secret = \"tiger\n",
        "client_secret = \"tiger\"\n",
        "[itwin]\nclient_secret = \"tiger\"\n",
        "[itwin]\nclient_secrte = \"tiger\"\n",
        "[itwin]\nclient_secret_file = \"tiger\"\n",
        "[itwin]\nclient_secret_file = \"/tiger\"\n",
        "[itwin]\nclient_secret_file = [\"tiger\"]\n",
        "[itwin]\napi_url = \"https://tiger\\u0000\"\n",
        "[itwin]\nissuer_url = \"http://x:tiger@y z\"\n",
    ] {
        let shown = mistakes(text);
        assert!(shown.contains("config.toml line"), "{text}: {shown}");
        assert!(!shown.contains("tiger"), "{text}: {shown}");
        assert!(!format!("{:?}", parse(text)).contains("tiger"), "{text}");
    }
    assert!(!format!("{:?}", parse(LEAST).unwrap()).contains("tiger"));
    assert!(!format!("{:?}", environment()).contains("tiger"));
}

#[test]
fn a_secret_in_the_file_is_refused() {
    assert_eq!(
        mistakes(&LEAST.replacen("[itwin]", "[itwin]\nclient_secret = \"x\"", 1)),
        "config.toml line 2, itwin.client_secret: does not belong in this file, which others read and copy\n  hint: put it into a file of its own (mode 600) and name that in itwin.client_secret_file, or hand it over with LoadCredential=itwin-client-secret:FILE in the unit"
    );
}

fn secret_file(folder: &Path, text: &str, mode: u32) -> String {
    let path = folder.join("secret");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path.to_str().unwrap().to_owned()
}

fn with_secret_file(path: &str) -> String {
    LEAST.replacen(
        "[itwin]",
        &format!("[itwin]\nclient_secret_file = \"{path}\""),
        1,
    )
}

#[test]
fn the_first_source_of_the_secret_counts() {
    let folder = tempfile::tempdir().unwrap();
    let path = secret_file(folder.path(), "\u{feff}from file\r\n", 0o600);
    let credentials = tempfile::tempdir().unwrap();
    let mut environment = environment();
    let secret = |text: &str, environment: &Environment| {
        Config::parse(text, "config.toml", environment)
            .unwrap()
            .itwin
            .client_secret
            .expose()
            .to_owned()
    };
    assert_eq!(secret(LEAST, &environment), "tiger");

    environment.credentials_directory = Some(credentials.path().to_owned());
    assert_eq!(
        secret(LEAST, &environment),
        "tiger",
        "an empty credential directory has no say"
    );
    let credential = credentials.path().join("itwin-client-secret");
    fs::write(&credential, "from systemd\n").unwrap();
    fs::set_permissions(&credential, fs::Permissions::from_mode(0o444)).unwrap();
    assert_eq!(secret(LEAST, &environment), "from systemd");

    assert_eq!(secret(&with_secret_file(&path), &environment), "from file");
    assert_eq!(
        secret(
            &with_secret_file(credential.to_str().unwrap()),
            &environment
        ),
        "from systemd"
    );
}

#[test]
fn each_mistake_of_the_secret_has_its_message() {
    let hint = "put it into a file of its own (mode 600) and name that in itwin.client_secret_file, or hand it over with LoadCredential=itwin-client-secret:FILE in the unit";
    let none = Config::parse(LEAST, "config.toml", &Environment::default())
        .unwrap_err()
        .to_string();
    assert_eq!(
        none,
        format!(
            "config.toml line 1, itwin.client_secret_file: is missing, and the client secret is nowhere else\n  hint: {hint}, or set ITWIN_SYNCD_CLIENT_SECRET"
        )
    );

    let folder = tempfile::tempdir().unwrap();
    let place = "config.toml line 2, itwin.client_secret_file";
    for (text, mode, what, hint) in [
        (
            "tiger",
            0o640,
            "others can read {} (mode 640)",
            "chmod 600 {}",
        ),
        (
            "tiger",
            0o604,
            "others can read {} (mode 604)",
            "chmod 600 {}",
        ),
        (
            "\n",
            0o600,
            "the secret in {} is empty",
            "put the secret into the file, on one line, and nothing else",
        ),
        (
            "a\nb\n",
            0o600,
            "the secret in {} has more than one line, or control characters",
            "put the secret into the file, on one line, and nothing else",
        ),
        (
            "tiger \n",
            0o600,
            "the secret in {} begins or ends with a space",
            "put the secret into the file, on one line, and nothing else",
        ),
        (
            "tiger\u{a0}\n",
            0o600,
            "the secret in {} contains an invisible character, such as a non-breaking space (U+00A0)",
            "put the secret into the file, on one line, and nothing else",
        ),
    ] {
        let path = secret_file(folder.path(), text, mode);
        let expected =
            format!("{place}: {what}\n  hint: {hint}").replace("{}", &format!("{path:?}"));
        assert_eq!(mistakes(&with_secret_file(&path)), expected);
    }
    let path = folder.path().to_str().unwrap();
    assert_eq!(
        mistakes(&with_secret_file(path)),
        format!("{place}: {path:?} is no file\n  hint: {hint}")
    );
    assert_eq!(
        mistakes(&with_secret_file(&format!("{path}/absent"))),
        format!(
            "{place}: the file cannot be read: No such file or directory (os error 2)\n  hint: write the path of a file that this user may read"
        )
    );
}

#[test]
fn looking_at_the_ledger_needs_neither_secret_nor_folders() {
    let offline = Offline::parse(
        &with_secret_file("/absent"),
        "config.toml",
        &Environment::default(),
    )
    .unwrap();
    assert_eq!(offline.watches.first().unwrap().name, "north");
    assert_eq!(offline.state.path, Path::new("/var/lib/itwin-syncd"));
    assert!(Offline::parse("setle = 1", "config.toml", &Environment::default()).is_err());
}

#[test]
fn a_file_that_cannot_be_read_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("absent.toml");
    let shown = path.display();
    assert_eq!(
        Config::load(&path).unwrap_err().to_string(),
        format!(
            "{shown}: cannot be read: No such file or directory (os error 2)\n  hint: name the file with --config, or copy config.example.toml there"
        )
    );
    fs::write(&path, b"# \xff").unwrap();
    assert_eq!(
        Config::load(&path).unwrap_err().to_string(),
        format!(
            "{shown}: cannot be read: stream did not contain valid UTF-8\n  hint: save it as UTF-8"
        )
    );
}

/// Loads a configuration with these watches (name, path, further lines), state and log folder below a temporary `$`, which also holds the folders.
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
        |mistakes| mistakes.to_string().replace(root, "$"),
        |_| "none".to_owned(),
    )
}

#[test]
fn folders_that_would_meet_are_refused() {
    let no = |_: &Path| {};
    let load_two = |one: (&str, &str), other: (&str, &str), prepare: fn(&Path)| {
        load(
            &[("one", one.0, one.1), ("two", other.0, other.1)],
            "$/state",
            "$/log",
            prepare,
        )
    };
    assert_eq!(load_two(("$/a", ""), ("$/c", ""), no), "none");
    assert_eq!(
        load_two(("$/a", ""), ("$/a/b", ""), no),
        "$/config.toml line 16, watch \"two\", path: \"$/a/b\" lies in the folder of watch \"one\" (line 10), so the same files would be uploaded twice\n  hint: keep one of the two watches, or add \"/b/\" to exclude of watch \"one\""
    );
    assert_eq!(
        load_two(("$/a", "exclude = [\"/b/\"]"), ("$/a/b", ""), no),
        "none"
    );
    assert_eq!(
        load_two(("$/a", "recursive = false"), ("$/a/b", ""), no),
        "none"
    );
    assert_eq!(
        load_two(("$/a/b", ""), ("$/a", ""), no),
        "$/config.toml line 16, watch \"two\", path: \"$/a\" holds the folder of watch \"one\" (line 10), so the same files would be uploaded twice\n  hint: keep one of the two watches, or add \"/b/\" to exclude of watch \"two\""
    );
    assert_eq!(
        load_two(("$/a", "recursive = false"), ("$/link", ""), |root| {
            symlink(root.join("a"), root.join("link")).unwrap();
        }),
        "$/config.toml line 16, watch \"two\", path: \"$/link\" is the folder of watch \"one\" (line 10), so the same files would be uploaded twice\n  hint: keep one of the two watches"
    );
}

#[test]
fn a_root_must_be_a_folder_but_need_not_be_there() {
    let load_one = |path: &str| {
        load(&[("one", path, "")], "$/state", "$/log", |root| {
            fs::write(root.join("file"), "").unwrap();
        })
    };
    assert_eq!(
        load_one("$/absent"),
        "none",
        "its share may not be mounted yet"
    );
    assert_eq!(
        load_one("$/file"),
        "$/config.toml line 10, watch \"one\", path: \"$/file\" is no folder\n  hint: write the path of the folder that holds the files"
    );
}

#[test]
fn ledger_and_log_stay_out_of_watched_folders() {
    let link = |root: &Path| symlink(root.join("a/new"), root.join("link")).unwrap();
    let message = |line: usize, key: &str, path: &str, what: &str| {
        format!(
            "$/config.toml line {line}, {key}: \"{path}\" lies in the folder of watch \"one\" (line 10), so {what} would be taken for design files\n  hint: write a folder outside every watched folder, such as one below /var"
        )
    };
    let load_one = |state: &str, log: &str| load(&[("one", "$/a", "")], state, log, link);
    assert_eq!(load_one("$/elsewhere/state", "$/log"), "none");
    assert_eq!(
        load_one("$/a", "$/log"),
        message(5, "state.path", "$/a", "the ledger")
    );
    assert_eq!(
        load_one("$/a/not/yet", "$/log"),
        message(5, "state.path", "$/a/not/yet", "the ledger")
    );
    assert_eq!(
        load_one("$/link", "$/log"),
        message(5, "state.path", "$/link", "the ledger"),
        "a link to what does not exist yet"
    );
    assert_eq!(
        load_one("$/state", "$/a/b/log"),
        message(7, "log.directory", "$/a/b/log", "the log")
    );
    assert_eq!(
        load(&[("one", "$/c/in", "")], "$/c", "$/log", |root| {
            fs::create_dir(root.join("c/in")).unwrap();
        }),
        "$/config.toml line 10, watch \"one\", path: \"$/c/in\" lies in the folder of the ledger, state.path \"$/c\"\n  hint: write a state.path that holds nothing else"
    );
}

/// Pieces that a hurried hand, a wrong editor or a broken disk puts into a file.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        "[\\PC\n\t]{0,12}",
        Just("[[watch]]\n".to_owned()),
        Just("\"\"\"".to_owned()),
        Just("= 99999999999999999999999".to_owned()),
        Just("\"5 fortnights\"".to_owned()),
        Just("[itwin]".to_owned()),
        Just("\u{0}".to_owned()),
    ]
}

/// Values that TOML takes and hardly any key does.
fn value() -> impl Strategy<Value = String> {
    let odd = [
        "-1",
        "0",
        "99999999999999999999999",
        "0xffffffffffffffffffff",
        "1e400",
        "-nan",
        "true",
        "1979-05-27T07:32:00Z",
        "[]",
        "[[1], [\"\"]]",
        "{}",
        "{ a = 1, \"\" = [] }",
        "[{ from = \"24:60\", to = \"\", limit = \"-1B/s\" }]",
        "\"-5s\"",
        "\"99999999999999999 years\"",
        "\"1e30 GiB\"",
        "\"http://\"",
        "\"\\u0000\"",
    ];
    prop_oneof![
        proptest::sample::select(odd.to_vec()).prop_map(str::to_owned),
        "\"[^\"\\\\\\pC]{0,12}\"",
    ]
}

proptest! {
    /// Unlike any text, which ends at the parser most of the time.
    #[test]
    fn no_value_makes_the_configuration_panic_and_every_refusal_has_words(
        edits in proptest::collection::vec((0..1000_usize, value()), 1..4),
    ) {
        let mut lines: Vec<String> = every_key_in_force().lines().map(str::to_owned).collect();
        let keys: Vec<usize> = (0..lines.len()).filter(|at| is_key_line(&lines[*at])).collect();
        for (at, value) in edits {
            let line = &mut lines[keys[at % keys.len()]];
            let (key, _) = line.split_once(" = ").unwrap();
            *line = format!("{key} = {value}");
        }
        if let Err(mistakes) = Config::parse(&lines.join("\n"), "config.toml", &Environment::default()) {
            prop_assert!(!mistakes.to_string().trim().is_empty());
        }
    }

    #[test]
    fn no_text_makes_the_configuration_panic_and_every_refusal_has_words(
        edits in proptest::collection::vec((0..EXAMPLE.len(), 0..40_usize, piece()), 1..6),
    ) {
        let mut text: Vec<char> = EXAMPLE.replace("# ", "").chars().collect();
        for (at, cut, piece) in edits {
            let at = at.min(text.len());
            let end = (at + cut).min(text.len());
            text.splice(at..end, piece.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(mistakes) = Config::parse(&text, "config.toml", &Environment::default()) {
            prop_assert!(!mistakes.to_string().trim().is_empty());
        }
    }
}

#[test]
fn a_proxys_password_stays_out_of_the_file_and_of_every_message() {
    let told = in_file("[network]\nproxy = \"http://me:tiger2@proxy:3128\"");
    assert_eq!(
        told,
        "config.toml line 8, network.proxy: holds a user name or password\n  hint: write the bare address; the name goes into proxy_user, the password into the file of proxy_password_file"
    );
    let told = in_file("[network]\nproxy = \"http://proxy:3128\"\nproxy_user = \"me\"");
    assert!(
        told.contains("network.proxy_password_file: is missing"),
        "{told}"
    );
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("itwin-proxy-password"), "tiger2\n").unwrap();
    let environment = Environment {
        credentials_directory: Some(folder.path().to_owned()),
        ..environment()
    };
    let text = format!("{LEAST}[network]\nproxy = \"http://proxy:3128\"\nproxy_user = \"me\"\n");
    let config = Config::parse(&text, "config.toml", &environment).unwrap();
    let (user, password) = config.network.proxy.unwrap().login.unwrap();
    assert_eq!((user.as_str(), password.expose()), ("me", "tiger2"));
}

#[test]
fn what_is_wrong_with_the_network_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.pem");
    fs::write(&empty, "no certificate").unwrap();
    let bad = folder.path().join("bad.pem");
    let block = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    fs::write(&bad, block).unwrap();
    for (lines, what) in [
        ("proxy = \"proxy:3128\"", "is no address of a proxy"),
        (
            "proxy = \"socks5://proxy:1080\"",
            "is no address of a proxy",
        ),
        ("proxy = \"http://proxy/path\"", "is no address of a proxy"),
        ("no_proxy = [\"a\"]", "is of no use without a proxy"),
        ("proxy = \"http://p\"\nno_proxy = [\"a, b\"]", "is no host"),
        ("ca_file = \"/absent.pem\"", "cannot be read: No such file"),
        (&format!("ca_file = {empty:?}"), "holds no certificate"),
        (
            &format!("ca_file = {bad:?}"),
            "holds a block that is no certificate",
        ),
        ("idle_timeout = \"5\"", "has no unit"),
    ] {
        let told = in_file(&format!("[network]\n{lines}"));
        assert!(
            told.contains(what) && told.contains("hint:"),
            "{lines}: {told}"
        );
    }
}
