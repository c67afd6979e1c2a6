//! Paths on N3 that are narrower than its MTU: over IPv6 nobody fragments on the way (RFC 8201).
//!
//! ICMPv6 "packet too big" comes to the kernel, which finds the GTP-U socket for it and remembers the
//! path, whoever sent the packet: the relay or a program. Here it is asked for what it knows.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
    time::{Duration, Instant},
};

use tracing::{debug, info};

use crate::sys::path_mtu;

/// How often the kernel is asked.
const EVERY: Duration = Duration::from_secs(1);

/// The paths to UPFs.
#[derive(Debug)]
pub(super) struct Paths {
    mtu: u16,
    /// Of those that are narrower.
    narrow: BTreeMap<IpAddr, u16>,
    due: Option<Instant>,
}

impl Paths {
    /// `mtu`: that of N3.
    pub(super) fn new(mtu: u16) -> Self {
        Self {
            mtu,
            narrow: BTreeMap::new(),
            due: None,
        }
    }

    /// Path MTU to a UPF, octets.
    pub(super) fn mtu(&self, upf: IpAddr) -> u16 {
        self.narrow.get(&upf).copied().unwrap_or(self.mtu)
    }

    /// Whether it is time for [`Self::ask`].
    pub(super) fn is_due(&self) -> bool {
        self.due.is_none_or(|due| Instant::now() >= due)
    }

    /// Asks the kernel for the paths from `ours` to each of `upfs`.
    pub(super) fn ask(&mut self, ours: SocketAddr, upfs: impl IntoIterator<Item = IpAddr>) {
        self.due = Some(Instant::now() + EVERY);
        let SocketAddr::V6(ours) = ours else {
            // Routers fragment: our packets over IPv4 have no DF.
            return;
        };
        let mut narrow = BTreeMap::new();
        for upf in upfs {
            let IpAddr::V6(to) = upf else { continue };
            match path_mtu(ours, at_port(to)) {
                Ok(mtu) if mtu < self.mtu => {
                    narrow.insert(upf, mtu);
                }
                Ok(_) => {}
                // Without a route the packets will say so themselves.
                Err(error) => debug!(%upf, %error, "path MTU"),
            }
        }
        if self.narrow != narrow {
            info!(
                ?narrow,
                mtu = self.mtu,
                "paths on N3 that are narrower than N3"
            );
            self.narrow = narrow;
        }
    }
}

fn at_port(to: Ipv6Addr) -> SocketAddrV6 {
    SocketAddrV6::new(to, gtpu::PORT, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_as_wide_as_n3_unless_the_kernel_knows_better() {
        let upf = IpAddr::V6(Ipv6Addr::LOCALHOST);
        // The loopback interface is wider than any N3.
        let mut paths = Paths::new(1500);
        assert!(paths.is_due());
        let ours = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
        paths.ask(ours, [upf]);
        assert_eq!(paths.mtu(upf), 1500);
        assert!(!paths.is_due());
        paths.narrow.insert(upf, 1400);
        assert_eq!(paths.mtu(upf), 1400);
        assert_eq!(paths.mtu(IpAddr::V6(Ipv6Addr::UNSPECIFIED)), 1500);
    }
}
