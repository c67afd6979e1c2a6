//! `GET /metrics` over HTTP/1.1, with bounds on everything a client may use up.
//!
//! A client gets one response per connection and has [`CONNECTION`] for all of it; more than
//! [`CONNECTIONS`] at once are refused. A page is made at most once per [`FRESH`], however many ask,
//! and not at all when that takes longer than [`COLLECT`].

use std::{convert::Infallible, future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CONTENT_TYPE as CONTENT_TYPE_HEADER, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, Semaphore},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tracing::{debug, warn};

/// The text format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Connections at once.
const CONNECTIONS: usize = 8;
/// From accepting a connection to its end.
const CONNECTION: Duration = Duration::from_secs(10);
/// For the head of the request.
const HEAD: Duration = Duration::from_secs(3);
/// Longest head of a request, octets (the least hyper takes).
const HEAD_OCTETS: usize = 8192;
/// For making a page.
const COLLECT: Duration = Duration::from_secs(5);
/// How long a page is served again.
const FRESH: Duration = Duration::from_millis(500);

/// The listening socket, bound before the daemon says that it is ready.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
}

/// The endpoint cannot listen.
#[derive(Debug, Error)]
#[error("metrics.listen {address}: {source}")]
pub struct ServerError {
    address: SocketAddr,
    source: io::Error,
}

struct Shared<F> {
    collect: F,
    last: Mutex<Option<(Instant, Bytes)>>,
}

impl Server {
    /// Listens on `address`.
    ///
    /// # Errors
    /// When the system refuses the address.
    pub async fn bind(address: SocketAddr) -> Result<Self, ServerError> {
        if !address.ip().is_loopback() {
            warn!(%address, "metrics are served without TLS or password beyond this host");
        }
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| ServerError { address, source })?;
        Ok(Self { listener })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the system says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until dropped. `collect` makes a page, or says why there is none.
    pub async fn serve<F, A>(self, collect: F)
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = Result<String, String>> + Send,
    {
        let shared = Arc::new(Shared {
            collect,
            last: Mutex::new(None),
        });
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors: others may free some.
                    warn!(%error, "metrics: accept");
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            // Whoever comes when all places are taken is let go at once and does not wait in memory.
            let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                debug!("metrics: too many connections");
                continue;
            };
            let shared = Arc::clone(&shared);
            connections.spawn(async move {
                if timeout(CONNECTION, connection(stream, &*shared))
                    .await
                    .is_err()
                {
                    debug!("metrics: a client took too long");
                }
                drop(permit);
            });
        }
    }
}

async fn connection<F, A>(stream: TcpStream, shared: &Shared<F>)
where
    F: Fn() -> A,
    A: Future<Output = Result<String, String>>,
{
    let service = service_fn(|request| answer(request, shared));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_OCTETS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(%error, "metrics connection");
    }
}

async fn answer<F, A>(
    request: Request<Incoming>,
    shared: &Shared<F>,
) -> Result<Response<Full<Bytes>>, Infallible>
where
    F: Fn() -> A,
    A: Future<Output = Result<String, String>>,
{
    let head = request.method() == Method::HEAD;
    Ok(if request.uri().path() != "/metrics" {
        plain(StatusCode::NOT_FOUND, "the page is /metrics\n".into())
    } else if request.method() != Method::GET && !head {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "GET only\n".into());
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        response
    } else {
        match shared.page().await {
            Ok(page) => plain(StatusCode::OK, page),
            Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n").into()),
        }
    })
}

impl<F, A> Shared<F>
where
    F: Fn() -> A,
    A: Future<Output = Result<String, String>>,
{
    /// The page; those who ask together share one.
    async fn page(&self) -> Result<Bytes, String> {
        let work = async {
            let mut last = self.last.lock().await;
            if let Some((at, page)) = &*last
                && at.elapsed() < FRESH
            {
                return Ok(page.clone());
            }
            let page = Bytes::from((self.collect)().await?);
            *last = Some((Instant::now(), page.clone()));
            Ok(page)
        };
        timeout(COLLECT, work)
            .await
            .unwrap_or_else(|_| Err("the daemon is busy".to_owned()))
    }
}

fn plain(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE_HEADER, HeaderValue::from_static(CONTENT_TYPE));
    response
}
