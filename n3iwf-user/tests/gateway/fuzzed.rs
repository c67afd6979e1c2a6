//! The gateway, directed by the octets of a fuzzer: an AMF that says anything at any time, UEs that send any EAP and any
//! NAS, connections that come and go, doubles that refuse, time that passes. Nothing may panic, no double may be asked
//! for what makes no sense, and in the end nothing may be left.

use std::{net::IpAddr, time::Duration};

use n3iwf_user::{core::NasLink, gateway::RekeyWhat};
use oxirush_ngap::ngap::CauseRadioNetwork;

use crate::{
    amf,
    modification::{Wanted, modify, transfer as transfer_of},
    world::{World, an_parameters},
};

/// More UEs than this only take time.
const MOST_UES: usize = 6;

struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn octet(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn small(&mut self, bound: u8) -> u8 {
        self.octet().unwrap_or(0) % bound
    }

    fn octets(&mut self) -> Vec<u8> {
        let len = usize::from(self.octet().unwrap_or(0));
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken.to_vec()
    }

    /// A RAN-UE-NGAP-ID, mostly one that is in use.
    fn ran(&mut self) -> u32 {
        u32::from(self.small(8)) + 1
    }

    /// Up to three octets of a message become others.
    fn change(&mut self, message: &mut [u8]) {
        for _ in 0..self.small(4) {
            let (high, low) = (self.small(4), self.octet().unwrap_or(0));
            let at = usize::from(high) << 8 | usize::from(low);
            let mask = self.octet().unwrap_or(1);
            let len = message.len().max(1);
            if let Some(octet) = message.get_mut(at % len) {
                *octet ^= mask;
            }
        }
    }
}

/// What a script came to, before everything was ended.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) established: usize,
    pub(crate) sessions: usize,
    pub(crate) ues: usize,
}

/// Plays a script.
pub(crate) fn play(script: &[u8]) -> Outcome {
    let mut script = Script(script);
    let mut world = World::new();
    while let Some(direction) = script.octet() {
        act(&mut world, direction, &mut script);
        check(&mut world);
    }
    let outcome = Outcome {
        established: world.ues.iter().filter(|ue| ue.established).count(),
        sessions: world.relay.len(),
        ues: world.gateway.ues(world.now).len(),
    };
    world.refuse_install = false;
    world.gateway.shut_down(world.now);
    world.run();
    world.pass(Duration::from_secs(600));
    world.assert_nothing_left();
    outcome
}

fn check(world: &mut World) {
    world.uplink.clear();
    world.nas_sent.clear();
    let ues = world.ues.len();
    assert!(world.gateway.addresses_taken() <= ues, "one address each");
    assert!(world.gateway.ues(world.now).len() <= ues, "a UE of nobody");
    assert!(world.fates.len() <= world.fetched);
}

