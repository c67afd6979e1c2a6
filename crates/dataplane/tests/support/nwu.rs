//! NWu between UE and N3IWF, and user-plane Child SAs over it.
#![allow(dead_code, reason = "each target uses its part")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use dataplane::{
    BpfOptions, ChildSaSpec, Config, Dataplane, EncrAlg, EspKeys, Options, Plane, Role, Xfrm,
};
use keys::Secret;

use crate::{
    support::{Space, object, wait},
    world::{N3IWF_INNER, World},
};

pub(crate) const REQID_BASE: u32 = 0x4e00_0000;

/// The ends of NWu.
#[derive(Clone, Copy)]
pub(crate) struct Nwu {
    pub(crate) n3iwf: IpAddr,
    pub(crate) ue: IpAddr,
}

pub(crate) const IPV4: Nwu = Nwu {
    n3iwf: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    ue: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10)),
};
pub(crate) const IPV6: Nwu = Nwu {
    n3iwf: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1)),
    ue: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 10)),
};

impl Nwu {
    /// The world with this NWu.
    pub(crate) fn world(self) -> World {
        let world = World::without_access();
        let ue = &world.ue.name;
        world.n3iwf.ip(&[
            "link", "add", "nwu", "type", "veth", "peer", "name", "nwu", "netns", ue,
        ]);
        for (space, address) in [(&world.n3iwf, self.n3iwf), (&world.ue, self.ue)] {
            space.run(|| {
                std::fs::write("/proc/sys/net/ipv6/conf/nwu/addr_gen_mode", "1").unwrap();
            });
            match address {
                IpAddr::V4(address) => {
                    space.ip(&["address", "add", &format!("{address}/24"), "dev", "nwu"]);
                }
                IpAddr::V6(address) => {
                    let address = format!("{address}/64");
                    space.ip(&["address", "add", &address, "dev", "nwu", "nodad"]);
                }
            }
            space.ip(&["link", "set", "nwu", "up"]);
        }
        for (space, address) in [(&world.n3iwf, self.n3iwf), (&world.ue, self.ue)] {
            if let IpAddr::V6(address) = address {
                space.delivers(address);
            }
        }
        world
    }

    /// User-plane Child SA `number` as one end sees it, between the inner address `ue` and the N3IWF.
    pub(crate) fn child_sa(self, role: Role, number: u8, ue: Ipv4Addr) -> ChildSaSpec {
        let keys = |seed| EspKeys {
            encr: Secret::filled(32, |o| o.fill(seed)),
            salt: [seed, 1, 2, 3],
            integ: None,
        };
        let (up, down) = (number * 2, number * 2 + 1);
        let (to_n3iwf, to_ue) = (
            0xc000_0000 + u32::from(number),
            0xd000_0000 + u32::from(number),
        );
        let here = role == Role::N3iwf;
        let pick = |yes, no| if here { yes } else { no };
        let (key_in, key_out) = if here { (up, down) } else { (down, up) };
        let (local, remote) = if here {
            (self.n3iwf, self.ue)
        } else {
            (self.ue, self.n3iwf)
        };
        ChildSaSpec {
            id: number.into(),
            plane: Plane::User,
            ue: 1,
            pdu_session: Some(5),
            spi_in: pick(to_n3iwf, to_ue),
            spi_out: pick(to_ue, to_n3iwf),
            encr: EncrAlg::AesGcm16,
            integ: None,
            keys_in: keys(key_in),
            keys_out: keys(key_out),
            esn: true,
            replay_window: 128,
            local: SocketAddr::new(local, 4500),
            remote: SocketAddr::new(remote, 4500),
            udp_encap: false,
            inner_local: if here { N3IWF_INNER } else { ue }.into(),
            inner_remote: if here { ue } else { N3IWF_INNER }.into(),
            protocol: Some(47),
            slot: 0,
            reqid: number.into(),
        }
    }
}

/// The data plane of one end, started; the N3IWF's counts what is on NWu.
pub(crate) fn plane(world: &World, role: Role) -> Xfrm {
    plane_with(world, role, role == Role::N3iwf)
}

/// The same, with the programs that count or without.
pub(crate) fn plane_with(world: &World, role: Role, counted: bool) -> Xfrm {
    let space = at(world, role);
    let plane = Xfrm::new(Config {
        role,
        owner: "relay_kernel".into(),
        interface_name: "xfrmi".into(),
        interface_id: 7,
        inner_address: (role == Role::N3iwf).then_some(N3IWF_INNER.into()),
        inner_range: (role == Role::N3iwf).then(|| "10.0.0.0/24".parse().unwrap()),
        options: Options {
            reqid_base: REQID_BASE,
            // The accounting programs are there too, with their pins in the same directory.
            bpf: counted.then(|| BpfOptions {
                interface: "nwu".into(),
                object: object().unwrap(),
                pin_dir: world.pins(),
                max_child_sas: Some(64),
                ike_init_per_source: None,
            }),
            ..Options::default()
        },
    })
    .unwrap();
    space.run(|| wait(plane.start()).unwrap());
    plane
}

pub(crate) fn at(world: &World, role: Role) -> &Space {
    match role {
        Role::N3iwf => &world.n3iwf,
        Role::Ue => &world.ue,
    }
}

pub(crate) fn install(world: &World, plane: &Xfrm, role: Role, sa: ChildSaSpec) {
    at(world, role).run(|| wait(plane.install(sa)).unwrap());
}
