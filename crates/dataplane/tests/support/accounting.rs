//! The programs that count on NWu, without an interface: run one packet at a time.

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues},
    programs::{SchedClassifier, TestRun, TestRunOptions},
    util::nr_cpus,
};
use ebpf_common::{
    Counter, INBOUND, LAYOUT_VERSION, MAP_CLASSES, MAP_META, MAP_SA_STATS, MAP_SAS, NwuClasses,
    NwuMeta, OUTBOUND, PLANE_CONTROL, PLANE_USER, PROGRAM_EGRESS, PROGRAM_INGRESS, SaEntry, SaInfo,
    SaKey, SaStats,
};

use crate::{
    programs::{PASS, Raw, frame},
    support::internet::ipv4,
};

const ESP: u8 = 50;
const LOOPBACK: u32 = 1;
const N3IWF: [u8; 4] = [198, 51, 100, 1];

pub(crate) struct Accounting {
    ebpf: Ebpf,
    classes: PerCpuArray<MapData, Raw<NwuClasses>>,
    sas: HashMap<MapData, Raw<SaKey>, Raw<SaEntry>>,
    stats: PerCpuArray<MapData, Raw<SaStats>>,
    /// Which places are taken, and where the search for any other goes on.
    taken: Vec<bool>,
    next: usize,
    cpus: usize,
}

impl Accounting {
    /// Loads the object with room for two Child SAs of each UE, as a daemon does.
    pub(crate) fn load(ues: u32) -> Self {
        let places = (ues * 4).next_power_of_two();
        let object = std::fs::read(crate::support::object().unwrap()).unwrap();
        let mut ebpf = EbpfLoader::new()
            .map_max_entries(MAP_SAS, ues * 4)
            .map_max_entries(MAP_SA_STATS, places)
            .load(&object)
            .unwrap();
        let mut take = |name| ebpf.take_map(name).unwrap();
        let mut meta: Array<_, Raw<NwuMeta>> = take(MAP_META).try_into().unwrap();
        let value = NwuMeta {
            layout_version: LAYOUT_VERSION,
            ifindex: LOOPBACK,
            no_link_header: 0,
            mask: places - 1,
        };
        meta.set(0, Raw(value), 0).unwrap();
        let classes = take(MAP_CLASSES).try_into().unwrap();
        let sas = take(MAP_SAS).try_into().unwrap();
        let stats = take(MAP_SA_STATS).try_into().unwrap();
        for name in [PROGRAM_INGRESS, PROGRAM_EGRESS] {
            let program: &mut SchedClassifier = ebpf.program_mut(name).unwrap().try_into().unwrap();
            program.load().unwrap();
        }
        Self {
            ebpf,
            classes,
            sas,
            stats,
            taken: vec![false; places as usize],
            next: 0,
            cpus: nr_cpus().unwrap(),
        }
    }

    fn address(ue: u32) -> [u8; 4] {
        (u32::from_be_bytes([10, 200, 0, 1]) + ue).to_be_bytes()
    }

    /// SPI of the signalling Child SA of a UE; that of the user plane is the next one.
    fn spi(ue: u32) -> u32 {
        // Spread as random ones are.
        (0xc000_0000 | (ue.wrapping_mul(2_654_435_761) & 0x3fff_ffff)) & !1
    }

    /// Both Child SAs of a UE, both directions.
    pub(crate) fn add(&mut self, ue: u32) {
        for (plane, spi) in [
            (PLANE_CONTROL, Self::spi(ue)),
            (PLANE_USER, Self::spi(ue) + 1),
        ] {
            let info = SaInfo {
                plane,
                ue,
                pdu_session: plane - PLANE_CONTROL,
                reqid: ue,
                iv_len: 8,
                icv_len: 16,
                block_len: 4,
                ..SaInfo::NONE
            };
            let remote = std::net::Ipv4Addr::from(Self::address(ue))
                .to_ipv6_mapped()
                .octets();
            for key in [SaKey::inbound(spi), SaKey::outbound(spi, remote)] {
                let mut place = key.home(self.taken.len() as u32 - 1);
                if self.taken[place as usize] {
                    while self.taken[self.next] {
                        self.next += 1;
                    }
                    place = self.next as u32;
                }
                self.taken[place as usize] = true;
                let zero = PerCpuValues::try_from(vec![Raw(SaStats::new(key, info)); self.cpus]);
                self.stats.set(place, zero.unwrap(), 0).unwrap();
                let entry = SaEntry { sa: info, place };
                self.sas.insert(Raw(key), Raw(entry), 0).unwrap();
            }
        }
    }

    /// A packet of the user plane of a UE.
    pub(crate) fn esp(ue: u32, inbound: bool) -> Vec<u8> {
        let mut payload = (Self::spi(ue) + 1).to_be_bytes().to_vec();
        payload.extend([0, 0, 0, 1]);
        payload.resize(8 + 8 + 64 + 16, 0x5a);
        let (from, to) = match inbound {
            true => (Self::address(ue), N3IWF),
            false => (N3IWF, Self::address(ue)),
        };
        frame(&ipv4(ESP, from, to, &payload))
    }

    /// Runs a program once; what it took, nanoseconds.
    pub(crate) fn run(&self, name: &str, packet: &[u8]) -> u64 {
        let program: &SchedClassifier = self.ebpf.program(name).unwrap().try_into().unwrap();
        let mut out = vec![0; packet.len() + 256];
        let result = program
            .test_run(TestRunOptions {
                data_in: Some(packet),
                data_out: Some(&mut out),
                repeat: 1,
                ..TestRunOptions::default()
            })
            .unwrap();
        assert_eq!(result.return_value, PASS);
        u64::try_from(result.duration.as_nanos()).unwrap()
    }

    fn sum(&self, inbound: bool, of: fn(&NwuClasses) -> Counter) -> u64 {
        let direction = if inbound { INBOUND } else { OUTBOUND };
        let values = self.classes.get(&direction, 0).unwrap();
        values.iter().map(|value| of(&value.0).packets).sum()
    }

    /// Packets whose SPI is in no table.
    pub(crate) fn unknown(&self, inbound: bool) -> u64 {
        self.sum(inbound, |classes| classes.esp_unknown_spi)
    }

    /// Packets of user-plane Child SAs.
    pub(crate) fn counted(&self, inbound: bool) -> u64 {
        self.sum(inbound, |classes| classes.esp_user)
    }
}
