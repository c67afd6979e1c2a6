//! NAS over TCP inside the signalling Child SAs (TS 24.502, 8.2 and 9.4).

use std::{collections::HashMap, io, net::SocketAddr, pin::pin, time::Duration};

use nwu::{EnvelopeReader, nas_envelope};
use tokio::{
    io::AsyncWriteExt,
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};
use tracing::{debug, warn};

use super::Input;
use crate::core::NasLink;

/// NAS messages that wait for a UE to take them.
const QUEUE: usize = 64;
/// How long a UE may take to make room for one message: longer than a handover, and the most that
/// a connection lives on that a UE acknowledges and does not read.
const TAKING: Duration = Duration::from_secs(30);
/// Connections at one time.
const MAX_LINKS: usize = 65_536;

pub(super) struct Nas {
    links: HashMap<NasLink, mpsc::Sender<Vec<u8>>>,
    listener: JoinHandle<()>,
}

impl Nas {
    /// Listens on our inner address, and with `device` on nothing but the tunnels.
    pub(super) fn listen(
        address: SocketAddr,
        device: Option<&str>,
        inputs: mpsc::Sender<Input>,
    ) -> io::Result<Self> {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::STREAM,
            None,
        )?;
        socket.set_nonblocking(true)?;
        socket.set_reuse_address(true)?;
        socket.bind_device(device.map(str::as_bytes))?;
        socket.bind(&address.into())?;
        socket.listen(1024)?;
        let listener = TcpListener::from_std(socket.into())?;
        Ok(Self {
            links: HashMap::new(),
            listener: tokio::spawn(accept(listener, inputs)),
        })
    }

    /// A connection was accepted: what is sent on it goes to `writer`.
    pub(super) fn opened(&mut self, link: NasLink, writer: mpsc::Sender<Vec<u8>>) {
        if self.links.len() < MAX_LINKS {
            self.links.insert(link, writer);
        }
    }

    /// Queues a NAS message in its envelope.
    pub(super) fn send(&mut self, link: NasLink, message: &[u8]) {
        let Some(writer) = self.links.get(&link) else {
            return;
        };
        match nas_envelope::wrap(message) {
            Ok(envelope) => {
                if writer.try_send(envelope).is_err() {
                    // Messages in order or none: a UE that reads nothing loses its connection.
                    warn!(link = link.0, "the UE takes no NAS");
                    self.links.remove(&link);
                }
            }
            Err(error) => warn!(%error, "NAS message"),
        }
    }

    /// Closes a connection after what is queued.
    pub(super) fn close(&mut self, link: NasLink) {
        self.links.remove(&link);
    }
}

impl Drop for Nas {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

async fn accept(listener: TcpListener, inputs: mpsc::Sender<Input>) {
    let mut number = 0;
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "NAS: accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        number += 1;
        let link = NasLink(number);
        if let Err(error) = prepare(&stream) {
            debug!(%error, "NAS: socket options");
        }
        let (reader, writer) = stream.into_split();
        let (queue, waiting) = mpsc::channel(QUEUE);
        let connected = Input::NasConnected {
            link,
            from: peer.ip().to_canonical(),
            writer: queue,
        };
        if inputs.send(connected).await.is_err() {
            return;
        }
        tokio::spawn(serve(link, reader, writer, waiting, inputs.clone()));
    }
}

/// Serves a connection until the UE ends it, or we do: then what is queued is written, and the
/// socket is closed whatever the UE does. A UE cannot keep more of them than it has the use of.
async fn serve(
    link: NasLink,
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    waiting: mpsc::Receiver<Vec<u8>>,
    inputs: mpsc::Sender<Input>,
) {
    let mut writing = pin!(write(writer, waiting));
    let ended_by_ue = tokio::select! {
        () = &mut writing => false,
        result = read(link, reader, &inputs) => {
            if let Err(error) = result {
                debug!(link = link.0, %error, "NAS connection");
            }
            true
        }
    };
    drop(inputs.send(Input::NasClosed { link }).await);
    if ended_by_ue {
        writing.await;
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(120))
        .with_interval(Duration::from_secs(30));
    socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// One write per envelope: some UEs take what one read returns for one message.
async fn write(mut writer: OwnedWriteHalf, mut waiting: mpsc::Receiver<Vec<u8>>) {
    while let Some(envelope) = waiting.recv().await {
        match timeout(TAKING, writer.write_all(&envelope)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                debug!(%error, "NAS: write");
                return;
            }
            Err(_) => {
                debug!("NAS: the UE takes nothing");
                return;
            }
        }
    }
    drop(writer.shutdown().await);
}

async fn read(
    link: NasLink,
    reader: OwnedReadHalf,
    inputs: &mpsc::Sender<Input>,
) -> io::Result<()> {
    let mut envelopes = EnvelopeReader::new();
    loop {
        reader.readable().await?;
        match take(&reader, &mut envelopes) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        loop {
            match envelopes.next_message() {
                Ok(Some(message)) => {
                    // Waits when the daemon is behind: TCP then slows the UE down.
                    if inputs.send(Input::Nas { link, message }).await.is_err() {
                        return Ok(());
                    }
                }
                Ok(None) => break,
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
    }
}

/// What there is to read, by way of the stack: a connection is idle most of its life, and a buffer of
/// its own would be the largest thing a UE has here.
fn take(reader: &OwnedReadHalf, envelopes: &mut EnvelopeReader) -> io::Result<usize> {
    let mut buffer = [0; 4096];
    let length = reader.try_read(&mut buffer)?;
    envelopes.push(buffer.get(..length).unwrap_or_default());
    Ok(length)
}
