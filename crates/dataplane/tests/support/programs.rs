//! The relay's programs without interfaces: run one packet at a time by `BPF_PROG_TEST_RUN`.
#![allow(dead_code, reason = "each target uses its part")]

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, PerCpuArray},
    programs::{SchedClassifier, TestRun, TestRunOptions},
};
use ebpf_common::{
    Counter,
    relay::{
        BLOCK, DownlinkSession, FlowBlock, MAP_RELAY_DL, MAP_RELAY_DL_FLOWS, MAP_RELAY_DL_MORE,
        MAP_RELAY_DROPS, MAP_RELAY_META, MAP_RELAY_PEERS, MAP_RELAY_RATES, MAP_RELAY_REFUSED,
        MAP_RELAY_UL, MAP_RELAY_UL_FLOWS, MAP_RELAY_UL_MORE, PLACE_FLOWS, PROGRAM_DOWNLINK,
        PROGRAM_DOWNLINK6, PROGRAM_UPLINK, PROGRAM_UPLINK6, RELAY_LAYOUT_VERSION, RelayMeta,
        RelayPeer, RelayRate, RelayReasons, SessionDrops, TAKEN, UplinkKey, UplinkSession,
        downlink_place, mapped, uplink_place,
    },
};

use crate::support::{Space, has_programs, internet::ipv4, object};

pub(crate) const N3IWF: [u8; 4] = [203, 0, 113, 1];
pub(crate) const UPF: [u8; 4] = [203, 0, 113, 2];
pub(crate) const UP_ADDRESS: [u8; 4] = [10, 0, 0, 1];
pub(crate) const N3IWF6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
pub(crate) const UPF6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
pub(crate) const UPLINK_MAX: usize = 1456;
/// The same with N3 over IPv6.
pub(crate) const UPLINK_MAX6: usize = 1436;
pub(crate) const DOWNLINK_MAX: usize = 1358;
pub(crate) const MSS: u16 = 1318;
/// Both flow identifiers that the sessions have.
pub(crate) const QFIS: [u8; 2] = [9, 63];
pub(crate) const DEFAULT_QFI: u8 = 9;
const ALL: [&str; 4] = [
    PROGRAM_UPLINK,
    PROGRAM_DOWNLINK,
    PROGRAM_UPLINK6,
    PROGRAM_DOWNLINK6,
];
/// Where a test run happens: the loopback interface of the namespace.
const LOOPBACK: u32 = 1;

/// What a program returns: redirected, dropped, or left to others.
pub(crate) const REDIRECT: u32 = 7;
pub(crate) const DROP: u32 = 2;
pub(crate) const PASS: u32 = u32::MAX;

mod pod {
    #![allow(unsafe_code)]

    /// A structure of `ebpf-common`.
    #[derive(Clone, Copy)]
    #[repr(transparent)]
    pub(crate) struct Raw<T>(pub(crate) T);

    // SAFETY: only used with `#[repr(C)]` structures of integers without padding.
    unsafe impl<T: Copy + 'static> aya::Pod for Raw<T> {}
}
pub(crate) use pod::Raw;

/// One session, as user space would enter it.
#[derive(Clone, Copy)]
pub(crate) struct Session {
    pub(crate) number: u32,
    /// 0: no SA is asked for.
    pub(crate) reqid: u32,
}

/// Both directions of a flow or of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct FlowCounters {
    pub(crate) uplink: Counter,
    pub(crate) downlink: Counter,
}

/// What a session may have besides.
#[derive(Clone, Copy, Default)]
pub(crate) struct Extras {
    /// Its own limit and that of its UE, places in the map.
    pub(crate) rates: [u32; 2],
    /// DSCP on N3 and in the tunnel.
    pub(crate) dscp: [u16; 2],
    /// Where both maps have it; `None`: where its keys say.
    pub(crate) place: Option<u32>,
}

/// The session that is always there.
pub(crate) const UE: Session = Session {
    number: 0,
    reqid: 0,
};

/// Runs `test` with the programs loaded, in a namespace of its own.
pub(crate) fn with_programs(test: impl FnOnce(Programs) + Send) {
    with(Programs::load, test);
}

/// The same with N3 over IPv6.
pub(crate) fn with_programs6(test: impl FnOnce(Programs) + Send) {
    with(Programs::load6, test);
}

