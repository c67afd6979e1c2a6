//! The kernel data plane with real ESP: two ends in two network namespaces.
//!
//! Needs root and a kernel with ESP and XFRM interfaces; skips with a printed reason elsewhere,
//! fails instead when `REQUIRE_KERNEL` is set.
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

mod support;
#[path = "support/traffic.rs"]
mod traffic;

use std::{net::UdpSocket, path::Path};

use dataplane::{
    BpfOptions, ChildSaSpec, Config, Dataplane, EncrAlg, Error, EspKeys, IntegAlg, Options, Plane,
    Role, SaReading, Suite, Traffic, Xfrm, enable_udp_encap, preflight, wire_length,
    wire_overhead_bounds,
};
use keys::Secret;
use support::{Space, nwu, object, pin_dir, ready, wait};
use traffic::{gre_exchange, tcp_exchange, udp_blocked};

const N3IWF_INNER: &str = "10.0.0.1";
const UE_INNER: &str = "10.0.0.7";

/// One end of NWu.
struct End {
    space: Space,
    plane: Xfrm,
    /// Port 4500 with UDP_ENCAP, as a daemon has it.
    _nat_t: [UdpSocket; 2],
}

fn config(role: Role, space: &Space) -> Config {
    Config {
        role,
        owner: "xfrm_kernel".into(),
        interface_name: "xfrmi".into(),
        interface_id: 7,
        inner_address: (role == Role::N3iwf).then(|| N3IWF_INNER.parse().unwrap()),
        inner_range: (role == Role::N3iwf).then(|| "10.0.0.0/24".parse().unwrap()),
        options: Options {
            bpf: Some(BpfOptions {
                interface: "nwu".into(),
                object: object().unwrap(),
                pin_dir: pin_dir(space),
                max_child_sas: Some(64),
                ike_init_per_source: None,
            }),
            ..Options::default()
        },
    }
}

impl End {
    fn new(role: Role, space: Space) -> Self {
        let plane = Xfrm::new(config(role, &space)).unwrap();
        let nat_t = space.run(|| {
            let sockets = ["192.0.2", "2001:db8::"].map(|net| {
                let last = if role == Role::N3iwf { "1" } else { "10" };
                let address = if net.contains(':') {
                    format!("[{net}{last}]:4500")
                } else {
                    format!("{net}.{last}:4500")
                };
                let socket = UdpSocket::bind(address).unwrap();
                enable_udp_encap(&socket).unwrap();
                socket
            });
            let report = wait(plane.start()).unwrap();
            assert_eq!(report.interface.as_deref(), Some("xfrmi"));
            sockets
        });
        Self {
            space,
            plane,
            _nat_t: nat_t,
        }
    }

    fn install(&self, sa: ChildSaSpec) {
        self.space.run(|| wait(self.plane.install(sa)).unwrap());
    }

    fn reading(&self, id: u64) -> SaReading {
        let all = self.space.run(|| wait(self.plane.readings()).unwrap());
        all.into_iter().find(|sa| sa.id == id).unwrap()
    }

    /// Stops and checks that nothing is left, here or in the pin directory.
    fn stop(self) {
        let report = self.space.run(|| wait(self.plane.stop()).unwrap());
        assert_eq!(report.left, Vec::<String>::new());
        assert_eq!(self.space.ip(&["xfrm", "state"]), "");
        assert_eq!(
            self.space.ip(&["xfrm", "policy"]).matches("if_id").count(),
            0
        );
        assert!(!self.space.ip(&["-o", "link"]).contains("xfrmi"));
        assert!(!self.space.ip(&["-o", "address"]).contains("10.0.0."));
        assert!(!self.space.ip(&["route"]).contains("10.0.0."));
        assert!(!pin_dir(&self.space).exists());
        let hooks = support::run("tc", &["-n", &self.space.name, "qdisc", "show"]);
        assert!(!hooks.contains("clsact"), "{hooks}");
    }
}

#[derive(Clone, Copy, Debug)]
struct Case {
    encr: EncrAlg,
    key_bits: usize,
    integ: Option<IntegAlg>,
    encap: bool,
    v6: bool,
    esn: bool,
}

const GCM: Case = Case {
    encr: EncrAlg::AesGcm16,
    key_bits: 256,
    integ: None,
    encap: false,
    v6: false,
    esn: true,
};

impl Case {
    fn suite(self) -> Suite {
        Suite {
            encr: self.encr,
            integ: self.integ,
        }
    }

