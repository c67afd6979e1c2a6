//! The link between two KMEs in two processes: one JSON message per line over TCP.
//!
//! It stands for the QKD link and the key management beneath it. Keys cross it in clear, so it
//! belongs on a network that only the two KMEs have.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use keys::{KeyId, SaeId, Secret};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf},
    sync::mpsc,
    time::{interval, sleep, timeout},
};
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::{
    config::PeerConfig,
    node::{Node, PeerInfo},
    store::Record,
};

const VERSION: u32 = 1;
/// Longest message in octets.
const MAX_LINE: u64 = 64 << 10;
/// Pause before connecting again.
const AGAIN: Duration = Duration::from_millis(200);
/// How often an end says that it is there, and how long the other believes it.
const PING: Duration = Duration::from_secs(1);
const DEAD: Duration = Duration::from_secs(5);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Message {
    Hello {
        version: u32,
        kme: String,
        saes: Vec<String>,
    },
    Key {
        id: KeyId,
        key: Base64,
        master: SaeId,
        slaves: Vec<SaeId>,
    },
    /// The key arrived; it need not be sent again.
    Ack {
        id: KeyId,
    },
    Ping {},
}

/// A key on its way, wiped when sent or read.
struct Base64(Zeroizing<String>);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Zeroizing::new(String::deserialize(deserializer)?)))
    }
}

/// How the two ends meet.
pub(crate) enum Meeting {
    Listen(TcpListener),
    Connect(std::net::SocketAddr),
}

impl Meeting {
    pub(crate) async fn new(config: PeerConfig) -> io::Result<Self> {
        Ok(match config {
            PeerConfig::Listen(address) => Self::Listen(TcpListener::bind(address).await?),
            PeerConfig::Connect(address) => Self::Connect(address),
        })
    }

    async fn meet(&self) -> io::Result<TcpStream> {
        match self {
            Self::Listen(listener) => Ok(listener.accept().await?.0),
            Self::Connect(address) => timeout(DEAD, TcpStream::connect(address))
                .await
                .map_err(io::Error::other)?,
        }
    }
}

/// Keeps the link up until dropped. Keys the other end has not acknowledged are sent again after
/// a break, and the other end knows those it has seen.
pub(crate) async fn run(
    node: Arc<Node>,
    meeting: Meeting,
    mut queue: mpsc::UnboundedReceiver<Record>,
) {
    let mut unacknowledged: VecDeque<(KeyId, Zeroizing<Vec<u8>>)> = VecDeque::new();
    loop {
        match meeting.meet().await {
            Ok(stream) => {
                let end = session(&node, stream, &mut queue, &mut unacknowledged).await;
                let was_up = node.info().send_replace(PeerInfo {
                    up: false,
                    ..node.info().borrow().clone()
                });
                if was_up.up {
                    warn!(kme = node.id(), reason = %reason(end), "QKD link down");
                }
            }
            Err(_) => sleep(AGAIN).await,
        }
    }
}

fn reason(end: io::Result<()>) -> String {
    end.err()
        .map_or_else(|| "closed".into(), |error| error.to_string())
}

/// One connection from hello to its end.
async fn session(
    node: &Node,
    stream: TcpStream,
    queue: &mut mpsc::UnboundedReceiver<Record>,
    unacknowledged: &mut VecDeque<(KeyId, Zeroizing<Vec<u8>>)>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (reader, mut writer) = stream.into_split();
    let hello = Message::Hello {
        version: VERSION,
        kme: node.id().to_owned(),
        saes: node.saes().to_vec(),
    };
    writer.write_all(&line(&hello)?).await?;

    // Reading a line cannot be interrupted half-way, so it has a task of its own.
    let (messages, mut incoming) = mpsc::channel(64);
    let mut reading = tokio::spawn(read(reader, messages));
    let _stop = Abort(reading.abort_handle());

    match incoming.recv().await {
        Some(Message::Hello {
            version: VERSION,
            kme,
            saes,
        }) if kme != node.id() => {
            info!(kme = node.id(), peer = kme, "QKD link up");
            node.info().send_replace(PeerInfo {
                id: Some(kme),
                saes,
                up: true,
            });
        }
        Some(_) => return Err(io::Error::other("not the other end of this link")),
        None => return reading.await.map_err(io::Error::other)?,
    }
    for (_, key) in unacknowledged.iter() {
        writer.write_all(key).await?;
    }
    let mut ping = interval(PING);
    loop {
        tokio::select! {
            Some(record) = queue.recv() => {
                let key = line(&Message::Key {
                    id: record.id,
                    key: Base64(Zeroizing::new(STANDARD.encode(record.secret.expose()))),
                    master: record.master,
                    slaves: record.slaves,
                })?;
                // Remembered first: a broken connection must not lose it.
                unacknowledged.push_back((record.id, key.clone()));
                writer.write_all(&key).await?;
            }
            message = incoming.recv() => match message {
                Some(Message::Key { id, key, master, slaves }) => {
                    let octets = STANDARD.decode(&*key.0).map(Zeroizing::new).map_err(io::Error::other)?;
                    let secret = Secret::from_slice(&octets);
                    node.replicate(Record { id, secret, master, slaves });
                    writer.write_all(&line(&Message::Ack { id })?).await?;
                }
                Some(Message::Ack { id }) => unacknowledged.retain(|(waiting, _)| *waiting != id),
                Some(Message::Ping {}) => {}
                Some(Message::Hello { .. }) => return Err(io::Error::other("a second hello")),
                None => return (&mut reading).await.map_err(io::Error::other)?,
            },
            _ = ping.tick() => writer.write_all(&line(&Message::Ping {})?).await?,
        }
    }
}

async fn read(reader: OwnedReadHalf, messages: mpsc::Sender<Message>) -> io::Result<()> {
    let mut reader = BufReader::new(reader);
    loop {
        let mut text = Zeroizing::new(Vec::with_capacity(4096));
        let mut limited = (&mut reader).take(MAX_LINE);
        timeout(DEAD, limited.read_until(b'\n', &mut text))
            .await
            .map_err(|_| io::Error::other("silence"))??;
        if text.last() != Some(&b'\n') {
            return Ok(());
        }
        let message = serde_json::from_slice(&text).map_err(|_| io::Error::other("no message"))?;
        if messages.send(message).await.is_err() {
            return Ok(());
        }
    }
}

fn line(message: &Message) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(Vec::with_capacity(16 << 10));
    serde_json::to_writer(&mut *text, message)?;
    text.push(b'\n');
    Ok(text)
}

/// Ends the reading task with the session.
struct Abort(tokio::task::AbortHandle);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}
