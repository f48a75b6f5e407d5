//! Receives the browser at the redirect address, on this machine only.
//!
//! In: requests of any program on this machine, and of any page in its browser. Out: the addresses that were requested,
//! and a page for each. It judges nothing: an address counts only with the state of the sign-in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::{Host, Url};

use super::Error;

/// Requests that may wait.
const WAITING: usize = 8;

/// How long the last page may take to get to the browser.
const LAST_PAGE: Duration = Duration::from_secs(2);

/// What the browser shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    SignedIn,
    Allowed,
    Failed,
    Unknown,
}

impl Page {
    fn text(self) -> (StatusCode, &'static str) {
        match self {
            Self::SignedIn => (
                StatusCode::OK,
                "You are signed in. You can close this page.",
            ),
            Self::Allowed => (
                StatusCode::OK,
                "Runs may act for you. You can close this page.",
            ),
            Self::Failed => (
                StatusCode::BAD_REQUEST,
                "This did not work. The terminal says why. You can close this page.",
            ),
            Self::Unknown => (
                StatusCode::BAD_REQUEST,
                "This page belongs to another sign-in. Open the address that the terminal shows.",
            ),
        }
    }
}

/// The browser has returned.
pub(super) struct Returned {
    /// The whole address. It has the code.
    pub(super) address: String,
    page: oneshot::Sender<Page>,
}

impl Returned {
    /// Shows a page.
    pub(super) fn answer(self, page: Page) {
        // The browser may have gone.
        self.page.send(page).ok();
    }
}

/// The listener, until it is closed or dropped.
pub(super) struct Listener {
    redirect: Url,
    returned: mpsc::Receiver<Returned>,
    servers: JoinSet<()>,
    stop: CancellationToken,
}

#[derive(Clone)]
struct Shared {
    redirect: Url,
    returned: mpsc::Sender<Returned>,
}

impl Listener {
    /// Listens at the first of these addresses that is free.
    pub(super) async fn bind(urls: &[Url]) -> Result<Self, Error> {
        let mut failed = None;
        for url in urls {
            match sockets(url).await {
                Ok(sockets) => return Ok(Self::serve(url.clone(), sockets)),
                Err(error) => failed = Some(error),
            }
        }
        let addresses: Vec<&str> = urls.iter().map(Url::as_str).collect();
        Err(Error::Ports {
            addresses: addresses.join(", "),
            source: failed.unwrap_or_else(|| std::io::ErrorKind::AddrNotAvailable.into()),
        })
    }

    fn serve(redirect: Url, sockets: Vec<TcpListener>) -> Self {
        let (sender, returned) = mpsc::channel(WAITING);
        let stop = CancellationToken::new();
        let shared = Shared {
            redirect: redirect.clone(),
            returned: sender,
        };
        let mut servers = JoinSet::new();
        for socket in sockets {
            let router = Router::new().fallback(answer).with_state(shared.clone());
            let stop = stop.clone();
            servers.spawn(async move {
                let server = axum::serve(socket, router);
                // It ends with the process at the latest.
                server
                    .with_graceful_shutdown(async move { stop.cancelled().await })
                    .await
                    .ok();
            });
        }
        Self {
            redirect,
            returned,
            servers,
            stop,
        }
    }

    /// The address that it listens at.
    pub(super) fn redirect(&self) -> &Url {
        &self.redirect
    }

    /// Waits for the browser.
    pub(super) async fn next(&mut self) -> Option<Returned> {
        self.returned.recv().await
    }

    /// Ends when the last page was sent.
    pub(super) async fn close(mut self) {
        self.stop.cancel();
        let ended = async { while self.servers.join_next().await.is_some() {} };
        tokio::time::timeout(LAST_PAGE, ended).await.ok();
    }
}

/// Listens on all addresses of this machine that the host of the URL means.
async fn sockets(url: &Url) -> std::io::Result<Vec<TcpListener>> {
    let port = url.port_or_known_default().unwrap_or_default();
    let ips: Vec<IpAddr> = match url.host() {
        Some(Host::Ipv4(ip)) => vec![ip.into()],
        Some(Host::Ipv6(ip)) => vec![ip.into()],
        _ => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
    };
    let mut sockets = Vec::new();
    for ip in ips {
        match TcpListener::bind(SocketAddr::new(ip, port)).await {
            Ok(socket) => sockets.push(socket),
            // A machine without IPv6. A port in use by another program would get the code.
            Err(error) if !sockets.is_empty() && error.kind() != std::io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sockets)
}

async fn answer(State(shared): State<Shared>, request: Request) -> Response {
    let path_matches = request.uri().path() == shared.redirect.path();
    if request.method() != Method::GET || !path_matches {
        return StatusCode::NOT_FOUND.into_response();
    }
    let mut address = shared.redirect.clone();
    address.set_query(request.uri().query());
    let (page, shown) = oneshot::channel();
    let returned = Returned {
        address: address.into(),
        page,
    };
    let sent = shared.returned.send(returned).await;
    let page = match sent {
        Ok(()) => shown.await.unwrap_or(Page::Failed),
        Err(_) => Page::Unknown,
    };
    let (status, text) = page.text();
    let html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>itwin-syncd</title><p>{text}</p></html>\n"
    );
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'"),
        (header::CONNECTION, "close"),
    ];
    (status, headers, html).into_response()
}