    fn keys(self, seed: u8) -> EspKeys {
        EspKeys {
            encr: Secret::filled(self.key_bits / 8, |o| o.fill(seed)),
            salt: [seed, 1, 2, 3],
            integ: self
                .integ
                .map(|alg| Secret::filled(alg.key_len(), |o| o.fill(seed ^ 0xff))),
        }
    }

    /// A Child SA as one end sees it. `number` tells sessions apart, 0 is signalling.
    fn sa(self, role: Role, number: u8) -> ChildSaSpec {
        let outer = |last: u8| {
            let address = if self.v6 {
                format!("[2001:db8::{last}]:4500")
            } else {
                format!("192.0.2.{last}:4500")
            };
            address.parse().unwrap()
        };
        let n = u32::from(number);
        let (to_n3iwf, to_ue) = (0xc000_0010 + n, 0xd000_0010 + n);
        let (up, down) = (2 * number + 1, 2 * number + 2);
        let at_n3iwf = role == Role::N3iwf;
        let pick = |n3iwf, ue| if at_n3iwf { n3iwf } else { ue };
        let keys_up = self.keys(up);
        let keys_down = self.keys(down);
        let (keys_in, keys_out) = if at_n3iwf {
            (keys_up, keys_down)
        } else {
            (keys_down, keys_up)
        };
        ChildSaSpec {
            id: u64::from(number) + 100,
            plane: if number == 0 {
                Plane::Control
            } else {
                Plane::User
            },
            ue: 1,
            pdu_session: (number > 0).then_some(number),
            spi_in: if at_n3iwf { to_n3iwf } else { to_ue },
            spi_out: if at_n3iwf { to_ue } else { to_n3iwf },
            encr: self.encr,
            integ: self.integ,
            keys_in,
            keys_out,
            esn: self.esn,
            replay_window: 128,
            local: outer(pick(1, 10)),
            remote: outer(pick(10, 1)),
            udp_encap: self.encap,
            inner_local: if at_n3iwf { N3IWF_INNER } else { UE_INNER }
                .parse()
                .unwrap(),
            inner_remote: if at_n3iwf { UE_INNER } else { N3IWF_INNER }
                .parse()
                .unwrap(),
            protocol: Some(if number == 0 { 6 } else { 47 }),
            slot: u32::from(number.saturating_sub(1)),
            reqid: n,
        }
    }
}

fn ends() -> (End, End) {
    let (n3iwf, ue) = nwu();
    (End::new(Role::N3iwf, n3iwf), End::new(Role::Ue, ue))
}

fn install(ends: (&End, &End), case: Case, number: u8) {
    // The UE first, as the N3IWF installs before it answers but the UE before it sends.
    ends.1.install(case.sa(Role::Ue, number));
    ends.0.install(case.sa(Role::N3iwf, number));
}

/// Kernel and eBPF tell the same story, at both ends.
fn agree(case: Case, n3iwf: &SaReading, ue: &SaReading) {
    let bounds = wire_overhead_bounds(case.suite(), case.encap, case.v6);
    for sa in [n3iwf, ue] {
        assert!(sa.in_kernel);
        for (kernel, ebpf) in [
            (sa.kernel_in, sa.ebpf_in.unwrap()),
            (sa.kernel_out, sa.ebpf_out.unwrap()),
        ] {
            assert_eq!(kernel.packets, ebpf.packets, "{case:?} {sa:?}");
            let n = kernel.packets;
            let least = kernel.bytes + n * *bounds.start() as u64;
            let most = kernel.bytes + n * *bounds.end() as u64;
            assert!((least..=most).contains(&ebpf.bytes), "{case:?} {sa:?}");
            assert_eq!(ebpf.last_seen.is_some(), n > 0);
        }
        assert_eq!(sa.refused, Default::default(), "{case:?}");
    }
    for (out, into) in [(ue, n3iwf), (n3iwf, ue)] {
        assert_eq!(out.kernel_out, into.kernel_in, "{case:?}");
        assert_eq!(
            (out.ebpf_out.unwrap().packets, out.ebpf_out.unwrap().bytes),
            (into.ebpf_in.unwrap().packets, into.ebpf_in.unwrap().bytes),
            "{case:?}"
        );
    }
}

