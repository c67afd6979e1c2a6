//! NAS over TCP of one UE.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::fleet::{Happened, What};

/// A connection, from its attempt to its end.
pub(crate) struct Connection {
    task: JoinHandle<()>,
    writer: mpsc::UnboundedSender<Vec<u8>>,
}

impl Connection {
    /// Connects from the inner address of UE `ue`, which need not be an address of an interface:
    /// a local route covers all of them.
    pub(crate) fn open(
        ue: usize,
        local: IpAddr,
        remote: SocketAddr,
        token: u64,
        events: mpsc::UnboundedSender<Happened>,
    ) -> Self {
        let (writer, outgoing) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let tell = |what| drop(events.send(Happened { ue, what }));
            let outcome = match connect(local, remote).await {
                Ok(stream) => {
                    tell(What::NasConnected { token });
                    serve(stream, outgoing, |octets| {
                        tell(What::Nas { token, octets });
                    })
                    .await
                }
                Err(error) => Err(error),
            };
            let why = match outcome {
                Ok(()) => "closed".to_owned(),
                Err(error) => format!("{remote}: {error}"),
            };
            tell(What::NasClosed { token, why });
        });
        Self { task, writer }
    }

    /// Queues octets for one write.
    pub(crate) fn send(&self, octets: Vec<u8>) {
        // A connection that has ended says so itself.
        drop(self.writer.send(octets));
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connect(local: IpAddr, remote: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(local, 0))?;
    let stream = socket.connect(remote).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn serve(
    mut stream: TcpStream,
    mut outgoing: mpsc::UnboundedReceiver<Vec<u8>>,
    mut received: impl FnMut(Vec<u8>),
) -> io::Result<()> {
    let (mut reader, mut writer) = stream.split();
    let mut buffer = vec![0; 2048];
    loop {
        tokio::select! {
            read = reader.read(&mut buffer) => match read? {
                0 => return Ok(()),
                length => received(buffer.get(..length).unwrap_or_default().to_vec()),
            },
            octets = outgoing.recv() => match octets {
                Some(octets) => writer.write_all(&octets).await?,
                None => return Ok(()),
            },
        }
    }
}
