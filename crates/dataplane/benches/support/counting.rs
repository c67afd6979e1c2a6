//! What classification and counting on NWu add to a packet. The kernel forwards packets with an ESP header,
//! all on one processor: nothing waits for anything, so the time of a packet is what all that is done to it
//! takes. With the programs, with one that does nothing and without any take turns in short rounds.

use std::time::Instant;

use aya::{
    Ebpf,
    programs::{SchedClassifier, TcAttachType},
};
use dataplane::{BpfOptions, Config, Dataplane, Kind, Options, Recording, Role, SaReading};
use ebpf_common::{PROGRAM_EGRESS, PROGRAM_INGRESS, PROGRAM_NOTHING};
use serde_json::json;

use crate::{
    flood::Sender,
    net::{PROCESSORS, drop_all, forward, framed, know_neighbours, packets_in, run_on},
    nwu_link::IPV4,
    quartiles,
    support::{internet::ipv4, object, wait},
    tell,
    warm::per_run,
    world::{UE_INNER, UPF, World},
};

/// Pairs of rounds.
const ROUNDS: usize = 30;
/// Packets of a round.
const PACKETS: u64 = 50_000;
/// Packets per system call: fewer than a processor's backlog takes.
const BATCH: usize = 64;
const ESP: u8 = 50;

/// A data plane that has the programs on the access side, and one Child SA.
fn counted(world: &World) -> Recording {
    let plane = Recording::new(Config {
        role: Role::N3iwf,
        owner: "bench".into(),
        interface_name: "xfrmi".into(),
        interface_id: 7,
        inner_address: Some("10.200.0.1".parse().unwrap()),
        inner_range: Some("10.200.0.0/24".parse().unwrap()),
        options: Options {
            kind: Kind::Recording,
            bpf: Some(BpfOptions {
                ike_init_per_source: None,
                interface: "access".into(),
                object: object().unwrap(),
                pin_dir: world.pins(),
                max_child_sas: Some(64),
            }),
            ..Options::default()
        },
    })
    .unwrap();
    let mut sa = IPV4.child_sa(Role::N3iwf, 1, "10.200.0.7".parse().unwrap());
    sa.remote = (UE_INNER, 4500).into();
    world.n3iwf.run(|| {
        wait(async {
            plane.start().await.unwrap();
            plane.install(sa).await.unwrap();
        });
    });
    plane
}

/// The program that does nothing, where the one that counts would be; it goes with what is returned.
fn idle(world: &World, side: TcAttachType) -> Ebpf {
    world.n3iwf.run(|| {
        let mut ebpf = Ebpf::load_file(object().unwrap()).unwrap();
        let program: &mut SchedClassifier = ebpf
            .program_mut(PROGRAM_NOTHING)
            .unwrap()
            .try_into()
            .unwrap();
        program.load().unwrap();
        program.attach("access", side).unwrap();
        ebpf
    })
}

/// Nanoseconds of a packet.
fn round(world: &World, up: bool, sender: &Sender) -> f64 {
    let (to, out) = if up {
        (&world.core, "n3")
    } else {
        (&world.ue, "access")
    };
    let before = packets_in(to, out);
    let begin = Instant::now();
    let mut sent = 0;
    while sent < PACKETS {
        sent += sender.send();
    }
    let elapsed = begin.elapsed();
    assert_eq!(
        packets_in(to, out) - before,
        sent,
        "none is lost on the way"
    );
    elapsed.as_nanos() as f64 / sent as f64
}

pub(crate) fn cost() {
    for (up, octets) in [(true, 64), (true, 1300), (false, 64), (false, 1300)] {
        one_way(up, octets);
    }
}

/// Inbound or outbound, with so many octets behind the IP header.
fn one_way(up: bool, octets: usize) {
    let world = World::new();
    forward(&world);
    know_neighbours(&world);
    let (from, device, to, out) = if up {
        (&world.ue, "access", &world.core, "n3")
    } else {
        (&world.core, "n3", &world.ue, "access")
    };
    let (program, side) = if up {
        (PROGRAM_INGRESS, TcAttachType::Ingress)
    } else {
        (PROGRAM_EGRESS, TcAttachType::Egress)
    };
    drop_all(to, out);
    // The Child SA's own SPIs, as the N3IWF has them.
    let spi: u32 = if up { 0xc000_0001 } else { 0xd000_0001 };
    let payload = [&spi.to_be_bytes()[..], &vec![0x5a; octets - 4]].concat();
    let (source, destination) = if up { (UE_INNER, UPF) } else { (UPF, UE_INNER) };
    let packet = ipv4(ESP, source.octets(), destination.octets(), &payload);
    let frame = framed(&world.n3iwf, device, &packet);
    // Sockets are the sender's, all the rest is the N3IWF's.
    let sender = from.run(|| Sender::new(device, vec![frame], BATCH));
    let (mut without, mut with, mut costs) = (Vec::new(), Vec::new(), Vec::new());
    let mut nothing = Vec::new();
    let stop = |plane: Recording| {
        let reading: Vec<SaReading> = world.n3iwf.run(|| wait(plane.readings()).unwrap());
        let seen = if up {
            reading[0].ebpf_in
        } else {
            reading[0].ebpf_out
        };
        world.n3iwf.run(|| wait(plane.stop()).unwrap());
        seen.unwrap().packets
    };
    let measure = |sender: &Sender| from_one_processor(|| round(&world, up, sender));
    measure(&sender);
    for _ in 0..ROUNDS {
        // In the middle of two rounds without: what drifts costs both the same.
        let before = measure(&sender);
        let plane = counted(&world);
        let counted = measure(&sender);
        assert_eq!(stop(plane), PACKETS.next_multiple_of(BATCH as u64));
        let after = measure(&sender);
        let base = f64::midpoint(before, after);
        without.push(base);
        with.push(counted);
        costs.push(counted - base);
        let program = idle(&world, side);
        let idle = measure(&sender);
        drop(program);
        nothing.push(idle - f64::midpoint(after, measure(&sender)));
    }
    let plane = counted(&world);
    let mut in_account = 0.0;
    let (program_ns, _) = per_run(program, || in_account = measure(&sender));
    stop(plane);
    // What of a packet is sending: it goes no further than the N3IWF's device.
    drop_all(&world.n3iwf, device);
    let sending = quartiles(
        (0..ROUNDS)
            .map(|_| from_one_processor(|| only_sent(&sender)))
            .collect(),
    );
    tell(
        "counting",
        json!({
            "program": program, "octets": octets + 20, "rounds": ROUNDS,
            "without_ns": quartiles(without), "with_ns": quartiles(with),
            "cost_ns": quartiles(costs), "nothing_ns": quartiles(nothing), "sending_ns": sending, "program_ns": program_ns,
        }),
    );
}

/// Nanoseconds of a packet that is dropped where it arrives.
fn only_sent(sender: &Sender) -> f64 {
    let begin = Instant::now();
    let mut sent = 0;
    while sent < PACKETS {
        sent += sender.send();
    }
    begin.elapsed().as_nanos() as f64 / sent as f64
}

fn from_one_processor<T>(work: impl FnOnce() -> T) -> T {
    run_on(&PROCESSORS[..1]);
    let done = work();
    run_on(&PROCESSORS);
    done
}
