//! The least that any answer takes of one who slept: an octet over TCP on loopback to a thread that waits for it, and
//! back. There is no TLS in it, no HTTP, no KME and no other process.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use bench::records::{ECHO, Keys};
use bench::stats::Summary;

/// Asks `requests` times, each after a pause in which both ends sleep.
///
/// # Errors
/// When a socket of loopback fails.
pub fn measure(requests: usize, pause: Duration) -> Result<Keys> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let answers = thread::spawn(move || -> Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut octet = [0];
        while stream.read(&mut octet)? == 1 {
            stream.write_all(&octet)?;
        }
        Ok(())
    });
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut took = Vec::with_capacity(requests);
    for _ in 0..requests {
        thread::sleep(pause);
        let begun = Instant::now();
        let mut octet = [1];
        stream.write_all(&octet)?;
        stream.read_exact(&mut octet)?;
        took.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    drop(stream);
    let ended = answers.join();
    ended.map_err(|_| anyhow!("the thread that answers panicked"))??;
    let summary = Summary::of(took.iter().copied());
    Ok(Keys {
        call: ECHO.to_owned(),
        warm: true,
        pause_ms: u64::try_from(pause.as_millis())?,
        bare: true,
        keys: 0,
        requests: took.len(),
        failed: 0,
        latency_us: [summary.median, summary.p95, summary.mean],
        per_second: 0.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_octet_comes_back() {
        let echo = measure(3, Duration::from_millis(1)).unwrap();
        assert_eq!((echo.requests, echo.failed, echo.pause_ms), (3, 0, 1));
        assert!(echo.latency_us.iter().all(|took| *took > 0.0));
    }
}
