//! The limit of IKE_SA_INIT requests from each source, packet by packet (`BPF_PROG_TEST_RUN`) and on a veth.
//!
//! Needs root and the object of `cargo xtask build`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "a test fails by panicking"
)]

#[path = "support/frames.rs"]
#[allow(dead_code, reason = "this test uses its part")]
mod frames;
mod support;

use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, MapData, PerCpuArray},
    programs::{SchedClassifier, TestRun, TestRunOptions},
};
use dataplane::{BpfOptions, Config, Dataplane, Kind, Options, Recording, Role};
use ebpf_common::{
    Counter, PROGRAM_INGRESS,
    flood::{InitLimit, InitSource, MAP_INIT_DROPS, MAP_INIT_LIMIT, MAP_INIT_SOURCES},
};
use frames::Frame;
use support::{Space, has_programs, nwu, object, pin_dir, wait};

/// `TC_ACT_SHOT` and `TC_ACT_UNSPEC` (linux/pkt_cls.h).
const SHOT: u32 = 2;
const PASS: u32 = u32::MAX;
/// Three requests of a source, and none ever after: a year each.
const THREE: InitLimit = InitLimit {
    price_ns: 31_000_000_000_000_000,
    tolerance_ns: 3 * 31_000_000_000_000_000,
};
const SOURCES: u32 = 64;
const NAT_T: (u16, u16) = (40_000, 4500);

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Raw<T>(T);

// SAFETY: structures of `ebpf-common`, of integers without padding.
#[allow(unsafe_code)]
unsafe impl<T: Copy + 'static> Pod for Raw<T> {}

/// The program on ingress with a limit of its own, without an interface.
struct Ingress {
    ebpf: Ebpf,
    sources: HashMap<MapData, [u8; 16], Raw<InitSource>>,
    drops: PerCpuArray<MapData, Raw<Counter>>,
}

impl Ingress {
    fn load(limit: InitLimit) -> Self {
        let object = std::fs::read(object().unwrap()).unwrap();
        let mut ebpf = EbpfLoader::new()
            .map_max_entries(MAP_INIT_SOURCES, SOURCES)
            .load(&object)
            .unwrap();
        let mut limits: Array<_, Raw<InitLimit>> =
            ebpf.take_map(MAP_INIT_LIMIT).unwrap().try_into().unwrap();
        limits.set(0, Raw(limit), 0).unwrap();
        let sources = ebpf.take_map(MAP_INIT_SOURCES).unwrap().try_into().unwrap();
        let drops = ebpf.take_map(MAP_INIT_DROPS).unwrap().try_into().unwrap();
        let program: &mut SchedClassifier = ebpf
            .program_mut(PROGRAM_INGRESS)
            .unwrap()
            .try_into()
            .unwrap();
        program.load().unwrap();
        Self {
            ebpf,
            sources,
            drops,
        }
    }

    /// Whether the program drops a frame.
    fn drops(&self, frame: &Frame) -> bool {
        let program = self.ebpf.program(PROGRAM_INGRESS).unwrap();
        let program: &SchedClassifier = program.try_into().unwrap();
        let frame = frame.octets();
        let result = program
            .test_run(TestRunOptions {
                data_in: Some(&frame),
                repeat: 1,
                ..TestRunOptions::default()
            })
            .unwrap();
        match result.return_value {
            SHOT => true,
            PASS => false,
            other => panic!("verdict {other}"),
        }
    }

    /// How many of so many equal frames pass.
    fn passing(&self, frame: &Frame, count: usize) -> usize {
        (0..count).filter(|_| !self.drops(frame)).count()
    }

    fn counted(&self) -> (u64, u64) {
        let values = self.drops.get(&0, 0).unwrap();
        values.iter().fold((0, 0), |(packets, bytes), value| {
            (packets + value.0.packets, bytes + value.0.bytes)
        })
    }
}

/// An IKE header with this major version, exchange and flags, and whether it names an IKE SA of the responder.
fn ike(major: u8, exchange: u8, flags: u8, named: bool) -> Vec<u8> {
    let mut message = frames::ike(major, exchange);
    message[19] = flags;
    if !named {
        message[8..16].fill(0);
    }
    message
}

