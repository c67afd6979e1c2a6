use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use crate::NGAP_PORT;

/// Where an NGAP peer is, or where a listener waits for one.
///
/// Text forms: `sctp:IP:PORT`, `IP:PORT`, `IP` (port 38412; IPv6 addresses in
/// brackets when a port follows), and `unix:/path`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Deserialize, serde::Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum Address {
    /// An SCTP endpoint of one IP address.
    Sctp(SocketAddr),
    /// A Unix `SOCK_SEQPACKET` socket.
    Unix(PathBuf),
}

/// A text that is no [`Address`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no NGAP address: expected `sctp:IP:PORT`, `IP:PORT`, `IP` or `unix:/path`")]
pub struct AddressError {
    text: String,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = || AddressError {
            text: text.to_owned(),
        };
        if let Some(path) = text.strip_prefix("unix:") {
            // A relative path would depend on the directory a daemon starts in.
            return if path.starts_with('/') && !path.contains('\0') {
                Ok(Self::Unix(PathBuf::from(path)))
            } else {
                Err(error())
            };
        }
        let rest = text.strip_prefix("sctp:").unwrap_or(text);
        if let Ok(address) = rest.parse::<SocketAddr>() {
            // `sctp:IP:0` asks the kernel for a port, which tests need.
            return if address.port() != 0 || text.starts_with("sctp:") {
                Ok(Self::Sctp(address))
            } else {
                Err(error())
            };
        }
        let bare = rest
            .strip_prefix('[')
            .and_then(|r| r.strip_suffix(']'))
            .unwrap_or(rest);
        bare.parse::<IpAddr>()
            .map(|ip| Self::Sctp(SocketAddr::new(ip, NGAP_PORT)))
            .map_err(|_| error())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sctp(address) => write!(f, "sctp:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}