fn with(load: fn(u32) -> Programs, test: impl FnOnce(Programs) + Send) {
    if has_programs() {
        Space::new("r").run(|| {
            let mut programs = load(16);
            programs.add(UE);
            test(programs);
        });
    }
}

impl Session {
    pub(crate) fn inner(self) -> [u8; 4] {
        (u32::from_be_bytes([10, 0, 0, 7]) + self.number).to_be_bytes()
    }

    pub(crate) fn ul_teid(self) -> u32 {
        0x0a0b_0000 + self.number
    }

    pub(crate) fn dl_teid(self) -> u32 {
        0x7000_0001 + self.number
    }
}

pub(crate) struct Programs {
    ebpf: Ebpf,
    uplinks: Array<MapData, Raw<UplinkSession>>,
    more_uplinks: HashMap<MapData, Raw<UplinkKey>, u32>,
    downlinks: Array<MapData, Raw<DownlinkSession>>,
    more_downlinks: HashMap<MapData, [u8; 4], u32>,
    uplink_flows: PerCpuArray<MapData, Raw<FlowBlock>>,
    downlink_flows: PerCpuArray<MapData, Raw<FlowBlock>>,
    refused: PerCpuArray<MapData, Raw<SessionDrops>>,
    rates: Array<MapData, Raw<RelayRate>>,
    peers: Array<MapData, Raw<RelayPeer>>,
    mask: u32,
    /// Where the counters of a session's flows begin, uplink and downlink.
    places: std::collections::BTreeMap<u32, [u32; 2]>,
    reasons: PerCpuArray<MapData, Raw<RelayReasons>>,
}

/// What a program made of a packet.
pub(crate) struct Ran {
    pub(crate) action: u32,
    pub(crate) packet: Vec<u8>,
    /// Mean of one run.
    pub(crate) duration: std::time::Duration,
}

impl Programs {
    /// Loads the object with room for `sessions`; the verifier's word is final.
    pub(crate) fn load(sessions: u32) -> Self {
        Self::load_with(sessions, false)
    }

    /// The same with N3 over IPv6.
    pub(crate) fn load6(sessions: u32) -> Self {
        Self::load_with(sessions, true)
    }

    fn load_with(sessions: u32, over_ipv6: bool) -> Self {
        let object = std::fs::read(object().unwrap()).unwrap();
        let places = (sessions * 2).next_power_of_two();
        let mut ebpf = EbpfLoader::new()
            .map_max_entries(MAP_RELAY_UL, places)
            .map_max_entries(MAP_RELAY_UL_MORE, sessions)
            .map_max_entries(MAP_RELAY_DL, places)
            .map_max_entries(MAP_RELAY_DL_MORE, sessions)
            .map_max_entries(MAP_RELAY_UL_FLOWS, (places * PLACE_FLOWS).div_ceil(BLOCK))
            .map_max_entries(MAP_RELAY_DL_FLOWS, (places * PLACE_FLOWS).div_ceil(BLOCK))
            .map_max_entries(MAP_RELAY_REFUSED, sessions)
            .map_max_entries(MAP_RELAY_RATES, sessions * 2 + 1)
            .load(&object)
            .unwrap();
        let mut take = |name| ebpf.take_map(name).unwrap();
        let mut meta: Array<_, Raw<RelayMeta>> = take(MAP_RELAY_META).try_into().unwrap();
        let value = RelayMeta {
            layout_version: RELAY_LAYOUT_VERSION,
            n3_address: if over_ipv6 { N3IWF6 } else { mapped(N3IWF) },
            up_address: UP_ADDRESS,
            gre_protocol: 0,
            downlink_max: DOWNLINK_MAX as u32,
            mss: MSS.into(),
            mask: places - 1,
        };
        meta.set(0, Raw(value), 0).unwrap();
        let uplinks = take(MAP_RELAY_UL).try_into().unwrap();
        let more_uplinks = take(MAP_RELAY_UL_MORE).try_into().unwrap();
        let downlinks = take(MAP_RELAY_DL).try_into().unwrap();
        let more_downlinks = take(MAP_RELAY_DL_MORE).try_into().unwrap();
        let uplink_flows = take(MAP_RELAY_UL_FLOWS).try_into().unwrap();
        let downlink_flows = take(MAP_RELAY_DL_FLOWS).try_into().unwrap();
        let refused = take(MAP_RELAY_REFUSED).try_into().unwrap();
        let peers = take(MAP_RELAY_PEERS).try_into().unwrap();
        let rates = take(MAP_RELAY_RATES).try_into().unwrap();
        let reasons = take(MAP_RELAY_DROPS).try_into().unwrap();
        for name in ALL {
            program(&mut ebpf, name)
                .load()
                .unwrap_or_else(|error| panic!("{name}: {error:?}"));
        }
        let mut programs = Self {
            peers,
            ebpf,
            uplinks,
            more_uplinks,
            downlinks,
            more_downlinks,
            uplink_flows,
            downlink_flows,
            refused,
            rates,
            mask: places - 1,
            places: std::collections::BTreeMap::new(),
            reasons,
        };
        if over_ipv6 {
            programs.set_peer(UPF6, UPLINK_MAX6);
        } else {
            programs.set_peer(mapped(UPF), UPLINK_MAX);
        }
        programs
    }

