//! Something between the daemon and the platform: passes requests on to the emulator, and answers in its place when a
//! test wants that.

use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::support::Site;

pub type Answer = Response<BoxBody<Bytes, Infallible>>;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    pub body: String,
    /// It goes to the storage of content.
    pub to_blobs: bool,
}

impl Asked {
    pub fn is(&self, method: &str, part: &str) -> bool {
        self.method == method && self.path.to_lowercase().contains(&part.to_lowercase())
    }
}

type Hook = Box<dyn Fn(&Asked) -> Option<Answer> + Send + Sync>;

pub struct Middle {
    pub api: String,
    inner: Arc<Inner>,
}

struct Inner {
    /// What the emulator calls itself, and what it is called here: API and blobs.
    names: [(String, String); 2],
    hook: Mutex<Hook>,
    client: reqwest::Client,
    /// Answers one request for each connection, and closes at the second.
    forgets: AtomicBool,
    forgotten: AtomicUsize,
}

impl Middle {
    /// Stands before the emulator of `site`, which is configured for it.
    pub async fn before(
        site: &mut Site,
        hook: impl Fn(&Asked) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        let api = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let blobs = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let name = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
        let inner = Arc::new(Inner {
            names: [
                (site.emulator.api_url().to_owned(), name(&api)),
                (site.emulator.blob_url().to_owned(), name(&blobs)),
            ],
            hook: Mutex::new(Box::new(hook)),
            client: reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .unwrap(),
            forgets: AtomicBool::new(false),
            forgotten: AtomicUsize::new(0),
        });
        let api_name = name(&api);
        for (listener, to_blobs) in [(api, false), (blobs, true)] {
            let inner = Arc::clone(&inner);
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(Arc::clone(&inner).serve(stream, to_blobs));
                }
            });
        }
        site.platform = Some(api_name.clone());
        Self {
            api: api_name,
            inner,
        }
    }

    pub fn set(&self, hook: impl Fn(&Asked) -> Option<Answer> + Send + Sync + 'static) {
        *self.inner.hook.lock().unwrap() = Box::new(hook);
    }

    /// From now on closes a connection without an answer when a second request comes.
    pub fn forget_connections(&self) {
        self.inner.forgets.store(true, Ordering::Relaxed);
    }

    /// Requests that came on a connection that was forgotten.
    pub fn forgotten(&self) -> usize {
        self.inner.forgotten.load(Ordering::Relaxed)
    }
}

impl Inner {
    async fn serve(self: Arc<Self>, stream: tokio::net::TcpStream, to_blobs: bool) {
        let seen = Arc::new(AtomicUsize::new(0));
        let service = service_fn(move |request| {
            let seen = seen.fetch_add(1, Ordering::Relaxed);
            let inner = Arc::clone(&self);
            async move {
                if seen > 0 && inner.forgets.load(Ordering::Relaxed) {
                    inner.forgotten.fetch_add(1, Ordering::Relaxed);
                    return Err(io::Error::other("forgotten"));
                }
                Ok(inner.answer(request, to_blobs).await)
            }
        });
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await
            .ok();
    }

    async fn answer(&self, request: Request<Incoming>, to_blobs: bool) -> Answer {
        let (parts, body) = request.into_parts();
        let body = body
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default();
        let asked = Asked {
            method: parts.method.to_string(),
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            headers: parts.headers.clone(),
            body: String::from_utf8_lossy(&body).into_owned(),
            to_blobs,
        };
        if let Some(answer) = (self.hook.lock().unwrap())(&asked) {
            return answer;
        }
        let mut headers = parts.headers;
        headers.remove("host");
        headers.remove("accept-encoding");
        let url = format!("{}{}", self.names[usize::from(to_blobs)].0, parts.uri);
        let passed_on = self
            .client
            .request(parts.method, url)
            .headers(headers)
            .body(body)
            .send()
            .await;
        let Ok(answer) = passed_on else {
            return text(502, &[], "the emulator gave no answer");
        };
        let mut answered = Response::builder().status(answer.status());
        for (name, value) in answer.headers() {
            if name != "content-length" && name != "transfer-encoding" {
                let value = self.outside(value.to_str().unwrap());
                answered = answered.header(name, value);
            }
        }
        let body = answer.bytes().await.unwrap_or_default();
        let body = match std::str::from_utf8(&body) {
            Ok(text) => Bytes::from(self.outside(text)),
            Err(_) => body,
        };
        answered.body(Full::new(body).boxed()).unwrap()
    }

    fn outside(&self, text: &str) -> String {
        let [api, blobs] = &self.names;
        text.replace(&blobs.0, &blobs.1).replace(&api.0, &api.1)
    }
}

pub fn text(status: u16, headers: &[(&str, &str)], body: &str) -> Answer {
    bytes(status, headers, body.to_owned())
}

pub fn bytes(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::builder().status(status);
    for (name, value) in headers {
        answer = answer.header(*name, *value);
    }
    answer.body(Full::new(body.into()).boxed()).unwrap()
}

/// A body that begins so and never ends.
pub fn endless(status: u16, headers: &[(&str, &str)], begin: &str, again: &str) -> Answer {
    let mut answer = Response::builder().status(status);
    for (name, value) in headers {
        answer = answer.header(*name, *value);
    }
    let again = Bytes::from(again.repeat(64 * 1024 / again.len() + 1));
    let pieces = futures_util::stream::once(std::future::ready(Bytes::from(begin.to_owned())))
        .chain(futures_util::stream::repeat(again));
    let frames = pieces.map(|piece| Ok(Frame::data(piece)));
    answer
        .body(http_body_util::BodyExt::boxed(StreamBody::new(frames)))
        .unwrap()
}