/// Signalling over TCP and two PDU sessions over GRE, for one suite.
fn carries_traffic(case: Case) {
    let (n3iwf, ue) = ends();
    for number in 0..=2 {
        install((&n3iwf, &ue), case, number);
    }
    // 256 KiB each way in large segments: software GSO in front of the tunnel.
    tcp_exchange(&n3iwf.space, &ue.space, N3IWF_INNER, UE_INNER, 256 * 1024);
    let (at_n3iwf, at_ue) = (n3iwf.reading(100), ue.reading(100));
    agree(case, &at_n3iwf, &at_ue);
    assert!(at_ue.kernel_out.bytes > 256 * 1024, "{at_ue:?}");
    assert!(at_ue.kernel_in.bytes > 256 * 1024, "{at_ue:?}");

    // GRE of known sizes: octets are known exactly.
    for (number, interface) in [(1, "xfrmi"), (2, "xfrmi-1")] {
        let sizes: Vec<usize> = (8..=8 + 40).chain([500, 1000, 1366]).collect();
        gre_exchange(
            &n3iwf.space,
            &ue.space,
            N3IWF_INNER,
            UE_INNER,
            interface,
            &sizes,
        );
        let (at_n3iwf, at_ue) = (n3iwf.reading(100 + number), ue.reading(100 + number));
        agree(case, &at_n3iwf, &at_ue);
        let inner: usize = sizes.iter().map(|size| size + 20).sum();
        let outer: usize = sizes
            .iter()
            .map(|size| wire_length(case.suite(), case.encap, case.v6, size + 20))
            .sum();
        let expected = Traffic {
            packets: sizes.len() as u64,
            bytes: inner as u64,
        };
        for sa in [&at_n3iwf, &at_ue] {
            assert_eq!(
                (sa.kernel_in, sa.kernel_out),
                (expected, expected),
                "{case:?}"
            );
            assert_eq!(sa.ebpf_in.unwrap().bytes, outer as u64, "{case:?}");
            assert_eq!(sa.ebpf_out.unwrap().bytes, outer as u64, "{case:?}");
        }
    }

    // What has no policy does not leave: no other protocol between the inner addresses.
    udp_blocked(&n3iwf.space, &ue.space, N3IWF_INNER);

    // The classes tell the same: everything on NWu was ESP of a known SA.
    for end in [&n3iwf, &ue] {
        let classes = end
            .space
            .run(|| wait(end.plane.classes()).unwrap().unwrap());
        let readings = end.space.run(|| wait(end.plane.readings()).unwrap());
        let sum = |plane, f: fn(&SaReading) -> u64| -> u64 {
            readings.iter().filter(|sa| sa.plane == plane).map(f).sum()
        };
        let inbound: fn(&SaReading) -> u64 = |sa| sa.kernel_in.packets;
        let outbound: fn(&SaReading) -> u64 = |sa| sa.kernel_out.packets;
        assert_eq!(
            classes.ingress.esp_control.packets,
            sum(Plane::Control, inbound)
        );
        assert_eq!(classes.ingress.esp_user.packets, sum(Plane::User, inbound));
        assert_eq!(
            classes.egress.esp_control.packets,
            sum(Plane::Control, outbound)
        );
        assert_eq!(classes.egress.esp_user.packets, sum(Plane::User, outbound));
        for direction in [&classes.ingress, &classes.egress] {
            for class in [
                direction.esp_unknown_spi,
                direction.fragment,
                direction.malformed,
            ] {
                assert_eq!(class.packets, 0, "{case:?}");
            }
        }
    }

    // Removal returns the last word and takes everything along.
    let before = n3iwf.reading(101);
    let last = n3iwf
        .space
        .run(|| wait(n3iwf.plane.remove(101)).unwrap().unwrap());
    assert_eq!(last, before);
    assert!(
        n3iwf
            .space
            .run(|| wait(n3iwf.plane.remove(101)).unwrap())
            .is_none()
    );
    let states = n3iwf.space.ip(&["xfrm", "state"]);
    assert!(
        !states.contains("0xc0000011") && !states.contains("0xd0000011"),
        "{states}"
    );
    n3iwf.stop();
    ue.stop();
}

#[test]
fn aes_gcm_carries_traffic() {
    if ready() {
        carries_traffic(GCM);
    }
}

#[test]
fn aes_gcm_in_udp_carries_traffic() {
    if ready() {
        carries_traffic(Case {
            encap: true,
            key_bits: 128,
            ..GCM
        });
    }
}

#[test]
fn aes_gcm_over_ipv6_carries_traffic() {
    if ready() {
        carries_traffic(Case { v6: true, ..GCM });
    }
}

#[test]
fn chacha20_poly1305_carries_traffic() {
    if ready() {
        carries_traffic(Case {
            encr: EncrAlg::ChaCha20Poly1305,
            ..GCM
        });
    }
}

#[test]
fn aes_cbc_sha256_in_udp_carries_traffic() {
    if ready() {
        carries_traffic(Case {
            encr: EncrAlg::AesCbc,
            integ: Some(IntegAlg::HmacSha2_256_128),
            encap: true,
            ..GCM
        });
    }
}

