//! The HTTPS server of one KME.

use std::{
    convert::Infallible,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::{
    Request, Response,
    body::{Body, Frame, Incoming, SizeHint},
    header::{CONTENT_LENGTH, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use keys::{KeyId, QkdKey, SaeId};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{Interval, interval, sleep, timeout},
};
use tracing::{debug, warn};
use zeroize::Zeroizing;

use crate::{
    api::{self, Answer, Refusal},
    fault::{Kind, Struck},
    node::Node,
    tls::{Acceptors, sae_id},
};

/// Connections at once.
const MOST_CONNECTIONS: usize = 1024;
/// Longest request body in octets.
const MAX_BODY: usize = 256 << 10;
/// Time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(300);
/// What the fault `oversized` puts in front of the body.
const OVERSIZE: usize = 2 << 20;

/// Serves until dropped; all connections end with it.
pub(crate) async fn serve(node: Arc<Node>, listener: TcpListener, acceptors: Acceptors) {
    let permits = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = permits.clone().acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, say: others may be given back in a moment.
                warn!(kme = node.id(), %error, "accept");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (node, acceptors) = (node.clone(), acceptors.clone());
        connections.spawn(async move {
            if let Err(error) = connection(&node, stream, &acceptors).await {
                debug!(kme = node.id(), %error, "connection");
            }
            drop(permit);
        });
    }
}

async fn connection(node: &Arc<Node>, stream: TcpStream, acceptors: &Acceptors) -> io::Result<()> {
    let mut hang_up = node.hang_up().subscribe();
    if node.strike_connection(Kind::Refuse) {
        return Ok(());
    }
    let acceptor = if node.strike_connection(Kind::WrongCertificate) {
        &acceptors.rogue
    } else {
        &acceptors.honest
    };
    stream.set_nodelay(true)?;
    let stream = timeout(HANDSHAKE, acceptor.accept(stream))
        .await
        .map_err(io::Error::other)??;
    let caller = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(<[_]>::first)
        .and_then(sae_id);
    node.count_connection();

    let caller = caller.as_ref();
    let service = service_fn(async |request| respond(node, caller, request).await);
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE)
            .serve_connection(TokioIo::new(stream), service)
    );
    loop {
        tokio::select! {
            done = connection.as_mut() => return done.map_err(io::Error::other),
            Ok(()) = hang_up.changed() => connection.as_mut().graceful_shutdown(),
        }
    }
}

async fn respond(
    node: &Node,
    caller: Option<&SaeId>,
    request: Request<Incoming>,
) -> io::Result<Response<Octets>> {
    let (head, body) = request.into_parts();
    let call = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => api::read(
            head.method.as_str(),
            head.uri.path(),
            head.uri.query(),
            &body.to_bytes(),
        ),
        Err(error) => Err(Refusal::bad_request("the body is too long").detail("error", &error)),
    };
    let (answer, struck) = node.answer(caller, call);
    if let Some(fault) = struck.get(Kind::Latency) {
        sleep(fault.delay).await;
    }
    if struck.has(Kind::LostResponse) {
        return Err(io::Error::other("the fault lost-response"));
    }
    render(answer, &struck).map_err(io::Error::other)
}

/// An answer as HTTP, with the faults that spoil it.
fn render(answer: Answer, struck: &Struck) -> Result<Response<Octets>, hyper::http::Error> {
    let (mut status, mut content_type) = (200, "application/json");
    let mut body = match answer {
        Answer::Keys(keys) => api::container(&spoil_keys(keys, struck)),
        Answer::Object(object) => Zeroizing::new(object.to_string().into_bytes()),
        Answer::Refusal(refusal) => {
            status = refusal.status;
            let body = refusal.body();
            Zeroizing::new(body.map_or_else(Vec::new, |body| body.to_string().into_bytes()))
        }
    };
    if let Some(fault) = struck.get(Kind::Status) {
        status = fault.status.unwrap_or(502);
        content_type = "text/html";
        *body = format!("<html><body><h1>{status}</h1><p>A proxy.</p></body></html>").into_bytes();
    }
    if status == 200 && struck.has(Kind::Malformed) {
        let half = body.len() / 2;
        body.truncate(half);
    }
    if status == 200 && struck.has(Kind::Oversized) {
        body.splice(..0, std::iter::repeat_n(b' ', OVERSIZE));
    }
    let mut response = Response::builder().status(status);
    if !body.is_empty() {
        response = response.header(CONTENT_TYPE, content_type);
    }
    response.header(CONTENT_LENGTH, body.len()).body(Octets {
        // Wiped when the last part is sent.
        rest: Bytes::from_owner(body),
        drip: struck.get(Kind::Drip).map(|fault| interval(fault.delay)),
    })
}

fn spoil_keys(mut keys: Vec<QkdKey>, struck: &Struck) -> Vec<QkdKey> {
    if struck.has(Kind::MissingKey) {
        keys.pop();
    }
    let Some(first) = keys.first_mut() else {
        return keys;
    };
    if struck.has(Kind::ForeignIds) {
        first.id = KeyId::from_octets([0xee; 16]);
    }
    if struck.has(Kind::WrongSize)
        && let Some(shorter) = first.secret.leading(first.secret.len().saturating_sub(1))
    {
        first.secret = shorter;
    }
    if struck.has(Kind::DuplicateIds) {
        let (id, secret) = (first.id, first.secret.duplicate());
        if keys.len() == 1 {
            keys.push(QkdKey { id, secret });
        }
        for key in &mut keys {
            key.id = id;
        }
    }
    keys
}

/// A body sent at once or octet by octet.
struct Octets {
    rest: Bytes,
    drip: Option<Interval>,
}

impl Body for Octets {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let length = match &mut self.drip {
            None => self.rest.len(),
            Some(drip) => {
                ready!(drip.poll_tick(context));
                1
            }
        };
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