fn act(world: &mut World, direction: u8, script: &mut Script<'_>) {
    match direction % 17 {
        0 => {
            if world.ues.len() < MOST_UES {
                world.add_ue();
                world.run();
            }
        }
        // The AMF, as it should be.
        1 | 2 => {
            let message = authentic(script);
            world.ngap(&message);
        }
        // The AMF, with other octets.
        3 => {
            let mut message = authentic(script);
            script.change(&mut message);
            world.ngap(&message);
        }
        4 => {
            let message = script.octets();
            world.ngap(&message);
        }
        // NAS over TCP.
        5 => {
            let link = NasLink(script.small(8).into());
            let ue = usize::from(script.small(8));
            let inner = world.ues.get(ue).and_then(|ue| ue.inner);
            let from = inner.unwrap_or(IpAddr::from([10, 0, 0, 9]));
            world.gateway.nas_connected(world.now, link, from);
            world.run();
        }
        6 => {
            let link = NasLink(script.small(8).into());
            let message = script.octets();
            world.gateway.nas_received(world.now, link, &message);
            world.run();
        }
        7 => {
            let link = NasLink(script.small(8).into());
            world.gateway.nas_closed(world.now, link);
            world.run();
        }
        // What the next UE that is asked says in EAP: anything, or something that is nearly EAP-5G.
        8 => {
            let mut packet = script.octets();
            if packet.is_empty() {
                let nas = nwu::eap5g::Response::Nas {
                    an_parameters: an_parameters(),
                    nas: b"register".to_vec(),
                };
                let response = nwu::eap5g::Packet::Response {
                    identifier: script.small(4),
                    message: nas,
                };
                packet = response.encode().unwrap();
                script.change(&mut packet);
            }
            let ue = usize::from(script.small(8));
            if let Some(ue) = world.ues.get_mut(ue) {
                ue.eap = Some(packet);
            }
        }
        9 => {
            let time = u64::from(script.octet().unwrap_or(1));
            world.pass(Duration::from_millis(time * 200));
        }
        10 => match script.small(2) {
            0 => world.lose_amf(),
            _ => {
                world.setup_answers.push_back(amf::ng_setup_response());
                world.amf_listens = !world.amf_listens;
            }
        },
        11 => {
            let which = usize::from(script.small(16));
            let hard = script.small(2) == 1;
            let child = world.held.keys().nth(which).map(|child| child.number());
            world
                .gateway
                .child_expired(world.now, child.unwrap_or(99), hard);
            world.run();
        }
        12 => {
            let (ue, what) = (script.ran(), script.small(4));
            match what {
                0 => drop(world.gateway.release(world.now, ue)),
                // Refused in most states, which is fine.
                1 => drop(world.gateway.rekey(world.now, ue, RekeyWhat::Ike)),
                2 => drop(world.gateway.rekey(world.now, ue, RekeyWhat::Children)),
                _ => world.gateway.tunnel_lost(world.now, ue),
            }
            world.run();
        }
        13 => refuse(world, script.small(6), script.small(8)),
        14 => {
            let which = usize::from(script.octet().unwrap_or(0));
            if let Some((path, data)) = world.recorded.get(which).cloned() {
                world.gateway.handle_datagram(world.now, path, &data);
                world.run();
            }
        }
        _ => {
            let (ue, what) = (usize::from(script.small(8)), script.small(4));
            let now = world.now;
            if let Some(ue) = world.ues.get_mut(ue)
                && let Some(sa) = ue.sa
            {
                let child = ue.children.keys().last().copied();
                match (what, child) {
                    (0, _) => ue.endpoint.close(now, sa),
                    (1, _) => drop(ue.endpoint.rekey_ike(now, sa)),
                    (2, Some(child)) => drop(ue.endpoint.rekey_child(now, sa, child)),
                    (3, Some(child)) => ue.endpoint.delete_child(now, sa, child),
                    _ => ue.endpoint.probe(now, sa),
                }
                world.run();
            }
        }
    }
}

/// What is outside says no from now on, or yes again.
fn refuse(world: &mut World, what: u8, ue: u8) {
    let ue = world.ues.get_mut(usize::from(ue));
    match (what, ue) {
        (0, _) => world.refuse_install = !world.refuse_install,
        (1, _) => world.refuse_relay = !world.refuse_relay,
        (2, _) => {
            world.kms_failure = match world.kms_failure {
                None => Some(ike::QkdFailure::NoKeys),
                Some(_) => None,
            };
        }
        (3, Some(ue)) => ue.stop = !ue.stop,
        (4, Some(ue)) => ue.refuse_children = !ue.refuse_children,
        (_, Some(ue)) => ue.dead = true,
        (_, None) => {}
    }
}

fn authentic(script: &mut Script<'_>) -> Vec<u8> {
    let (which, ran) = (script.small(10), script.ran());
    let session = script.small(4);
    let transfer = || amf::transfer(0x100 + ran, &[1 + session]);
    match which {
        0 => amf::downlink_nas(ran, b"authenticate"),
        1 => amf::context_setup(ran, None, Vec::new()),
        2 => amf::session_setup(ran, &[(session, b"accept", transfer())]),
        3 => amf::session_release(ran, b"release", &[session]),
        4 => amf::context_release(ran),
        5 => match session {
            0 => amf::reset(&[]),
            _ => amf::reset(&[ran]),
        },
        6 => amf::error_indication(ran, CauseRadioNetwork::unspecified),
        7 => amf::configuration_update(),
        8 => amf::ng_setup_response(),
        _ => {
            let flow = [(script.small(4), session != 0)];
            let wanted = Wanted {
                flows: flow.get(usize::from(session == 3)..).unwrap_or_default(),
                tunnel: (session == 2).then_some((ran, 0x900)),
                released: &[1][usize::from(session != 3)..],
                ..Wanted::default()
            };
            modify(ran, &[(session, b"modify", transfer_of(&wanted))])
        }
    }
}
