//! What happens, as JSON lines; and what the wire shows without keys.

use std::io::Write;

use ike::wire::{self, Body, ExchangeType, NotifyType, find_notify};
use serde::{Deserialize, Serialize};

/// One line of output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "event",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum Line {
    /// Sockets are bound.
    Ready,
    /// All AUTH payloads are good.
    Established {
        /// IKE SA.
        sa: u64,
        /// Whether this side began it.
        initiator: bool,
        /// Algorithms of the IKE SA.
        suite: String,
    },
    /// A Child SA is installed and agreed.
    ChildUp {
        /// Child SA.
        child: u64,
        /// Algorithms.
        suite: String,
        /// Whether ESP is in UDP.
        udp: bool,
    },
    /// A Child SA did not come up.
    ChildFailed {
        /// Why.
        reason: String,
    },
    /// A rekeyed Child SA carries the packets.
    ChildSwitched {
        /// The old one.
        from: u64,
        /// The new one.
        to: u64,
    },
    /// A Child SA is gone.
    ChildDown {
        /// Child SA.
        child: u64,
    },
    /// A rekey failed.
    RekeyFailed {
        /// Of what, and why.
        reason: String,
    },
    /// The IKE SA has new keys.
    IkeRekeyed {
        /// The new SPI of the initiator.
        spi_i: String,
    },
    /// One end has moved, and the Child SA with it.
    PathChanged {
        /// Where this end is now.
        local: String,
        /// Where the other end is now.
        remote: String,
    },
    /// An IKE SA has ended.
    Closed {
        /// IKE SA.
        sa: u64,
        /// Why.
        reason: String,
    },
    /// A command made no sense, or could not be carried out.
    Error {
        /// What.
        text: String,
    },
    /// Answer to `status`.
    Status {
        /// Established IKE SAs.
        established: usize,
        /// Their Child SAs that are up.
        children: usize,
        /// What the wire showed.
        seen: Seen,
    },
}

/// What datagrams showed that needs no key, in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seen {
    /// IKE_SA_INIT messages with a COOKIE.
    pub cookies: usize,
    /// Encrypted Fragment payloads that arrived.
    pub fragments_in: usize,
    /// Encrypted Fragment payloads that were sent.
    pub fragments_out: usize,
    /// Messages on port 4500.
    pub on_nat_port: usize,
    /// IKE_INTERMEDIATE messages.
    pub intermediate: usize,
    /// IKE_FOLLOWUP_KE messages.
    pub followup: usize,
    /// IKE_SA_INIT messages with USE_PPK.
    pub ppk: usize,
}

impl Seen {
    pub(crate) fn note(&mut self, port: u16, datagram: &[u8], sent: bool) {
        let message = match port {
            4500 => match datagram.strip_prefix(&[0; 4]) {
                Some(message) => message,
                None => return,
            },
            _ => datagram,
        };
        let Ok(parsed) = wire::parse(message) else {
            return;
        };
        self.on_nat_port += usize::from(port == 4500);
        let intermediate = parsed.header.exchange == ExchangeType::IkeIntermediate;
        self.intermediate += usize::from(intermediate);
        let followup = parsed.header.exchange == ExchangeType::IkeFollowupKe;
        self.followup += usize::from(followup);
        match parsed.body {
            Body::Clear(payloads) => {
                let has = |kind| usize::from(find_notify(&payloads, kind).is_some());
                self.cookies += has(NotifyType::COOKIE);
                self.ppk += has(NotifyType::USE_PPK);
            }
            Body::Encrypted {
                fragment: Some(_), ..
            } if sent => self.fragments_out += 1,
            Body::Encrypted {
                fragment: Some(_), ..
            } => self.fragments_in += 1,
            Body::Encrypted { .. } => {}
        }
    }
}

/// Writes a line; nobody there to read it is no reason to stop.
pub(crate) fn say(line: &Line) {
    if let Ok(text) = serde_json::to_string(line) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{text}");
        let _ = out.flush();
    }
}
