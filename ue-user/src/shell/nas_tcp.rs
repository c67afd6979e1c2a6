//! NAS over TCP inside the signalling Child SA (TS 24.502, 8.2).

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};

use super::Happened;

/// Time for the three-way handshake.
const CONNECT: Duration = Duration::from_secs(2);
const READ_BUFFER: usize = 16 * 1024;

/// One connection, from its attempt to its end.
pub(super) struct NasConnection {
    task: JoinHandle<()>,
    writer: mpsc::UnboundedSender<Vec<u8>>,
}

impl NasConnection {
    /// Connects from the inner address; what happens is told to `events` under `token`.
    pub(super) fn open(
        local: IpAddr,
        remote: SocketAddr,
        token: u64,
        events: mpsc::UnboundedSender<Happened>,
    ) -> Self {
        let (writer, outgoing) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let why = match connect(local, remote).await {
                Ok(stream) => {
                    drop(events.send(Happened::NasConnected { token }));
                    serve(stream, token, outgoing, &events).await
                }
                Err(error) => format!("{remote}: {error}"),
            };
            drop(events.send(Happened::NasClosed { token, why }));
        });
        Self { task, writer }
    }

    /// Queues octets for one write.
    pub(super) fn send(&self, octets: Vec<u8>) {
        // A connection that has ended reports so itself.
        drop(self.writer.send(octets));
    }
}

impl Drop for NasConnection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connect(local: IpAddr, remote: SocketAddr) -> io::Result<TcpStream> {
    let socket = if local.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.bind(SocketAddr::new(local, 0))?;
    let stream = timeout(CONNECT, socket.connect(remote))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Reads and writes until either end is done; gives the reason.
async fn serve(
    stream: TcpStream,
    token: u64,
    mut outgoing: mpsc::UnboundedReceiver<Vec<u8>>,
    events: &mpsc::UnboundedSender<Happened>,
) -> String {
    let (mut reader, mut writer): (OwnedReadHalf, OwnedWriteHalf) = stream.into_split();
    let mut buffer = vec![0; READ_BUFFER];
    loop {
        tokio::select! {
            read = reader.read(&mut buffer) => match read {
                Ok(0) => return "closed by the N3IWF".to_owned(),
                Ok(length) => {
                    let octets = buffer.get(..length).unwrap_or_default().to_vec();
                    drop(events.send(Happened::NasOctets { token, octets }));
                }
                Err(error) => return error.to_string(),
            },
            octets = outgoing.recv() => match octets {
                Some(octets) => {
                    if let Err(error) = writer.write_all(&octets).await {
                        return error.to_string();
                    }
                }
                None => return "closed here".to_owned(),
            },
        }
    }
}
