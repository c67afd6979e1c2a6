//! The relay's programs without interfaces: run one packet at a time by `BPF_PROG_TEST_RUN`.
#![allow(dead_code, reason = "each target uses its part")]

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, PerCpuArray},
    programs::{SchedClassifier, TestRun, TestRunOptions},
};
use ebpf_common::relay::{
    DownlinkSession, MAP_RELAY_DL, MAP_RELAY_DROPS, MAP_RELAY_META, MAP_RELAY_STATS, MAP_RELAY_UL,
    PROGRAM_DOWNLINK, PROGRAM_UPLINK, RELAY_LAYOUT_VERSION, RelayCounters, RelayMeta, RelayReasons,
    UplinkKey, UplinkSession,
};

pub(crate) const N3IWF: [u8; 4] = [203, 0, 113, 1];
pub(crate) const UPF: [u8; 4] = [203, 0, 113, 2];
pub(crate) const UP_ADDRESS: [u8; 4] = [10, 0, 0, 1];
pub(crate) const UPLINK_MAX: usize = 1456;
pub(crate) const DOWNLINK_MAX: usize = 1358;
pub(crate) const MSS: u16 = 1318;
/// Both flow identifiers that the sessions have.
pub(crate) const QFIS: [u8; 2] = [9, 63];
pub(crate) const DEFAULT_QFI: u8 = 9;
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
    uplinks: HashMap<MapData, Raw<UplinkKey>, Raw<UplinkSession>>,
    downlinks: HashMap<MapData, [u8; 4], Raw<DownlinkSession>>,
    counters: PerCpuArray<MapData, Raw<RelayCounters>>,
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
        let object = std::fs::read(crate::support::object().unwrap()).unwrap();
        let mut ebpf = EbpfLoader::new()
            .map_max_entries(MAP_RELAY_UL, sessions)
            .map_max_entries(MAP_RELAY_DL, sessions)
            .map_max_entries(MAP_RELAY_STATS, sessions)
            .load(&object)
            .unwrap();
        let mut take = |name| ebpf.take_map(name).unwrap();
        let mut meta: Array<_, Raw<RelayMeta>> = take(MAP_RELAY_META).try_into().unwrap();
        let value = RelayMeta {
            layout_version: RELAY_LAYOUT_VERSION,
            n3_address: N3IWF,
            up_address: UP_ADDRESS,
            gre_protocol: 0,
            uplink_max: UPLINK_MAX as u32,
            downlink_max: DOWNLINK_MAX as u32,
            mss: MSS.into(),
        };
        meta.set(0, Raw(value), 0).unwrap();
        let uplinks = take(MAP_RELAY_UL).try_into().unwrap();
        let downlinks = take(MAP_RELAY_DL).try_into().unwrap();
        let counters = take(MAP_RELAY_STATS).try_into().unwrap();
        let reasons = take(MAP_RELAY_DROPS).try_into().unwrap();
        for name in [PROGRAM_UPLINK, PROGRAM_DOWNLINK] {
            program(&mut ebpf, name)
                .load()
                .unwrap_or_else(|error| panic!("{name}: {error:?}"));
        }
        Self {
            ebpf,
            uplinks,
            downlinks,
            counters,
            reasons,
        }
    }

    pub(crate) fn add(&mut self, session: Session) {
        let qfis = QFIS.iter().fold(0, |all, qfi| all | 1u64 << qfi);
        let key = UplinkKey {
            inner: session.inner(),
            ifindex: LOOPBACK,
        };
        let uplink = UplinkSession {
            qfis,
            teid: session.ul_teid().to_be_bytes(),
            upf: UPF,
            n3_ifindex: LOOPBACK,
            index: session.number,
            reqids: [session.reqid; 4],
        };
        self.uplinks.insert(Raw(key), Raw(uplink), 0).unwrap();
        let downlink = DownlinkSession {
            qfis,
            upf: UPF,
            inner: session.inner(),
            ifindex: LOOPBACK,
            index: session.number,
            default_qfi: DEFAULT_QFI.into(),
            link_header: 0,
        };
        self.downlinks
            .insert(session.dl_teid().to_be_bytes(), Raw(downlink), 0)
            .unwrap();
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

    pub(crate) fn counters(&self, index: u32) -> RelayCounters {
        let mut total = RelayCounters::default();
        for value in self.counters.get(&index, 0).unwrap().iter() {
            for (total, value) in [
                (&mut total.uplink, value.0.uplink),
                (&mut total.downlink, value.0.downlink),
            ] {
                total.packets += value.packets;
                total.bytes += value.bytes;
                total.last_seen_ns = total.last_seen_ns.max(value.last_seen_ns);
            }
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
        [PROGRAM_UPLINK, PROGRAM_DOWNLINK]
            .map(|name| {
                let program: &SchedClassifier =
                    self.ebpf.program(name).unwrap().try_into().unwrap();
                (name, program.info().unwrap().verified_instruction_count())
            })
            .to_vec()
    }
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

/// An IPv4 packet with a good checksum.
pub(crate) fn ipv4(protocol: u8, from: [u8; 4], to: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend(((20 + payload.len()) as u16).to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    packet.extend(from);
    packet.extend(to);
    seal(&mut packet);
    packet.extend(payload);
    packet
}

/// Puts the right checksum into the IPv4 header at the front.
pub(crate) fn seal(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let sum = checksum(&packet[..20]).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
}

/// RFC 1071.
pub(crate) fn checksum(octets: &[u8]) -> u16 {
    let mut sum: u32 = octets
        .chunks(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], *word.get(1).unwrap_or(&0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
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
