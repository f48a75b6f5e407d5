//! `itwin-syncd emulator`

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{EXIT_FAILED, EXIT_GOOD, complain};
use crate::emulator::{
    self, AnyFault, DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, DEFAULT_IMODEL_ID, Emulator, Switches,
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
    /// A service application that gets tokens, in place of the one that is there
    #[arg(long, value_name = "ID:SECRET", value_parser = client)]
    client: Vec<(String, String)>,
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
    /// Requests to the API that a minute has; by default as many as come
    #[arg(long, value_name = "COUNT")]
    requests_per_minute: Option<u32>,
    /// Settle what the platform's documentation leaves open; an unknown NAME is answered with all there are
    #[arg(long, value_name = "NAME=WORD", value_parser = setting)]
    switch: Vec<(String, String)>,
    /// Let something go wrong from the start, as JSON; the README has the kinds
    #[arg(long, value_name = "JSON", value_parser = fault)]
    fault: Vec<AnyFault>,
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
        "no fault: it needs route and effect, or file and result, or imodelId".to_owned()
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
            complain(&error, None);
            return EXIT_FAILED;
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
        .seed(arguments.seed);
    for (id, secret) in &arguments.client {
        builder = builder.client(id, secret);
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
    let stop = CancellationToken::new();
    if let Err(error) = signals::handle(stop.clone()) {
        complain(&error, None);
        return EXIT_FAILED;
    }
    match builder.start().await {
        Ok(emulator) => {
            introduce(&emulator, arguments);
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
            complain(&error, Some(hint.to_owned()));
            EXIT_FAILED
        }
    }
}

#[allow(
    clippy::print_stdout,
    reason = "where the emulator is, is what a person needs to know"
)]
fn introduce(emulator: &Emulator, arguments: &Arguments) {
    let api = emulator.api_url();
    let blob = arguments.azurite.as_deref().unwrap_or(emulator.blob_url());
    let (id, secret) = match arguments.client.first() {
        Some((id, secret)) => (id.as_str(), secret.as_str()),
        None => (DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET),
    };
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
}
