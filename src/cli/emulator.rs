//! `itwin-syncd emulator`

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{EXIT_FAILED, EXIT_GOOD, complain};
use crate::emulator::{DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, DEFAULT_IMODEL_ID, Emulator};
use crate::service::signals;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Where the API listens; blobs are taken on the next port. Port 0 takes any two.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8290")]
    listen: SocketAddr,
    /// Keep state and content in this folder, made if need be. Without it they are gone when the emulator ends.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

pub(super) async fn emulator(arguments: &Arguments) -> u8 {
    let mut blob_listen = arguments.listen;
    if blob_listen.port() != 0 {
        blob_listen.set_port(blob_listen.port().checked_add(1).unwrap_or(0));
    }
    let mut builder = Emulator::builder()
        .listen(arguments.listen)
        .blob_listen(blob_listen);
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
            introduce(&emulator);
            stop.cancelled().await;
            emulator.stop().await;
            EXIT_GOOD
        }
        Err(error) => {
            complain(&error, Some("choose another --listen or --data".to_owned()));
            EXIT_FAILED
        }
    }
}

#[allow(
    clippy::print_stdout,
    reason = "where the emulator is, is what a person needs to know"
)]
fn introduce(emulator: &Emulator) {
    let (api, blob) = (emulator.api_url(), emulator.blob_url());
    println!(
        "\
emulating the iTwin Platform at {api}, blobs at {blob}; Ctrl-C ends it

To watch a folder of yours, put this into config.toml:

    [itwin]
    api_url = \"{api}\"
    issuer_url = \"{api}\"
    client_id = \"{DEFAULT_CLIENT_ID}\"

    [state]
    path = \"/tmp/itwin-syncd-trial\"

    [[watch]]
    name = \"trial\"
    path = \"/the/folder\"
    imodel_id = \"{DEFAULT_IMODEL_ID}\"

and start the daemon with the emulator's secret:

    ITWIN_SYNCD_CLIENT_SECRET={DEFAULT_CLIENT_SECRET} itwin-syncd run --config config.toml

What arrived: {api}/_emulator/state and {api}/_emulator/requests"
    );
}
