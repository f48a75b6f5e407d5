//! `itwin-syncd emulator`

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tokio_util::sync::CancellationToken;
use url::Url;
use uuid::Uuid;

use super::{EXIT_FAILED, EXIT_GOOD, print_error, print_line};
use crate::emulator::{
    self, AnyFault, Builder, DEFAULT_CLIENT_ID, DEFAULT_IMODEL_ID, Emulator, Switches,
};
use crate::service::signals;

/// The highest port of the API: the blob storage listens on the next one.
const PORT_MAX: u16 = u16::MAX - 1;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Address of the API; the blob storage listens on the next port. Port 0 picks two free ports.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8190", value_parser = listen)]
    listen: SocketAddr,
    /// Keep state and content in this folder, created if missing; by default they are deleted when the emulator stops
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Store content in the Azurite at this address
    #[arg(long, value_name = "URL")]
    azurite: Option<String>,
    /// Add a service application; by default `service-emulator` with a random secret, which --data keeps
    #[arg(long, value_name = "ID:SECRET", value_parser = client)]
    client: Vec<(String, String)>,
    /// Add a service application that has only the permissions of its roles, instead of all
    #[arg(long, value_name = "ID:SECRET", value_parser = client)]
    outsider: Vec<(String, String)>,
    /// Host name in all addresses that the emulator returns, such as that of its container
    #[arg(long, value_name = "NAME", value_parser = host)]
    public_host: Option<String>,
    /// Accept this Host header beside localhost and IP addresses
    #[arg(long, value_name = "NAME", value_parser = host)]
    host: Vec<String>,
    /// Allow cross-origin requests from pages of this origin, beside those on this machine
    #[arg(long, value_name = "URL", value_parser = origin)]
    origin: Vec<String>,
    /// Allow this redirect address after sign-in and sign-out, beside addresses on this machine
    #[arg(long, value_name = "URL")]
    redirect: Vec<String>,
    /// Duration of a run
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    run_duration: Duration,
    /// Lifetime of an upload address
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    address_lifetime: Duration,
    /// Lifetime of a token
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    token_lifetime: Duration,
    /// How long connections may act for a user after the last consent, which the platform ends after about 30 days;
    /// by default without end
    #[arg(long, value_name = "TIME", value_parser = duration)]
    owner_token_lifetime: Option<Duration>,
    /// Maximum number of source files per iModel, over all its connections
    #[arg(long, value_name = "COUNT", default_value_t = 250)]
    max_source_files: usize,
    /// Do not check that the first bytes of a file match its format
    #[arg(long)]
    no_file_check: bool,
    /// API rate limit; unlimited by default
    #[arg(long, value_name = "COUNT")]
    requests_per_minute: Option<u32>,
    /// Change a behavior that the platform's documentation leaves open; an unknown NAME lists all
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting)]
    switch: Vec<(String, String)>,
    /// Inject a fault from the start, as JSON; see docs/emulator.md
    #[arg(long, value_name = "JSON")]
    fault: Vec<AnyFault>,
    /// Record all exchanges, without secrets, to this HAR file
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Replay this HAR file of the real platform against the emulator, print the differences, exit with 1 if there are
    /// any
    #[arg(long, value_name = "FILE", conflicts_with_all = ["record", "data"])]
    compare: Option<PathBuf>,
    /// Seed for random delays of faults
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    seed: u64,
}

fn listen(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| "expected IP:PORT, such as 127.0.0.1:8190".to_owned())?;
    if address.port() > PORT_MAX {
        return Err(format!(
            "no port left for the blob storage, which listens on the next one: use {PORT_MAX} or lower"
        ));
    }
    Ok(address)
}

fn client(text: &str) -> Result<(String, String), String> {
    let parts = text
        .split_once(':')
        .filter(|(id, secret)| !id.is_empty() && !secret.is_empty());
    let (id, secret) = parts.ok_or("expected ID:SECRET")?;
    Ok((id.to_owned(), secret.to_owned()))
}

fn host(text: &str) -> Result<String, String> {
    let name = text
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || ".-".contains(c));
    if text.is_empty() || !name {
        return Err("expected a host name without scheme and port, such as itwin.test".to_owned());
    }
    Ok(text.to_owned())
}

