//! The configuration as a whole.
//!
//! Longer than most files because each group of keys has its tests here.

#![allow(clippy::unwrap_used, reason = "a test that cannot continue has failed")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use proptest::prelude::*;

mod messages;
mod several_imodels;

use super::sections::KEYS;
use super::*;
use crate::secret::Secret;

const EXAMPLE: &str = include_str!("../../config.example.toml");
const REFERENCE: &str = include_str!("../../docs/configuration.md");

/// The secret of its service application.
fn secret(config: &Config) -> &str {
    match &config.itwin.account {
        Account::Service(secret) => secret.text.expose(),
        Account::User(_) => "",
    }
}

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

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse(text, "config.toml", &environment())
}

fn errors(text: &str) -> String {
    parse(text).map_or_else(|errors| errors.to_string(), |_| "none".to_owned())
}

/// Adds `lines` to the watch of [`LEAST`], from line 7 on.
fn in_watch(lines: &str) -> String {
    errors(&format!("{LEAST}{lines}\n"))
}

/// Adds `lines` below [`LEAST`], from line 7 on, in a table of their own or at the top of the file (then the rest moves
/// down).
fn in_file(lines: &str) -> String {
    if lines.starts_with('[') {
        in_watch(lines)
    } else {
        errors(&format!("{lines}\n{LEAST}"))
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
    let certificate = certificate.display().to_string();
    let mut text = text.replace("/etc/itwin-syncd/company-ca.pem", &certificate);
    for file in "client-secret ledger-password web-token proxy-password smtp-password hook-secret"
        .split(' ')
    {
        text = text.replace(&format!("/etc/itwin-syncd/{file}"), &secret);
    }
    let config = parse(&text).unwrap();
    let proxy = config.network.proxy.unwrap();
    assert_eq!(proxy.login.unwrap().0, "itwin-syncd");
    assert_eq!(config.network.no_proxy.len(), 2);
    assert_eq!(config.network.extra_certificates.len(), 1);
    assert_eq!(config.alerts.len(), 1);
    let watch = config.watches.first().unwrap();
    assert_eq!(watch.settle_policy.settle, Duration::from_secs(20));
    assert_eq!(watch.connection.as_str(), "itwin-syncd north");
    assert_eq!(*config.state.path, *Path::new("/var/lib/itwin-syncd"));
}

/// The example without the marks before its optional keys, except for those that are written in place of another one.
fn every_key_in_force() -> String {
    let replaces_another = |line: &str| {
        [
            "imodel =",
            "create =",
            "client_secret_command =",
            "redirect_urls =",
            "takeover =",
        ]
        .iter()
        .any(|key| line.starts_with(key))
    };
    let lines = EXAMPLE.lines().map(|line| {
        line.strip_prefix("# ")
            .filter(|rest| is_key_line(rest) || rest.starts_with("[["))
            .filter(|rest| !replaces_another(rest))
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

/// The keys of the example in the order of the file: table, key, and the value that is in force, if it is no optional
/// key.
fn example_keys() -> Vec<(&'static str, &'static str, Option<&'static str>)> {
    let mut table = "";
    let mut keys = Vec::new();
    for line in EXAMPLE.lines() {
        let optional = line.strip_prefix("# ");
        let line = optional.unwrap_or(line);
        if line.starts_with('[') {
            table = line.trim_matches(['[', ']']);
            keys.push(("", table, None));
        } else if is_key_line(line) {
            let (key, value) = line.split_once(" = ").unwrap();
            keys.push((table, key, Some(value).filter(|_| optional.is_none())));
        }
    }
    keys
}

/// The keys of `docs/configuration.md`: the first two cells of each row below the heading of a table.
fn reference_keys() -> Vec<(&'static str, &'static str, &'static str)> {
    let mut table = None;
    let mut keys = Vec::new();
    for line in REFERENCE.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            table = match heading.strip_prefix('`') {
                Some(name) => Some(name.trim_matches(['[', ']', '`'])),
                None => (heading == "Top level").then_some(""),
            };
            keys.extend(table.map(|table| ("", table, "")));
        } else if let (Some(table), Some(row)) = (table, line.strip_prefix("| `")) {
            let mut cells = row.split(" | ");
            let key = cells.next().unwrap().trim_end_matches('`');
            keys.push((table, key, cells.next().unwrap()));
        }
    }
    keys
}

#[test]
fn example_shows_every_known_key() {
    let shown: Vec<_> = example_keys()
        .into_iter()
        .map(|(table, key, _)| (table, key))
        .collect();
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
fn reference_describes_every_key_of_the_example_with_its_default() {
    let described = reference_keys();
    for (table, key, value) in example_keys() {
        let (_, _, default) = described
            .iter()
            .find(|one| (one.0, one.1) == (table, key))
            .unwrap_or_else(|| panic!("not in docs/configuration.md: [{table}] {key}"));
        if let Some(value) = value.filter(|_| *default != "required") {
            assert_eq!(*default, format!("`{value}`"), "[{table}] {key}");
        }
    }
}

#[test]
fn reference_describes_no_unknown_key() {
    for (table, key, _) in reference_keys().into_iter().filter(|key| !key.1.is_empty()) {
        let known = KEYS.iter().find(|known| known.0 == table);
        assert!(
            known.is_some_and(|known| known.1.contains(&key)),
            "docs/configuration.md has an unknown key: [{table}] {key}"
        );
    }
}

#[test]
fn webhook_urls_are_never_shown() {
    let secret = "https://hooks.example.com/services/T0/tiger";
    let alert = |lines: &str| errors(&format!("{LEAST}[[alert]]\nname = \"team\"\n{lines}\n"));
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
    for (lines, output) in [
        ("", "alert.url: one of url, smtp and command"),
        ("url = \"hooks/tiger\"", "alert.url: invalid URL"),
        ("command = []", "alert.command: must not be empty"),
        (
            "command = [\"x\"]\nlevel = \"info\"",
            "alert.level: unknown alert level \"info\"",
        ),
        (
            "command = [\"x\"]\nformat = \"xml\"",
            "alert.format: unknown format \"xml\"",
        ),
        ("command = [\"x\"]\nfoo = 1", "alert.foo: "),
        (
            "command = [\"x\"]\n[[alert]]\nname = \"team\"\ncommand = [\"y\"]",
            "duplicate alert name",
        ),
    ] {
        let errors = alert(lines);
        assert!(errors.contains(output), "{lines}: {errors}");
        assert!(!errors.contains("tiger"), "{errors}");
    }
}

#[test]
fn a_page_reachable_from_other_machines_needs_a_token() {
    let web = |listen: &str| errors(&format!("{LEAST}[web]\nlisten = {listen:?}\n"));
    assert_eq!(web("127.0.0.1:8291"), "none");
    assert_eq!(web("[::1]:8291"), "none");
    for open in ["0.0.0.0:8291", "[::]:8291", "192.0.2.1:80"] {
        assert!(web(open).contains("no token is set"), "{}", web(open));
    }
    assert!(web("8291").contains("invalid address \"8291\""));
    let folder = tempfile::tempdir().unwrap();
    let with = |token: &str| {
        let token = secret_file(folder.path(), &format!("{token}\n"), 0o600);
        errors(&format!(
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
        let output = with(weak);
        assert!(output.contains("too weak"), "{weak}: {output}");
        assert!(output.contains("openssl rand"), "{weak}: {output}");
        assert!(weak == "x" || !output.contains(weak), "{weak}: {output}");
    }
    for strong in ["a4f0c1d2e3b49586", "sixteen-letters!"] {
        assert_eq!(with(strong), "none", "{strong}");
    }
}

#[test]
fn a_watch_key_overrides_the_top_level_key_and_the_default() {
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
    assert_eq!(watch.settle_policy.settle, Duration::from_mins(90));
    assert_eq!(watch.poll_interval, Duration::from_mins(2));
    assert_eq!(watch.rescan_interval, Duration::from_hours(1));
    assert_eq!(watch.connection.as_str(), "ours");
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
fn state_path_defaults_to_the_directory_from_systemd() {
    let environment = Environment {
        state_directory: Some("/var/lib/private/x".into()),
        ..environment()
    };
    let config = Config::parse(LEAST, "config.toml", &environment).unwrap();
    assert_eq!(*config.state.path, *Path::new("/var/lib/private/x"));
    let config = Config::parse(
        &format!("{LEAST}[state]\npath = \"/ledger\"\n"),
        "config.toml",
        &environment,
    )
    .unwrap();
    assert_eq!(*config.state.path, *Path::new("/ledger"));
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
        let shown = errors(text);
        assert!(shown.contains("config.toml line"), "{text}: {shown}");
        assert!(!shown.contains("tiger"), "{text}: {shown}");
        assert!(!format!("{:?}", parse(text)).contains("tiger"), "{text}");
    }
    assert!(!format!("{:?}", parse(LEAST).unwrap()).contains("tiger"));
    assert!(!format!("{:?}", environment()).contains("tiger"));
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
fn the_first_source_of_the_secret_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = secret_file(folder.path(), "\u{feff}from file\r\n", 0o600);
    let credentials = tempfile::tempdir().unwrap();
    let mut environment = environment();
    let secret = |text: &str, environment: &Environment| {
        let config = Config::parse(text, "config.toml", environment).unwrap();
        secret(&config).to_owned()
    };
    assert_eq!(secret(LEAST, &environment), "tiger");

    environment.credentials_directory = Some(credentials.path().to_owned());
    assert_eq!(
        secret(LEAST, &environment),
        "tiger",
        "an empty credential directory is ignored"
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
fn any_secret_may_be_a_credential_of_systemd() {
    let credentials = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("token", "9f3c6a1e44d2b8075c"),
        ("hook", "https://hooks.example.com/b7d2"),
    ] {
        let path = credentials.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    }
    let text = LEAST.to_owned()
        + "[web]\nlisten = \"127.0.0.1:0\"\ntoken_file = \"$CREDENTIALS_DIRECTORY/token\"\n\
           [[alert]]\nname = \"a\"\nurl = \"file:$CREDENTIALS_DIRECTORY/hook\"\n\
           [heartbeat]\nurl = \"file:$CREDENTIALS_DIRECTORY/hook\"\n";
    let mut environment = environment();
    let missing = Config::parse(&text, "config.toml", &environment).unwrap_err();
    insta::assert_snapshot!("without_credentials", missing.to_string());
    environment.credentials_directory = Some(credentials.path().to_owned());
    let config = Config::parse(&text, "config.toml", &environment).unwrap();
    assert_eq!(config.web.token.unwrap().expose(), "9f3c6a1e44d2b8075c");
    assert!(config.alerts[0].url.is_some() && config.heartbeat.url.is_some());
    for wrong in ["", "..", "../token", "a/b"] {
        for value in ["$/", "file:$/"].map(|one| one.replace('$', "$CREDENTIALS_DIRECTORY") + wrong)
        {
            let key = if value.starts_with("file") {
                "[heartbeat]\nurl"
            } else {
                "[web]\ntoken_file"
            };
            let text = format!("{LEAST}{key} = {value:?}\n");
            let refused = Config::parse(&text, "config.toml", &environment).unwrap_err();
            assert!(
                refused.to_string().contains("not the name of a credential"),
                "{refused}"
            );
        }
    }
    // Commands without the credentials still read the rest of the file.
    ReadOnlyConfig::parse(&text, "config.toml", &Environment::default()).unwrap();
}

/// Kubernetes mounts a secret as links through a folder that it replaces as a whole.
#[test]
fn a_secret_that_kubernetes_mounts_is_read_through_its_links() {
    let folder = tempfile::tempdir().unwrap();
    let version = folder.path().join("..2027_01_15");
    fs::create_dir(&version).unwrap();
    secret_file(&version, "from a pod", 0o440);
    std::os::unix::fs::symlink("..2027_01_15", folder.path().join("..data")).unwrap();
    let link = folder.path().join("client-secret");
    std::os::unix::fs::symlink("..data/secret", &link).unwrap();
    let text = with_secret_file(link.to_str().unwrap());
    let config = Config::parse(&text, "config.toml", &Environment::default()).unwrap();
    assert_eq!(secret(&config), "from a pod");
}

#[test]
fn a_program_prints_the_secret_and_is_the_only_source() {
    let with = |keys: &str| LEAST.replacen("[itwin]", &format!("[itwin]\n{keys}"), 1);
    let printed = with("client_secret_command = [\"/bin/echo\", \"from vault\"]");
    let config = Config::parse(&printed, "config.toml", &environment()).unwrap();
    assert_eq!(secret(&config), "from vault");
    assert!(!format!("{config:?}").contains("from vault"));
    // Commands that only read the ledger do not run it.
    let fails = with("client_secret_command = [\"/bin/false\"]");
    ReadOnlyConfig::parse(&fails, "config.toml", &Environment::default()).unwrap();
    let mut text = String::new();
    for keys in [
        "client_secret_command = [\"/bin/false\"]",
        "client_secret_command = []",
        "client_secret_command = \"vault kv get\"",
        "client_secret_command = [\"/absent/vault\", \"kv\"]",
        "client_secret_command = [\"/bin/echo\", \"a\"]\nclient_secret_file = \"/etc/itwin-syncd/client-secret\"",
    ] {
        text += &format!("{}\n", errors(&with(keys)));
    }
    insta::assert_snapshot!(text);
}

#[test]
fn reading_the_ledger_needs_neither_secret_nor_folders() {
    let offline = ReadOnlyConfig::parse(
        &with_secret_file("/absent"),
        "config.toml",
        &Environment::default(),
    )
    .unwrap();
    assert_eq!(offline.watches.first().unwrap().name, "north");
    assert_eq!(*offline.state.path, *Path::new("/var/lib/itwin-syncd"));
    assert!(ReadOnlyConfig::parse("setle = 1", "config.toml", &Environment::default()).is_err());
}

/// Text that a typo, a wrong editor or a broken disk puts into a file.
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

/// Values that are valid TOML and invalid for nearly every key.
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
    fn no_value_panics_and_every_error_has_a_message(
        edits in proptest::collection::vec((0..1000_usize, value()), 1..4),
    ) {
        let mut lines: Vec<String> = every_key_in_force().lines().map(str::to_owned).collect();
        let keys: Vec<usize> = (0..lines.len()).filter(|at| is_key_line(&lines[*at])).collect();
        for (at, value) in edits {
            let line = &mut lines[keys[at % keys.len()]];
            let (key, _) = line.split_once(" = ").unwrap();
            *line = format!("{key} = {value}");
        }
        if let Err(errors) = Config::parse(&lines.join("\n"), "config.toml", &Environment::default()) {
            prop_assert!(!errors.to_string().trim().is_empty());
        }
    }

    #[test]
    fn no_text_panics_and_every_error_has_a_message(
        edits in proptest::collection::vec((0..EXAMPLE.len(), 0..40_usize, piece()), 1..6),
    ) {
        let mut text: Vec<char> = EXAMPLE.replace("# ", "").chars().collect();
        for (at, cut, piece) in edits {
            let at = at.min(text.len());
            let end = (at + cut).min(text.len());
            text.splice(at..end, piece.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(errors) = Config::parse(&text, "config.toml", &Environment::default()) {
            prop_assert!(!errors.to_string().trim().is_empty());
        }
    }
}

#[test]
fn a_proxy_password_is_refused_in_the_file_and_never_shown() {
    let output = in_file("[network]\nproxy = \"http://me:tiger2@proxy:3128\"");
    assert_eq!(
        output,
        "config.toml line 8, network.proxy: must not contain a user name or password\n  hint: write the URL without them; set proxy_user and proxy_password_file instead"
    );
    let output = in_file("[network]\nproxy = \"http://proxy:3128\"\nproxy_user = \"me\"");
    assert!(
        output.contains("network.proxy_password_file: no proxy password found"),
        "{output}"
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
fn a_user_needs_no_secret() {
    let text = LEAST.replacen(
        "[itwin]",
        "[itwin]\nsign_in = \"user\"\nredirect_urls = [\"http://127.0.0.1:3302/back\", \"http://localhost:3301/back\"]",
        1,
    );
    let config = Config::parse(&text, "config.toml", &Environment::default()).unwrap();
    let user = config.itwin.user().unwrap();
    let urls: Vec<&str> = user.redirect_urls.iter().map(Url::as_str).collect();
    assert_eq!(
        urls,
        ["http://127.0.0.1:3302/back", "http://localhost:3301/back"]
    );
    assert!(!user.takeover);
    assert_eq!(user.state, *config.state.path);
    let usual = LEAST.replacen("[itwin]", "[itwin]\nsign_in = \"user\"", 1);
    let config = Config::parse(&usual, "config.toml", &Environment::default()).unwrap();
    let usual = config.itwin.user().unwrap().redirect_urls[0].as_str();
    assert_eq!(usual, "http://localhost:3301/signin-callback");
}

#[test]
fn a_ledger_on_a_server_has_its_password_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    fs::write(&file, "paper tiger\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let text = format!(
        "{LEAST}[state]\npath = \"/ledger\"\nurl = \"postgres://u@db.example.com:5433/d\"\npassword_file = {file:?}\n"
    );
    let config = parse(&text).unwrap();
    assert_eq!(*config.state.path, *Path::new("/ledger"));
    let server = config.state.path.server.unwrap();
    assert_eq!(server.to_string(), "db.example.com:5433/d");
    assert_eq!(server.password.unwrap().expose(), "paper tiger");
}

#[test]
fn a_url_that_is_none_of_a_database_is_refused_and_shows_no_password() {
    for (lines, expected) in [
        (
            "url = \"postgres://u:paper@h/d\"",
            "must not contain a password",
        ),
        (
            "url = \"postgres://u@h/d?sslmode=disable\"",
            "must not contain options",
        ),
        (
            "url = \"postgres://h/d\"",
            "no URL of a PostgreSQL database",
        ),
        (
            "url = \"postgres://u@h\"",
            "no URL of a PostgreSQL database",
        ),
        ("url = \"mysql://u@h/d\"", "no URL of a PostgreSQL database"),
        (
            "password_file = \"/nowhere\"",
            "has no effect without state.url",
        ),
        (
            "url = \"postgres://u@h/d\"\nca_file = \"/nowhere.pem\"",
            "/nowhere.pem",
        ),
        (
            "url = \"postgres://u@h/d\"\npassword_file = \"/nowhere\"",
            "state.password_file: cannot read the file",
        ),
    ] {
        let errors = errors(&format!("{LEAST}[state]\n{lines}\n"));
        assert!(errors.contains(expected), "{lines}: {errors}");
        assert!(!errors.contains("paper"), "{errors}");
    }
}
