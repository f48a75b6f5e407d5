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

use super::{EXIT_FAILED, EXIT_GOOD, print_error};
use crate::emulator::{
    self, AnyFault, Builder, DEFAULT_CLIENT_ID, DEFAULT_IMODEL_ID, Emulator, Switches,
};
use crate::service::signals;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Where the API listens; blobs are taken on the next port. Port 0 takes any two.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8290")]
    listen: SocketAddr,
    /// Keep state and content in this folder, made if need be. Without it they are gone when the emulator ends.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Let content go to the Azurite that runs at this address, instead of keeping it here
    #[arg(long, value_name = "URL")]
    azurite: Option<String>,
    /// A service application that gets tokens. Without one there is `service-emulator`, with a random secret that stays the same with --data
    #[arg(long, value_name = "ID:SECRET", value_parser = client)]
    client: Vec<(String, String)>,
    /// A service application that is no administrator: it may do only what the roles allow that it is given in an iTwin
    #[arg(long, value_name = "ID:SECRET", value_parser = client)]
    outsider: Vec<(String, String)>,
    /// The name in all addresses that the emulator gives, such as that of its container
    #[arg(long, value_name = "NAME", value_parser = host)]
    public_host: Option<String>,
    /// A name by which requests may call the emulator, beside localhost and addresses
    #[arg(long, value_name = "NAME", value_parser = host)]
    host: Vec<String>,
    /// Pages of this origin may use the API, beside those of this machine
    #[arg(long, value_name = "URL", value_parser = origin)]
    origin: Vec<String>,
    /// Where browsers may be sent after signing in or out, beside addresses of this machine
    #[arg(long, value_name = "URL")]
    redirect: Vec<String>,
    /// How long a run takes
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    run_duration: Duration,
    /// How long an upload address is good
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    address_lifetime: Duration,
    /// How long a token is good
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    token_lifetime: Duration,
    /// Source files that an iModel takes, over all its connections
    #[arg(long, value_name = "COUNT", default_value_t = 250)]
    max_source_files: usize,
    /// Judge files by their names only; otherwise the task of a file fails whose first bytes are not those of its format
    #[arg(long)]
    no_file_check: bool,
    /// Requests to the API that a minute has; by default as many as come
    #[arg(long, value_name = "COUNT")]
    requests_per_minute: Option<u32>,
    /// Settle what the platform's documentation leaves open; an unknown NAME is answered with all there are
    #[arg(long, value_name = "NAME=WORD", value_parser = setting)]
    switch: Vec<(String, String)>,
    /// Let something go wrong from the start, as JSON; docs/emulator.md has the kinds
    #[arg(long, value_name = "JSON", value_parser = fault)]
    fault: Vec<AnyFault>,
    /// Write all exchanges to this file, without secrets, as HAR: something to attach to a bug report
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Ask the emulator the same as in this HAR file of the real platform, print where it answers otherwise, and exit with 1 if it does
    #[arg(long, value_name = "FILE", conflicts_with_all = ["record", "data"])]
    compare: Option<PathBuf>,
    /// Settles what faults leave to chance
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    seed: u64,
}

fn client(text: &str) -> Result<(String, String), String> {
    let parts = text
        .split_once(':')
        .filter(|(id, secret)| !id.is_empty() && !secret.is_empty());
    let (id, secret) = parts.ok_or("write it as ID:SECRET")?;
    Ok((id.to_owned(), secret.to_owned()))
}

fn host(text: &str) -> Result<String, String> {
    let name = text
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || ".-".contains(c));
    if text.is_empty() || !name {
        return Err("write a name without scheme and port, such as itwin.test".to_owned());
    }
    Ok(text.to_owned())
}

fn origin(text: &str) -> Result<String, String> {
    let url = Url::parse(text).map(|url| url.origin().ascii_serialization());
    if url.as_deref() == Ok(text) {
        return Ok(text.to_owned());
    }
    Err("write scheme, host and port, such as https://app.example.com".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration: jiff::SignedDuration = text
        .parse()
        .map_err(|_| "write it like 5s, 2m or 1h".to_owned())?;
    duration
        .try_into()
        .map_err(|_| "write a time that is not negative".to_owned())
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, word) = text.split_once('=').unwrap_or((text, ""));
    Switches::default()
        .set(name, word)
        .map_err(|error| error.to_string())?;
    Ok((name.to_owned(), word.to_owned()))
}

fn fault(text: &str) -> Result<AnyFault, String> {
    serde_json::from_str(text).map_err(|_| {
        "not a fault: it needs route and effect, or file and result, or imodelId".to_owned()
    })
}

pub(super) async fn emulator(arguments: &Arguments) -> u8 {
    let mut blob_listen = arguments.listen;
    if blob_listen.port() != 0 {
        blob_listen.set_port(blob_listen.port().checked_add(1).unwrap_or(0));
    }
    let mut switches = Switches::default();
    for (name, word) in &arguments.switch {
        if let Err(error) = switches.set(name, word) {
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
                    Some("choose another --data, or give --client".to_owned()),
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
        return compared(builder, path).await;
    }
    let stop = CancellationToken::new();
    if let Err(error) = signals::handle(stop.clone()) {
        print_error(&error, None);
        return EXIT_FAILED;
    }
    match builder.start().await {
        Ok(emulator) => {
            introduce(&emulator, arguments, &clients);
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

#[allow(
    clippy::print_stdout,
    reason = "the differences are what was asked for"
)]
async fn compared(builder: Builder, path: &Path) -> u8 {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let builder = builder.listen(any).blob_listen(any);
    match emulator::compare(builder, path).await {
        Ok(comparison) => {
            let differences = &comparison.differences;
            for difference in differences {
                println!("{}", harmless(difference));
            }
            println!(
                "{} exchanges compared, {} skipped: {} differences",
                comparison.compared,
                comparison.skipped,
                differences.len()
            );
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

/// Words of a recording, which anybody may have made, as they may go to a terminal.
fn harmless(text: &str) -> String {
    let quote = |c| ['\'', '"', '\\'].contains(&c);
    let shown = text.chars().map(|c| match c {
        c if quote(c) => c.to_string(),
        c => c.escape_debug().to_string(),
    });
    shown.collect()
}

/// A secret that nobody can guess; the one that is kept with the data, if there is a folder for it.
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

#[allow(
    clippy::print_stdout,
    reason = "where the emulator is, is what a user needs to know"
)]
fn introduce(emulator: &Emulator, arguments: &Arguments, clients: &[(String, String)]) {
    let api = emulator.api_url();
    let blob = arguments.azurite.as_deref().unwrap_or(emulator.blob_url());
    let (id, secret) = clients.first().cloned().unwrap_or_default();
    println!(
        "\
emulating the iTwin Platform at {api}, blobs at {blob}; Ctrl-C ends it

To watch a folder of yours, put this into config.toml:

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

and start the daemon with the emulator's secret:

    ITWIN_SYNCD_CLIENT_SECRET={secret} itwin-syncd run --config config.toml

What arrived: {api}/_emulator/state and {api}/_emulator/requests"
    );
    let listen = arguments.listen.ip();
    if !listen.is_loopback() {
        println!(
            "\n\
WARNING: it listens on {listen}, not only on this machine. Whoever can reach that address can read and change all that
the emulator holds, without a secret. Do this in a network that you trust, such as that of a CI job, and give --public-host
the name that clients call it by."
        );
    }
}