#[test]
fn aes_cbc_sha1_without_esn_carries_traffic() {
    if ready() {
        carries_traffic(Case {
            encr: EncrAlg::AesCbc,
            integ: Some(IntegAlg::HmacSha1_96),
            esn: false,
            ..GCM
        });
    }
}

#[test]
fn a_rekeyed_sa_takes_over() {
    if !ready() {
        return;
    }
    let (n3iwf, ue) = ends();
    install((&n3iwf, &ue), GCM, 1);
    gre_exchange(
        &n3iwf.space,
        &ue.space,
        N3IWF_INNER,
        UE_INNER,
        "xfrmi",
        &[100],
    );
    // The same reqid and selectors, other SPIs and keys.
    let fresh = |role| {
        let mut sa = GCM.sa(role, 5);
        let old = GCM.sa(role, 1);
        (sa.slot, sa.reqid, sa.pdu_session) = (old.slot, old.reqid, old.pdu_session);
        sa
    };
    ue.install(fresh(Role::Ue));
    n3iwf.install(fresh(Role::N3iwf));
    for end in [&n3iwf, &ue] {
        let last = end
            .space
            .run(|| wait(end.plane.remove(101)).unwrap().unwrap());
        assert_eq!(last.kernel_in.packets, 1);
    }
    gre_exchange(
        &n3iwf.space,
        &ue.space,
        N3IWF_INNER,
        UE_INNER,
        "xfrmi",
        &[100, 200],
    );
    agree(GCM, &n3iwf.reading(105), &ue.reading(105));
    assert_eq!(ue.reading(105).kernel_out.packets, 2);
    n3iwf.stop();
    ue.stop();
}

#[test]
fn wrong_keys_are_refused_and_counted() {
    if !ready() {
        return;
    }
    let (n3iwf, ue) = ends();
    ue.install(GCM.sa(Role::Ue, 1));
    let mut wrong = GCM.sa(Role::N3iwf, 1);
    wrong.keys_in = GCM.keys(99);
    n3iwf.install(wrong);
    traffic::send_gre(&ue.space, UE_INNER, N3IWF_INNER, "xfrmi", &[100, 100, 100]);
    let reading = n3iwf.reading(101);
    assert_eq!(reading.kernel_in.packets, 0);
    assert_eq!(reading.refused.integrity, 3);
    // They were on the wire all the same.
    assert_eq!(reading.ebpf_in.unwrap().packets, 3);
    n3iwf.stop();
    ue.stop();
}

#[test]
fn a_failed_install_is_undone() {
    if !ready() {
        return;
    }
    let (n3iwf, _ue) = nwu();
    let end = End::new(Role::N3iwf, n3iwf);
    // Someone else's policy where our outbound one should go: the last step fails.
    end.space.ip(&[
        "xfrm",
        "policy",
        "add",
        "src",
        "10.0.0.1/32",
        "dst",
        "10.0.0.7/32",
        "proto",
        "47",
        "dir",
        "out",
        "if_id",
        "7",
        "action",
        "block",
    ]);
    let before = end.space.ip(&["xfrm", "policy"]);
    let result = end
        .space
        .run(|| wait(end.plane.install(GCM.sa(Role::N3iwf, 1))));
    let Err(Error::Kernel { source, .. }) = &result else {
        panic!("{result:?}")
    };
    assert_eq!(source.raw_os_error(), Some(libc::EEXIST));
    assert_eq!(end.space.ip(&["xfrm", "state"]), "");
    assert_eq!(end.space.ip(&["xfrm", "policy"]), before);
    assert!(
        end.space
            .run(|| wait(end.plane.readings()).unwrap())
            .is_empty()
    );
    assert_eq!(sas_in_map(&end.space), 0);
    // With the obstacle gone the same Child SA installs.
    end.space.ip(&[
        "xfrm",
        "policy",
        "delete",
        "src",
        "10.0.0.1/32",
        "dst",
        "10.0.0.7/32",
        "proto",
        "47",
        "dir",
        "out",
        "if_id",
        "7",
    ]);
    end.install(GCM.sa(Role::N3iwf, 1));
    assert_eq!(sas_in_map(&end.space), 2);
    // A second one with the same number or the same inbound SPI is refused, the first one stays.
    let again = end
        .space
        .run(|| wait(end.plane.install(GCM.sa(Role::N3iwf, 1))));
    assert!(matches!(again, Err(Error::Exists(101))), "{again:?}");
    let mut same_spi = GCM.sa(Role::N3iwf, 2);
    same_spi.spi_in = GCM.sa(Role::N3iwf, 1).spi_in;
    let clash = end.space.run(|| wait(end.plane.install(same_spi)));
    assert!(matches!(clash, Err(Error::Bpf { .. })), "{clash:?}");
    assert_eq!(sas_in_map(&end.space), 2);
    assert!(end.reading(101).in_kernel);
    assert!(end.reading(101).ebpf_in.is_some());
    end.stop();
}