/// A request for a new IKE SA.
fn request() -> Vec<u8> {
    ike(2, 34, 0x08, false)
}

fn marked(message: &[u8]) -> Vec<u8> {
    [&[0; 4][..], message].concat()
}

fn v4(payload: &[u8]) -> Frame {
    Frame::v4(17, &frames::udp((500, 500), payload))
}

fn v6(payload: &[u8]) -> Frame {
    Frame::v6(17, &frames::udp((500, 500), payload))
}

#[test]
fn each_source_has_its_own_limit() {
    if !has_programs() {
        return;
    }
    let ingress = Ingress::load(THREE);
    // The last octet of the source address.
    let other = |last| v4(&request()).patch(15, last);
    assert_eq!(ingress.passing(&other(10), 5), 3);
    // By whichever port and with whatever in front: it is the same source.
    let nat_t = Frame::v4(17, &frames::udp(NAT_T, &marked(&request())));
    let options = Frame::v4_options(17, &frames::udp((500, 500), &request()));
    for same in [nat_t, options, other(10).vlan(7), other(10).vlan(7).vlan(9)] {
        assert!(ingress.drops(&same));
    }
    assert_eq!(ingress.passing(&other(11), 5), 3);
    // All of one IPv6 prefix of 64 bits is one, by an extension header too.
    let v6 = |at, octet| v6(&request()).patch(at, octet);
    assert_eq!(ingress.passing(&v6(23, 1), 2), 2);
    assert_eq!(ingress.passing(&v6(16, 2), 2), 1);
    assert_eq!(ingress.passing(&v6(15, 7), 5), 3);
    let inner = [
        &[17, 0, 1, 4, 0, 0, 0, 0][..],
        &frames::udp((500, 500), &request()),
    ]
    .concat();
    assert!(ingress.drops(&Frame::v6(60, &inner)));
    assert_eq!(ingress.sources.keys().count(), 4);
}

#[test]
fn nothing_but_requests_for_an_ike_sa_is_dropped() {
    if !has_programs() {
        return;
    }
    let ingress = Ingress::load(THREE);
    assert_eq!(ingress.passing(&v4(&request()), 4), 3);
    let before = ingress.counted();
    let udp = |ports, payload: &[u8]| Frame::v4(17, &frames::udp(ports, payload));
    for (what, frame) in [
        ("a response", v4(&ike(2, 34, 0x20, false))),
        ("of an IKE SA", v4(&ike(2, 34, 0x08, true))),
        ("IKE_AUTH", v4(&ike(2, 35, 0x08, false))),
        ("INFORMATIONAL", v4(&ike(2, 37, 0x08, false))),
        ("IKEv1", v4(&ike(1, 2, 0x08, false))),
        ("to a client's port", udp((500, 1000), &request())),
        ("ESP in UDP", udp(NAT_T, &frames::esp(0xc000_0001, 40))),
        ("a keepalive", udp(NAT_T, &[0xff])),
        ("ESP", Frame::v4(50, &frames::esp(1, 40))),
        ("DNS", udp((53, 53), &request())),
        ("a fragment", v4(&request()).fragment(0, true)),
        ("cut off", udp((500, 500), &request()[..27])),
        ("no IP", Frame::raw(0x88b5, &[0; 46])),
    ] {
        assert!(!ingress.drops(&frame), "{what}");
    }
    assert_eq!(ingress.counted(), before);
}

#[test]
fn what_is_dropped_is_counted() {
    if !has_programs() {
        return;
    }
    let ingress = Ingress::load(THREE);
    let frame = v4(&request());
    assert_eq!(ingress.counted(), (0, 0));
    assert_eq!(ingress.passing(&frame, 10), 3);
    assert_eq!(ingress.counted(), (7, 7 * frame.counted()));
}

#[test]
fn without_a_limit_nothing_is_dropped_and_nobody_remembered() {
    if !has_programs() {
        return;
    }
    let ingress = Ingress::load(InitLimit::default());
    assert_eq!(ingress.passing(&v4(&request()), 1000), 1000);
    assert_eq!(ingress.sources.keys().count(), 0);
    assert_eq!(ingress.counted(), (0, 0));
}

