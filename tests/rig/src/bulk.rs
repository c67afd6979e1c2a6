//! Bulk TCP transfers with every octet compared: both ends generate the same stream, so that a
//! lost, doubled, reordered or changed octet shows, and where.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage};

use crate::netns::Netns;

/// Writes of this size give the kernel large segments to work with.
const CHUNK: usize = 64 * 1024;
/// A transfer that makes no progress for this long has failed.
const STALL: Duration = Duration::from_secs(30);

/// A reproducible stream of octets (xorshift64*).
#[derive(Clone, Debug)]
struct Stream {
    state: u64,
}

impl Stream {
    fn new(seed: u64) -> Self {
        Self { state: seed | 1 }
    }

    /// The next octets, a multiple of 8 of them.
    fn fill(&mut self, buffer: &mut [u8]) {
        for word in buffer.chunks_mut(8) {
            self.state ^= self.state >> 12;
            self.state ^= self.state << 25;
            self.state ^= self.state >> 27;
            let value = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
            for (octet, from) in word.iter_mut().zip(value) {
                *octet = from;
            }
        }
    }
}

/// How a transfer went.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// Octets carried and compared.
    pub octets: u64,
    /// From the first octet sent to the last one compared.
    pub time: Duration,
}

impl Transfer {
    /// Mebibytes per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        // Exact to 53 bits, which is more than is shown.
        #[expect(clippy::cast_precision_loss, reason = "for display")]
        let octets = self.octets as f64;
        octets / 1_048_576.0 / self.time.as_secs_f64().max(1e-9)
    }
}

/// Which way the octets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client (the UE) to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// Carries `octets` (rounded up to whole chunks) over one TCP connection between two namespaces:
/// the client binds `source` and connects to `server_address`.
///
/// # Errors
/// When the connection fails or stalls, or any octet differs.
pub fn transfer(
    client: &Netns,
    source: IpAddr,
    server: &Netns,
    server_address: IpAddr,
    direction: Direction,
    octets: u64,
) -> Result<Transfer> {
    let chunks = octets.div_ceil(CHUNK as u64);
    let listener = server
        .run(|| TcpListener::bind(SocketAddr::new(server_address, 0)).context("cannot listen"))?;
    let target = listener.local_addr()?;
    let given_up = AtomicBool::new(false);
    let given_up = &given_up;
    thread::scope(|scope| {
        let far = scope.spawn(move || -> Result<()> {
            let mut stream = accept(&listener, given_up)?;
            match direction {
                Direction::Up => receive(&mut stream, chunks),
                Direction::Down => send(&mut stream, chunks),
            }
        });
        let near = client.run(|| {
            let mut stream = connect(source, target)
                .with_context(|| format!("cannot connect {source} to {target}"))?;
            let begun = Instant::now();
            match direction {
                Direction::Up => send(&mut stream, chunks)?,
                Direction::Down => receive(&mut stream, chunks)?,
            }
            Ok(begun.elapsed())
        });
        given_up.store(near.is_err(), Ordering::SeqCst);
        let far = far
            .join()
            .map_err(|_| anyhow!("the server's end panicked"))?;
        let time = near?;
        far?;
        Ok(Transfer {
            octets: chunks * CHUNK as u64,
            time,
        })
    })
}

/// Waits for one connection, not forever.
fn accept(listener: &TcpListener, given_up: &AtomicBool) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let deadline = Instant::now() + STALL;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                limit(&stream)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if given_up.load(Ordering::SeqCst) {
                    bail!("the client gave up");
                }
                if Instant::now() > deadline {
                    bail!("nobody connected within {} s", STALL.as_secs());
                }
                thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn limit(stream: &TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(STALL))?;
    stream.set_write_timeout(Some(STALL))?;
    Ok(())
}

/// Connects from a given source address: the PDU session's, not the one of the route.
fn connect(source: IpAddr, target: SocketAddr) -> Result<TcpStream> {
    let family = match target {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let fd = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let stream = TcpStream::from(fd);
    limit(&stream)?;
    let bind = SockaddrStorage::from(SocketAddr::new(source, 0));
    socket::bind(std::os::fd::AsRawFd::as_raw_fd(&stream), &bind)
        .with_context(|| format!("the address {source} is not there"))?;
    // The write timeout set above bounds connect() too.
    socket::connect(
        std::os::fd::AsRawFd::as_raw_fd(&stream),
        &SockaddrStorage::from(target),
    )?;
    Ok(stream)
}

fn send(stream: &mut TcpStream, chunks: u64) -> Result<()> {
    let mut source = Stream::new(chunks);
    let mut buffer = vec![0; CHUNK];
    for _ in 0..chunks {
        source.fill(&mut buffer);
        stream.write_all(&buffer).context("sending stalled")?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    // The receiver says that all was well: only then is the transfer over.
    let mut verdict = [0; 1];
    stream
        .read_exact(&mut verdict)
        .context("the receiver gave up")?;
    Ok(())
}

fn receive(stream: &mut TcpStream, chunks: u64) -> Result<()> {
    let mut source = Stream::new(chunks);
    let mut expected = vec![0; CHUNK];
    let mut buffer = vec![0; CHUNK];
    for chunk in 0..chunks {
        source.fill(&mut expected);
        stream
            .read_exact(&mut buffer)
            .with_context(|| format!("after {} octets", chunk * CHUNK as u64))?;
        if let Some(at) = buffer
            .iter()
            .zip(&expected)
            .position(|(got, want)| got != want)
        {
            bail!("octet {} differs", chunk * CHUNK as u64 + at as u64);
        }
    }
    if stream.read(&mut buffer)? != 0 {
        bail!("octets beyond the end");
    }
    stream.write_all(&[1])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        (near, far)
    }

    #[test]
    fn what_is_sent_is_recognised() {
        let (mut near, mut far) = pair();
        let sender = thread::spawn(move || send(&mut near, 3));
        receive(&mut far, 3).unwrap();
        sender.join().unwrap().unwrap();
    }

    #[test]
    fn a_changed_octet_is_found() {
        let (mut near, mut far) = pair();
        let sender = thread::spawn(move || {
            let mut data = vec![0; CHUNK];
            Stream::new(1).fill(&mut data);
            data[77] ^= 1;
            near.write_all(&data).unwrap();
            near
        });
        let error = receive(&mut far, 1).unwrap_err();
        assert_eq!(error.to_string(), "octet 77 differs");
        drop(sender.join().unwrap());
    }

    #[test]
    fn a_short_transfer_is_found() {
        let (mut near, mut far) = pair();
        near.write_all(&[0; 100]).unwrap();
        drop(near);
        assert!(
            receive(&mut far, 1)
                .unwrap_err()
                .to_string()
                .contains("after 0 octets")
        );
    }
}
