//! Connections for keys: HTTP/1.1 by `hyper` over TLS, moved by whoever asks.
//!
//! A request is one task's: it writes, waits and reads, and nothing is handed to another one. Between two requests
//! nobody looks at a connection; whether it is still there is seen before it is used again.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1::{self, Connection, SendRequest},
    header::{ACCEPT, CONTENT_TYPE, HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use reqwest::Url;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::TcpStream,
    select,
    sync::{Notify, Semaphore},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Answer, Failure, Payload, body::read, pool::Pool, root, tls_error};
use crate::QkdError;

/// How long a connection that waits for an answer is silent before TCP asks whether the other end is there.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Connections to one endpoint that are being opened at a time. A handshake costs both ends as much as ten requests, so
/// many requests at once are over sooner when most of them wait for the first connections.
const OPENING: usize = 2;

/// Where an endpoint is.
pub(super) struct Site {
    host: String,
    port: u16,
    name: ServerName<'static>,
    /// As the header `host` has it.
    authority: HeaderValue,
    /// Whoever opens a connection holds one.
    opening: Semaphore,
    /// Told of each connection that becomes idle.
    pub(super) freed: Notify,
}

impl Site {
    /// `None` when the host is none that a certificate could name.
    pub(super) fn of(url: &Url) -> Option<Self> {
        let host = url.host_str()?;
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Some(Self {
            host: host.to_owned(),
            port: url.port_or_known_default()?,
            name: ServerName::try_from(host.to_owned()).ok()?,
            authority: HeaderValue::from_str(&authority).ok()?,
            opening: Semaphore::new(OPENING),
            freed: Notify::new(),
        })
    }
}

type Driver = Connection<TokioIo<TlsStream<TcpStream>>, Full<Bytes>>;

/// A connection, and what moves it.
pub(super) struct Line {
    sender: SendRequest<Full<Bytes>>,
    /// Until it has ended.
    driver: Option<Pin<Box<Driver>>>,
}

impl Line {
    /// Does `work`, for which the connection has to move.
    async fn beside<T>(driver: &mut Option<Pin<Box<Driver>>>, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(done);
            }
            // Why a connection ends is told to whoever waits for something of it.
            if driver
                .as_mut()
                .is_some_and(|driver| driver.as_mut().poll(cx).is_ready())
            {
                *driver = None;
            }
            work.as_mut().poll(cx)
        })
        .await
    }

    /// Whether another request can be sent.
    async fn is_usable(&mut self) -> bool {
        let Self { sender, driver } = self;
        // What has arrived meanwhile, the other end's farewell for one, is read first.
        if let Some(one) = driver {
            let ended = poll_fn(|cx| Poll::Ready(one.as_mut().poll(cx).is_ready())).await;
            if ended {
                *driver = None;
            }
        }
        driver.is_some()
            && !sender.is_closed()
            && Self::beside(driver, sender.ready()).await.is_ok()
    }
}

/// The connections to all endpoints.
pub(super) struct Lines {
    tls: TlsConnector,
    connect_timeout: Duration,
    timeout: Duration,
    pool: Arc<Pool>,
}

impl Lines {
    pub(super) fn new(tls: ClientConfig, connect_timeout: Duration, timeout: Duration) -> Self {
        Self {
            tls: TlsConnector::from(Arc::new(tls)),
            connect_timeout,
            timeout,
            pool: Arc::default(),
        }
    }

    /// One request and its answer.
    pub(super) async fn ask(
        &self,
        site: &Arc<Site>,
        path: &str,
        payload: &Payload,
    ) -> Result<Answer, Failure> {
        let request = request(site, path, payload)?;
        // Set when the KME may have seen the request.
        let sent = AtomicBool::new(false);
        let exchange = self.exchange(site, request, &sent);
        let late = |_| Failure {
            error: QkdError::Timeout,
            uncertain: sent.load(Ordering::Relaxed),
        };
        timeout(self.timeout, exchange)
            .await
            .unwrap_or_else(|elapsed| Err(late(elapsed)))
    }

    /// Sees to it that a connection is there, unless requests have all of them.
    pub(super) async fn ready(&self, site: &Arc<Site>) -> Result<(), Failure> {
        let (line, _) = self.line(site).await?;
        self.pool.keep(site, line);
        Ok(())
    }

