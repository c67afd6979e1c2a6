//! The TUN device of one PDU session at the UE.

use std::{io, os::fd::AsFd};

use tun_rs::{DeviceBuilder, SyncDevice};

use super::UeSession;
use crate::{
    Error,
    link::{Links, Route},
};

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
            .build_sync()
            .map_err(|source| failed("making", source))?;
        device
            .set_nonblocking(true)
            .map_err(|source| failed("setting up", source))?;
        let index = device
            .if_index()
            .map_err(|source| failed("looking up", source))?;
        let mut links = Links::open()?;
        links.add_address(index, session.address.into())?;
        links.set_up(index)?;
        for route in &session.routes {
            links.add_route(&Route {
                destination: (*route).into(),
                via: None,
                link: index,
                source: Some(session.address.into()),
                metric: 0,
            })?;
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