    /// The UPF of all sessions.
    pub(crate) fn set_peer(&mut self, address: [u8; 16], pdu_max: usize) {
        let peer = RelayPeer {
            address,
            ifindex: LOOPBACK,
            pdu_max: pdu_max as u32,
            ..RelayPeer::default()
        };
        self.peers.set(0, Raw(peer), 0).unwrap();
    }

    pub(crate) fn add(&mut self, session: Session) {
        self.add_with(session, Extras::default());
    }

    /// Adds a session where its keys say, or at the place told.
    pub(crate) fn add_with(&mut self, session: Session, extras: Extras) {
        self.add_at(session, session.number, extras);
    }

    /// The same with counters that are not those of its number.
    pub(crate) fn add_at(&mut self, session: Session, counters: u32, extras: Extras) {
        let qfis = QFIS.iter().fold(0, |all, qfi| all | 1u64 << qfi);
        let key = UplinkKey {
            inner: session.inner(),
            ifindex: LOOPBACK,
        };
        let teid = session.dl_teid().to_be_bytes();
        let (up, down) = match extras.place {
            Some(place) => (place, place),
            None => (
                uplink_place(key, self.mask),
                downlink_place(teid, self.mask),
            ),
        };
        let flows = [up * PLACE_FLOWS, down * PLACE_FLOWS];
        self.places.insert(counters, flows);
        let uplink = UplinkSession {
            qfis,
            inner: key.inner,
            ifindex: key.ifindex,
            state: TAKEN,
            teid: session.ul_teid().to_be_bytes(),
            peer: 0,
            flows: flows[0],
            session: counters as u16,
            dscp: extras.dscp[0],
            reqids: [session.reqid; 4],
            rates: extras.rates,
            unused: 0,
        };
        let downlink = DownlinkSession {
            qfis,
            teid,
            peer: 0,
            state: TAKEN,
            inner: session.inner(),
            ifindex: LOOPBACK,
            default_qfi: DEFAULT_QFI.into(),
            flows: flows[1],
            session: counters as u16,
            dscp: extras.dscp[1],
            link_header: 0,
            rates: extras.rates,
            ways: 0,
            unused: 0,
        };
        if let Some(place) = extras.place {
            self.more_uplinks.insert(Raw(key), place, 0).unwrap();
            self.more_downlinks.insert(teid, place, 0).unwrap();
        }
        self.uplinks.set(up, Raw(uplink), 0).unwrap();
        self.downlinks.set(down, Raw(downlink), 0).unwrap();
    }

    pub(crate) fn set_rate(&mut self, place: u32, rate: RelayRate) {
        self.rates.set(place, Raw(rate), 0).unwrap();
    }

    /// Runs the program of that name.
    pub(crate) fn run(&self, name: &str, packet: &[u8], repeat: u32) -> Ran {
        self.run_gso(name, packet, repeat, 0)
    }

    /// The same with a packet that is said to be a super-packet.
    pub(crate) fn run_gso(&self, name: &str, packet: &[u8], repeat: u32, gso_size: u32) -> Ran {
        let program: &SchedClassifier = self.ebpf.program(name).unwrap().try_into().unwrap();
        let mut out = vec![0; packet.len() + 256];
        // struct __sk_buff (linux/bpf.h): gso_segs at 164, gso_size at 176.
        let mut context = vec![0u8; 192];
        if gso_size != 0 {
            context[164..168].copy_from_slice(&2u32.to_ne_bytes());
            context[176..180].copy_from_slice(&gso_size.to_ne_bytes());
        }
        let result = program
            .test_run(TestRunOptions {
                data_in: Some(packet),
                data_out: Some(&mut out),
                ctx_in: (gso_size != 0).then_some(&context),
                repeat,
                ..TestRunOptions::default()
            })
            .unwrap();
        out.truncate(result.data_size_out as usize);
        Ran {
            action: result.return_value,
            packet: out,
            duration: result.duration,
        }
    }