    async fn exchange(
        &self,
        site: &Arc<Site>,
        request: Request<Full<Bytes>>,
        sent: &AtomicBool,
    ) -> Result<Answer, Failure> {
        let (mut line, response) = self.send(site, request, sent).await?;
        let Line { sender, driver } = &mut line;
        let status = response.status();
        let body = read(response.into_body(), status, |error| broken(&error));
        let body = Line::beside(driver, body).await;
        if body.is_ok() && driver.is_some() && !sender.is_closed() {
            self.pool.keep(site, line);
        }
        Ok((status, body))
    }

    /// Sends a request over a connection that is there, or else over a new one, up to the head of its answer.
    async fn send(
        &self,
        site: &Arc<Site>,
        mut request: Request<Full<Bytes>>,
        sent: &AtomicBool,
    ) -> Result<(Line, Response<Incoming>), Failure> {
        loop {
            let (mut line, fresh) = self.line(site).await?;
            let Line { sender, driver } = &mut line;
            sent.store(true, Ordering::Relaxed);
            match Line::beside(driver, sender.try_send_request(request)).await {
                Ok(response) => return Ok((line, response)),
                Err(mut error) => match error.take_message() {
                    // The other end has just hung up, before any of it went out.
                    Some(unsent) if !fresh => {
                        sent.store(false, Ordering::Relaxed);
                        request = unsent;
                    }
                    _ => return Err(broken(&error.into_error())),
                },
            }
        }
    }

    /// A connection that is there and can take a request.
    async fn kept(&self, site: &Arc<Site>) -> Option<Line> {
        loop {
            let mut line = self.pool.take(site)?;
            if line.is_usable().await {
                return Some(line);
            }
        }
    }

    /// A connection, and whether it is new: one that is idle, or becomes so before it is this request's turn to open one.
    async fn line(&self, site: &Arc<Site>) -> Result<(Line, bool), Failure> {
        let search = async {
            loop {
                if let Some(line) = self.kept(site).await {
                    return Ok((line, false));
                }
                select! {
                    biased;
                    () = site.freed.notified() => {}
                    // Never closed, so this is a turn.
                    _turn = site.opening.acquire() => {
                        return Ok((self.connect(site).await?, true));
                    }
                }
            }
        };
        timeout(self.connect_timeout, search)
            .await
            .unwrap_or(Err(Failure {
                error: QkdError::Timeout,
                uncertain: false,
            }))
    }

    async fn connect(&self, site: &Site) -> Result<Line, Failure> {
        let open = async {
            let stream = TcpStream::connect((site.host.as_str(), site.port)).await?;
            stream.set_nodelay(true)?;
            let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
            SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
            self.tls.connect(site.name.clone(), stream).await
        };
        let stream = open.await.map_err(|error: io::Error| Failure {
            error: match tls_error(&error) {
                Some(tls) => QkdError::Tls(tls),
                None => QkdError::Connect(root(&error)),
            },
            uncertain: false,
        })?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(&error))?;
        Ok(Line {
            sender,
            driver: Some(Box::pin(driver)),
        })
    }
}

fn request(site: &Site, path: &str, payload: &Payload) -> Result<Request<Full<Bytes>>, Failure> {
    let request = Request::builder()
        .header(HOST, &site.authority)
        .header(ACCEPT, "application/json");
    let request = match payload {
        Payload::None => request.uri(path).body(Full::default()),
        Payload::Query(query) => request.uri(format!("{path}?{query}")).body(Full::default()),
        Payload::Body(body) => request
            .method(Method::POST)
            .uri(path)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::copy_from_slice(body))),
    };
    request.map_err(|_| Failure {
        error: QkdError::Request("this cannot be the path of a URL"),
        uncertain: false,
    })
}

/// Types an error of a connection that was there.
fn broken(error: &hyper::Error) -> Failure {
    match tls_error(error) {
        // Our certificate is refused after our side of a TLS 1.3 handshake: nothing was served.
        Some(tls) => Failure {
            error: QkdError::Tls(tls),
            uncertain: false,
        },
        None => Failure {
            error: QkdError::Connect(root(error)),
            uncertain: !error.is_canceled(),
        },
    }
}