/// The one unused for longest makes room, and whoever sends all the while is not forgotten.
#[test]
fn sources_are_bounded() {
    if !has_programs() {
        return;
    }
    let ingress = Ingress::load(THREE);
    let from = |n: u16| v4(&request()).patch(14, (n >> 8) as u8).patch(15, n as u8);
    for n in 0..2000 {
        assert!(!ingress.drops(&from(n)), "{n}");
    }
    let remembered = ingress.sources.keys().count();
    assert!((1..=SOURCES as usize).contains(&remembered), "{remembered}");
    // Whoever is remembered goes on where it was.
    let last = ingress.passing(&from(1999), 5);
    assert_eq!(last, 2);
}

/// As configured, on an interface, and what arrives at a socket behind it.
#[test]
fn a_socket_gets_what_is_within_the_limit() {
    if !has_programs() {
        return;
    }
    const FLOOD: usize = 200;
    let (n3iwf, ue) = nwu();
    ue.ip(&["address", "add", "192.0.2.11/24", "dev", "nwu"]);
    let plane = limited(&n3iwf, 2);
    n3iwf.run(|| wait(plane.start())).unwrap();
    let server = n3iwf.run(|| UdpSocket::bind("192.0.2.1:500").unwrap());
    let from = |address: &str| ue.run(|| UdpSocket::bind((address, 500)).unwrap());
    let (loud, quiet) = (from("192.0.2.10"), from("192.0.2.11"));
    let begun = Instant::now();
    for _ in 0..FLOOD {
        loud.send_to(&request(), "192.0.2.1:500").unwrap();
    }
    quiet.send_to(&request(), "192.0.2.1:500").unwrap();
    // What is no request for an IKE SA comes through from anybody.
    loud.send_to(&ike(2, 37, 0x08, true), "192.0.2.1:500")
        .unwrap();
    let took = begun.elapsed();
    server
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let (mut requests, mut others, mut of_quiet) = (0, 0, 0);
    let mut buffer = [0; 100];
    while let Ok((length, source)) = server.recv_from(&mut buffer) {
        match (
            &buffer[..length] == request().as_slice(),
            source.ip() == quiet.local_addr().unwrap().ip(),
        ) {
            (true, false) => requests += 1,
            (true, true) => of_quiet += 1,
            (false, _) => others += 1,
        }
    }
    // Two at once, and two for each second that it took.
    let most = 2 + 2 * (took.as_secs() as usize + 1);
    assert!((2..=most).contains(&requests), "{requests}, at most {most}");
    assert_eq!((of_quiet, others), (1, 1));
    let classes = n3iwf.run(|| wait(plane.classes())).unwrap().unwrap();
    let dropped = classes.init_dropped.unwrap();
    assert_eq!(dropped.packets, (FLOOD - requests) as u64);
    assert_eq!(
        dropped.bytes,
        dropped.packets * (20 + 8 + request().len() as u64)
    );
    assert_eq!(classes.ingress.ike_sa_init.packets, (FLOOD + 1) as u64);
    let report = n3iwf.run(|| wait(plane.stop())).unwrap();
    assert_eq!(report.left, Vec::<String>::new());
}

/// The recording data plane, which has the programs just as the kernel's.
fn limited(space: &Space, rate: u32) -> Recording {
    Recording::new(Config {
        role: Role::N3iwf,
        owner: "init_limit".into(),
        interface_name: "xfrmi".into(),
        interface_id: 1,
        inner_address: Some("10.0.0.1".parse().unwrap()),
        inner_range: Some("10.0.0.0/24".parse().unwrap()),
        options: Options {
            kind: Kind::Recording,
            bpf: Some(BpfOptions {
                interface: "nwu".into(),
                object: object().unwrap(),
                pin_dir: pin_dir(space),
                max_child_sas: Some(64),
                ike_init_per_source: Some(rate),
            }),
            ..Options::default()
        },
    })
    .unwrap()
}