fn origin(text: &str) -> Result<String, String> {
    let url = Url::parse(text).map(|url| url.origin().ascii_serialization());
    if url.as_deref() == Ok(text) {
        return Ok(text.to_owned());
    }
    Err("expected scheme, host and port, such as https://app.example.com".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration: jiff::SignedDuration = text
        .parse()
        .map_err(|_| "expected a duration such as 5s, 2m or 1h".to_owned())?;
    duration
        .try_into()
        .map_err(|_| "expected a duration of zero or more".to_owned())
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    Switches::default()
        .set(name, value)
        .map_err(|error| error.to_string())?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(super) async fn emulator(arguments: &Arguments) -> u8 {
    let mut blob_listen = arguments.listen;
    if blob_listen.port() != 0 {
        blob_listen.set_port(blob_listen.port().saturating_add(1));
    }
    let mut switches = Switches::default();
    for (name, value) in &arguments.switch {
        if let Err(error) = switches.set(name, value) {
            print_error(&error, None);
            return EXIT_FAILED;
        }
    }
    let mut clients = arguments.client.clone();
    if clients.is_empty() && arguments.compare.is_none() {
        match secret(arguments.data.as_deref()) {
            Ok(secret) => clients.push((DEFAULT_CLIENT_ID.to_owned(), secret)),
            Err(error) => {
                print_error(
                    &error,
                    Some("choose another --data, or pass --client".to_owned()),
                );
                return EXIT_FAILED;
            }
        }
    }
    let mut builder = Emulator::builder()
        .listen(arguments.listen)
        .blob_listen(blob_listen)
        .run_duration(arguments.run_duration)
        .sas_lifetime(arguments.address_lifetime)
        .token_lifetime(arguments.token_lifetime)
        .max_source_files(arguments.max_source_files)
        .switches(switches)
        .file_check(!arguments.no_file_check)
        .seed(arguments.seed);
    if let Some(lifetime) = arguments.owner_token_lifetime {
        builder = builder.owner_token_lifetime(lifetime);
    }
    for (id, secret) in &clients {
        builder = builder.client(id, secret);
    }
    for (id, secret) in &arguments.outsider {
        builder = builder.outsider(id, secret);
    }
    for name in &arguments.host {
        builder = builder.host(name);
    }
    if let Some(name) = &arguments.public_host {
        builder = builder.public_host(name);
    }
    for origin in &arguments.origin {
        builder = builder.origin(origin);
    }
    for url in &arguments.redirect {
        builder = builder.redirect(url);
    }
    for fault in &arguments.fault {
        builder = builder.fault(fault.clone());
    }
    if let Some(count) = arguments.requests_per_minute {
        builder = builder.requests_per_minute(count);
    }
    if let Some(url) = &arguments.azurite {
        builder = builder.azurite(url);
    }
    if let Some(data) = &arguments.data {
        builder = builder.data_dir(data.clone());
    }
    if let Some(path) = &arguments.record {
        builder = builder.record(path.clone());
    }
    if let Some(path) = &arguments.compare {
        return compare(builder, path).await;
    }
    let stop = CancellationToken::new();
    if let Err(error) = signals::handle(stop.clone()) {
        print_error(&error, None);
        return EXIT_FAILED;
    }
    match builder.start().await {
        Ok(emulator) => {
            print_instructions(&emulator, arguments, &clients);
            stop.cancelled().await;
            emulator.stop().await;
            EXIT_GOOD
        }
        Err(error) => {
            let hint = match error {
                emulator::Error::Azurite { .. } => {
                    "start it with `azurite-blob --skipApiVersionCheck`, or correct --azurite"
                }
                _ => "choose another --listen or --data",
            };
            print_error(&error, Some(hint.to_owned()));
            EXIT_FAILED
        }
    }
}

async fn compare(builder: Builder, path: &Path) -> u8 {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let builder = builder.listen(any).blob_listen(any);
    match emulator::compare(builder, path).await {
        Ok(comparison) => {
            let differences = &comparison.differences;
            for difference in differences {
                print_line(&sanitize(difference));
            }
            print_line(&format!(
                "{} exchanges compared, {} skipped: {} differences",
                comparison.compared,
                comparison.skipped,
                differences.len()
            ));
            if differences.is_empty() {
                EXIT_GOOD
            } else {
                EXIT_FAILED
            }
        }
        Err(error) => {
            let hint = "record with `mitmdump --set hardump=FILE`, or save a HAR file in a browser's network tools";
            print_error(&error, Some(hint.to_owned()));
            EXIT_FAILED
        }
    }
}

/// Escapes control characters: a recording can come from anywhere.
fn sanitize(text: &str) -> String {
    let quote = |c| ['\'', '"', '\\'].contains(&c);
    let shown = text.chars().map(|c| match c {
        c if quote(c) => c.to_string(),
        c => c.escape_debug().to_string(),
    });
    shown.collect()
}

/// The client secret: read from the data folder, or random, and then stored there if there is one.
fn secret(data: Option<&Path>) -> std::io::Result<String> {
    let random = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let Some(data) = data else {
        return Ok(random);
    };
    std::fs::create_dir_all(data)?;
    let path = data.join("client-secret");
    match std::fs::read_to_string(&path) {
        Ok(kept) if !kept.trim().is_empty() => return Ok(kept.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut file = std::fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)?;
    file.write_all(random.as_bytes())?;
    Ok(random)
}

fn print_instructions(emulator: &Emulator, arguments: &Arguments, clients: &[(String, String)]) {
    let api = emulator.api_url();
    let blob = arguments.azurite.as_deref().unwrap_or(emulator.blob_url());
    let (id, secret) = clients.first().cloned().unwrap_or_default();
    print_line(&format!(
        "\
emulated iTwin Platform at {api}, blob storage at {blob}; press Ctrl-C to stop

To watch a folder, write this config.toml:

    [itwin]
    api_url = \"{api}\"
    issuer_url = \"{api}\"
    client_id = \"{id}\"

    [state]
    path = \"/tmp/itwin-syncd-trial\"

    [[watch]]
    name = \"trial\"
    path = \"/the/folder\"
    imodel_id = \"{DEFAULT_IMODEL_ID}\"

and start the daemon with the emulator's client secret:

    ITWIN_SYNCD_CLIENT_SECRET={secret} itwin-syncd run --config config.toml

To see what arrived, open {api}/_emulator/state and {api}/_emulator/requests"
    ));
    let listen = arguments.listen.ip();
    if !listen.is_loopback() {
        print_line(&format!(
            "\n\
WARNING: listening on {listen}, beyond this machine. Everyone who can reach it can read and change everything in the emulator,
without a secret. Do this only in a network that you trust, such as that of a CI job, and set --public-host to the name
that clients use."
        ));
    }
}
