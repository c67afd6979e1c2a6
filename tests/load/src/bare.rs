//! The least that a request to a KME takes: the same octets over the same TLS, by a client that is one blocking
//! socket and nothing else. What is left then is the kernel, TLS and the KME.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use qkd::KmsConfig;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

/// Octets of the largest response.
const MAX_RESPONSE: usize = 256 << 10;

/// A connection that is kept open.
pub(crate) struct Bare {
    stream: StreamOwned<ClientConnection, TcpStream>,
    authority: String,
}

impl Bare {
    /// Connects to the first endpoint of a configuration.
    pub(crate) fn connect(config: &KmsConfig) -> Result<Self> {
        let url = config.endpoints.first().context("no endpoint")?;
        let authority = url
            .strip_prefix("https://")
            .and_then(|rest| rest.split('/').next())
            .context("the endpoint is no https URL")?
            .to_owned();
        let (host, _) = authority
            .rsplit_once(':')
            .context("an endpoint without port")?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned())?;
        let tls = Arc::new(qkd::tls_config(config)?);
        let socket = TcpStream::connect(&authority)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(config.timeout))?;
        Ok(Self {
            stream: StreamOwned::new(ClientConnection::new(tls, name)?, socket),
            authority,
        })
    }

    /// A POST and the body of its answer: one record out, and what comes in.
    pub(crate) fn post(&mut self, path: &str, body: &[u8]) -> Result<Vec<u8>> {
        let mut request = format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
             accept: application/json\r\ncontent-length: {}\r\n\r\n",
            self.authority,
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        self.stream.write_all(&request)?;
        let mut response = Vec::new();
        let mut part = [0; 16 << 10];
        loop {
            if let Some(from) = whole(&response)? {
                return Ok(response.split_off(from));
            }
            let count = self.stream.read(&mut part)?;
            ensure!(count > 0, "the KME hung up");
            response.extend_from_slice(part.get(..count).unwrap_or_default());
            ensure!(response.len() <= MAX_RESPONSE, "no end of the response");
        }
    }
}

/// Where the body begins, once all of it is there.
fn whole(response: &[u8]) -> Result<Option<usize>> {
    let Some(end) = response.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = String::from_utf8_lossy(response.get(..end).unwrap_or_default()).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        bail!("{status}");
    }
    let length: usize = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .context("no content-length")?;
    let body = end + 4;
    Ok((response.len() >= body + length).then_some(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_whole_when_its_body_is() {
        let response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        for length in 0..response.len() {
            assert_eq!(whole(&response[..length]).unwrap(), None, "{length}");
        }
        assert_eq!(whole(response).unwrap(), Some(response.len() - 2));
        assert!(whole(b"HTTP/1.1 503 no keys\r\ncontent-length: 0\r\n\r\n").is_err());
        assert!(whole(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
