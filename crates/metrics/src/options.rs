//! The `metrics:` section of a configuration file.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Where the page is served, and what may be on it. Without the section nothing listens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Options {
    /// Address and port; the daemon's own port on 127.0.0.1 when absent. The page has neither TLS
    /// nor a password: whoever reaches the address reads it.
    pub listen: Option<SocketAddr>,
    /// Whether series carry the peer's SAE ID. At an N3IWF that is an identity of a subscriber.
    pub peer_sae: bool,
}

impl Options {
    /// Where to listen, given the daemon's own port.
    pub fn address(&self, port: u16) -> SocketAddr {
        self.listen
            .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], port)))
    }
}
