//! A UE whose PDU session its programs serve, or user space, and an N3IWF whose relay is in user space.

use std::{
    net::{IpAddr, UdpSocket},
    time::Duration,
};

use dataplane::relay::{
    AccessRelay, Component, GtpRelay, TunRelay, UeRelay, UeSession, UplinkRule,
};

use crate::{
    support::{Space, internet::seal, object},
    world::{self, HOST, PDU_ADDRESS, TUNNEL, World, session},
};

/// The flow that is not the default one.
pub(crate) const OTHER: u8 = 10;
/// The port of the UE's sockets.
pub(crate) const PORT: u16 = 8001;

pub(crate) fn rule(precedence: u8, qfi: u8, filter: Vec<Component>) -> UplinkRule {
    UplinkRule {
        precedence,
        qfi,
        filters: vec![filter],
    }
}

pub(crate) fn attach(world: &World, session: UeSession, programs: bool) -> TunRelay {
    world.ue.run(|| {
        let relay = if programs {
            TunRelay::with_programs(TUNNEL, &object().unwrap()).unwrap()
        } else {
            TunRelay::new(TUNNEL)
        };
        relay.add(session).unwrap();
        relay
    })
}

pub(crate) fn n3iwf(world: &World) -> GtpRelay {
    let config = world.relay_config().user;
    world.n3iwf.run(|| {
        let relay = GtpRelay::start(config).unwrap();
        relay.add(session("access")).unwrap();
        relay
    })
}

fn bound(space: &Space, address: IpAddr, port: u16) -> UdpSocket {
    let socket = space.run(|| UdpSocket::bind((address, port)).unwrap());
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    socket
}

/// A socket of the UE, on an address of its session.
pub(crate) fn at_ue(world: &World, address: impl Into<IpAddr>) -> UdpSocket {
    bound(&world.ue, address.into(), PORT)
}

pub(crate) fn at_upf(world: &World) -> UdpSocket {
    bound(&world.core, world::UPF.into(), gtpu::PORT)
}

/// UDP over IPv4 from a port of the host to the UE's socket.
pub(crate) fn udp4(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = world::pdu(HOST, PDU_ADDRESS, 28 + payload.len());
    packet[20..22].copy_from_slice(&port.to_be_bytes());
    packet[22..24].copy_from_slice(&PORT.to_be_bytes());
    packet[28..].copy_from_slice(payload);
    seal(&mut packet);
    packet
}
