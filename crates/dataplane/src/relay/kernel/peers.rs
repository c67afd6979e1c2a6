//! The UPFs that sessions in the kernel have.

use std::{collections::BTreeMap, net::IpAddr};

use aya::{
    Ebpf,
    maps::{Array, MapData},
};
use ebpf_common::relay::{MAP_RELAY_PEERS, RelayPeer, mapped};

use crate::places::Places;
use crate::{
    Error,
    loader::{failed, open, pod::Raw},
};

/// `BPF_ANY` (linux/bpf.h).
const BPF_ANY: u64 = 0;

/// A UPF as it is reached by an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Peer {
    pub(super) address: IpAddr,
    pub(super) ifindex: u32,
}

impl Peer {
    fn value(self, pdu_max: u32) -> RelayPeer {
        RelayPeer {
            address: match self.address {
                IpAddr::V4(address) => mapped(address.octets()),
                IpAddr::V6(address) => address.octets(),
            },
            ifindex: self.ifindex,
            pdu_max,
            ..RelayPeer::default()
        }
    }
}

struct Held {
    place: u32,
    sessions: usize,
    pdu_max: u32,
}

/// The map of peers. Sessions share the places.
pub(super) struct Peers {
    map: Array<MapData, Raw<RelayPeer>>,
    places: Places,
    held: BTreeMap<Peer, Held>,
}

impl Peers {
    /// `count`: places of the map.
    pub(super) fn open(ebpf: &mut Ebpf, count: u32) -> Result<Self, Error> {
        Ok(Self {
            map: open(ebpf, MAP_RELAY_PEERS)?,
            places: Places::new(count),
            held: BTreeMap::new(),
        })
    }

    /// The place of a peer for one session more. No program may still look at a session that is gone.
    pub(super) fn take(&mut self, peer: Peer, pdu_max: u32) -> Result<u32, Error> {
        if let Some(held) = self.held.get_mut(&peer) {
            held.sessions += 1;
            return Ok(held.place);
        }
        let place = self
            .places
            .any()
            .ok_or_else(|| Error::Config("the kernel relay has no place for a UPF left".into()))?;
        if let Err(error) = self.write(place, peer.value(pdu_max)) {
            self.places.free(place);
            return Err(error);
        }
        let held = Held {
            place,
            sessions: 1,
            pdu_max,
        };
        self.held.insert(peer, held);
        Ok(place)
    }

    /// One session of a peer is gone.
    pub(super) fn free(&mut self, peer: Peer) {
        if let Some(held) = self.held.get_mut(&peer) {
            held.sessions -= 1;
            if held.sessions == 0 {
                self.places.free(held.place);
                self.held.remove(&peer);
            }
        }
    }

    /// Says what fits the paths. The value changes in place: a program sees the old limit or the new one.
    pub(super) fn set_pdu_max(&mut self, of: impl Fn(IpAddr) -> u32) -> Result<(), Error> {
        let changed: Vec<(u32, RelayPeer)> = self
            .held
            .iter_mut()
            .filter_map(|(peer, held)| {
                let now = of(peer.address);
                let changed = std::mem::replace(&mut held.pdu_max, now) != now;
                changed.then(|| (held.place, peer.value(now)))
            })
            .collect();
        for (place, value) in changed {
            self.write(place, value)?;
        }
        Ok(())
    }

    fn write(&mut self, place: u32, value: RelayPeer) -> Result<(), Error> {
        self.map
            .set(place, Raw(value), BPF_ANY)
            .map_err(|e| failed("write relay_peers", &e))
    }
}
