//! The whole chain with ESP: what comes out on N3 while a UE sends as much as it can. For a kernel with
//! ESP and XFRM interfaces; under emulation the cipher dominates.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use dataplane::{
    Dataplane, Role,
    relay::{AccessRelay, GtpRelay, KernelRelay, Path},
};
use ebpf_common::PROGRAM_INGRESS;
use serde_json::json;
use socket2::Socket;

use crate::{
    net::{PROCESSORS, drop_all, forward, know_neighbours_of_core, packets_in, run_on, steer},
    nwu_link::{IPV4, REQID_BASE, install, plane_with},
    stream::Way,
    support::{ready, wait},
    tell,
    warm::per_run,
    world::{self, DL_TEID, N3IWF_INNER, UE_INNER, UPF, World, session},
};

const SPAN: Duration = Duration::from_secs(2);
const ROUNDS: usize = 3;

/// A way through the N3IWF, and whether NWu has the programs that count.
const CASES: [(&str, Way, bool); 4] = [
    ("user", Way::User, true),
    ("kernel", Way::Kernel, true),
    ("kernel, NWu not counted", Way::Kernel, false),
    ("plain forwarding", Way::Forward, true),
];

pub(crate) fn chain() {
    if !ready() {
        return;
    }
    for octets in [64, 1300] {
        // In turns, so that what else the host does costs all the same.
        let mut rates = [[0.0; ROUNDS]; CASES.len()];
        for round in 0..ROUNDS {
            for ((_, way, counted), rates) in CASES.into_iter().zip(&mut rates) {
                rates[round] = through(way, counted, octets, &flood);
            }
        }
        let mut counting = [None; CASES.len()];
        for ((_, way, counted), counting) in CASES.into_iter().zip(&mut counting) {
            if counted {
                *counting = Some(through(way, counted, octets, &|world, gre, to, packet| {
                    per_run(PROGRAM_INGRESS, || {
                        flood(world, gre, to, packet);
                    })
                    .0
                }));
            }
        }
        for (((way, ..), rates), counting) in CASES.iter().zip(rates).zip(counting) {
            let rates = rates.map(f64::round);
            tell(
                "esp",
                json!({ "way": way, "octets": octets, "rates": rates, "counting_ns": counting }),
            );
        }
    }
}

/// What is found while a UE sends packets to an address.
type Found<'a> = &'a (dyn Fn(&World, &Socket, Ipv4Addr, &[u8]) -> f64 + Sync);

/// What is found on a way.
fn through(way: Way, counted: bool, octets: usize, found: Found<'_>) -> f64 {
    let world = IPV4.world();
    let n3iwf = plane_with(&world, Role::N3iwf, counted);
    let ue = plane_with(&world, Role::Ue, false);
    let to = if way == Way::Forward {
        UPF
    } else {
        N3IWF_INNER
    };
    for (plane, role) in [(&ue, Role::Ue), (&n3iwf, Role::N3iwf)] {
        let mut sa = IPV4.child_sa(role, 1, UE_INNER);
        if role == Role::Ue {
            sa.inner_remote = to.into();
        } else {
            sa.inner_local = to.into();
        }
        install(&world, plane, role, sa);
    }
    let mut config = world.relay_config();
    config.clear_access = false;
    config.reqid_base = REQID_BASE;
    let relay: Option<Arc<dyn AccessRelay>> = world.n3iwf.run(|| {
        let relay: Arc<dyn AccessRelay> = match way {
            Way::User => Arc::new(GtpRelay::start(config.user).unwrap()),
            Way::Kernel => Arc::new(KernelRelay::start(config).unwrap()),
            Way::Forward => {
                forward(&world);
                return None;
            }
        };
        relay.add(session("xfrmi")).unwrap();
        relay.bind(DL_TEID, 1);
        Some(relay)
    });
    if let Some(relay) = &relay {
        let kernel = relay.readings()[0].path == Path::Kernel;
        assert_eq!(kernel, way == Way::Kernel);
    }
    drop_all(&world.core, "n3");
    know_neighbours_of_core(&world);
    steer(&world.n3iwf, "nwu");
    if way == Way::Forward {
        let route = format!("{UPF}/32");
        world.ue.ip(&["route", "replace", &route, "dev", "xfrmi"]);
    }
    let gre = world.gre_at_ue("xfrmi");
    let packet = world::uplink(
        world::QFI,
        &world::pdu(world::PDU_ADDRESS, world::HOST, octets),
    );
    let found = world.ue.run(|| found(&world, &gre, to, &packet));
    assert!(found > 0.0, "nothing came out");
    world.n3iwf.run(|| drop(relay));
    for (plane, space) in [(&n3iwf, &world.n3iwf), (&ue, &world.ue)] {
        space.run(|| wait(plane.stop()).unwrap());
    }
    found
}

/// Packets per second that come out on N3.
fn flood(world: &World, gre: &Socket, to: Ipv4Addr, packet: &[u8]) -> f64 {
    run_on(&PROCESSORS[..1]);
    let to = SocketAddrV4::new(to, 0).into();
    let send = |span: Duration| {
        let begin = Instant::now();
        while begin.elapsed() < span {
            for _ in 0..64 {
                // What the device has no room for is lost, as in any flood.
                let _ = gre.send_to(packet, &to);
            }
        }
        begin.elapsed()
    };
    send(SPAN / 8);
    let before = packets_in(&world.core, "n3");
    let elapsed = send(SPAN);
    let received = packets_in(&world.core, "n3") - before;
    thread::sleep(Duration::from_millis(100));
    received as f64 / elapsed.as_secs_f64()
}
