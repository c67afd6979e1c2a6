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
/// Messages written at once at most.
const TOGETHER: usize = 64;
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
                let was_up = node
                    .info()
                    .send_if_modified(|info| std::mem::take(&mut info.up));
                if was_up {
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
    let (mut records, mut messages) = (Vec::new(), Vec::new());
    loop {
        // What has come together goes together: the keys of one request are one write.
        tokio::select! {
            1.. = queue.recv_many(&mut records, TOGETHER) => {
                let mut lines = Lines::default();
                for record in records.drain(..) {
                    let key = line(&Message::Key {
                        id: record.id,
                        key: Base64(Zeroizing::new(STANDARD.encode(record.secret.expose()))),
                        master: record.master,
                        slaves: record.slaves,
                    })?;
                    lines.add(&key);
                    // Remembered first: a broken connection must not lose it.
                    unacknowledged.push_back((record.id, key));
                }
                writer.write_all(lines.octets()).await?;
            }
            count = incoming.recv_many(&mut messages, TOGETHER) => {
                if count == 0 {
                    return (&mut reading).await.map_err(io::Error::other)?;
                }
                let mut lines = Lines::default();
                for message in messages.drain(..) {
                    match message {
                        Message::Key { id, key, master, slaves } => {
                            let octets = STANDARD.decode(&*key.0).map(Zeroizing::new).map_err(io::Error::other)?;
                            let secret = Secret::from_slice(&octets);
                            node.replicate(Record { id, secret, master, slaves });
                            lines.add(&line(&Message::Ack { id })?);
                        }
                        Message::Ack { id } => forget(unacknowledged, id),
                        Message::Ping {} => {}
                        Message::Hello { .. } => return Err(io::Error::other("a second hello")),
                    }
                }
                writer.write_all(lines.octets()).await?;
            }
            _ = ping.tick() => writer.write_all(&line(&Message::Ping {})?).await?,
        }
    }
}

/// They are acknowledged in order, so it is the first, unless a connection broke in between.
fn forget(unacknowledged: &mut VecDeque<(KeyId, Zeroizing<Vec<u8>>)>, id: KeyId) {
    if unacknowledged
        .front()
        .is_some_and(|(waiting, _)| *waiting == id)
    {
        unacknowledged.pop_front();
    } else {
        unacknowledged.retain(|(waiting, _)| *waiting != id);
    }
}

/// Lines to be written at once; grown without leaving key material behind.
#[derive(Default)]
struct Lines(Zeroizing<Vec<u8>>);

impl Lines {
    fn add(&mut self, line: &[u8]) {
        let needed = self.0.len() + line.len();
        if needed > self.0.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(needed.saturating_mul(2)));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
        self.0.extend_from_slice(line);
    }

    fn octets(&self) -> &[u8] {
        &self.0
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
    // Room for all of it, since growing would leave a copy of the key behind.
    let room = match message {
        Message::Key { key, slaves, .. } => 1024 + key.0.len() + 512 * slaves.len(),
        _ => 1024,
    };
    let mut text = Zeroizing::new(Vec::with_capacity(room));
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        config::{KmeConfig, LinkConfig, Offer},
        node::Peer,
    };

    /// The other end, played by the test.
    struct Other(BufReader<TcpStream>);

    impl Other {
        async fn meet(address: std::net::SocketAddr, hello: Value) -> Self {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream
                .write_all(format!("{hello}\n").as_bytes())
                .await
                .unwrap();
            Self(BufReader::new(stream))
        }

        /// The next message that is no ping; `None` when the connection ends.
        async fn next(&mut self) -> Option<Value> {
            loop {
                let mut text = String::new();
                let read = timeout(DEAD, self.0.read_line(&mut text)).await.unwrap();
                if read.unwrap_or(0) == 0 {
                    return None;
                }
                let message: Value = serde_json::from_str(&text).unwrap();
                if message.get("ping").is_none() {
                    return Some(message);
                }
            }
        }
    }

    fn record(n: u8) -> Record {
        Record {
            id: KeyId::from_octets([n; 16]),
            secret: Secret::from_slice(&[n; 32]),
            master: "m".parse().unwrap(),
            slaves: vec!["s".parse().unwrap()],
        }
    }

    #[tokio::test]
    async fn keys_are_sent_until_acknowledged() {
        let config = KmeConfig {
            id: "kme-a".into(),
            listen: "127.0.0.1:0".parse().unwrap(),
            ca: "".into(),
            certificate: "".into(),
            private_key: "".into(),
            saes: vec!["m".into()],
            offer: Offer::default(),
            faults: Vec::new(),
            journal: None,
        };
        let node = Node::new(&config, &LinkConfig::default());
        let listener = TcpListener::bind(config.listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, queue) = mpsc::unbounded_channel();
        node.connect(Peer::There(sender.clone()));
        tokio::spawn(run(node.clone(), Meeting::Listen(listener), queue));
        let hello = |kme: &str, version: u32| json!({"hello": {"version": version, "kme": kme, "saes": ["s"]}});

        // Neither another version nor this very end is the other end.
        for stranger in [
            hello("kme-b", 99),
            hello("kme-a", VERSION),
            json!({"ping": {}}),
        ] {
            let mut other = Other::meet(address, stranger).await;
            assert!(other.next().await.unwrap().get("hello").is_some());
            assert_eq!(other.next().await, None);
        }
        assert!(!node.status().link_up);

        // The first key is acknowledged, the second is not: it comes again, the first does not.
        let mut other = Other::meet(address, hello("kme-b", VERSION)).await;
        assert_eq!(other.next().await.unwrap()["hello"]["kme"], "kme-a");
        for n in [1, 2] {
            sender.send(record(n)).unwrap();
        }
        let first = other.next().await.unwrap();
        assert_eq!(first["key"]["id"], record(1).id.to_string());
        assert_eq!(first["key"]["slaves"], json!(["s"]));
        let second = other.next().await.unwrap();
        let ack = format!("{}\n", json!({"ack": {"id": record(1).id}}));
        other.0.get_mut().write_all(ack.as_bytes()).await.unwrap();
        // A key of ours is acknowledged, which also shows that the acknowledgement was read.
        let key = json!({"key": {"id": record(3).id, "key": STANDARD.encode([3; 32]), "master": "s", "slaves": ["m"]}});
        let key = format!("{key}\n");
        other.0.get_mut().write_all(key.as_bytes()).await.unwrap();
        assert_eq!(
            other.next().await,
            Some(json!({"ack": {"id": record(3).id}}))
        );
        assert_eq!(node.counters().stored, 1);
        drop(other);

        let mut other = Other::meet(address, hello("kme-b", VERSION)).await;
        assert!(other.next().await.unwrap().get("hello").is_some());
        assert_eq!(other.next().await, Some(second));
        // Our key again: acknowledged, and kept once.
        other.0.get_mut().write_all(key.as_bytes()).await.unwrap();
        assert!(other.next().await.unwrap().get("ack").is_some());
        assert_eq!(node.counters().stored, 1);
        // Nonsense ends the connection.
        other.0.get_mut().write_all(b"{]\n").await.unwrap();
        assert_eq!(other.next().await, None);
    }
}
