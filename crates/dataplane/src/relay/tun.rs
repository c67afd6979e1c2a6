//! The TUN device of one PDU session at the UE.

use std::{
    io,
    net::{IpAddr, Ipv6Addr},
    os::fd::AsFd,
};

use ipnet::IpNet;
use tun_rs::{DeviceBuilder, SyncDevice};

use super::UeSession;
use crate::{
    Error,
    link::{Links, Route},
};

/// The link-local address with an interface identifier (RFC 4291, 2.5.6).
pub(super) fn link_local(interface_id: [u8; 8]) -> Ipv6Addr {
    let prefix = 0xfe80_u128 << 112;
    Ipv6Addr::from(prefix | u128::from(u64::from_be_bytes(interface_id)))
}

/// A device that is gone when dropped, with its address and routes.
pub(super) struct Tun(SyncDevice);

impl Tun {
    /// Makes the device of `session`: address, MTU, up, routes.
    pub(super) fn open(session: &UeSession) -> Result<Self, Error> {
        let name = &session.device;
        let failed = |what: &str, source| Error::io(format!("{what} TUN device {name}"), source);
        let device = DeviceBuilder::new()
            .name(name)
            .mtu(session.mtu)
            // A device that is up has a link-local address of the kernel's own making already.
            .enable(false)
            .build_sync()
            .map_err(|source| failed("making", source))?;
        device
            .set_nonblocking(true)
            .map_err(|source| failed("setting up", source))?;
        let index = device
            .if_index()
            .map_err(|source| failed("looking up", source))?;
        let mut links = Links::open()?;
        if let Some(address) = session.address {
            links.add_address(index, address.into())?;
        }
        if session.interface_id.is_some() {
            links.no_link_local(index)?;
        }
        links.set_up(index)?;
        if let Some(interface_id) = session.interface_id {
            // With it the kernel asks for a router, and makes addresses with the same identifier.
            links.add_address(index, link_local(interface_id).into())?;
        }
        for route in &session.routes {
            let source = match route {
                IpNet::V4(_) => session.address.map(IpAddr::V4),
                IpNet::V6(_) => None,
            };
            if source.is_some() || (route.addr().is_ipv6() && session.interface_id.is_some()) {
                links.add_route(&Route {
                    destination: *route,
                    via: None,
                    link: index,
                    source,
                    metric: 0,
                })?;
            }
        }
        Ok(Self(device))
    }

    /// Its number.
    pub(super) fn index(&self) -> Result<u32, Error> {
        let index = self.0.if_index();
        index.map_err(|source| Error::io("looking up a TUN device", source))
    }

    pub(super) fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// One packet, or `WouldBlock`.
    pub(super) fn receive(&self, room: &mut [u8]) -> io::Result<usize> {
        self.0.recv(room)
    }

    pub(super) fn send(&self, packet: &[u8]) -> io::Result<()> {
        self.0.send(packet).map(drop)
    }
}