    /// Counters of one flow of a session; `flow` counts in the order of [`QFIS`].
    pub(crate) fn flow(&self, session: u32, flow: usize) -> FlowCounters {
        let [up, down] = self.places[&session].map(|first| {
            let place = first + flow as u32;
            (place / BLOCK, (place % BLOCK) as usize)
        });
        let mut total = FlowCounters::default();
        let (block, within) = up;
        for value in self.uplink_flows.get(&block, 0).unwrap().iter() {
            add(&mut total.uplink, value.0.flows[within]);
        }
        let (block, within) = down;
        for value in self.downlink_flows.get(&block, 0).unwrap().iter() {
            add(&mut total.downlink, value.0.flows[within]);
        }
        total
    }

    /// Counters of all flows of a session.
    pub(crate) fn counters(&self, session: u32) -> FlowCounters {
        let mut total = FlowCounters::default();
        for flow in 0..QFIS.len() {
            let flow = self.flow(session, flow);
            add(&mut total.uplink, flow.uplink);
            add(&mut total.downlink, flow.downlink);
        }
        total
    }

    /// What was refused of a session.
    pub(crate) fn refused(&self, session: u32) -> SessionDrops {
        let mut total = SessionDrops::default();
        for value in self.refused.get(&session, 0).unwrap().iter() {
            total.add(&value.0);
        }
        total
    }

    pub(crate) fn reasons(&self, direction: u32) -> RelayReasons {
        let mut total = RelayReasons::default();
        for value in self.reasons.get(&direction, 0).unwrap().iter() {
            total.add(&value.0);
        }
        total
    }

    /// Instructions that the verifier went through, by program.
    pub(crate) fn verified(&self) -> Vec<(&'static str, Option<u32>)> {
        ALL.map(|name| {
            let program: &SchedClassifier = self.ebpf.program(name).unwrap().try_into().unwrap();
            (name, program.info().unwrap().verified_instruction_count())
        })
        .to_vec()
    }
}

fn add(total: &mut Counter, more: Counter) {
    total.packets += more.packets;
    total.bytes += more.bytes;
    total.last_seen_ns = total.last_seen_ns.max(more.last_seen_ns);
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    ebpf.program_mut(name).unwrap().try_into().unwrap()
}

/// An Ethernet frame to the loopback interface.
pub(crate) fn frame(packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([8, 0]);
    frame.extend(packet);
    frame
}

/// Octets that look like nothing in particular.
pub(crate) fn pdu(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 + len) as u8 | 0x80).collect()
}

pub(crate) fn gre(session: Session, qfi: u8, pdu: &[u8]) -> Vec<u8> {
    let header = nwu::GreHeader {
        qfi: Some(qfi),
        rqi: false,
    };
    let payload = [&header.encode(0)[..], pdu].concat();
    ipv4(47, session.inner(), UP_ADDRESS, &payload)
}

/// GTP-U octets in UDP and IPv4 from the UPF.
pub(crate) fn n3(from: [u8; 4], gtp: &[u8]) -> Vec<u8> {
    let mut payload = vec![0x12, 0x34, 0x08, 0x68];
    payload.extend(((8 + gtp.len()) as u16).to_be_bytes());
    payload.extend([0xab, 0xcd]);
    payload.extend(gtp);
    ipv4(17, from, N3IWF, &payload)
}

pub(crate) fn downlink(session: Session, qfi: u8, rqi: bool, pdu: &[u8]) -> Vec<u8> {
    let container = gtpu::PduSessionContainer {
        direction: gtpu::Direction::Downlink,
        qfi,
        rqi,
    };
    n3(
        UPF,
        &gtpu::encode_g_pdu(session.dl_teid(), container, pdu).unwrap(),
    )
}

/// The same without a UDP checksum, as most UPFs send it.
pub(crate) fn unsummed(mut n3: Vec<u8>) -> Vec<u8> {
    n3[26..28].fill(0);
    n3
}