/// Entries of the pinned SA table.
fn sas_in_map(space: &Space) -> usize {
    let pin = pin_dir(space).join("nwu_sas");
    let json = support::run(
        "bpftool",
        &["-j", "map", "dump", "pinned", pin.to_str().unwrap()],
    );
    let entries: serde_json::Value = serde_json::from_str(&json).unwrap();
    entries.as_array().unwrap().len()
}

#[test]
fn leftovers_go_and_what_is_foreign_stays() {
    if !ready() {
        return;
    }
    let (n3iwf, _ue) = nwu();
    let foreign_state = [
        "xfrm",
        "state",
        "add",
        "src",
        "198.51.100.1",
        "dst",
        "198.51.100.2",
        "proto",
        "esp",
        "spi",
        "0x12345678",
        "mode",
        "tunnel",
        "reqid",
        "5",
        "if_id",
        "7",
        "aead",
        "rfc4106(gcm(aes))",
        "0x1111111111111111111111111111111111111111",
        "128",
    ];
    n3iwf.ip(&foreign_state);
    n3iwf.ip(&[
        "xfrm",
        "policy",
        "add",
        "src",
        "10.9.0.0/24",
        "dst",
        "10.8.0.0/24",
        "dir",
        "out",
        "if_id",
        "99",
        "tmpl",
        "src",
        "198.51.100.1",
        "dst",
        "198.51.100.2",
        "proto",
        "esp",
        "reqid",
        "5",
        "mode",
        "tunnel",
    ]);
    n3iwf.ip(&["link", "add", "other0", "type", "xfrm", "if_id", "500"]);
    let killed = std::mem::ManuallyDrop::new(End::new(Role::N3iwf, n3iwf));
    killed.install(GCM.sa(Role::N3iwf, 0));
    killed.install(GCM.sa(Role::N3iwf, 2));

    let second = Xfrm::new(config(Role::N3iwf, &killed.space)).unwrap();
    let report = killed.space.run(|| wait(second.start())).unwrap();
    let count = |what: &str| report.removed.iter().filter(|l| l.contains(what)).count();
    assert_eq!(count("ESP state"), 4, "{report:?}");
    assert_eq!(count("IPsec policy"), 6, "{report:?}");
    assert_eq!(count("interface xfrmi"), 2, "{report:?}");
    assert_eq!(sas_in_map(&killed.space), 0);
    let foreign = |space: &Space| {
        (
            space.ip(&["xfrm", "state"]).matches("0x12345678").count(),
            space.ip(&["xfrm", "policy"]).matches("10.8.0.0/24").count(),
            space.ip(&["-o", "link"]).matches("other0").count(),
        )
    };
    assert_eq!(foreign(&killed.space), (1, 1, 1));
    let report = killed.space.run(|| wait(second.stop())).unwrap();
    assert_eq!(report.left, Vec::<String>::new());
    assert_eq!(foreign(&killed.space), (1, 1, 1));

    // An interface of our name that we did not make: refused, and still there afterwards.
    killed
        .space
        .ip(&["link", "add", "xfrmi", "type", "xfrm", "if_id", "7"]);
    killed.space.ip(&["link", "set", "xfrmi", "up"]);
    let third = Xfrm::new(config(Role::N3iwf, &killed.space)).unwrap();
    let result = killed.space.run(|| wait(third.start()));
    assert!(matches!(result, Err(Error::Foreign(_))), "{result:?}");
    assert!(killed.space.ip(&["-o", "link"]).contains("xfrmi"));
    drop(std::mem::ManuallyDrop::into_inner(killed));
}

#[test]
fn preflight_finds_everything() {
    if !ready() {
        return;
    }
    let facts: Vec<_> = preflight::ipsec()
        .into_iter()
        .chain(preflight::bpf())
        .chain([preflight::tun(), preflight::raw_gre()])
        .collect();
    for fact in &facts {
        let tcx = fact.name == "tcx";
        assert!(fact.ok || tcx, "{fact:?}");
        assert_eq!(fact.ok, fact.hint.is_empty(), "{fact:?}");
    }
    assert!(facts.iter().any(|fact| fact.name == "esp-aes-gcm"));
    // Nothing was left behind by trying.
    assert!(!Path::new("/sys/class/net/preflight0").exists());
}
